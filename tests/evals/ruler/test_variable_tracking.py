"""Variable tracking: a chain among lines that say nothing, after a solved example of its own."""

import re

import numpy as np
import pytest

from longattn.evals.ruler import RULER
from longattn.evals.ruler.variable_tracking import _Writer
from longattn.evals.tasks import generate
from longattn.evals.wording import OURS


@pytest.fixture(scope="module")
def made(materials):
    return generate(RULER["vt"], materials, 1024, 6)


def halves(sample):
    """The example, and the question."""
    _, second = re.finditer("Variables get their values", sample.prompt)
    return sample.prompt[: second.start()], sample.prompt[second.start() :]


def test_the_chain_stands_in_order_and_its_names_are_the_answers(made):
    for sample in made.samples:
        lines = [line for line in halves(sample)[1].split("\n") if line.startswith("LET")]
        value = re.fullmatch(r"LET (\w{5}) = (\d{5})", lines[0])
        assert value
        names = [value[1], *(re.fullmatch(r"LET (\w{5}) = \w{5}", line)[1] for line in lines[1:])]
        assert tuple(names) == sample.answers
        assert len(set(names)) == 5
        assert [line.split(" = ")[1] for line in lines[1:]] == names[:-1]
        assert f"have the value {value[2]} at the end" in sample.prompt
        assert sample.answer_prefix == f" Answer: 5 variables have the value {value[2]} at the end of the text:"


def test_a_solved_example_with_shorter_names_comes_first(made):
    for sample in made.samples:
        example, _ = halves(sample)
        names = re.findall(r"LET (\w+) =", example)
        assert {len(name) for name in names} == {3}
        assert example.endswith(f": {' '.join(names)}\n\n")
        assert "12345" not in example


def test_the_example_is_the_same_but_for_names_and_value(made):
    plain = {
        re.sub(r"\b[A-Z]{3}\b", "N", re.sub(r"\d{5}", "V", halves(s)[0])).replace("N = ", "") for s in made.samples
    }
    assert len({re.sub("LET", "N", text) for text in plain}) == 1
    assert len({halves(sample)[0] for sample in made.samples}) == len(made.samples)


def test_the_example_keeps_to_its_limit(materials):
    import random

    from longattn.evals.ruler.variable_tracking import EXAMPLE_TOKENS

    writer = _Writer(RULER["vt"], materials, random.Random(1), np.random.RandomState(1))
    example = writer.example(EXAMPLE_TOKENS)
    assert 350 < materials.count_tokens(example.rsplit(":", 1)[0]) <= EXAMPLE_TOKENS


def test_names_that_are_drawn_twice_are_drawn_again(materials):
    class Dice:
        def __init__(self):
            self.draws = iter(["AAA", "BBB", "AAA", "CCC", "AAA", "DDD"])

        def choices(self, _, k):
            return list(next(self.draws))

    writer = object.__new__(_Writer)
    object.__setattr__(writer, "rng", Dice())
    assert writer._names(4, 3) == ["AAA", "BBB", "CCC", "DDD"]


def test_where_room_is_short_the_example_goes_first_then_hops(materials):
    reduced = [generate(RULER["vt"], materials, length, 1).reduced for length in (400, 230)]
    assert reduced[0]["example"] is False
    assert "hops" not in reduced[0]
    assert reduced[1]["hops"] == 2
    assert OURS.noise in generate(RULER["vt"], materials, 230, 1).samples[0].prompt
