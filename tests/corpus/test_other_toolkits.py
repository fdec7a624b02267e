"""Records as other toolkits write them, read as they are."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn.corpus import list_units, read_unit
from longattn.records import Document
from longattn.settings import Corpus

TEXT = "far " * 50
DATATROVE = {"text": TEXT, "id": "a", "metadata": {"source": "web", "url": "u"}}
DATA_JUICER = {"text": TEXT, "meta": {"source": "web"}, "__dj__stats__": {"alnum_ratio": 0.8}}
DOLMA = {"id": "a", "text": TEXT, "source": "web", "added": "2026", "metadata": {"url": "u"}}


def read(path, corpus: Corpus, fields=()):
    return [record for unit in list_units(corpus, []) for record in read_unit(unit, corpus, fields)]


@pytest.mark.parametrize("name", ["part.jsonl", "part.jsonl.gz", "part.parquet"])
@pytest.mark.parametrize(
    ("record", "source_field", "carried", "id"),
    [
        (DATATROVE, "metadata.source", {"metadata.url": "u"}, "a"),
        (DATA_JUICER, "meta.source", {"__dj__stats__.alnum_ratio": 0.8}, None),
        (DOLMA, "source", {"metadata.url": "u"}, "a"),
    ],
)
def test_fields_inside_of_objects_are_named_with_dots(write, tmp_path, name, record, source_field, carried, id):
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist([record]), path)
    else:
        write(name, record)
    (document,) = read(path, Corpus(inputs=(str(path),), source_field=source_field), list(carried))
    assert isinstance(document, Document)
    assert (document.text, document.source, document.fields) == (TEXT, "web", carried)
    assert document.id == (id or f"{path}:0")


def test_a_field_with_dots_in_its_name_comes_first(write, tmp_path):
    path = write("part.jsonl", {"text": TEXT, "meta.source": "own", "meta": {"source": "inner"}})
    (document,) = read(path, Corpus(inputs=(str(path),), source_field="meta.source"))
    assert document.source == "own"


def test_a_source_field_that_is_not_there_is_answered_with_those_that_are(write):
    path = write("part.jsonl", json.dumps(DATATROVE) + "\n")
    (reject,) = read(path, Corpus(inputs=(str(path),), source_field="metadata.sorce"))
    assert reject.reason == "bad_source"
    assert "there are: 'text', 'id', 'metadata.source', 'metadata.url'" in reject.detail
