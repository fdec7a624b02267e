"""Samples: records of messages stay whole, and every message knows where it is."""

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


def test_samples_are_not_joined(write, read):
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

    starts, ends = [0, 3, 6, 9], [3, 6, 9, 12]
    tokenized = Tokenized(*(pa.array(column, pa.uint32()).to_numpy() for column in ([1, 2, 3, 4], starts, ends)))
    document = Document("x", "s", "abcdefghijkl", "f", 0, turns=(Turn("user", 0, 5), Turn("assistant", 7, 8)))
    [window] = cut(document, tokenized, 8)
    assert window.turns == (Turn("user", 0, 1), Turn("assistant", 3, 3))
