"""Haystacks: where sentences end, which files are read in which order, and what a result says of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.errors import CorpusError
from longattn.evals.haystacks import Haystack, read_haystack, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("It cost 3.50 euros. Then 4.", ["It cost 3.50 euros.", "Then 4."]),
        ("and so on. etc. of it", ["and so on. etc. of it"]),
        ("(Aside.) Next", ["(Aside.)", "Next"]),
        ("", []),
    ],
)
def test_sentences_end_before_a_capital_or_a_digit(text, expected):
    assert sentences(text) == expected


@given(st.text(alphabet="aB1.!? \"')", max_size=60))
def test_sentences_joined_are_the_text_with_single_blanks(text):
    words = text.split()
    assert " ".join(sentences(" ".join(words))) == " ".join(words)


def test_a_folder_is_its_text_files_by_name(tmp_path):
    (tmp_path / "b.txt").write_text("second ")
    (tmp_path / "a.txt").write_text("first ")
    (tmp_path / "c.md").write_text("other")
    found = read_haystack(tmp_path, "essays")
    assert (found.kind, found.text) == ("essays", "first second ")
    assert found.facts() == {"kind": "essays", "name": tmp_path.name, "sha256": found.sha256}
    assert found.first(3) == "first second first" or found.first(2) == "first second"


def test_rulers_file_of_essays_is_read(tmp_path):
    file = tmp_path / "PaulGrahamEssays.json"
    file.write_text(json.dumps({"text": "An essay."}))
    assert read_haystack(file).text == "An essay."
    file.write_text("[]")
    with pytest.raises(CorpusError, match="is not RULER's file of essays"):
        read_haystack(file)


def test_pythons_own_text_is_named_as_such():
    found = read_haystack("python")
    assert found.facts()["kind"] == "python"
    assert len(found.words) > 50_000


def test_a_haystack_without_text_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="holds no text"):
        read_haystack(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_haystack(tmp_path / "gone.txt")


def test_words_are_taken_from_the_beginning_again():
    assert Haystack("texts", "t", "a  b\nc").first(7) == "a b c a b c a"
