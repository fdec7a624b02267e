"""Ask a checkpoint what the tasks ask, a sealed file for each task and length, so that a stop costs at most one."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longattn import settings
from longattn.errors import DamageError
from longattn.evals import metrics
from longattn.evals.haystacks import read_haystack
from longattn.evals.metrics import Proportion, cleaned, wilson
from longattn.evals.questions import made_up, read_hotpot, read_squad
from longattn.evals.registry import GROUPS, TASKS, named
from longattn.evals.settings import Answering, Evaluating
from longattn.evals.tasks import DoesNotFitError, Generated, Materials, NeedsMaterialError, Task, generate
from longattn.evals.wording import load_wording
from longattn.evals.words import load_words
from longattn.locks import locked
from longattn.models import Checkpoint, resolve
from longattn.settings import fingerprint, plain
from longattn.tables import make_folder, read_sealed, sweep, write_sealed
from longattn.tokens import Tokenizer

if TYPE_CHECKING:
    from longattn.evals.generating import Answerer

log = logging.getLogger(__name__)

GENERATOR = 1
"""Version of the made-up tasks; raised when the same settings would make other prompts. It is part of every result."""


@dataclass(frozen=True)
class LeftOut:
    """A task that could not be asked at a length, and why."""

    task: str
    length: int
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """What an output folder holds."""

    results: tuple[Mapping[str, Any], ...]
    """A result per task and length; see :func:`ask`."""
    means: tuple[Mapping[str, Any], ...]
    """The mean of each group and length of which all tasks ran alike."""
    left_out: tuple[LeftOut, ...] = ()
    """What was asked for and could not be done, this time."""


def evaluate(
    output: Path,
    model: settings.Model,
    rule: Evaluating,
    answering: Answering | None = None,
    on_answer: Callable[[int], None] | None = None,
) -> Evaluation:
    """Ask a checkpoint every task at every length, except what the folder has already, and write ``evaluation.json``.

    ``on_answer`` is told the tokens of each prompt done, also of those that need not be asked again. Raises
    ``ValueError`` for settings that make no sense, and what reading the files that they name raises.
    """
    answering = answering or Answering()
    if answering.batch < 1:
        raise ValueError(f"batch must be at least 1, got {answering.batch}")
    checkpoint, tasks = resolve(model), named(rule.tasks)
    tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
    materials = gather(rule, tokenizer)
    make_folder(output)
    left_out: list[LeftOut] = []
    loaded: list[Answerer] = []

    def answerer() -> "Answerer":
        # a folder that has everything needs no model
        if not loaded:
            loaded.append(_load(checkpoint, model, max(rule.lengths), answering))
        return loaded[0]

    with locked(output / ".lock"):
        sweep(output)
        for length in rule.lengths:
            for task in tasks:
                facts = _facts(task, length, rule, materials, checkpoint, model, tokenizer)
                path = output / f"{task.name}-{length}-{fingerprint(facts)}.json"
                if not is_whole(path):
                    try:
                        made = generate(task, materials, length, rule.samples, rule.seed)
                    except (DoesNotFitError, NeedsMaterialError) as error:
                        left_out.append(LeftOut(task.name, length, str(error)))
                        continue
                    write_sealed(path, {**facts, **ask(made, answerer(), answering, on_answer)})
                elif on_answer:
                    on_answer(length * rule.samples)
        found = collect(output, left_out)
        write_sealed(output / "evaluation.json", plain(found))
    return found


def gather(rule: Evaluating, tokenizer: Tokenizer) -> Materials:
    """What the settings name, read."""
    if rule.essays and rule.haystack:
        raise ValueError("essays and haystack are two names for one thing: give the one that says what the text is")
    place = rule.essays or rule.haystack
    return Materials(
        count_tokens=lambda text: len(tokenizer.encode(text).ids),
        wording=load_wording(rule.wording),
        words=load_words(),
        haystack=read_haystack(place, "essays" if rule.essays else "texts") if place else None,
        squad=read_squad(Path(rule.squad)) if rule.squad else made_up("squad") if rule.made_up_questions else None,
        hotpot=read_hotpot(Path(rule.hotpot)) if rule.hotpot else made_up("hotpot") if rule.made_up_questions else None,
    )


def ask(
    made: Generated,
    answerer: "Answerer",
    answering: Answering,
    on_answer: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The answers to all samples of a task, with their scores, as JSON types.

    ``score`` is their mean from 0 to 1 with Wilson's 95 % interval over samples.
    """
    from longattn.evals.generating import Prompt

    rows: list[dict[str, Any]] = []
    for start in range(0, len(made.samples), answering.batch):
        batch = made.samples[start : start + answering.batch]
        prompts = [
            Prompt(sample.text) if answering.whole else Prompt(sample.text, _all_said(made.task, sample.answers))
            for sample in batch
        ]
        for sample, answer in zip(batch, answerer.answer(prompts, made.max_new_tokens), strict=True):
            said = cleaned(answer.text)
            rows.append(
                {
                    "index": sample.index,
                    "score": metrics.score(said, sample.answers, made.task.metric),
                    "answer": said,
                    "references": list(sample.answers),
                    "length": sample.length,
                    "ended": answer.ended,
                    **sample.facts,
                }
            )
            if on_answer:
                on_answer(made.length)
    return {
        "score": wilson([row["score"] for row in rows])._asdict(),
        "metric": made.task.metric,
        "construction": made.task.source,
        "mean_length": sum(row["length"] for row in rows) / len(rows),
        "max_new_tokens": made.max_new_tokens,
        "reduced": made.reduced,
        "skipped_questions": made.skipped,
        "ended": {how: sum(row["ended"] == how for row in rows) for how in ("end", "answered", "length")},
        "bos": bool(answerer.beginning),
        "samples": rows,
    }


