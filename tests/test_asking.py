"""What several scorers ask of one window is run once and handed to each of them."""

from collections import Counter

import numpy as np
import pytest
import torch

from longattn import settings
from longattn.asking import TOKENS_AT_ONCE, batch_at, look, look_at_all, look_together
from longattn.models import load_model, resolve
from longattn.records import Window
from longattn.scorers import Ask, ShortContext, WholeWindow
from longattn.scorers.prolong import ChunkPairs

LENGTH = 48


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    facts = settings.Model(name=str(tiny_model_folder))
    return load_model(resolve(facts), facts, layers="all", window=LENGTH, predicts=True)


@pytest.fixture(scope="module")
def window():
    tokens = np.random.default_rng(3).integers(0, 256, LENGTH).astype(np.uint32)
    return Window("d", "s", 0, tokens, 0, LENGTH, LENGTH)


def keep(attention):
    return {"positions": attention.positions.numpy(), "q": attention.q.numpy()}


def test_each_ask_sees_its_own_layers_and_rows(model, window):
    few, fewer = np.array([40, 3, 7]), np.array([3, 47])
    asks = [
        Ask(layers="all", observe=keep),
        Ask(layers=(1,), observe=keep, rows=lambda _: few),
        Ask(layers=(0, 1), observe=keep, rows=lambda _: fewer),
    ]
    everything, some, others = look(asks, model, window)
    assert set(everything.layers) == {0, 1}
    assert set(some.layers) == {1}
    for rows, seen in ((few, some), (fewer, others)):
        assert np.array_equal(seen.layers[1]["positions"], rows)
        assert np.array_equal(seen.layers[1]["q"], everything.layers[1]["q"][:, rows])
    # and the same where nobody needs every row
    for seen, again in zip((some, others), look(asks[1:], model, window), strict=True):
        assert all(np.array_equal(seen.layers[1][name], again.layers[1][name]) for name in ("positions", "q"))


def test_contexts_in_common_are_run_once(model, window, monkeypatch):
    calls = Counter()
    original = type(model).predictions

    def counting(self, tokens, first=1, **options):
        calls[tuple(tokens.shape), first] += 1
        return original(self, tokens, first, **options)

    monkeypatch.setattr(type(model), "predictions", counting)
    short = ShortContext(16, 8)
    asks = [Ask(contexts=(WholeWindow(), short)), Ask(contexts=(short,)), Ask(layers=(0,), observe=keep)]
    first, second, third = look(asks, model, window)
    assert calls == {((1, LENGTH), 1): 1, ((4, 24), 16): 1}
    assert set(third.layers) == {0}
    assert not third.predictions
    assert first.predictions[short] is second.predictions[short]


def test_a_short_context_predicts_every_later_token_from_what_is_just_before_it(model, window):
    short = ShortContext(16, 12)
    scores = look([Ask(contexts=(short,))], model, window)[0].predictions[short]
    assert [len(one.log_probs) for one in scores] == [12, 12, 8]
    whole = Window("d", "s", 12, window.tokens[12:40], 0, 28, 28)
    alone = look([Ask(contexts=(WholeWindow(),))], model, whole)[0].predictions[WholeWindow()][0]
    np.testing.assert_allclose(scores[1].log_probs, alone.log_probs[15:], rtol=1e-4, atol=1e-4)


def test_excerpts_that_begin_alike_send_their_beginning_through_the_model_once(model, window, monkeypatch):
    calls = []
    original = type(model).predictions

    def noting(self, tokens, first=1, **options):
        calls.append((tuple(tokens.shape), options["shared"]))
        return original(self, tokens, first, **options)

    monkeypatch.setattr(type(model), "predictions", noting)
    context = ChunkPairs(chunk=16, pairs=None, seed=0)
    (seen,) = look([Ask(contexts=(context,))], model, window)
    later = LENGTH // 16 - 1
    # the last beginning has one excerpt, which shares it with none
    assert calls == [((rows, 32), 16 if rows > 1 else 0) for rows in range(later, 0, -1)]
    for excerpt, scores in zip(context.excerpts(window), seen.predictions[context], strict=True):
        alone = original(model, torch.from_numpy(excerpt.tokens.astype(np.int64))[None], excerpt.first)
        np.testing.assert_allclose(scores.log_probs, alone.log_probs[0], rtol=1e-4, atol=1e-5)


def test_a_window_no_longer_than_the_context_has_no_excerpt(model, window):
    short = ShortContext(LENGTH, 8)
    assert look([Ask(contexts=(short,))], model, window)[0].predictions[short] == []


def test_masked_heads_are_another_context(model, window):
    masked = WholeWindow(frozenset({(0, 0), (1, 3)}))
    seen = look([Ask(contexts=(WholeWindow(), masked))], model, window)[0]
    assert not np.allclose(seen.predictions[masked][0].log_probs, seen.predictions[WholeWindow()][0].log_probs)


def windows_of(lengths):
    random = np.random.default_rng(5)
    return [
        Window(f"d{i}", "s", 0, random.integers(0, 256, length).astype(np.uint32), 0, length, length)
        for i, length in enumerate(lengths)
    ]


def test_short_windows_share_a_forward_pass_and_see_what_they_see_alone(model):
    asks = [
        Ask(layers="all", observe=keep, contexts=(WholeWindow(), ShortContext(16, 8))),
        Ask(layers=(1,), observe=keep, rows=lambda window: window.tokens[:5].astype(np.int64) % LENGTH),
    ]
    windows = windows_of([LENGTH] * 5)
    for window, seen in zip(windows, look_together(asks, model, windows), strict=True):
        for together, alone in zip(seen, look(asks, model, window), strict=True):
            for layer, columns in alone.layers.items():
                assert all(np.array_equal(columns[name], together.layers[layer][name]) for name in columns)
            for context, scores in alone.predictions.items():
                assert all(
                    np.array_equal(a.log_probs, b.log_probs)
                    for a, b in zip(scores, together.predictions[context], strict=True)
                )


def batches(windows, prefix=0):
    begin = 0
    while begin < len(windows):
        yield (batch := batch_at(begin, windows, prefix))
        begin += len(batch)


def test_batches_hold_neighbours_of_one_length_up_to_a_number_of_tokens():
    short = TOKENS_AT_ONCE // 4
    lengths = [short] * 5 + [TOKENS_AT_ONCE * 2] * 2 + [short, short - 16, short - 16, short + 1, short + 1]
    grouped = [[len(window.tokens) for window in batch] for batch in batches(windows_of(lengths))]
    # those of an odd length go alone: where they lie in a batch would show in their last digits
    odd = [[short + 1], [short + 1]]
    long = [[2 * TOKENS_AT_ONCE], [2 * TOKENS_AT_ONCE]]
    assert grouped == [[short] * 4, [short], *long, [short], [short - 16] * 2, *odd]
    behind_a_bos = batches(windows_of([short, short, short - 1, short - 1]), prefix=1)
    assert [len(batch) for batch in behind_a_bos] == [1, 1, 2]


def test_a_document_of_many_windows_is_not_gone_through_again_for_each_batch():
    looks = Counter()

    class Watched(Window):
        def __getattribute__(self, name):
            looks[name] += 1
            return super().__getattribute__(name)

    windows = [Watched("d", "s", start, np.zeros(1, np.uint32), 0, 1, 1000) for start in range(1000)]
    looks.clear()
    assert [window for window, _ in look_at_all([], None, windows)] == windows
    assert looks["tokens"] < 10 * len(windows)
    assert list(look_at_all([], None, [])) == []
