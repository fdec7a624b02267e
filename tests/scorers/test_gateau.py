"""GATEAU by hand, against attention maps and losses of both models made the plain way, and in whole runs."""

import itertools
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from longattn import settings, verbs
from longattn.asking import load_model_for, resolve_others
from longattn.errors import ModelError
from longattn.expressions import evaluate
from longattn.measuring import measure_windows
from longattn.models import resolve
from longattn.models.base import LayerAttention
from longattn.recipes import Recipe
from longattn.records import Turn, Window
from longattn.scorers import Gateau, Seen, TokenScores
from longattn.scorers.gateau import Parts, Segments, parts
from longattn.testing import tiny_checkpoint

LENGTH = 50
TURNS = (Turn("user", 0, 25), Turn("user", 27, 35), Turn("assistant", 37, LENGTH))
SHORT = settings.Model(name="elsewhere")


def sample(*turns, length=LENGTH):
    tokens = np.random.default_rng(4).integers(0, 256, length).astype(np.uint32)
    return Window("d", "s", 0, tokens, 0, length, length, turns=turns)


def scores(log_probs):
    return TokenScores(np.asarray(log_probs, np.float32), np.zeros(len(log_probs), bool))


def test_the_last_answer_to_an_instruction_below_a_context_counts():
    assert parts(sample(*TURNS)) == Parts(25, 37, LENGTH)
    later = (*TURNS[:2], Turn("assistant", 37, 40), Turn("user", 41, 44), Turn("assistant", 45, 48))
    assert parts(sample(*later)) == Parts(40, 45, 48)
    # without an answer of its own the last question is none, and messages without tokens are no context
    assert parts(sample(*later[:4])) == Parts(25, 37, 40)
    assert parts(sample(Turn("system", 0, 5), *later[3:])) == Parts(5, 45, 48)
    assert parts(sample(Turn("system", 0, 0), *later[3:])) is None


def test_each_segment_stands_alone_before_instruction_and_response():
    window = sample(*TURNS)
    found = Segments(10, None).excerpts(window)
    assert [(len(one.tokens), one.first) for one in found] == [(35, 22), (35, 22), (30, 17)]
    for one, start, stop in zip(found, (0, 10, 20), (10, 20, 25), strict=True):
        assert one.tokens.tolist() == [*window.tokens[start:stop], *window.tokens[25:]]
        assert one.tokens[one.first :].tolist() == window.tokens[37:].tolist()
    assert [len(one.tokens) for one in Segments(10, 3).excerpts(window)] == [25, 25, 20]
    assert [len(one.tokens) for one in Segments(100, 99).excerpts(window)] == [LENGTH]
    assert Segments(10, None).excerpts(sample()) == []


def test_one_sample_by_hand():
    """Equal logits spread the response's attention evenly, so that its tokens' shares are those of the segments.

    Two segments of 10 tokens and one of 5 get the same attention by token: a = (1, 1, 1)/3 in either way. PPL of 1, 2
    and 4: 1/PPL as shares is (4, 2, 1)/7, whose cosine with a is 7/sqrt(3 * 21).
    """
    scorer, zeros = Gateau(short_model=SHORT, segment=10), torch.zeros(1, LENGTH, 1, 2)
    window = sample(*TURNS)
    ask = scorer.ask()
    rows = torch.from_numpy(ask.rows(window))
    assert rows.tolist() == list(range(37, 50))
    seen = ask.observe(LayerAttention(0, zeros[:, rows], zeros, 1.0, rows, window))
    even = np.mean(1 / np.arange(38, 51))
    assert seen["attention"].tolist() == pytest.approx([even] * 3)

    whole, short, segments = ask.contexts
    predictions = {
        whole: [scores(np.full(LENGTH - 1, -np.log(2.0)))],
        short: [scores(np.r_[np.full(36, -9.0), np.full(13, -np.log(5.0))])],
        segments: [scores(np.full(13, -loss)) for loss in np.log([1.0, 2.0, 4.0])],
    }
    columns = scorer.measure([window], Seen({0: seen}, predictions))
    assert columns["segments"].tolist() == [3]
    assert np.exp(columns["short_loss"]) == pytest.approx([5.0])
    assert np.exp(columns["long_loss"]) == pytest.approx([2.0])
    assert columns["cosine_share"] == pytest.approx([7 / np.sqrt(63)], rel=1e-6)
    powers = np.exp([-1.0, -2.0, -4.0])
    assert columns["cosine_softmax"] == pytest.approx([powers.sum() / np.sqrt(3 * (powers**2).sum())], rel=1e-6)


COLUMNS = {
    "short_loss": np.log([2.0, 4.0, 3.0]),
    "long_loss": np.log([2.0, 3.0, 6.0]),
    "cosine_softmax": np.array([0.9, 0.5, 0.7]),
    "cosine_share": np.array([0.2, 0.4, 0.6]),
}


