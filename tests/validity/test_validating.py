"""Whole validations of a tiny model on a small corpus."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from longattn import corpus, settings, trials, verbs
from longattn.engines import Progress
from longattn.errors import LongAttnError
from longattn.recipes import Recipe
from longattn.scorers import LongAttn, Random, Seen
from longattn.tables import read_parquet
from longattn.validity.blocks import INTACT, make_material, read_scores
from longattn.validity.sampling import sample

CONTROLS = ("spliced-2", "spliced-4", "shuffled-8")


@pytest.fixture(scope="module")
def recipe(corpus_inputs, tiny_model_folder):
    return Recipe(
        corpus=settings.Corpus(inputs=corpus_inputs),
        window=settings.Windowing(length=64),
        model=settings.Model(name=str(tiny_model_folder)),
    )


RULE = settings.Validating(pairs=8, controls=CONTROLS, resamples=100)


class Stop(Progress):
    """Ends the work, as Ctrl-C does, after some windows."""

    def __init__(self, windows):
        self.left = windows

    def update(self, state):
        if state.windows >= self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def validated(recipe, tmp_path_factory):
    """A validation that nobody disturbed, and its folder; one scorer twice."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, trials.validate(recipe, folder, RULE, "cpu", more={"flat": LongAttn(alpha=0.0)})


def test_a_validation_after_interruptions_is_the_undisturbed_one(recipe, validated, tmp_path):
    more = {"flat": LongAttn(alpha=0.0)}
    for windows in (3, 20):
        with pytest.raises(KeyboardInterrupt):
            trials.validate(recipe, tmp_path, RULE, "cpu", progress=Stop(windows), more=more)
    half = tmp_path / "validity" / ".validation.json.0123abcd.tmp"
    half.write_bytes(b"half")
    trials.validate(recipe, tmp_path, RULE, "cpu", more=more)
    assert not half.exists(), "what a killed process left stays for ever"
    whole, parts = ((folder / "validity" / "validation.json").read_bytes() for folder in (validated[0], tmp_path))
    assert whole == parts


def test_the_second_time_nothing_is_measured(recipe, validated):
    folder, first = validated
    more = {"flat": LongAttn(alpha=0.0), "steep": LongAttn(alpha=2.0)}
    again = trials.validate(recipe, folder, RULE, "cpu", progress=Stop(1), more=more)
    assert [s for s in again.separations if s.scorer != "steep"] == first.separations
    # alpha is chosen after measuring
    assert {s.auc for s in again.separations if s.scorer == "steep"} - {s.auc for s in first.separations}
    assert len(list((folder / "validity" / "tables").glob("longattn-*"))) == 1


def test_baselines_always_stand_there_and_see_nothing(recipe, tmp_path):
    rule = replace(RULE, pairs=40, controls=("spliced-2", "twin"))
    found = trials.validate(replace(recipe, scorers=()), tmp_path, rule, "cpu")
    assert set(found.scorers) == {"token_null", "length", "random"}
    by = {(s.source, s.control, s.scorer): s for s in found.separations}
    for control in rule.controls:
        assert by["many", control, "length"].auc.value == 0.5
        chance = by["many", control, "random"]
        assert chance.auc.low < 0.5 < chance.auc.high
        assert chance.pairs == 40
        assert chance.documents == 40
    # each place has the same tokens over all splices as over all intact windows
    assert 0.3 < by["many", "spliced-2", "token_null"].auc.value < 0.7


def test_what_a_source_does_not_allow_is_said(validated):
    _, found = validated
    assert "one: its 8 windows of 1 document do not allow spliced-2, spliced-4" in found.notes
    assert "one: only 1 document, so no intervals" in found.notes
    assert "many: only 8 documents; intervals are of little worth" in found.notes
    alone = [s for s in found.separations if s.source == "one"]
    assert {s.control for s in alone} == {"shuffled-8"}
    # the one document's 8 windows would all be drawn each time: an interval of no width
    assert all(s.auc.low is s.auc.high is s.paired.low is s.paired.high is None for s in alone)
    assert found.sources == {"many": {"windows": 8, "documents": 8}, "one": {"windows": 8, "documents": 1}}


