"""Every scorer with a BOS before the window, against attention and losses of both made the plain way in float64."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from longattn import heads, settings
from longattn.asking import load_model_for, look
from longattn.expressions import evaluate
from longattn.heads import Prompt
from longattn.measuring import measure_windows
from longattn.models import load_model, resolve
from longattn.models.bos import WithBos
from longattn.models.transformer import AnyLayer
from longattn.records import Turn, Window
from longattn.scorers import (
    LADM,
    ContextDependency,
    Gateau,
    HeadMask,
    LongAttn,
    LongCE,
    LongFilter,
    LongWanjuan,
    ProLong,
    Seen,
    TokenNull,
    WholeWindow,
)
from longattn.testing import check_scorer, tiny_checkpoint
from longattn.validity.far_attention import FarAttention

LENGTH, BOS, LAYERS, HEADS = 64, 7, 2, 4
TURNS = (Turn("user", 0, 20), Turn("assistant", 21, 40), Turn("user", 41, 50), Turn("assistant", 51, LENGTH))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "bos", bos_token_id=BOS)


@pytest.fixture(scope="module")
def model(folder):
    facts = settings.Model(name=str(folder), bos=True)
    return load_model(resolve(facts), facts, layers="all", window=LENGTH, predicts=True)


@pytest.fixture(scope="module")
def windows():
    tokens = np.random.default_rng(3).integers(0, 256, (5, LENGTH)).astype(np.uint32)
    return [Window(f"d{i}", "s", 0, t, 0, LENGTH, LENGTH, turns=TURNS) for i, t in enumerate(tokens)]


@pytest.fixture(scope="module")
def maps(folder, whole, windows):
    """The windows' own rows and keys of the maps over BOS and window, [windows, layers, H, T, T]."""
    return np.stack([whole(folder, [BOS, *window.tokens]).maps[:, :, 1:, 1:] for window in windows])


def far(maps, distance, skip=0):
    """The maps where keys are far, 0 elsewhere."""
    n, j = np.indices((LENGTH, LENGTH))
    return np.where((j >= skip) & (j <= n - distance), maps, 0.0)


@pytest.mark.parametrize(
    "choice", [{}, {"layers": (0, 1), "skip_first": 3}, {"layers": (1,), "per_head": True}], ids=str
)
def test_longattn(model, windows, maps, choice):
    scorer = LongAttn(**choice).for_length(LENGTH)
    columns = measure_windows([scorer], model, windows)["longattn"]
    for layer in scorer.layers:
        for distance in scorer.distances:
            p = far(maps[:, layer], distance, scorer.skip_first)
            s1, s2, key = p.sum((-1, -2)), (p**2).sum((-1, -2)), f"l{layer}_d{distance}"
            expected = {"s1": s1.mean(1), "s1sq": (s1**2).mean(1), "s2": s2.mean(1)}
            if scorer.per_head:
                expected |= {"heads_s1": s1, "heads_s2": s2}
            for name, values in expected.items():
                assert columns[f"{name}_{key}"] == pytest.approx(values, rel=1e-5)
    strength = np.mean([far(maps[:, n], scorer.distance, scorer.skip_first).sum((-1, -2)) for n in scorer.layers], 0)
    assert evaluate(scorer.readings()["ds"], columns) == pytest.approx(strength.mean(1) / LENGTH, rel=1e-5)


@pytest.mark.parametrize("pilot_sample", [0, 3])
@pytest.mark.parametrize("rows", [LENGTH, 24])
def test_sampled_longattn(model, windows, maps, tmp_path, rows, pilot_sample):
    """Estimates from all rows are exact, from fewer within what their own standard error allows."""
    from safetensors.numpy import save_file

    scorer = LongAttn(rows=rows, pilot_sample=pilot_sample, skip_first=2, layers=(0, 1)).for_length(LENGTH)
    if pilot_sample:
        seen = [look([scorer.pilot_ask()], model, window)[0] for window in windows[:pilot_sample]]
        for one, of in zip(seen, maps, strict=False):
            for n in range(LAYERS):
                mass = np.stack([far(of[n], d, 2).sum(-1) for d in scorer.distances], axis=-1)
                assert one.layers[n]["rows"][0, :, :, :4] == pytest.approx(mass.transpose(1, 0, 2), rel=1e-4, abs=1e-7)
        save_file(scorer.fit(windows[:pilot_sample], seen), tmp_path / "pilot.safetensors")
        scorer = scorer.with_pilot(str(tmp_path / "pilot.safetensors"), "tested")
    columns = measure_windows([scorer], model, windows)["longattn"]
    for n in range(LAYERS):
        for distance in scorer.distances:
            key, p = f"l{n}_d{distance}", far(maps[:, n], distance, 2)
            exact = p.sum((-1, -2)).mean(1)
            error = np.sqrt(np.maximum(0, columns[f"covariance_{key}"][:, 0]))
            known = error == 0
            assert known.tolist() == [rows == LENGTH or i < pilot_sample for i in range(len(windows))]
            assert columns[f"s1_{key}"][known] == pytest.approx(exact[known], rel=1e-4)
            assert (np.abs(columns[f"s1_{key}"] - exact)[~known] < 6 * error[~known]).all()