def test_three_samples_by_hand():
    """Min-max: PPL_A is 0, 1, 1/2 and PPL_B 0, 1/4, 1, so that HMP is 0, 3/4, -1/2."""
    hmp, cas = np.array([0.0, 0.75, -0.5]), np.array([0.1, 0.5, 0.3])
    assert evaluate(Gateau().score(), COLUMNS) == pytest.approx(0.8 * hmp + 0.2 * cas)
    assert evaluate(Gateau(alpha=0.7, squash="share").score(), COLUMNS) == pytest.approx(
        0.7 * hmp + 0.3 * (1 - COLUMNS["cosine_share"])
    )

    def share(x):
        return np.exp(x) / np.exp(x).sum()

    released = 0.8 * share(hmp) + 0.2 * share(cas)
    assert evaluate(Gateau(convention="released").score(), COLUMNS) == pytest.approx(released)
    assert evaluate(Gateau(convention="released", norm="softmax").score(), COLUMNS) == pytest.approx(released)
    ppl_a, ppl_b = (np.exp(COLUMNS[name]) for name in ("short_loss", "long_loss"))
    by_softmax = 0.8 * (share(ppl_a) - share(ppl_b)) + 0.2 * cas
    assert evaluate(Gateau(norm="softmax").score(), COLUMNS) == pytest.approx(by_softmax)
    read = {name: evaluate(reading, COLUMNS) for name, reading in Gateau().readings().items()}
    assert read["hmp"] == pytest.approx(hmp)
    assert read["cas"] == pytest.approx(cas)
    assert read["short_ppl"] == pytest.approx(ppl_a)
    assert read["long_ppl"] == pytest.approx(ppl_b)


@pytest.mark.parametrize("squash", ["share", "softmax"])
def test_awareness_is_low_where_attention_is_on_the_segment_that_the_response_needs(squash):
    """The response is easy from one of eight segments; attention goes there, or to another one.

    As shares the two are far apart. A softmax of shares of attention is all but even: it moves by no more than the
    shares do, and with it mostly the spread of the perplexities is seen.
    """
    needed, elsewhere = np.eye(8)[2] * 0.8 + 0.025, np.eye(8)[5] * 0.8 + 0.025
    losses = np.where(np.arange(8) == 2, 0.5, 4.0)
    turns = (Turn("user", 0, 32), Turn("user", 33, 34), Turn("assistant", 34, LENGTH))
    scorer, window = Gateau(short_model=SHORT, segment=4, squash=squash), sample(*turns)
    whole, short, segments = scorer.ask().contexts
    anything = [scores(np.zeros(LENGTH - 1))]
    predictions = {whole: anything, short: anything, segments: [scores(np.full(16, -loss)) for loss in losses]}
    right, wrong = (
        evaluate(scorer.awareness(), scorer.measure([window], Seen({0: {"attention": a / 4}}, predictions)))[0]
        for a in (needed, elsewhere)
    )
    assert right < wrong
    assert (wrong - right > 0.9) == (squash == "share")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return tiny_checkpoint(folder / "long"), tiny_checkpoint(folder / "short", seed=1, rope_theta=500.0)


def models(folders, scorer, window=64):
    checkpoint = resolve(facts := settings.Model(name=str(folders[0])))
    others = resolve_others([scorer.ask()], checkpoint)
    return load_model_for([scorer.ask()], checkpoint, facts, window, "cpu", others)


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"response_tokens": 5},
        {"instruction_tokens": 7},
        {"mean_over": "excerpt"},
        {"skip_first": 4},
        {"layers": (1,)},
        {"segment": 200},
    ],
    ids=str,
)
def test_what_is_measured_is_what_both_models_show_when_run_the_plain_way(folders, whole, choice):
    scorer = Gateau(**{"segment": 8, "short_model": settings.Model(name=str(folders[1])), **choice})
    window = sample(*TURNS)
    columns = measure_windows([scorer], models(folders, scorer), [window])["gateau"]
    long, short = (whole(folder, window.tokens) for folder in folders)
    assert columns["long_loss"] == pytest.approx([-long.log_probs[36:].mean()], rel=1e-5)
    assert columns["short_loss"] == pytest.approx([-short.log_probs[36:].mean()], rel=1e-5)

    last = 37 + choice.get("response_tokens", 13)
    edges = [*range(0, 25, scorer.segment), 25]
    attention, losses = [], []
    for start, stop in itertools.pairwise(edges):
        keys = slice(max(start, scorer.skip_first), stop)
        attention.append(
            long.maps[list(scorer.layers or (0, 1)), :, 37:last, keys].sum(-1).mean() / (stop - keys.start)
        )
        given = choice.get("instruction_tokens", 12)
        alone = whole(
            folders[0], [*window.tokens[start:stop], *window.tokens[25 : 25 + given], *window.tokens[37:last]]
        )
        lost = -alone.log_probs[stop - start + given - 1 :]
        losses.append(lost.sum() / len(alone.log_probs) if "mean_over" in choice else lost.mean())
    losses = np.array(losses)
    for name, a, importance in (
        ("share", np.array(attention), np.exp(-losses)),
        ("softmax", np.exp(attention), np.exp(-(np.exp(losses) - np.exp(losses).min()))),
    ):
        cosine = a @ importance / np.linalg.norm(a) / np.linalg.norm(importance)
        assert columns[f"cosine_{name}"] == pytest.approx([cosine], rel=1e-5)


