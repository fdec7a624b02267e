import numpy as np
import pytest

from longattn import settings, verbs
from longattn.attention import reference
from longattn.inspecting import dependencies, pieces_of
from longattn.models import load_model, resolve
from longattn.recipes import Recipe
from longattn.scorers import LongAttn
from longattn.testing import tiny_checkpoint

TEXT = "def parse(text):\n    raise ParserError\n" + "filling the window, line by line. " * 4 + "ParserError again"


def recipe(folder, length=192, *, bos=False, **longattn):
    of = Recipe(window=settings.Windowing(length=length), model=settings.Model(name=str(folder), bos=bos))
    object.__setattr__(of.settings, "longattn", LongAttn(**longattn))
    return of


def whole_maps(folder, text, layers, bos=False):
    """Attention maps of the layers [layer and head, T, T] in float64, with the places before the window taken off."""
    import torch

    facts = settings.Model(name=str(folder), bos=bos)
    tokens = torch.tensor(list(text.encode()))[None]
    model = load_model(resolve(facts), facts, layers=layers, window=tokens.shape[1])
    maps = []

    def visit(of):
        shared = of.q.shape[2] // of.k.shape[2]
        for head in range(of.q.shape[2]):
            logits = of.scale * of.q[0, :, head].double() @ of.k[0, :, head // shared].double().T
            after = torch.arange(of.k.shape[1]) > of.positions[:, None] + of.prefix
            maps.append(logits.masked_fill(after, -torch.inf).softmax(-1)[:, of.prefix :])

    model.queries_and_keys(tokens_as_ids(folder, text), layers, visit)
    return torch.stack(maps).numpy()


def tokens_as_ids(folder, text):
    import torch

    from longattn.tokens import Tokenizer

    return torch.from_numpy(Tokenizer.load(folder / "tokenizer.json").encode(text).ids.astype(np.int64))[None]


@pytest.mark.parametrize("bos", [False, True])
def test_all_figures_are_those_of_the_whole_map(tmp_path, bos):
    folder = tiny_checkpoint(tmp_path / "model", bos_token_id=1)
    of = recipe(folder, bos=bos, layers=(1, 0), heads=((0, 1), (1, 3), (1, 0)), distance=20, skip_first=2)
    rule = settings.Inspecting(cells=7, top=3, leave_out_noise=False)
    found = verbs.inspect_text(TEXT, "t.py", of, rule)
    length = len(found.pieces)
    assert length == len(TEXT)
    maps = whole_maps(folder, TEXT, [0, 1], bos)
    chosen = maps[[1, 4, 7]].mean(0)
    row, key = np.indices((length, length))
    is_far = (row - key >= 20) & (key >= 2)
    far = chosen * is_far
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(found.far, far.sum(1), **close)
    np.testing.assert_allclose(found.received, far.sum(0), **close)
    np.testing.assert_allclose(found.readings["ds"], far.sum() / length, **close)
    np.testing.assert_allclose(found.head_ds, (maps * is_far).sum((1, 2)) / length, **close)
    assert found.heads == tuple((layer, head) for layer in (0, 1) for head in range(4))
    assert found.chosen == tuple(place in ((0, 1), (1, 3), (1, 0)) for place in found.heads)
    a, b = 1, 4
    block = far[found.edges[b] : found.edges[b + 1], found.edges[a] : found.edges[a + 1]]
    np.testing.assert_allclose(found.pooled[b, a], block.sum(), **close)
    np.testing.assert_allclose(found.pooled.sum(), found.far.sum(), **close)
    counted = chosen * (key >= 2)
    for i in range(1, len(found.reach) - 1):
        within = (row - key >= found.reach[i]) & (row - key < found.reach[i + 1])
        np.testing.assert_allclose(found.by_reach[i], (counted * within).sum() / length, **close)
    np.testing.assert_allclose(found.by_reach.sum(), 1, **close)
    best = np.argsort(-far, axis=1, kind="stable")[:, 0]
    seen = far.sum(1) > 0
    assert np.array_equal(found.keys[seen, 0], best[seen])
    np.testing.assert_allclose(found.weights[:, 0], far.max(1), **close)


@pytest.mark.parametrize("bos", [False, True])
def test_nulls_are_those_of_uniform_attention(tmp_path, bos):
    folder = tiny_checkpoint(tmp_path / "model", bos_token_id=1)
    found = verbs.inspect_text(TEXT, "t", recipe(folder, bos=bos, distance=20, skip_first=2), settings.Inspecting())
    length = len(found.pieces)
    row, key = np.indices((length, length))
    even = (key <= row) / (row + 1 + bos)
    far = even * (row - key >= 20) * (key >= 2)
    np.testing.assert_allclose(found.far_null, far.sum(1))
    np.testing.assert_allclose(found.received_null, far.sum(0), atol=1e-12)
    np.testing.assert_allclose(found.pooled_null.sum(), far.sum())
    np.testing.assert_allclose(found.null["ds"], far.sum() / length)
    np.testing.assert_allclose(found.by_reach_null.sum(), 1)
    beyond = (even * (key >= 2) * (row - key >= found.reach[3])).sum() / length
    np.testing.assert_allclose(found.by_reach_null[3:].sum(), beyond)


def test_the_readings_are_those_of_the_scorer(tiny_model_folder):
    of = recipe(tiny_model_folder, length=96, layers=(0, 1), skip_first=1)
    rows = verbs.score(TEXT, of).windows
    for number in (1, 2):
        found = verbs.inspect_text(TEXT, "t", of, settings.Inspecting(), number)
        assert found.readings["ds"] == pytest.approx(rows[number - 1]["ds"], abs=1e-12)
        assert found.readings["du"] == pytest.approx(rows[number - 1]["du"], rel=1e-9)
        assert found.start == rows[number - 1]["start"]
        assert "".join(found.pieces) == TEXT[found.start : found.start + 96]


def test_blanks_punctuation_and_sinks_are_not_listed_but_counted(tiny_model_folder):
    of = recipe(tiny_model_folder)
    clean, whole = (
        verbs.inspect_text(TEXT, "t", of, settings.Inspecting(leave_out_noise=out)) for out in (True, False)
    )
    listed = {clean.pieces[n] for n in clean.keys[clean.keys >= 0]}
    assert listed
    assert not listed & set(" \n().,:")
    assert {whole.pieces[n] for n in whole.keys[whole.keys >= 0]} & set(" \n().,:")
    np.testing.assert_array_equal(clean.far, whole.far)
    np.testing.assert_array_equal(clean.pooled, whole.pooled)
    assert not whole.noise.any()


@pytest.mark.parametrize(
    ("longattn", "rule", "number", "message"),
    [
        ({"per_head": True, "heads": ((0, 4),)}, {}, 1, "layer 0 has heads 0 to 3, got 4"),
        ({"distance": 500}, {}, 1, r"distance must be in \[1, "),
        ({}, {"top": 0}, 1, "top must be at least 1, got 0"),
        ({}, {}, 3, "t has windows 1 to 2 of 96 tokens, got 3"),
    ],
)
def test_what_cannot_be_looked_at_is_named(tiny_model_folder, longattn, rule, number, message):
    of = recipe(tiny_model_folder, length=96, **longattn)
    with pytest.raises(ValueError, match=message):
        verbs.inspect_text(TEXT, "t", of, settings.Inspecting(**rule), number)


def test_tokens_that_share_a_character_have_it_once():
    assert pieces_of("a漢b", np.array([0, 1, 1, 1, 2], np.uint32), 3) == ["a", "", "", "漢", "b"]


def weights_of(pieces, pairs):
    """Top keys [T, 2] and weights from {(query, key): weight}."""
    keys, weights = np.full((len(pieces), 2), -1), np.zeros((len(pieces), 2), np.float32)
    for (n, j), weight in pairs.items():
        place = int((keys[n] >= 0).sum())
        keys[n, place], weights[n, place] = j, weight
    return keys, weights


PIECES = ["class", " Par", "ser", "Error", ":\n", "  pass", "\n", "raise", " Par", "ser", "Error", "(", "x", ")\n"]


def test_pairs_in_a_row_are_one_phrase_of_whole_words():
    pairs = {(8, 1): 0.2, (9, 2): 0.4, (10, 3): 0.3, (12, 5): 0.1}
    first, second = dependencies(PIECES, *weights_of(PIECES, pairs), 10)
    assert (first.query.text, first.key.text) == ("ParserError", "ParserError")
    assert (first.query.before, first.query.after) == ("raise ", "(x)")
    assert (first.key.before, first.key.after) == ("class ", ":")
    assert (first.distance, first.times) == (7, 1)
    assert first.weight == pytest.approx(0.4)
    assert (first.query.first, first.query.stop) == (8, 11)
    assert (second.query.text, second.key.text) == ("x", "pass")


def test_pairs_of_the_same_words_are_one():
    pairs = {(10, 3): 0.3, (9, 3): 0.2, (12, 0): 0.15}
    found = dependencies(PIECES, *weights_of(PIECES, pairs), 10)
    assert [(d.query.text, d.key.text, d.times) for d in found] == [
        ("ParserError", "ParserError", 2),
        ("x", "class", 1),
    ]
    assert len(dependencies(PIECES, *weights_of(PIECES, pairs), 1)) == 1


def test_the_same_words_are_looked_at_three_times_at_most():
    pieces = [f"w{i} " for i in range(8)]
    pairs = {(n, 0): 0.1 * n for n in range(2, 8)}
    assert [d.query.text for d in dependencies(pieces, *weights_of(pieces, pairs), 10)] == ["w7", "w6", "w5"]


def test_a_million_characters_without_a_space_are_quoted_in_part():
    pieces = ["a" * 500_000, "b" * 500_000]
    (found,) = dependencies(pieces, *weights_of(pieces, {(1, 0): 0.5}), 10)
    assert len(found.query.before) <= 60
    assert found.query.text.startswith("a" * 40 + "b")


def test_the_reference_is_what_rows_are_held_against(tiny_model_folder):
    """The same far mass from the float64 kernel, head by head."""
    import torch

    found = verbs.inspect_text(TEXT, "t", recipe(tiny_model_folder, distance=30), settings.Inspecting())
    facts = settings.Model(name=str(tiny_model_folder))
    model = load_model(resolve(facts), facts, layers=[0], window=192)
    masses = []

    def visit(of):
        q, k = of.q.double(), of.k.double()
        masses.append(reference.row_moments(q, k, torch.arange(q.shape[1]), [30], 0, of.scale)[0])

    model.queries_and_keys(tokens_as_ids(tiny_model_folder, TEXT), [0], visit)
    np.testing.assert_allclose(found.far, masses[0][0, :, :, 0].mean(0).numpy(), rtol=1e-4, atol=1e-6)