def test_uniform_attention_is_the_null_that_the_scorer_states(windows):
    """Equal logits over BOS and window."""
    from longattn.models.base import LayerAttention

    zeros, scorer = torch.zeros(1, LENGTH + 1, 1, 2).double(), LongAttn(skip_first=1).for_length(LENGTH)
    layer = LayerAttention(0, zeros[:, 1:], zeros, 1.0, torch.arange(LENGTH), windows[0], prefix=1)
    columns = scorer.measure(windows[:1], Seen({0: scorer.observe(layer)}))
    null = scorer.null(prefix=1)
    for name, reading in scorer.readings().items():
        assert evaluate(reading, columns) == pytest.approx([null[name]], rel=1e-9)
        assert null[name] != pytest.approx(scorer.null()[name], rel=1e-3)


def test_far_attention(model, windows, maps):
    scorer = FarAttention(layers=(0, 1), distances=(4, 16), skips=(0, 3), num_rows=16)
    rows = scorer._rows(windows[0])
    columns = measure_windows([scorer], model, windows)["far_attention"]
    sums = [[far(maps, d, s)[:, :, :, rows].sum((-1, -2)) * LENGTH / 16 for d in (4, 16)] for s in (0, 3)]
    expected = np.moveaxis(np.array(sums), (0, 1), (-2, -1)).reshape(len(windows), -1)
    assert columns["s1"] == pytest.approx(expected, rel=1e-5)


def test_token_null(model, windows, maps):
    scorer = TokenNull(layer=1).for_length(LENGTH)
    seen = [look([scorer.pilot_ask()], model, window)[0] for window in windows]
    mass = far(maps[:, 1], scorer.distance).sum(-1).mean(1)
    for one, expected in zip(seen, mass, strict=True):
        assert one.layers[1]["mass"] == pytest.approx(expected[None], rel=1e-5)
    reference = scorer.fit(windows, [Seen({1: {"mass": row[None]}}) for row in mass])
    assert scorer.fit(windows, seen)["mass"] == pytest.approx(reference["mass"], rel=1e-5)


@pytest.mark.parametrize("own_keys", [False, True])
def test_ladm(folder, whole, model, windows, own_keys):
    """16 spans of 4 tokens; span j looks back at j - 2, j - 4, ..., 2, the first of all is left out."""
    scorer = LADM(own_keys=own_keys, query_stride=1, key_stride=2, convention="released").for_length(LENGTH)
    columns = measure_windows([scorer], model, windows[:2])["ladm"]
    for w, window in enumerate(windows[:2]):
        p = whole(folder, [BOS, *window.tokens]).maps
        layers = []
        for n in range(LAYERS):
            total = []
            for j in range(7, 16):
                rows = p[n][:, 1 + 4 * j : 5 + 4 * j]
                if not own_keys:
                    rows = rows[:, :, : 1 + 4 * j] / rows[:, :, : 1 + 4 * j].sum(-1, keepdims=True)
                back = np.arange(j - 2, 0, -2)
                pfs = np.array([rows[:, :, 1 + 4 * i : 5 + 4 * i].sum((-1, -2)).mean() for i in back])
                total.append(j / 16 * pfs.std(ddof=1) * ((j - back) / 16 * pfs).sum())
            layers.append(np.mean(total))
        assert evaluate(scorer.score(), columns)[w] == pytest.approx(np.mean(layers), rel=1e-4)


def test_context_dependency(model, windows, maps):
    scorer = ContextDependency(layer=1, skip_first=4)
    columns = measure_windows([scorer], model, windows)["context_dependency"]
    user = np.zeros(LENGTH)
    user[4:20] = user[41:50] = 1
    on_user = maps[:, 1] @ user
    answers = [on_user[:, :, part].max(1).mean(1) for part in (slice(21, 40), slice(51, LENGTH))]
    assert evaluate(scorer.score(), columns) == pytest.approx(np.mean(answers, axis=0), rel=1e-5)


def gateau(folder):
    return Gateau(short_model=settings.Model(name=str(folder), rope_theta=500.0, bos=True), segment=8)


