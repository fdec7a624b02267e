"""A BOS before each window: in every softmax, and in nothing that is counted."""

import json
from dataclasses import replace

import pytest
import torch

from longattn import settings
from longattn.attention import reference
from longattn.errors import ModelError
from longattn.models import load_model, resolve
from longattn.models.base import LayerAttention
from longattn.models.bos import WithBos
from longattn.models.first_layer import FirstLayer
from longattn.models.loading import with_table
from longattn.testing import tiny_checkpoint

LENGTH, BOS = 24, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "with a BOS", bos_token_id=BOS)


@pytest.fixture
def tokens(generator):
    return torch.randint(0, 256, (2, LENGTH), generator=generator)


def load(folder, window=LENGTH, layers=(0, 1), bos=True, **options):
    facts = settings.Model(name=str(folder), bos=bos, **options)
    return load_model(resolve(facts), facts, layers=layers, window=window, predicts=layers == (0, 1))


def with_bos(tokens):
    return torch.cat([torch.full((len(tokens), 1), BOS), tokens], dim=1)


def ask(model, tokens, layers, rows=None):
    seen: list[LayerAttention] = []
    model.queries_and_keys(tokens, layers, seen.append, rows)
    return seen


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
@pytest.mark.parametrize("rows", [None, torch.tensor([5, 0, 23]), torch.tensor([], dtype=torch.int64)])
def test_a_layer_is_shown_as_if_the_bos_were_a_token_but_for_its_row(folder, tokens, layers, rows):
    model, plain = load(folder, layers=layers), load(folder, LENGTH + 1, layers, bos=False)
    assert isinstance(model, WithBos)
    assert isinstance(model.inner, FirstLayer) == (layers == (0,))
    expected = torch.arange(LENGTH) if rows is None else rows
    for own, other in zip(ask(model, tokens, layers, rows), ask(plain, with_bos(tokens), layers), strict=True):
        assert (own.layer, own.prefix, own.num_tokens, own.scale) == (other.layer, 1, LENGTH, other.scale)
        assert torch.equal(own.positions, expected)
        torch.testing.assert_close(own.q, other.q[:, expected + 1])
        torch.testing.assert_close(own.k, other.k)


def test_predictions_are_those_of_the_same_tokens_behind_a_bos(folder, tokens):
    model, plain = load(folder), load(folder, LENGTH + 1, bos=False)
    for first, masked in ((1, frozenset()), (9, frozenset({(0, 1), (1, 2)}))):
        found, expected = (
            one.predictions(given, at, masked_heads=masked)
            for one, given, at in ((model, tokens, first), (plain, with_bos(tokens), first + 1))
        )
        torch.testing.assert_close(found.log_probs, expected.log_probs)
        assert torch.equal(found.hits, expected.hits)
    alike = tokens.clone()
    alike[:, :5] = alike[0, :5]
    torch.testing.assert_close(model.predictions(alike, 6, shared=5), model.predictions(alike, 6))
    assert not torch.allclose(model.predictions(tokens).log_probs, plain.predictions(tokens).log_probs, atol=1e-2)
    seen: list[LayerAttention] = []
    model.predictions(tokens, layers=(1,), visit=seen.append, rows=torch.tensor([3]))
    assert (seen[0].positions.tolist(), seen[0].q.shape[1], seen[0].prefix) == ([3], 1, 1)


@pytest.fixture
def layer(generator):
    """A map of 6 tokens behind 2 others."""
    q, k = (torch.randn(1, length, heads, 8, generator=generator) for length, heads in ((6, 4), (8, 2)))
    return LayerAttention(0, q, k, 0.3, torch.arange(6), prefix=2)


def own_map(layer):
    """The part of the map whose rows and keys are the window's, float64 [H, T, T]."""
    k = layer.k[0].double().repeat_interleave(2, dim=1)
    logits = layer.scale * torch.einsum("qhk,thk->hqt", layer.q[0].double(), k)
    causal = torch.arange(8) <= layer.positions[:, None] + layer.prefix
    return logits.masked_fill(~causal, -torch.inf).softmax(-1)