def _all_said(task: Task, references: Sequence[str]) -> Callable[[str], bool]:
    """Whether an answer has its full score, whatever follows."""
    # as it is: a blank at its end tells that a word is whole, and is not a part of what is scored
    return lambda answer: metrics.is_settled(answer, references, task.metric)


def _facts(
    task: Task,
    length: int,
    rule: Evaluating,
    materials: Materials,
    checkpoint: Checkpoint,
    model: settings.Model,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """What decides a result; its fingerprint is part of the file's name."""
    used = {
        "haystack": materials.haystack if getattr(task, "haystack", None) == "essay" else None,
        "questions": getattr(materials, getattr(task, "questions", ""), None),
    }
    return {
        "task": task.name,
        "length": length,
        "settings": asdict(task),
        "asked": rule.samples,
        "seed": rule.seed,
        "generator": GENERATOR,
        "wording": materials.wording.name,
        "words": materials.words.name,
        **{name: one.facts() if one else None for name, one in used.items()},
        "model": {
            "name": checkpoint.name,
            "hash": checkpoint.hash,
            "dtype": model.dtype,
            "rope_theta": model.rope_theta,
            "bos": model.bos,
        },
        "tokenizer": tokenizer.hash,
    }


def _load(checkpoint: Checkpoint, model: settings.Model, longest: int, answering: Answering) -> "Answerer":
    import torch

    from longattn import engines
    from longattn.evals.generating import load_answerer

    if answering.threads is not None:
        torch.set_num_threads(answering.threads)
    return load_answerer(checkpoint, model, longest=longest, device=engines.device(answering.device))


def is_whole(path: Path) -> bool:
    """Whether a result is there; a damaged one is not, and the log says so."""
    try:
        read_sealed(path)
    except FileNotFoundError:
        return False
    except DamageError as error:
        log.warning("%s is damaged: %s; it is made again", error.path, error.problem)
        return False
    return True


def collect(output: Path, left_out: Sequence[LeftOut] = ()) -> Evaluation:
    """All whole results of a folder without their samples, by length and task, and the means that they allow."""
    found = []
    for path in sorted(output.glob("*-*-*.json")):
        # measures of held-out text and suites may be in the same folder
        if is_whole(path) and "task" in (result := read_sealed(path)):
            found.append({key: value for key, value in result.items() if key != "samples"} | {"file": path.name})
    order = list(TASKS)
    found.sort(key=lambda one: (_model_key(one), one["length"], order.index(one["task"]), one["file"]))
    return Evaluation(tuple(found), tuple(_means(found)), tuple(left_out))


def _model_key(result: Mapping[str, Any]) -> str:
    return fingerprint(result["model"])


def _means(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means of groups at one length whose tasks all ran on one model, with one wording, seed and number of samples."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for one in results:
        facts = [one[name] for name in ("model", "length", "asked", "seed", "generator", "wording", "words")]
        alike.setdefault(fingerprint(facts), []).append(one)
    means = []
    for together in alike.values():
        by_task: dict[str, list[Mapping[str, Any]]] = {}
        for one in together:
            by_task.setdefault(one["task"], []).append(one)
        for group, tasks in GROUPS.items():
            # two results of one task (on two haystacks) leave open which one is meant
            if all(len(by_task.get(task, ())) == 1 for task in tasks):
                mine = [Proportion(**by_task[task][0]["score"]) for task in tasks]
                first = by_task[tasks[0]][0]
                means.append(
                    {
                        "group": group,
                        "length": first["length"],
                        "model": first["model"],
                        "tasks": len(mine),
                        "score": _mean(mine)._asdict(),
                        "reduced": sorted(task for task in tasks if by_task[task][0]["reduced"]),
                    }
                )
    return means


def _mean(parts: Sequence[Proportion]) -> Proportion:
    """The mean of some tasks' means; its interval adds up the squares of theirs, each side by itself."""
    n, value = len(parts), math.fsum(part.value for part in parts) / len(parts)
    below = math.sqrt(math.fsum((part.value - part.low) ** 2 for part in parts)) / n
    above = math.sqrt(math.fsum((part.high - part.value) ** 2 for part in parts)) / n
    return Proportion(value, max(0.0, value - below), min(1.0, value + above), sum(part.n for part in parts))
