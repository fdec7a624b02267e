"""What a mixture is made of, and whole numbers that add up."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.mixing.shares import PUBLISHED, apportion, ingredients, largest_total
from longattn.settings import Mixture

weights = st.dictionaries(st.text("abcdef", min_size=1), st.floats(1e-6, 1e6), min_size=1, max_size=8)


def parts_of(shares):
    return {
        name: one.part
        for name, one in ingredients(
            Mixture(documents=tuple(f"{name}=x" for name in shares), shares=dict(shares))
        ).items()
    }


def test_the_papers_shares_by_hand():
    """Table 7 of the paper, 152,587 sequences of 32,768 tokens: 5 billion. Remainders .1 .1 .1 .61 .61 .48."""
    names = tuple(f"{name}=x" for name in PUBLISHED["paper"])
    parts = {name: one.part for name, one in ingredients(Mixture(documents=names, published="paper")).items()}
    assert sum(parts.values()) == 1
    assert apportion(parts, 152_587) == {
        "arxiv": 45_776,
        "book": 45_776,
        "code": 45_776,
        "github": 4_578,
        "web": 6_103,
        "wiki": 4_578,
    }


@given(weights, st.integers(0, 10**7))
def test_counts_add_up_and_are_within_one_of_their_parts(shares, total):
    parts = parts_of(shares)
    counts = apportion(parts, total)
    assert sum(parts.values()) == 1
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - part * total) < 1 for name, part in parts.items())


@given(weights, st.integers(1, 1000), st.randoms())
def test_the_order_of_the_declaration_is_of_no_consequence(shares, total, random):
    names = list(shares)
    random.shuffle(names)
    assert apportion(parts_of({name: shares[name] for name in names}), total) == apportion(parts_of(shares), total)


@given(weights, st.data())
def test_the_largest_total_is_within_what_there_is(shares, data):
    parts = parts_of(shares)
    most = {name: data.draw(st.integers(0, 1000)) for name in parts}
    total = largest_total(parts, most)
    assert all(count <= most[name] for name, count in apportion(parts, total).items())
    # one more, and some exact part is too much
    assert any(part * (total + 1) > most[name] for name, part in parts.items())


def test_shares_are_taken_as_they_are_written():
    assert parts_of({"a": 0.1, "b": 0.2}) == {"a": Fraction(1, 3), "b": Fraction(2, 3)}
    assert parts_of({"a": 30.0, "b": 60.0}) == {"a": Fraction(1, 3), "b": Fraction(2, 3)}


def test_a_name_may_have_several_places_and_another_name_in_its_runs():
    found = ingredients(
        Mixture(
            windows=("book=r1", "book=r2"), documents=("wiki=a=b",), shares={"book": 9.0, "wiki": 1.0},
            sources={"book": "pg19"}, passes={"wiki": 3},
        )
    )  # fmt: skip
    assert (found["book"].runs, found["book"].source, found["book"].max_passes) == (("r1", "r2"), "pg19", 1)
    assert (found["wiki"].inputs, found["wiki"].source, found["wiki"].max_passes) == (("a=b",), "wiki", 3)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, "a mixture needs sources"),
        ({"documents": ("wiki",)}, r"documents must be NAME=PLACE, such as books=RUN, got 'wiki'"),
        ({"documents": ("wiki=x",)}, r"wiki has no share.*--shares.wiki 0.3"),
        ({"documents": ("wiki=x",), "shares": {"wiki": 0.0}}, "must be above 0, got 0.0"),
        ({"documents": ("wiki=x",), "shares": {"wiki": 1.0, "web": 1.0}}, "shares names web.*no such source: wiki"),
        ({"documents": ("wiki=x",), "shares": {"wiki": 1.0}, "passes": {"wiki": 0}}, "passes of wiki must be at least"),
        ({"documents": ("a=x",), "windows": ("a=r",), "shares": {"a": 1.0}}, "of windows and of documents"),
        ({"documents": ("wiki=x",), "published": "paper"}, "arxiv, book, code, wiki, github, web; arxiv is missing"),
    ],
)
def test_declarations_that_make_no_sense_are_refused(declared, message):
    with pytest.raises(ValueError, match=message):
        ingredients(Mixture(**declared))