def test_fewer_pairs_for_a_scorer_are_the_first_ones(recipe, tmp_path):
    rule = replace(RULE, pairs=16, pairs_for={"length": 8, "prolong": 8}, controls=("spliced-2",))
    found = trials.validate(replace(recipe, scorers=("prolong",)), tmp_path, rule, "cpu")
    pairs = {s.scorer: s.pairs for s in found.separations if s.source == "many"}
    assert pairs == {"prolong": 8, "token_null": 16, "length": 8, "random": 16}
    # a setting of that name is something else
    assert found.scorers["prolong"]["pairs"] == 8
    assert found.scorers["prolong"]["settings"]["pairs"] == 500


def test_what_controls_are_made_of_is_on_disk(validated):
    (folder,) = (validated[0] / "validity" / "tables").glob("controls-*")
    rows = [row for file in folder.glob("*.parquet") for row in read_parquet(file).to_pylist()]
    splices = [row for row in rows if row["control"] == "spliced-4"]
    assert len(splices) == 8
    for row in splices:
        assert [piece["start"] for piece in row["pieces"]] == [0, 16, 32, 48]
        assert row["pieces"][0]["window"] == row["intact"]


def test_the_page_and_the_figures_are_written(validated):
    page = (validated[0] / "validity" / "validation.html").read_text(encoding="utf-8")
    facts = json.loads((validated[0] / "validity" / "validation.json").read_bytes())
    assert page.count("<svg") == 3 + 1
    assert "://" not in page
    assert "flat" in page
    of_source = {row["source"]: row["auc"] for row in facts["separations"] if row["scorer"] == "longattn"}
    value, low, high = of_source["many"]
    assert low <= value <= high
    assert of_source["one"][1:] == [None, None]
    assert "costs" not in facts


def test_splices_of_more_pieces_give_a_trend(validated):
    _, found = validated
    trends = {(r.source, r.scorer): r.value.value for r in found.readings if r.name == "trend"}
    assert trends["many", "length"] == 0
    assert -1 <= trends["many", "longattn"] <= 1
    assert ("one", "longattn") not in trends
    recuts = {r.source: r.value.value for r in found.readings if (r.name, r.scorer) == ("recut", "length")}
    assert recuts["many"] == pytest.approx(1)


def test_a_control_does_not_move_the_scale_that_it_is_judged_on(recipe, validated):
    scorer = recipe.scorer("longattn")
    job = replace(verbs.prepare(recipe, validated[0] / "validity"), scorers=(scorer,))
    sampled = sample(job, corpus.list_units(recipe.corpus), 8, 0)["many"][:8]
    few, every = (make_material("many", sampled, names, 0) for names in (CONTROLS[:1], CONTROLS))
    few, every = (read_scores(job, material, scorer, 8) for material in (few, every))
    assert np.array_equal(few["spliced-2"], every["spliced-2"])
    assert every[INTACT].mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (replace(RULE, controls=("sliced-2",)), "control must be one of"),
        (replace(RULE, pairs=1), "pairs must be at least 2, got 1"),
        (replace(RULE, controls=("spliced-02",)), "control must be one of .*, got 'spliced-02'"),
        (replace(RULE, controls=("spliced-²",)), "control must be one of .*, got 'spliced-²'"),
        (replace(RULE, pairs_for={"longattn": 0}), "pairs_for must be at least 2 for each scorer, got 0 for longattn"),
        (replace(RULE, pairs_for={"lengths": 8}), "pairs_for names 'lengths', which is not among the scorers: length"),
    ],
)
def test_a_mistake_is_said_before_anything_is_read(rule, message, recipe, tmp_path):
    with pytest.raises(ValueError, match=message):
        trials.validate(recipe, tmp_path, rule, "cpu")


def test_samples_are_refused_as_their_turns_would_not_be_the_controls(recipe, tmp_path):
    samples = replace(recipe, corpus=replace(recipe.corpus, messages_field="messages"), scorers=("length",))
    with pytest.raises(ValueError, match="controls are made of windows of texts"):
        trials.validate(samples, tmp_path, RULE, "cpu")
    with pytest.raises(ValueError, match="controls are made of windows of texts"):
        trials.calibrate(samples, tmp_path, tmp_path / "preset.json", device="cpu")