@pytest.mark.parametrize("turns", [(), TURNS[1:], (Turn("assistant", 0, LENGTH),), (*TURNS[:2], Turn("user", 37, 50))])
def test_a_sample_without_the_three_parts_has_no_score(folders, turns):
    scorer = Gateau(short_model=settings.Model(name=str(folders[1])))
    windows = [sample(*turns), sample(*TURNS), sample(*turns, length=1)]
    columns = measure_windows([scorer], models(folders, scorer), windows)["gateau"]
    assert columns["segments"].tolist() == [0, 1, 0]
    found = evaluate(scorer.score(), columns)
    assert np.isnan(found).tolist() == [True, False, True]


def test_without_a_second_model_the_message_names_the_setting():
    with pytest.raises(ValueError, match=r"name it \(gateau.short_model.name\)"):
        Gateau().ask()


@pytest.mark.parametrize(
    "choice",
    [{"segment": 0}, {"segment": 4, "skip_first": 4}, {"response_tokens": 0}, {"instruction_tokens": 0}],
    ids=str,
)
def test_settings_that_leave_nothing_to_look_at_are_refused(choice):
    with pytest.raises(ValueError, match="must be at least 1"):
        Gateau(**choice).for_length(64)


def test_only_what_is_measured_enters_the_tables_name():
    plain = Gateau(short_model=SHORT)
    for change in ({"alpha": 0.1}, {"convention": "released"}, {"norm": "softmax"}, {"squash": "share"}):
        assert replace(plain, **change).measurement() == plain.measurement()
    for change in (
        {"segment": 64},
        {"response_tokens": 9},
        {"instruction_tokens": 9},
        {"mean_over": "excerpt"},
        {"skip_first": 4},
        {"layers": (1,)},
    ):
        assert replace(plain, **change).measurement() != plain.measurement()


# --- whole runs


def recipe_of(folder, folders, **scorer):
    lines = []
    for n in range(9):
        words = " ".join(str((n * k * 7919) % 97) for k in range(30 + 2 * n))
        lines.append({"id": f"s{n}", "context": words, "question": "Which?", "answer": words[n : n + 12]})
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = Recipe(
        corpus=settings.Corpus(
            inputs=(str(folder / "samples.jsonl"),),
            turn_fields=("context=user", "question=user", "answer=assistant"),
        ),
        window=settings.Windowing(length=256),
        model=settings.Model(name=str(folders[0])),
        scorers=("gateau", "context_dependency"),
        keep=settings.Selecting(weights={"gateau": 1.0}, share=0.5),
    )
    mine = Gateau(short_model=settings.Model(name=str(folders[1])), segment=16, **scorer)
    return replace(recipe, settings=replace(recipe.settings, gateau=mine, context_dependency=DEEP))


DEEP = replace(Recipe().settings.context_dependency, layer=1)
INLINE = settings.Compute(workers=0, devices=("cpu",), threads=1)


def test_a_run_asks_both_models_in_one_unit_and_names_both_in_its_tables(tmp_path, folders):
    recipe = recipe_of(tmp_path, folders)
    job = verbs.prepare(recipe, tmp_path / "run")
    checkpoints = [resolve(settings.Model(name=str(folder))) for folder in folders]
    model = job.table(job.scorers[0]).settings["model"]
    assert (model["hash"], [other["hash"] for other in model["others"]]) == (checkpoints[0].hash, [checkpoints[1].hash])
    assert "others" not in job.table(job.scorers[1]).settings["model"]
    stretched = replace(recipe.settings.gateau.short_model, rope_theta=9e5)
    again = replace(
        recipe, settings=replace(recipe.settings, gateau=replace(recipe.settings.gateau, short_model=stretched))
    )
    other = verbs.prepare(again, tmp_path / "run")
    assert other.table(other.scorers[0]).hash != job.table(job.scorers[0]).hash
    assert pickle.loads(pickle.dumps(job)).table(job.scorers[0]).hash == job.table(job.scorers[0]).hash

    assert verbs.measure(recipe, tmp_path / "run", INLINE)["windows"] == 9
    selection = verbs.select(recipe, tmp_path / "run")
    [source] = selection.sources.values()
    assert source.scored == 9
    assert 0 < source.kept < 9
    assert set(source.quantities) >= {"hmp", "cas", "short_ppl", "long_ppl"}


def test_models_with_different_tokenizers_are_refused(tmp_path, folders):
    other = tiny_checkpoint(tmp_path / "other")
    file = other / "tokenizer.json"
    spec = json.loads(file.read_text())
    vocab = spec["model"]["vocab"]
    special = {"id": 256, "content": "<|end|>", "special": True}
    special |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    # a special token is never found in a text
    file.write_text(json.dumps({**spec, "added_tokens": [special]}))
    verbs.prepare(recipe_of(tmp_path, (folders[0], other)), tmp_path / "run")
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(spec))
    with pytest.raises(ModelError, match=r"different tokenizers \(\w{16}, \w{16}\).* take two of one family"):
        verbs.prepare(recipe_of(tmp_path, (folders[0], other)), tmp_path / "run")
