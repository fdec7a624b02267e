"""Scores as Dolma attributes: line for line beside the documents, as its mixer reads them."""

import gzip
import json

import pyarrow.parquet as pq
import pytest

from longattn import verbs
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing


@pytest.fixture
def dataset(tmp_path):
    """Two files of documents: one of them too short, one empty, which is rejected."""
    texts = {"en/a.jsonl.gz": ["far and near " * 30, "short", "", "words é of a row " * 20], "b.json.gz": ["key " * 90]}
    for name, contents in texts.items():
        path = tmp_path / "wiki" / "documents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"id": f"{name}-{i}", "text": text, "source": "wiki"}) for i, text in enumerate(contents)]
        path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))
    return tmp_path / "wiki"


def run(tiny_model_folder, inputs, output, **corpus) -> Recipe:
    recipe = Recipe(
        corpus=Corpus(inputs=tuple(map(str, inputs)), source_field="source", **corpus),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length", "repetition"),
        keep=Selecting(share=0.4, weights={"repetition": 1.0}),
    )
    verbs.measure(recipe, output, Compute(workers=0, devices=("cpu",)))
    verbs.select(recipe, output)
    return recipe


def lines(file) -> list[dict]:
    with gzip.open(file) as stream:
        return [json.loads(line) for line in stream]


def test_every_line_of_documents_has_its_line_of_attributes(dataset, tiny_model_folder, tmp_path):
    recipe = run(tiny_model_folder, [dataset / "documents"], tmp_path / "run")
    files = verbs.write_attributes(recipe, tmp_path / "run", dataset, "far")
    rows = pq.read_table(tmp_path / "run" / "selection.parquet").to_pylist()
    assert {f.relative_to(dataset).as_posix() for f in files} == {
        "attributes/far/en/a.jsonl.gz",
        "attributes/far/b.json.gz",
    }
    seen = 0
    for file in files:
        documents = lines(str(file).replace("/attributes/far/", "/documents/"))
        attributes = lines(file)
        assert len(documents) == len(attributes)
        for document, line in zip(documents, attributes, strict=True):
            assert line["id"] == document["id"]
            mine = [row for row in rows if row["doc_id"] == document["id"]]
            by_place = sorted((row["char_start"], row["char_end"], row["score"]) for row in mine)
            assert [tuple(span) for span in line["attributes"]["far__score"]] == by_place
            kept = sorted([row["char_start"], row["char_end"], 1.0] for row in mine if row["kept"])
            assert line["attributes"]["far__kept"] == kept
            assert all(0 <= start < end <= len(document["text"]) for start, end, _ in by_place)
            seen += len(mine)
    assert seen == len(rows) > 0


def test_files_of_one_name_in_several_data_sets_have_attributes_each(dataset, tiny_model_folder, tmp_path):
    other = tmp_path / "books" / "v1" / "documents" / "b.json.gz"
    other.parent.mkdir(parents=True)
    book = {"id": "book", "text": "page " * 90, "source": "books"}
    other.write_bytes(gzip.compress(json.dumps(book).encode() + b"\n"))
    recipe = run(tiny_model_folder, [dataset, other.parent], tmp_path / "run")
    files = verbs.write_attributes(recipe, tmp_path / "run", tmp_path, "far")
    assert sorted(file.relative_to(tmp_path).as_posix() for file in files) == [
        "books/v1/attributes/far/b.json.gz",
        "wiki/attributes/far/b.json.gz",
        "wiki/attributes/far/en/a.jsonl.gz",
    ]
    for file in files:
        documents = lines(str(file).replace("/attributes/far/", "/documents/"))
        assert [line["id"] for line in lines(file)] == [document["id"] for document in documents]


@pytest.mark.parametrize("folder", ["texts", "documents"])
def test_what_is_no_dolma_corpus_is_refused(folder, dataset, tiny_model_folder, tmp_path):
    path = tmp_path / folder / "plain.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"id": "a", "text": "far " * 90, "source": "s"}) + "\n")
    recipe = run(tiny_model_folder, [path], tmp_path / "run")
    with pytest.raises(ValueError, match="no file of Dolma documents"):
        verbs.write_attributes(recipe, tmp_path / "run", tmp_path)
