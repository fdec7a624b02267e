"""Compare our RULER generators with NVIDIA's on the same inputs, prompt by prompt.

Name a checkout (Apache-2.0, none of it is here), and a Python that has what its scripts import::

    git clone https://github.com/NVIDIA/RULER
    pip install wonderwords nltk scipy tenacity transformers
    python benchmarks/compare_ruler.py RULER

Its scripts run as they are, each in a process of its own, with three things put where they look for them: the text of
``--essays`` (default: Python's language reference) as its essays, made-up questions in SQuAD's and HotpotQA's formats
or the user's files as its questions, and our rule for sentences in place of nltk's, whose data are a download of their
own (``--punkt`` keeps nltk's, for a machine that has them: then needles may stand elsewhere). The words past
wonderwords' lists are left out where the checkout lacks its file of them.

Ours run twice: with the checkout's wording, where prompts, answers, lengths and places of answers must be equal to the
byte; and with our own, whose sentences have other lengths, so that the draws differ and only means can be compared.
Ends with status 1 if a prompt of the first kind differs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common import commit, publish
from longattn import settings
from longattn.evals.haystacks import PYTHON, read_haystack
from longattn.evals.questions import made_up_hotpot, made_up_squad, read_hotpot, read_squad
from longattn.evals.ruler import RULER
from longattn.evals.tasks import Generated, Materials, generate
from longattn.evals.wording import OURS, load_wording
from longattn.evals.words import load_words
from longattn.models import resolve
from longattn.tokens import Tokenizer

RUNNER = """
import runpy, sys
import nltk.tokenize
if {ours}:
    from longattn.evals.haystacks import sentences
    nltk.tokenize.sent_tokenize = sentences
