"""Which documents are taken hangs on seed and text alone."""

import contextlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longattn.mixing.drawing import Draw, key_of

texts = st.lists(st.text(min_size=1, max_size=12), max_size=30)


def drawn(texts, enough, tmp, seed=0):
    with contextlib.closing(Draw(tmp, enough)) as draw:
        for number, text in enumerate(texts):
            key = key_of(seed, text)
            if draw.wants(key):
                draw.add(key, f"{number}", np.frombuffer(text.encode("utf-32-le"), np.uint32), 7)
        return draw.drawn()


def content(found):
    return [found.tokens(i, 0, int(n)).tolist() for i, n in enumerate(found.lengths)]


@given(texts, st.one_of(st.none(), st.integers(0, 200)), st.randoms())
def test_the_order_of_the_input_is_of_no_consequence(tmp_path_factory, texts, enough, random):
    folder = tmp_path_factory.getbasetemp()
    shuffled = random.sample(texts, len(texts))
    assert content(drawn(texts, enough, folder)) == content(drawn(shuffled, enough, folder))


@given(texts, st.integers(0, 200))
def test_enough_is_drawn_and_no_more(tmp_path_factory, texts, enough):
    found = drawn(texts, enough, tmp_path_factory.getbasetemp())
    all_tokens = sum(len(text) for text in set(texts))
    assert min(enough, all_tokens) <= found.num_tokens
    # without the last one there would not be enough
    assert found.num_tokens - (found.lengths[-1] if len(found.lengths) else 0) < max(1, enough)


@given(texts, st.integers(0, 100), st.integers(0, 100))
def test_a_larger_budget_draws_the_same_and_more(tmp_path_factory, texts, one, other):
    folder = tmp_path_factory.getbasetemp()
    small, large = (content(drawn(texts, enough, folder)) for enough in sorted((one, other)))
    assert large[: len(small)] == small


def test_equal_texts_are_drawn_once(tmp_path):
    assert len(drawn(["a", "b", "a"], None, tmp_path).keys) == 2


def test_another_seed_draws_others(tmp_path):
    texts = [f"text {i}" for i in range(200)]
    first, second = ({tuple(t) for t in content(drawn(texts, 200, tmp_path, seed))} for seed in (0, 1))
    assert first != second


def test_every_pass_has_all_documents_in_another_order(tmp_path):
    found = drawn([f"text {i}" for i in range(50)], None, tmp_path)
    passes = list(found.passes(3))
    orders = [passes[i : i + 50] for i in (0, 50, 100)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


def test_what_follows_is_kept_behind_the_tokens(tmp_path):
    found = drawn(["ab"], None, tmp_path)
    assert found.tokens(0, 0, 3).tolist() == [97, 98, 7]
    assert list(tmp_path.iterdir()) == [], "tokens lie in a file without a name, which no kill can leave behind"
