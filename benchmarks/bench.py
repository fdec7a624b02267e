"""Every figure about speed and memory in one run: ``make bench``, or ``python benchmarks/bench.py --only kernels``.

Runs the benchmarks one after another, each in a process of its own and none beside another, and writes ``bench.md`` and
``bench.json``. Each of them first checks that what it times gives equal results, and ends with a status other than 0
if not: then its section says so, has no figures, and this program ends with status 1. The comparison with the released
code needs that code's own environment (see ``compare_released.py``); without it that section is left out, and said to
be.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import circumstances


@dataclass(frozen=True)
class Section:
    """One benchmark."""

    name: str
    title: str
    command: tuple[str, ...]
    quick: tuple[str, ...] = ()
    """Put behind the command for a first look."""


SECTIONS = (
    Section(
        "kernels",
        "Attention kernels and this machine's floor",
        ("kernels.py",),
        ("--lengths", "2048", "--seconds", "1"),
    ),
    Section("prepare", "Queries and keys of layer 0", ("prepare.py",), ("--lengths", "2048", "--rounds", "5")),
    Section("window", "One window, exact", ("one_window.py", "--length", "32768", "--dtype", "bfloat16")),
    Section("forward", "Forward passes", ("forward_pass.py",), ("--lengths", "512", "--rounds", "2")),
    Section("sampling", "Sampled rows and refinement", ("sampling.py",)),
    Section("select", "Selection", ("select_rows.py", "--rows", "1000000"), ("--rows", "50000", "--units", "20")),
    Section("end-to-end", "A whole measure beside its stages", ("end_to_end.py", "--dtype", "bfloat16")),
)


def run(section: Section, extra: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The section's Markdown and JSON; a benchmark that failed is told in both."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "facts.json"
        script = Path(__file__).with_name(section.command[0])
        arguments = [*section.command[1:], *extra]
        command = [sys.executable, str(script), *arguments, "--json", str(file)]
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        facts = json.loads(file.read_text(encoding="utf-8")) if file.exists() and done.returncode == 0 else {}
    shown = " ".join(["python", f"benchmarks/{section.command[0]}", *arguments])
    lines = [f"## {section.title}", "", f"`{shown}`, {time.perf_counter() - began:.0f} s", ""]
    lines.append(
        done.stdout.strip() if done.returncode == 0 else f"**Failed with status {done.returncode}: no figures.**"
    )
    return "\n".join([*lines, ""]), {"command": shown, "status": done.returncode, **facts}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="run these alone")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything work?")
    parser.add_argument("--released", type=Path, help="checkout of the released code, to be run beside ours")
    parser.add_argument("--released-python", help="interpreter of the released code's environment")
    parser.add_argument("--output", type=Path, default=Path("bench"), help="folder for bench.md and bench.json")
    return parser.parse_args()


def main() -> int:
    """Run, write, and say what failed."""
    options = parse()
    sections = [section for section in SECTIONS if section.name in options.only]
    left_out = "The released code was not run: `--released` and `--released-python` name it."
    if options.released and options.released_python:
        command = ("against_released.py", str(options.released), "--python", options.released_python)
        sections.append(Section("released", "Beside the released model class", command, ("--lengths", "2048")))
        left_out = ""
    facts: dict[str, Any] = {"circumstances": circumstances(), "quick": options.quick}
    texts = [f"# Benchmarks\n\n{_told(facts['circumstances'])}\n"]
    options.output.mkdir(parents=True, exist_ok=True)
    for section in sections:
        print(f"{section.title} …", file=sys.stderr, flush=True)
        text, facts[section.name] = run(section, section.quick if options.quick else ())
        texts.append(text)
        # what is done is kept, should a later section be interrupted
        (options.output / "bench.md").write_text("\n".join([*texts, left_out]) + "\n", encoding="utf-8")
        (options.output / "bench.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*texts, left_out]))
    failed = [section.name for section in sections if facts[section.name]["status"]]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _told(about: dict[str, Any]) -> str:
    machine, versions = about["machine"], {name: about[name] for name in ("python", "torch", "numpy", "tokenizers")}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{about['date']}, commit {about['commit']}, {machine['cores']} cores of {machine['processor']}, {listed}."


if __name__ == "__main__":
    sys.exit(main())
