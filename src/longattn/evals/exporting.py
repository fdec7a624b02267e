"""Write made-up tasks for lm-eval: prompts as JSON lines, a YAML file for each, and the metrics; none of it needs us.

``lm_eval --include_path FOLDER --tasks longattn`` runs them with any of its backends and without a network. The prompts
are made for one tokenizer: a model that counts otherwise gets prompts of other lengths.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from longattn import settings
from longattn.evals import metrics
from longattn.evals.registry import named
from longattn.evals.running import GENERATOR, LeftOut, gather
from longattn.evals.settings import Evaluating
from longattn.evals.tasks import DoesNotFitError, Generated, NeedsMaterialError, generate
from longattn.models import resolve
from longattn.tables import make_folder, write_text
from longattn.tokens import Tokenizer

CODE = "longattn_tasks"
"""Name of the module beside the YAML files."""
GROUP = "longattn"

_LOADING = '''

def load(file, **_):
    """The prompts in a file beside this one, as lm-eval wants a data set."""
    from pathlib import Path

    import datasets

    return datasets.load_dataset("json", data_files={"test": str(Path(__file__).parent / file)})


def process_results(doc, results):
    """The score of an answer, from 0 to 1."""
    return {"score": score(cleaned(results[0]), doc["answers"], doc["metric"])}
'''


def export_tasks(output: Path, model: settings.Model, rule: Evaluating) -> tuple[list[str], list[LeftOut]]:
    """Write the tasks of the settings at their lengths; returns their names in lm-eval, and what was left out.

    The folder holds ``<task>_<length>.jsonl`` and ``.yaml``, ``longattn.yaml`` (all of them as one group, without a
    mean) and ``longattn_tasks.py``.
    """
    tokenizer = Tokenizer.load(resolve(model).tokenizer_file)
    materials = gather(rule, tokenizer)
    make_folder(output)
    names, left_out = [], []
    for length in rule.lengths:
        for task in named(rule.tasks):
            try:
                made = generate(task, materials, length, rule.samples, rule.seed)
            except (DoesNotFitError, NeedsMaterialError) as error:
                left_out.append(LeftOut(task.name, length, str(error)))
                continue
            facts = {
                "wording": materials.wording.name,
                "tokenizer": tokenizer.hash,
                "haystack": materials.haystack.facts() if materials.haystack else None,
                "seed": rule.seed,
            }
            names.append(_write_task(output, made, facts))
    _write_group(output, names)
    code = Path(metrics.__file__).read_text(encoding="utf-8")
    write_text(output / f"{CODE}.py", code + _LOADING)
    return names, left_out


def _write_task(output: Path, made: Generated, facts: dict[str, Any]) -> str:
    stem = f"{made.task.name}_{made.length}"
    rows = [
        {
            "index": sample.index,
            "prompt": sample.prompt,
            "answer_prefix": sample.answer_prefix,
            "answers": sample.answers,
            "length": sample.length,
            "metric": made.task.metric,
        }
        for sample in made.samples
    ]
    write_text(output / f"{stem}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    name = f"{GROUP}_{stem}"
    task = {
        "task": name,
        "custom_dataset": _Function(f"{CODE}.load"),
        "dataset_kwargs": {"file": f"{stem}.jsonl"},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answers}}",
        "gen_prefix": "{{answer_prefix}}",
        "process_results": _Function(f"{CODE}.process_results"),
        "metric_list": [{"metric": "score", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"do_sample": False, "max_gen_toks": made.max_new_tokens, "until": []},
        "metadata": {"version": GENERATOR, "reduced": made.reduced, **facts},
    }
    write_text(output / f"{stem}.yaml", yaml.dump(task, Dumper=_Dumper, sort_keys=False))
    return name


def _write_group(output: Path, names: Sequence[str]) -> None:
    write_text(output / f"{GROUP}.yaml", yaml.safe_dump({"group": GROUP, "task": list(names)}, sort_keys=False))


class _Function(str):
    """The name of a function beside a YAML file."""


class _Dumper(yaml.SafeDumper):
    """Writes such names as lm-eval reads them."""


_Dumper.add_representer(_Function, lambda dumper, value: dumper.represent_scalar("!function", str(value)))
