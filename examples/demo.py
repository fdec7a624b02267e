"""The main job on text that every machine has: this Python's own standard library and its language reference.

``python examples/demo.py FOLDER`` writes the corpus and the run below FOLDER, and prints the command that it runs.
"""

import json
import shlex
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from longattn.cli import main

SHORTEST_MODULE = 40_000
"""Bytes; shorter modules would hardly fill a window."""


def code() -> Iterator[dict[str, str]]:
    """The long modules of the standard library, a document each."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if file.stat().st_size >= SHORTEST_MODULE:
            yield {"id": file.stem, "book": file.stem, "text": file.read_text(encoding="utf-8")}


def docs() -> Iterator[dict[str, str]]:
    """The topics of the language reference, to be joined into one document: each by itself is too short."""
    for name, text in sorted(topics.items()):
        yield {"id": name, "book": "language-reference", "text": text}


def write(path: Path, records: Iterator[dict[str, str]]) -> Path:
    """Write records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    inputs = [f"code={write(folder / 'code.jsonl', code())}", f"docs={write(folder / 'docs.jsonl', docs())}"]
    command = ["run", *inputs, "--corpus.join-by", "book", "--output", str(folder / "run")]
    sys.stdout.write(f"$ longattn {shlex.join(command)}\n")
    main(command)