def test_gateau(folder, whole, windows, maps):
    """Attention of the response on the context's segments; losses are those of the next test."""
    scorer = gateau(folder)
    checkpoint = resolve(facts := settings.Model(name=str(folder), bos=True))
    others = {scorer.short_model: checkpoint}
    both = load_model_for([scorer.ask()], checkpoint, facts, LENGTH, "cpu", others)
    assert isinstance(both.others[scorer.short_model], WithBos)
    [seen] = look([scorer.ask()], both, windows[0])
    expected = maps[0][:, :, 51:, :40].reshape(LAYERS, HEADS, 13, 5, 8).mean((1, 2, 4))
    for n in range(LAYERS):
        assert seen.layers[n]["attention"] == pytest.approx(expected[n], rel=1e-5)
    columns = measure_windows([scorer], both, windows[:1])["gateau"]
    plain = whole(folder, [BOS, *windows[0].tokens])
    assert columns["long_loss"] == pytest.approx([-plain.log_probs[51:].mean()], rel=1e-5)
    assert columns["short_loss"] != pytest.approx(columns["long_loss"], rel=1e-3)


@pytest.mark.parametrize(
    "scorer",
    [LongFilter(), LongCE(), LongWanjuan(chunk=16), ProLong(chunk=16), HeadMask(heads=((0, 1),)), Gateau()],
    ids=lambda scorer: scorer.name,
)
def test_predictions(folder, whole, model, windows, scorer):
    """What these measure is made of the predictions of excerpts alone: each excerpt has a BOS of its own."""
    scorer = gateau(folder) if scorer.name == "gateau" else scorer
    scorer = scorer.for_length(LENGTH)
    contexts = [one for one in scorer.ask().contexts if not one.masked_heads and one.model is None]
    assert contexts
    ask = replace(scorer.ask(), layers=(), observe=None, rows=None, contexts=tuple(contexts))
    [seen] = look([ask], model, windows[0])
    for context in contexts:
        excerpts = context.excerpts(windows[0])
        assert len(seen.predictions[context]) == len(excerpts) > 0
        for found, excerpt in zip(seen.predictions[context], excerpts, strict=True):
            plain = whole(folder, [BOS, *excerpt.tokens])
            assert found.log_probs == pytest.approx(plain.log_probs[excerpt.first :], rel=1e-4, abs=1e-4)
            assert found.hits.tolist() == plain.hits[excerpt.first :].tolist()


def test_retrieval_heads(folder, whole, model, windows):
    """Copied are the answer's tokens at the key that gets most of the map over BOS and prompt."""
    tokens = windows[0].tokens.copy()
    tokens[50:60] = tokens[20:30]
    prompt = Prompt(tokens[:60], 20, 50)

    class Right(WithBos):
        def predictions(self, *arguments, **options):
            found = model.predictions(*arguments, **options)
            return found._replace(hits=torch.ones_like(found.hits))

    right = Right(**{field.name: getattr(model, field.name) for field in fields(model)})
    found = heads.copied_share(right, prompt)
    rows = whole(folder, [BOS, *tokens[:60]]).maps[:, :, 50:60]
    top = rows.argmax(-1) - 1
    expected = (top >= 20) & (top < 30) & (tokens[top] == tokens[50:60])
    assert found == pytest.approx(expected.mean(-1))


def test_scorers_still_share_their_forward_passes(model, windows, monkeypatch):
    runs = []
    original = AnyLayer._run

    def count(self, tokens, pending):
        runs.append(tuple(tokens.shape))
        return original(self, tokens, pending)

    monkeypatch.setattr(AnyLayer, "_run", count)
    scorers = [LongAttn(layers=(0, 1)), LADM(), HeadMask(heads=((1, 1),)), LongFilter(), LongCE()]
    asks = [scorer.for_length(LENGTH).ask() for scorer in scorers]
    assert sum(WholeWindow() in ask.contexts for ask in asks) == 3
    look(asks, model, windows[0])
    # the window, the window with a head masked, and the five excerpts of the short context, each with its BOS
    assert sorted(runs) == [(1, LENGTH + 1), (1, LENGTH + 1), (5, 4 + 12 + 1)]


@pytest.mark.parametrize(
    "scorer",
    [
        LongAttn(skip_first=2),
        LongAttn(rows=9, pilot_sample=4),
        TokenNull(),
        LADM(),
        ContextDependency(layer=1),
        LongCE(),
    ],
    ids=lambda scorer: scorer.name,
)
def test_the_contract_holds_with_a_bos(model, windows, scorer):
    check_scorer(scorer, model, windows)