def test_far_sums_count_the_windows_own_tokens(layer):
    found = layer.at(torch.tensor([5, 2])).row_moments([0, 2, 5], skip_first=1)
    p_HTS = own_map(layer)[:, [5, 2], 2:]
    for d, distance in enumerate((0, 2, 5)):
        for r, n in enumerate((5, 2)):
            far = p_HTS[:, r, 1 : max(1, n - distance + 1)]
            torch.testing.assert_close(found.mass[0, :, r, d], far.sum(-1), rtol=1e-5, atol=1e-8)
            torch.testing.assert_close(found.square[0, :, r, d], far.square().sum(-1), rtol=1e-5, atol=1e-8)
    # the reference says the same of the keys as they stand
    mass, _ = reference.row_moments(layer.q, layer.k, torch.arange(2, 8), [2], 3, layer.scale)
    torch.testing.assert_close(layer.row_moments([2], skip_first=1).mass, mass, rtol=1e-5, atol=1e-8)


def test_spans_limits_and_top_keys_count_the_windows_own_tokens(layer):
    p_HTS = own_map(layer)
    causal = layer.span_mass([0, 1, 4, 6])
    for s, span in enumerate((slice(2, 3), slice(3, 6), slice(6, 8))):
        torch.testing.assert_close(causal[0, :, :, s], p_HTS[:, :, span].sum(-1), rtol=1e-5, atol=1e-8)
    limited = layer.at(slice(4, 6)).span_mass([0, 3], limits=torch.tensor([3, 0]))
    seen = p_HTS[:, 4, :5]
    torch.testing.assert_close(limited[0, :, 0, 0], seen[:, 2:].sum(-1) / seen.sum(-1), rtol=1e-5, atol=1e-8)
    # a row that sees no token of the window sees what stands before it
    assert limited[0, :, 1, 0].tolist() == [0.0] * 4
    assert torch.equal(layer.top_keys()[0], p_HTS.argmax(-1) - 2)
    assert layer.top_keys().min() < 0


@pytest.mark.parametrize("named", [None, 256, -1])
def test_a_model_without_a_bos_is_answered_with_what_would_do(tmp_path, named):
    folder = tiny_checkpoint(tmp_path / "none", **({} if named is None else {"bos_token_id": named}))
    with pytest.raises(ModelError, match=r"no BOS to put before a window.*leave model.bos off, or name the token"):
        load(folder)


def test_the_bos_takes_a_position(tmp_path):
    folder = tiny_checkpoint(tmp_path / "short", bos_token_id=BOS, max_position_embeddings=LENGTH)
    load(folder, LENGTH - 1)
    load(folder, LENGTH, rope_theta=1e6)
    with pytest.raises(ModelError, match=f"made for {LENGTH} positions, windows have {LENGTH} tokens and a BOS"):
        load(folder)
    file = folder / "config.json"
    facts = json.loads(file.read_text()) | {"model_type": "mistral", "sliding_window": LENGTH}
    file.write_text(json.dumps(facts | {"max_position_embeddings": 4096}))
    with pytest.raises(
        ModelError, match=f"reaches only {LENGTH} tokens back .* windows have {LENGTH} tokens and a BOS"
    ):
        load(folder)


def test_windows_are_checked_as_they_are_given(folder, tokens):
    model = load(folder, LENGTH - 1)
    with pytest.raises(ValueError, match=f"windows have {LENGTH} tokens; the model was loaded for 1 to {LENGTH - 1}"):
        model.predictions(tokens)
    with pytest.raises(ValueError, match="first must be from 1 to 10"):
        model.predictions(tokens[:, :11], 11)


def test_a_table_of_the_vocabulary_serves_it_too(folder, tokens, tmp_path, monkeypatch):
    monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path))
    model = load(folder, layers=(0,))
    quick = with_table(model, "always", 10**9)
    assert quick.inner is not model.inner
    [plain], [read] = (ask(one, tokens, [0]) for one in (model, quick))
    assert torch.equal(plain.q, read.q)
    assert torch.equal(plain.k, read.k)


def test_models_loaded_beside_it_stay(folder):
    model = replace(load(folder), others={settings.Model(name="x"): load(folder)})
    assert list(model.others) == [settings.Model(name="x")]
