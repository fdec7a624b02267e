"""Scores as Dolma attributes: a file beside each file of documents, line for line, with the spans of its windows.

The Dolma toolkit looks for the attributes of ``…/documents/x.jsonl.gz`` in ``…/attributes/NAME/x.jsonl.gz``, takes its
lines in step with those of the documents, and stops where two ids differ. An attribute is a list of spans
``[start, end, value]`` in characters of the document's text.
"""

import gzip
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import pyarrow.parquet as pq

from longattn.addresses import is_uri
from longattn.errors import RunError
from longattn.export.carrying import to_json
from longattn.records import WorkUnit
from longattn.settings import Corpus
from longattn.tables import Table, durable

DOCUMENTS = "documents"

Spans = dict[str, list[list[int | float]]]
"""Attributes of a document, by name."""
Scores = Mapping[tuple[str, int, int], tuple[float | None, bool]]
"""Score, and whether it was kept, of a window by its place."""


def write_attributes(
    units: Sequence[WorkUnit],
    documents: Table,
    windows: Table,
    selection: Path,
    corpus: Corpus,
    name: str,
    output: Path,
) -> list[Path]:
    """Write ``output/attributes/NAME/…`` for every file of documents, and return the files.

    Those of several data sets go to ``output/DATASET/attributes/NAME/…``, where ``output`` is the folder that holds all
    of these.

    ``NAME__score`` has a span for every window with a score, ``NAME__kept`` one with 1 for every window that was kept.
    Every line of the input has its line, those that were rejected or too short too. Raises ``ValueError`` for inputs
    that are no Dolma documents, and :class:`RunError` for those that have changed.
    """
    if corpus.join_by is not None:
        raise ValueError("records were joined (corpus.join_by), so windows are not of the documents that Dolma has")
    of_file: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        if documents.receipt(unit.id) and windows.receipt(unit.id):
            for file in {part.file for part in unit.slices}:
                of_file[file].append(unit.id)
    files = sorted({part.file for unit in units for part in unit.slices})
    places = _places(files, name)
    scores = _scores(selection)
    written = []
    for file in files:
        spans = _spans(file, of_file[file], documents, windows, scores, name)
        path = output / places[file]
        with durable(path) as stream, gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed:
            for line in _lines(Path(file), corpus, spans, name):
                packed.write(to_json(line) + b"\n")
        written.append(path)
    return written


def _places(files: Sequence[str], name: str) -> dict[str, PurePosixPath]:
    """Where the attributes of each file are looked for, below the folder that all data sets have in common."""
    split = {file: _split(file) for file in files}
    common = os.path.commonpath([dataset for dataset, _ in split.values()]) if split else ""
    return {
        file: PurePosixPath(os.path.relpath(dataset, common), "attributes", name, below)
        for file, (dataset, below) in split.items()
    }


def _split(file: str) -> tuple[Path, PurePosixPath]:
    """The folder of the data set that a file of documents is of, and its path below the documents there."""
    folders = PurePosixPath(file).parts
    if is_uri(file) or DOCUMENTS not in folders[:-1] or not file.endswith((".json.gz", ".jsonl.gz")):
        raise ValueError(
            f"{file} is no file of Dolma documents: those are .json.gz or .jsonl.gz on this machine, below a folder "
            f"called {DOCUMENTS}"
        )
    place = folders.index(DOCUMENTS)
    return Path(*folders[:place]).absolute(), PurePosixPath(*folders[place + 1 :])


def _scores(selection: Path) -> Scores:
    """Score and fate by document, first character and last; of a document read twice, those of the kept one."""
    rows = pq.read_table(selection, columns=["doc_id", "char_start", "char_end", "score", "kept"]).to_pylist()
    rows.sort(key=lambda row: row["kept"])
    return {(row["doc_id"], row["char_start"], row["char_end"]): (row["score"], row["kept"]) for row in rows}


def _spans(
    file: str,
    units: Sequence[str],
    documents: Table,
    windows: Table,
    scores: Scores,
    name: str,
) -> dict[int, Spans]:
    """The attributes of a file's documents, by line, from the units that hold some of it."""
    lines = {
        row["position"]: row["line"]
        for table in documents.read(units, ["file", "position", "line"])
        for row in table.to_pylist()
        if row["file"] == file
    }
    found: dict[int, Spans] = defaultdict(lambda: {f"{name}__score": [], f"{name}__kept": []})
    for table in windows.read(units, ["file", "position", "doc_id", "char_start", "char_end"]):
        for row in table.to_pylist():
            if row["file"] != file:
                continue
            span = (row["char_start"], row["char_end"])
            score, kept = scores.get((row["doc_id"], *span), (None, False))
            if score is not None:
                found[lines[row["position"]]][f"{name}__score"].append([*span, score])
            if kept:
                found[lines[row["position"]]][f"{name}__kept"].append([*span, 1.0])
    return found


def _lines(file: Path, corpus: Corpus, spans: dict[int, Spans], name: str) -> Iterator[dict[str, Any]]:
    """A line of attributes for every line of documents."""
    nothing: Spans = {f"{name}__score": [], f"{name}__kept": []}
    with gzip.open(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                record = orjson.loads(line)
                yield {"id": record[corpus.id_field], "attributes": spans.get(number, nothing)}
            except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                raise RunError(f"{file}, line {number}: Dolma cannot read it either, it has no id ({error})") from error
