"""Question files: what of their formats is read, and that the made-up ones can be answered from their documents."""

import json

import pytest

from longattn.errors import CorpusError
from longattn.evals.questions import made_up, made_up_hotpot, made_up_squad, read_hotpot, read_squad

SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Zinc is a metal.",
                    "qas": [
                        {
                            "question": "What is zinc?",
                            "is_impossible": False,
                            "answers": [{"text": "a metal"}, {"text": "metal"}],
                        },
                        {"question": "Who?", "is_impossible": True, "answers": []},
                    ],
                },
                {"context": "Ash is a tree.", "qas": []},
            ]
        },
        {"paragraphs": [{"context": "Oak is one too.", "qas": []}]},
    ]
}
HOTPOT = [
    {
        "question": "Where?",
        "answer": "Ulm",
        "supporting_facts": [["B", 0], ["C", 1]],
        "context": [["A", ["Nothing."]], ["B", ["It is there.", " Or not."]], ["C", ["There is Ulm."]]],
    }
]


def test_squads_questions_with_their_paragraph_and_its_neighbours(tmp_path):
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(SQUAD))
    found = read_squad(file)
    assert found.documents == ("Ash is a tree.", "Oak is one too.", "Zinc is a metal.")
    (question,) = found.questions
    assert (question.documents, question.more, question.answers) == ((2,), (0,), ("a metal", "metal"))
    assert found.facts() == {"name": "dev.json", "sha256": found.sha256}


def test_hotpots_questions_with_all_their_documents_and_those_they_need(tmp_path):
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(HOTPOT))
    found = read_hotpot(file)
    assert found.documents == ("A\nNothing.", "B\nIt is there. Or not.", "C\nThere is Ulm.")
    (question,) = found.questions
    assert (question.documents, question.needed, question.answers) == ((0, 1, 2), (1, 2), ("Ulm",))


@pytest.mark.parametrize("content", ["{", "[]", '{"data": []}', '[{"question": "Where?"}]'])
def test_files_in_other_formats_are_refused(tmp_path, content):
    file = tmp_path / "other.json"
    file.write_text(content)
    for read, name in ((read_squad, "SQuAD 2.0"), (read_hotpot, "HotpotQA")):
        with pytest.raises(CorpusError, match=f"is not in the format of {name}"):
            read(file)


@pytest.mark.parametrize("kind", ["squad", "hotpot"])
def test_made_up_questions_can_be_answered_from_the_documents_they_need(kind):
    found = made_up(kind)
    assert found.name.startswith("made up")
    assert len(found.questions) >= 40
    for question in found.questions:
        needed = " ".join(found.documents[i] for i in question.needed)
        assert question.answers[0] in needed
        assert set(question.needed) <= set(question.documents)
    assert found == made_up(kind)


def test_no_more_people_than_names():
    with pytest.raises(ValueError, match="at most 100 people can be made up"):
        made_up_squad(101)
    assert made_up_hotpot(1)[0]["answer"].endswith("river")