def test_the_hash_of_the_corpus_is_of_its_words(recipe, tmp_path):
    """Ids alone are often paths, of which another release has the same ones with other text."""
    found = []
    for name, word in (("one", "near"), ("same", "near"), ("other", "far")):
        lines = [json.dumps({"id": str(i), "text": f"{i} {word} " * 60}) + "\n" for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        given = replace(recipe, corpus=settings.Corpus(inputs=(f"all={tmp_path / name}.jsonl",)), scorers=())
        found.append(trials.validate(given, tmp_path / name, replace(RULE, controls=("shuffled-8",)), "cpu").corpus)
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 16


def test_a_corpus_without_windows_is_an_error(recipe, tmp_path):
    long = replace(recipe, window=settings.Windowing(length=4096), scorers=())
    with pytest.raises(LongAttnError, match="needs a sample of windows"):
        trials.validate(long, tmp_path, RULE, "cpu")


def test_of_two_documents_of_one_id_the_first_is_looked_at(recipe, tmp_path):
    """The second is longer: its windows are no windows of the first."""
    lines = [json.dumps({"id": "same", "text": "near " * 30}), json.dumps({"id": "same", "text": "far " * 100})]
    (tmp_path / "two.jsonl").write_text("\n".join(lines))
    recipe = replace(recipe, corpus=settings.Corpus(inputs=(str(tmp_path / "two.jsonl"),)))
    (found,) = sample(verbs.prepare(recipe, tmp_path), corpus.list_units(recipe.corpus), 8, seed=0).values()
    assert sorted(one.window.start for one in found) == [0, 43, 86]
    assert {one.window.doc_tokens for one in found} == {150}


def test_a_copy_of_the_corpus_in_another_place_gives_the_same_sample(recipe, tmp_path):
    """Enough is found in a few of many units, in whose names stand place and time."""
    found = []
    for name in ("here", "elsewhere"):
        place = tmp_path / name / "corpus"
        place.mkdir(parents=True)
        for number in range(80):
            lines = [json.dumps({"id": f"{number}-{i}", "text": f"{number} {i} " * 40}) + "\n" for i in range(4)]
            (place / f"{number}.jsonl").write_text("".join(lines))
            os.utime(place / f"{number}.jsonl", (number, len(found)))
        given = replace(recipe, corpus=settings.Corpus(inputs=(f"all={place}",), unit_bytes=1000))
        units = corpus.list_units(given.corpus)
        found.append([one.window.id for one in sample(verbs.prepare(given, tmp_path), units, 8, seed=0)["all"]])
    assert len(units) > 10
    assert found[0] == found[1]
    assert len({window.rpartition("@")[0] for window in found[0]}) < 80


@pytest.mark.parametrize("files", [5, 20])
def test_what_lies_together_does_not_make_up_the_sample(recipe, tmp_path, files):
    """One unit would have enough; in a corpus sorted by folder it may hold nothing but tables of characters."""
    place = tmp_path / "corpus"
    place.mkdir()
    for number in range(files):
        lines = [
            json.dumps({"id": f"{number:02}-{i:02}", "text": f"{number:02} {i:02} " * 30}) + "\n" for i in range(40)
        ]
        (place / f"{number:02}.jsonl").write_text("".join(lines))
    size = (place / "00.jsonl").stat().st_size
    given = replace(recipe, corpus=settings.Corpus(inputs=(f"all={place}",), unit_bytes=size))
    units = corpus.list_units(given.corpus)
    assert len(units) == files
    found = sample(verbs.prepare(given, tmp_path), units, 16, seed=0)["all"]
    of = [one.window.doc_id.partition("-")[0] for one in found]
    # all documents of the units that were read, in an order that knows nothing of units
    assert len(set(of)) == min(files, 8)
    assert len(set(of[:32])) >= min(files, 7)


def test_sampling_takes_as_many_documents_as_there_are(recipe, tmp_path):
    job = verbs.prepare(recipe, tmp_path)
    units = corpus.list_units(recipe.corpus)
    found = sample(job, units, 16, seed=0)
    assert len({one.window.doc_id for one in found["many"][:40]}) == 40
    again, other = (sample(job, units, 16, seed) for seed in (0, 1))
    ids = [[one.window.id for one in part["many"]] for part in (found, again, other)]
    assert ids[0] == ids[1] != ids[2]
    # windows that are chosen by the hash that ``random`` draws by would all have low draws
    draws = Random().measure([one.window for one in found["many"][:40]], Seen())["random"]
    assert 0.3 < draws.mean() < 0.7
    for one in found["many"]:
        assert one.recut is not None
        assert abs(one.recut.start - one.window.start) == 64 // 3
        shift = one.recut.start - one.window.start
        mine, theirs = (one.window, one.recut) if shift > 0 else (one.recut, one.window)
        assert np.array_equal(mine.tokens[64 // 3 :], theirs.tokens[: 64 - 64 // 3])