sys.argv = {argv}
sys.path.insert(0, {folder})
runpy.run_path({script}, run_name="__main__")
"""
SCRIPTS = {
    "niah": "niah.py",
    "variable_tracking": "variable_tracking.py",
    "common_words_extraction": "common_words_extraction.py",
    "freq_words_extraction": "freq_words_extraction.py",
    "qa": "qa.py",
}


def theirs(arguments: argparse.Namespace, data: Path, tokenizer: Path, name: str, length: int) -> list[dict[str, Any]]:
    """What the checkout's script writes for a task."""
    facts = yaml.safe_load((arguments.checkout / "scripts" / "synthetic.yaml").read_text(encoding="utf-8"))[name]
    synthetic = data / "synthetic"
    constants: dict[str, Any] = {}
    exec((synthetic / "constants.py").read_text(encoding="utf-8"), constants)
    task = constants["TASKS"][facts["task"]]
    options = {
        **facts["args"],
        "save_dir": data / "out",
        "save_name": name,
        "tokenizer_path": tokenizer,
        "tokenizer_type": "hf",
        "max_seq_length": length,
        "tokens_to_generate": task["tokens_to_generate"],
        "num_samples": arguments.samples,
        "template": task["template"] + task["answer_prefix"],
    }
    argv = [SCRIPTS[facts["task"]], *(part for key, value in options.items() for part in (f"--{key}", str(value)))]
    code = RUNNER.format(
        ours=not arguments.punkt,
        argv=argv,
        folder=repr(str(synthetic)),
        script=repr(str(synthetic / SCRIPTS[facts["task"]])),
    )
    subprocess.run(
        [arguments.python, "-c", code], check=True, capture_output=True, timeout=arguments.timeout, cwd=synthetic
    )
    lines = (data / "out" / name / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def apart(ours: Generated, original: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """In how many samples text, answers and lengths differ."""
    pairs = list(zip(ours.samples, original, strict=True))
    return {
        "prompts": sum(mine.text != one["input"] + one["answer_prefix"] for mine, one in pairs),
        "prefixes": sum(mine.answer_prefix != one["answer_prefix"] for mine, one in pairs),
        "answers": sum(list(mine.answers) != one["outputs"] for mine, one in pairs),
        "lengths": sum(mine.length != one["length"] for mine, one in pairs),
        "places": sum(
            mine.facts["answer_at"] != one["token_position_answer"]
            for mine, one in pairs
            if "token_position_answer" in one
        ),
    }


def own_wording(ours: Generated, original: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean length, and mean place of the first answer as a share of the prompt: ours in our wording, and theirs."""
    mine = [(one.prompt, one.answers[0], one.length) for one in ours.samples]
    other = [(one["input"], one["outputs"][0], one["length"]) for one in original]
    return {
        "own_tokens": float(np.mean([length for _, _, length in mine])),
        "their_tokens": float(np.mean([length for _, _, length in other])),
        "own_depth": float(np.mean([prompt.find(answer) / len(prompt) for prompt, answer, _ in mine])),
        "their_depth": float(np.mean([prompt.find(answer) / len(prompt) for prompt, answer, _ in other])),
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a checkout of NVIDIA/RULER")
    parser.add_argument("--python", default=sys.executable, help="a Python that has what its scripts import")
    parser.add_argument("--tasks", nargs="*", default=list(RULER), choices=list(RULER), help="default: all 13")
    parser.add_argument("--lengths", nargs="*", type=int, default=[4096], help="tokens per prompt")
    parser.add_argument("--samples", type=int, default=10, help="prompts per task and length")
    parser.add_argument("--model", default="smollm2", help="whose tokenizer: smollm2, a GGUF file or a folder")
    parser.add_argument("--essays", default=PYTHON, help="folder of .txt files or a text file")
    parser.add_argument("--squad", type=Path, help="dev-v2.0.json; default: made-up questions")
    parser.add_argument("--hotpot", type=Path, help="hotpot_dev_distractor_v1.json; default: made-up questions")
    parser.add_argument("--punkt", action="store_true", help="let its scripts split sentences as they do")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one script, which may not end")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, data: Path) -> dict[str, Any]:
    """A copy of the checkout's generators with our inputs beside them; the inputs for ours."""
    shutil.copytree(arguments.checkout / "scripts" / "data", data)
    folder = data / "synthetic" / "json"
    essays = read_haystack(arguments.essays, "essays")
    (folder / "PaulGrahamEssays.json").write_text(json.dumps({"text": essays.text}), encoding="utf-8")
    for given, name, made in (
        (arguments.squad, "squad", made_up_squad()),
        (arguments.hotpot, "hotpotqa", made_up_hotpot()),
    ):
        text = given.read_text(encoding="utf-8") if given else json.dumps(made)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    words = folder / "english_words.json"
    if not words.exists() or not words.stat().st_size:
        words.write_text("{}", encoding="utf-8")
    return {
        "haystack": essays,
        "squad": read_squad(folder / "squad.json"),
        "hotpot": read_hotpot(folder / "hotpotqa.json"),
    }


def main() -> int:
    """Print the table; 0 if every prompt is the same, else 1."""
    arguments = parse()
    checkpoint = resolve(settings.Model(name=arguments.model))
    tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        inputs = prepare(arguments, data)

        def count(text: str) -> int:
            return len(tokenizer.encode(text).ids)

        wordings = [load_wording(str(arguments.checkout)), OURS]
        materials = [Materials(count_tokens=count, wording=one, words=load_words(), **inputs) for one in wordings]
        for length in arguments.lengths:
            for name in arguments.tasks:
                original = theirs(arguments, data, checkpoint.tokenizer_file.parent, name, length)
                exact, own = (generate(RULER[name], one, length, len(original)) for one in materials)
                row = {"task": name, "length": length, "samples": len(original)}
                rows.append({**row, **apart(exact, original), **own_wording(own, original)})
                print(rows[-1], file=sys.stderr, flush=True)
    different = sum(row["prompts"] + row["answers"] + row["lengths"] + row["places"] for row in rows)
    publish(
        rows,
        arguments.json,
        checkout=commit(arguments.checkout),
        tokenizer=tokenizer.hash,
        words=materials[0].words.name,
        wording=materials[0].wording.name,
    )
    print(f"\n{'DIFFERENT' if different else 'Equal'}: {sum(row['samples'] for row in rows)} prompts.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
