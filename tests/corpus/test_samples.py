"""Samples: records of messages stay whole, and every message knows where it is."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn import settings
from longattn.models import resolve
from longattn.records import Document, Reject, Turn
from longattn.tokens import Tokenizer
from longattn.windows import cut

MESSAGES = [
    {"role": "system", "content": ""},
    {"role": "user", "content": "Wer? Ünü"},
    {"role": "assistant", "content": "Ich, sagte sie."},
]
TURNS = (Turn("system", 0, 0), Turn("user", 2, 10), Turn("assistant", 12, 27))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_messages_become_one_text_with_a_place_for_each(write, read, tmp_path, form):
    record = {"id": "x", "messages": MESSAGES, "kind": 3}
    if form == "jsonl":
        file = write("a.jsonl", record)
    else:
        file = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist([record]), file)
    [sample] = read(file, messages_field="messages", fields=["*"])
    assert sample.text == "\n\nWer? Ünü\n\nIch, sagte sie."
    assert sample.turns == TURNS
    assert sample.fields == {"kind": 3}


BAD = [
    {"text": "no messages"},
    {"messages": None},
    {"messages": []},
    {"messages": "hello"},
    {"messages": ["hello"]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
    {"messages": [{"role": 1, "content": "hello"}]},
]


@pytest.mark.parametrize("record", BAD, ids=str)
def test_what_is_no_list_of_messages_is_rejected(write, read, record):
    [bad] = read(write("a.jsonl", record), messages_field="messages")
    assert isinstance(bad, Reject)
    assert bad.reason == "bad_messages"


def test_samples_without_words_text_files_and_columns_of_text_are_rejected(write, read, tmp_path):
    empty = write("a.jsonl", {"messages": [{"role": "user", "content": " "}]})
    assert [record.reason for record in read(empty, messages_field="messages")] == ["empty"]
    assert [record.reason for record in read(write("a.txt", "text"), messages_field="messages")] == ["bad_messages"]
    pq.write_table(pa.table({"messages": ["text"]}), tmp_path / "b.parquet")
    assert [r.reason for r in read(tmp_path / "b.parquet", messages_field="messages")] == ["bad_messages"]


PARTS = {"context": "A long one.\n\nOf two parts.", "question": {"text": "Wer?"}, "answer": "Ich."}
FIELDS = ("context=user", "question.text=user", "answer=assistant")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_fields_become_messages_in_the_order_asked_for(write, read, tmp_path, form):
    record = {**PARTS, "id": "x", "kind": 3}
    if form == "jsonl":
        file = write("a.jsonl", record)
    else:
        file = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist([record]), file)
    [sample] = read(file, turn_fields=FIELDS, fields=["kind", "answer"])
    assert sample.text == "A long one.\n\nOf two parts.\n\nWer?\n\nIch."
    assert [(turn.role, sample.text[turn.start : turn.stop]) for turn in sample.turns] == [
        ("user", PARTS["context"]),
        ("user", "Wer?"),
        ("assistant", "Ich."),
    ]
    assert sample.fields == {"kind": 3}
    [sample] = read(file, turn_fields=FIELDS[::-1])
    assert sample.text.startswith("Ich.\n\nWer?")


@pytest.mark.parametrize("record", [{**PARTS, "answer": 3}, {**PARTS, "answer": None}, {"answer": "Ich."}], ids=str)
def test_a_field_that_holds_no_message_is_rejected(write, read, record):
    [bad] = read(write("a.jsonl", record), turn_fields=FIELDS)
    assert (type(bad), bad.reason) == (Reject, "bad_messages")


def test_columns_that_hold_no_message_are_rejected_once(read, tmp_path):
    pq.write_table(pa.table({"context": ["text"], "answer": [3]}), tmp_path / "a.parquet")
    [bad] = read(tmp_path / "a.parquet", turn_fields=("context=user", "answer=assistant"))
    assert bad.reason == "text_not_string"
    [bad] = read(tmp_path / "a.parquet", turn_fields=("context=user", "question=user"))
    assert "no column 'question'" in bad.detail


def test_the_last_paragraph_of_the_first_user_message_is_the_instruction(write, read):
    said = [("system", "Be\n\nkind."), ("user", "One.\n\nTwo.\n\nWhich?"), ("assistant", "a\n\nb"), ("user", "c\n\nd")]
    record = {"messages": [{"role": role, "content": content} for role, content in said]}
    [plain] = read(write("a.jsonl", record), messages_field="messages")
    [apart] = read(write("a.jsonl", record), messages_field="messages", instruction_last=True)
    assert apart.text == plain.text
    contents = [(turn.role, apart.text[turn.start : turn.stop]) for turn in apart.turns]
    assert contents == [said[0], ("user", "One.\n\nTwo."), ("user", "Which?"), *said[2:]]
    short = {"messages": [{"role": "user", "content": "Which?"}]}
    [alone] = read(write("b.jsonl", short), messages_field="messages", instruction_last=True)
    assert alone.turns == (Turn("user", 0, 6),)


@pytest.mark.parametrize("entry", ["answer", "=user", "answer="])
def test_a_field_without_a_role_is_answered_with_what_would_do(read, tmp_path, entry):
    with pytest.raises(ValueError, match=f"FIELD=ROLE, such as context=user, got '{entry}'"):
        read(tmp_path, turn_fields=(entry,))


def test_messages_are_in_one_place_or_the_other(write, read):
    with pytest.raises(ValueError, match="messages_field or in turn_fields, got both"):
        read(write("a.jsonl", PARTS), turn_fields=FIELDS, messages_field="messages")


def test_samples_are_not_joined(write, read):
    with pytest.raises(ValueError, match="turn_fields and join_by"):
        read(write("a.jsonl", PARTS), turn_fields=FIELDS, join_by="id")
    with pytest.raises(ValueError, match="messages_field and join_by"):
        read(write("a.jsonl", {"messages": MESSAGES}), messages_field="messages", join_by="id")


def test_a_sample_is_one_window_with_its_messages_in_tokens(tiny_model_folder):
    """The tiny tokenizer's tokens are bytes, of which ü has two."""
    tokenizer = Tokenizer.load(resolve(settings.Model(name=str(tiny_model_folder))).tokenizer_file)
    document = Document("x", "s", "\n\nWer? Ünü\n\nIch, sagte sie.", "f", 0, turns=TURNS)
    [window] = cut(document, tokenizer.encode(document.text), 8)
    assert window.turns == (Turn("system", 0, 0), Turn("user", 2, 12), Turn("assistant", 14, 29))
    assert tokenizer.decode(window.tokens[2:12]) == "Wer? Ünü"
    assert (window.start, len(window.tokens), window.doc_tokens) == (0, 29, 29)
    assert (window.char_start, window.char_end) == (0, 27)


def test_a_token_that_reaches_beyond_a_message_is_in_none():
    """As where the end of a message and what follows it make one token."""
    from longattn.tokens import Tokenized

    starts = np.array([0, 3, 6, 9], np.uint32)
    tokenized = Tokenized.of((starts, starts, starts + np.uint32(3)))
    document = Document("x", "s", "abcdefghijkl", "f", 0, turns=(Turn("user", 0, 5), Turn("assistant", 7, 8)))
    [window] = cut(document, tokenized, 8)
    assert window.turns == (Turn("user", 0, 1), Turn("assistant", 3, 3))
