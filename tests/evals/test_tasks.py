"""How prompts are sized: what must hold of every task at every length, and where RULER's own search has no end."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longattn.evals.ruler import RULER
from longattn.evals.tasks import DoesNotFitError, Draft, NeedsMaterialError, fitted, generate, largest

TASKS = list(RULER)


def made_or_too_short(task, materials, length, seed):
    """Two samples, or None where so short a length is refused."""
    try:
        return generate(task, materials, length, 2, seed)
    except DoesNotFitError:
        return None


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=5)
@given(length=st.integers(128, 2000), seed=st.integers(0, 99))
def test_prompts_hold_their_answers_and_are_never_too_long(materials, name, length, seed):
    made = made_or_too_short(RULER[name], materials, length, seed)
    if made is None:
        assert length < 300
        return
    for sample in made.samples:
        tokens = materials.count_tokens(sample.text)
        assert tokens + made.max_new_tokens == sample.length <= length
        assert all(answer in sample.prompt for answer in sample.answers)
        assert materials.count_tokens(", ".join(sample.answers[:1])) <= made.max_new_tokens
    assert made == generate(RULER[name], materials, length, 2, seed)


@pytest.mark.parametrize("name", TASKS)
def test_from_1024_tokens_on_nothing_is_reduced_and_prompts_are_almost_full(materials, name):
    made = generate(RULER[name], materials, 1536, 3)
    assert made.reduced == {}
    assert made.max_new_tokens == RULER[name].max_new_tokens
    lengths = [sample.length for sample in made.samples]
    # steps are of 25 lines, 50 words, a 32nd of the coded text, a document
    assert min(lengths) > 0.8 * 1536, lengths


@pytest.mark.parametrize("name", ["niah_single_2", "vt", "cwe"])
def test_other_seeds_make_other_prompts(materials, name):
    first, second = (generate(RULER[name], materials, 1024, 1, seed).samples[0] for seed in (1, 2))
    assert first.answers != second.answers


@pytest.mark.parametrize("name", TASKS)
def test_more_samples_begin_with_the_same_ones(materials, name):
    few, many = (generate(RULER[name], materials, 1024, count).samples for count in (2, 4))
    assert many[:2] == few
    assert [sample.index for sample in many] == sorted({sample.index for sample in many})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((127, 1), "length must be at least 128 tokens, got 127"), ((128, 0), "count must be at least 1, got 0")],
)
def test_numbers_that_make_no_sense_are_refused(materials, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(RULER["vt"], materials, *arguments)


def test_what_does_not_fit_is_an_error_that_says_how_long_it_is(materials):
    long_words = replace(materials, count_tokens=len)
    with pytest.raises(DoesNotFitError, match=r"niah_multikey_3 does not fit into 128 tokens .* \d+ tokens long"):
        generate(RULER["niah_multikey_3"], long_words, 128, 1)


@pytest.mark.parametrize(
    ("name", "missing", "says"),
    [("niah_single_2", "haystack", "--essays"), ("qa_1", "squad", "SQuAD 2.0"), ("qa_2", "hotpot", "HotpotQA")],
)
def test_a_task_without_its_file_says_what_to_name(materials, name, missing, says):
    with pytest.raises(NeedsMaterialError, match=says):
        generate(RULER[name], replace(materials, **{missing: None}), 1024, 1)


def test_the_search_is_rulers_and_goes_on_below_its_least():
    tried = []

    def size(haystack):
        tried.append(haystack)
        return 10 * haystack

    assert largest(size, 333, step=25, estimate=99, least=2) == 33
    assert tried == [62, 43, 33, 38, 35, 34]
    tried.clear()
    # RULER ends here with 25, which is too much
    assert largest(size, 100, step=25, estimate=99, least=2) == 10
    with pytest.raises(DoesNotFitError, match="with a haystack of 2 it is about 20 tokens long"):
        largest(size, 19, step=25, estimate=99, least=2)


def test_a_prompt_that_comes_out_too_long_gets_a_step_less_until_the_least(materials):
    counting = replace(materials, count_tokens=len)
    drawn = []

    def draw(haystack):
        drawn.append(haystack)
        return Draft("x" * haystack, "", ("x",))

    assert fitted(draw, counting, 60, 20, step=25, least=3)[1] == 10
    assert drawn == [60, 35, 10]
    drawn.clear()
    assert fitted(draw, counting, 10, 4, step=25, least=3)[1] == 3
    assert drawn == [10, 5, 3]
    with pytest.raises(DoesNotFitError, match="with a haystack of 3 it is 3 tokens long, 2 are free"):
        fitted(draw, counting, 60, 2, step=25, least=3)


def test_the_least_haystack_is_drawn_again_before_it_counts_as_too_long(materials):
    lengths = iter([9, 9, 4])

    def draw(_):
        return Draft("x" * next(lengths), "", ("x",))

    assert fitted(draw, replace(materials, count_tokens=len), 3, 5, step=1, least=3)[1] == 4
