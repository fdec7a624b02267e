"""Which documents real text is made of, and who gets which."""

import json

import pytest

from longattn.reproduce.texts import PARTS, Texts, make_tokenizer, read, read_documents, write_parts
from longattn.tokens import Tokenizer


def corpus(folder, number=60, kind="notes"):
    path = folder / f"{kind}.jsonl"
    records = [{"id": f"{kind}-{i}", "text": f"number {i} of {kind}. " * 20} for i in range(number)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"{kind}={path}"


def parts_of(folder, inputs, **settings):
    facts = write_parts(folder, {}, Texts(inputs=tuple(inputs), least_chars=100, **settings))
    names = {part: {name for name, _ in read_documents(folder / f"{part}-notes.jsonl")} for part in PARTS}
    return facts, names


def test_every_document_is_in_one_part_that_depends_on_its_id_alone(tmp_path):
    facts, names = parts_of(tmp_path / "all", [corpus(tmp_path)])
    assert sorted(name for of in names.values() for name in of) == sorted(f"notes-{i}" for i in range(60))
    assert facts["parts"]["held-out"]["notes"]["documents"] == len(names["held-out"]) < len(names["pool"])
    _, fewer = parts_of(tmp_path / "fewer", [corpus(tmp_path, number=50)])
    for part in PARTS:
        assert fewer[part] <= names[part]


def test_documents_of_the_same_words_and_short_ones_are_left_out_and_counted(tmp_path):
    named = corpus(tmp_path)
    path = tmp_path / "notes.jsonl"
    copy = {"id": "copy", "text": "number 3 of notes.\n\n" * 20}
    path.write_text(path.read_text() + json.dumps(copy) + "\n" + json.dumps({"id": "x", "text": "short"}) + "\n")
    facts, names = parts_of(tmp_path / "parts", [named])
    assert facts["left_out"] == {"duplicates": 1, "short": 1}
    assert "copy" not in set.union(*names.values())


def test_a_kind_with_too_few_documents_is_an_error_that_names_it(tmp_path):
    inputs = [corpus(tmp_path), corpus(tmp_path, number=2, kind="rare")]
    with pytest.raises(ValueError, match=r"none for .*rare \("):
        parts_of(tmp_path / "parts", inputs)
    with pytest.raises(ValueError, match="hold no document of 100000 characters"):
        write_parts(tmp_path / "none", {}, Texts(inputs=(corpus(tmp_path),), least_chars=100_000))


def test_without_inputs_the_text_is_pythons_own():
    documents = list(read(Texts()))
    assert {document.source for document in documents} == {"code", "docs"}
    assert len({document.id for document in documents}) == len(documents) > 300
    assert not any("/test/" in document.id for document in documents)


def test_the_tokenizer_holds_every_byte(tmp_path):
    write_parts(tmp_path / "texts", {}, Texts(inputs=(corpus(tmp_path),), least_chars=100))
    facts = make_tokenizer(tmp_path / "tokenizer", {"texts": tmp_path / "texts"}, 300)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer" / "tokenizer.json")
    assert tokenizer.vocab_size == facts["vocab_size"] <= 300
    text = "number 7 – é 漢 \x00"
    assert len(tokenizer.encode(text).ids) <= len(text.encode())
    assert make_tokenizer(tmp_path / "again", {"texts": tmp_path / "texts"}, 300) == facts
    first, again = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("tokenizer", "again"))
    assert first == again
