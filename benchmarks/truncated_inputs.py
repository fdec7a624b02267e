"""What readers make of files that are cut off: ``python benchmarks/truncated_inputs.py``.

JSON lines of 2,000 documents, packed in one frame or in four, are cut at places spread evenly over the file, and at
the borders of the frames. A reader passes if it raises an error or reports a lost rest (seen); it fails if it ends as
after a whole file with fewer documents (no error). It may have logged a warning then, which is not looked at: the task
that wrote it counts as complete all the same. datatrove takes part where it is installed with what it needs for zstd:
``pip install datatrove zstandard``.
"""

import argparse
import bz2
import gzip
import itertools
import json
import lzma
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from common import publish
from longattn.corpus import list_files, list_units, read_unit, write_manifest
from longattn.errors import CorpusError
from longattn.records import Document
from longattn.settings import Corpus

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
DOCUMENTS = 2000


def ours(file: Path, manifest: Path | None) -> str:
    """``seen`` or ``no_error``."""
    corpus = Corpus(inputs=(str(file),), manifest=manifest and str(manifest))
    try:
        records = [record for unit in list_units(corpus) for record in read_unit(unit, corpus)]
    except CorpusError:
        return "seen"
    return "no_error" if all(isinstance(record, Document) for record in records) else "seen"


def theirs(reader: Callable[..., Any], file: Path) -> str:
    """The same of datatrove's reader, as a local executor would drive it."""
    try:
        found = sum(1 for _ in reader(str(file.parent), glob_pattern=file.name).run(None, 0, 1))
    except Exception:  # whatever ends the task
        return "seen"
    assert found < DOCUMENTS
    return "no_error"


def main() -> None:
    """Cut, read, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=50, help="places inside frames, for each kind of file")
    parser.add_argument("--only", choices=tuple(PACK), help="one kind of file")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        # it brings its own way of logging
        from datatrove.pipeline.readers import JsonlReader
        from loguru import logger

        logger.remove()
        compared = f"datatrove {version('datatrove')}"
    except (ImportError, PackageNotFoundError):
        compared, JsonlReader = "", None
    lines = [
        json.dumps({"text": f"{n} {n**5 % 9973} {n**7 % 99991} words", "id": n}).encode() for n in range(DOCUMENTS)
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, frames in itertools.product([options.only] if options.only else PACK, (1, 4)):
            file, manifest = Path(folder, f"a.jsonl{suffix}"), Path(folder, "manifest")
            packed = [PACK[suffix](b"\n".join(lines[i::frames]) + b"\n") for i in range(frames)]
            data = b"".join(packed)
            file.write_bytes(data)
            write_manifest(manifest, list_files(Corpus(inputs=(str(file),))).files)
            borders = sorted(set(itertools.accumulate(map(len, packed))) - {len(data)})
            inside = sorted({len(data) * i // options.cuts for i in range(1, options.cuts)} - set(borders))
            for where, cuts in {"inside a frame": inside, "between frames": borders}.items():
                readers: dict[str, Callable[[], str]] = {
                    "longattn": partial(ours, file, None),
                    "longattn_with_a_manifest": partial(ours, file, manifest),
                }
                if JsonlReader is not None:
                    readers[compared] = partial(theirs, JsonlReader, file)
                for reader, read in readers.items() if cuts else ():
                    answers = []
                    for at in cuts:
                        file.write_bytes(data[:at])
                        answers.append(read())
                    rows.append(
                        {"file": f"{suffix}, {frames} frames", "cut": where, "reader": reader, "cuts": len(cuts)}
                        | {answer: answers.count(answer) for answer in ("seen", "no_error")}
                    )
    publish(rows, options.json, compared=compared)


if __name__ == "__main__":
    main()
