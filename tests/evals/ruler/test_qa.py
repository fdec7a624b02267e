"""Questions among documents: which documents are there, and what becomes of a question that does not fit."""

import re
from dataclasses import replace

import pytest

from longattn.evals.questions import Question, Questions
from longattn.evals.ruler import RULER
from longattn.evals.tasks import DoesNotFitError, generate


def documents(sample):
    context = sample.prompt.split("any other word.\n\n")[1].split("\n\nAnswer the question from")[0]
    return [part.split("\n", 1)[1] for part in re.split(r"\n\n(?=Text \d+:\n)", context)]


@pytest.mark.parametrize("name", ["qa_1", "qa_2"])
def test_a_questions_own_documents_are_among_the_others_each_once(materials, name):
    asked = materials.squad if name == "qa_1" else materials.hotpot
    made = generate(RULER[name], materials, 2048, 5)
    assert made.skipped == 0
    for sample, question in zip(made.samples, asked.questions, strict=False):
        shown = documents(sample)
        assert {asked.documents[i] for i in question.documents} < set(shown)
        assert len(shown) == len(set(shown)) > 10
        assert set(shown) <= set(asked.documents)
        assert sample.answers == question.answers
        assert sample.prompt.endswith(f"Question: {question.query}")


def test_documents_of_the_same_article_come_before_others(materials):
    asked = materials.squad
    sample = generate(RULER["qa_1"], materials, 600, 1).samples[0]
    question = asked.questions[0]
    article = {asked.documents[i] for i in (*question.documents, *question.more)}
    shown = set(documents(sample))
    assert shown <= article or article <= shown


def test_few_documents_are_repeated_until_the_prompt_is_full(materials):
    few = Questions("few", "0" * 16, ("It is blue.", "It is red."), (Question("Which?", ("red",), (1,)),))
    sample = generate(RULER["qa_1"], replace(materials, squad=few), 512, 1).samples[0]
    assert sample.prompt.count("It is red.") > 10
    assert sample.length > 480


def test_questions_that_do_not_fit_are_passed_over_and_counted(materials):
    long = " ".join(f"And then came the {i}th of them." for i in range(100))
    asked = Questions(
        "uneven",
        "0" * 16,
        (long, "It is blue.", "It is red."),
        (Question("How?", ("came",), (0,)), Question("Which?", ("red",), (2,)), Question("What?", ("blue",), (1,))),
    )
    made = generate(RULER["qa_1"], replace(materials, squad=asked), 256, 5)
    assert made.skipped == 1
    assert [(sample.index, sample.answers) for sample in made.samples] == [(1, ("red",)), (2, ("blue",))]
    alone = replace(asked, documents=(long,), questions=asked.questions[:1])
    with pytest.raises(DoesNotFitError, match="none of the 1 questions of uneven does"):
        generate(RULER["qa_1"], replace(materials, squad=alone), 256, 5)


def test_where_room_is_short_only_documents_that_a_question_needs_are_kept(materials):
    made = generate(RULER["qa_2"], materials, 300, 3)
    assert made.reduced == {"whole_context": False}
    for sample, question in zip(made.samples, materials.hotpot.questions, strict=False):
        assert {materials.hotpot.documents[i] for i in question.needed} <= set(documents(sample))
        assert len(question.needed) == 2
