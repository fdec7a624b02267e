"""What is said of a selection from its tables, on a few windows that can be counted by hand."""

import pyarrow as pa
import pytest

from longattn.expressions import Column, column
from longattn.report import Effect, Measured
from longattn.report.evidence import SCORE, SELECTED, Documents, Lengths, weigh
from longattn.selection import Formula, select
from longattn.settings import Selecting, plain
from longattn.tables import RunFolder

UNIT = "0" * 16


@pytest.fixture
def run(tmp_path):
    """Document a has windows at 0 and 6, which share 4 tokens, b one; c is of another source."""
    folder = RunFolder(tmp_path)
    rows = [("a", 0, 40), ("a", 6, 40), ("b", 0, 10), ("c", 0, 80)]
    values = {
        "window_id": [f"{doc}@{start}" for doc, start, _ in rows],
        "doc_id": [doc for doc, *_ in rows],
        "source": ["code", "code", "code", "docs"],
        "file": ["f"] * 4,
        "position": [0, 0, 1, 2],
        "start": [start for _, start, _ in rows],
        "num_tokens": pa.array([10] * 4, pa.int32()),
        "char_start": [start for _, start, _ in rows],
        "char_end": [start + 10 for _, start, _ in rows],
        "doc_tokens": [tokens for *_, tokens in rows],
    }
    windows, scores = folder.table("windows", {}), folder.table("m", {})
    windows.commit(UNIT, pa.table(values), {}, {})
    measures = {"x": [3.0, 2.0, 1.0, 5.0], "y": [0.1, 0.2, 0.3, 0.4], "null": [0.0, 0.35, 9.0, 0.1]}
    scores.commit(UNIT, pa.table({"window_id": values["window_id"], **measures}), {}, {})
    return folder


def weighed(run, rule, **changes):
    tables = {"m": run.table("m", {})}
    windows = run.table("windows", {})
    formula = Formula(tables["m"], column("x"), {"ds": column("y")})
    found = select([UNIT], windows, {"m": formula}, rule, run.root / "selection.parquet")
    scores = {"m": column("x"), "opposite": -column("x")}
    known = {
        "units": [UNIT],
        "windows": windows,
        "tables": {**tables, "opposite": tables["m"]},
        "rule": rule,
        "scores": scores,
    }
    return weigh(Measured(**{**known, **changes}), run.root / "selection.parquet", plain(found)["sources"])


RULE = Selecting(share=None, count=2, max_overlap=1.0, weights={"m": 1.0})


def test_lengths_documents_and_repeated_tokens_are_counted(run):
    found = weighed(run, RULE)
    assert found.same
    # kept are both windows of a, and the one of c; a is 4 windows long, class 2 log2(4) = 4, b 1, c 8
    code = found.lengths["code"]
    assert code.histogram == {0: (1, 0), 4: (2, 2)}
    assert (code.quantiles[50], code.quantiles[5], code.kept_quantiles[5]) == (40, 10, 40)
    assert found.lengths["docs"] == Lengths(
        dict.fromkeys((5, 25, 50, 75, 95), 80), dict.fromkeys((5, 25, 50, 75, 95), 80), {6: (1, 1)}
    )
    assert found.documents["code"] == Documents(1, 1, "a", 1.0, 4, 20)
    assert found.documents["docs"] == Documents(1, 1, "c", 1.0, 0, 10)


def test_a_source_that_keeps_nothing_has_no_documents(run):
    found = weighed(run, Selecting(share=None, count=0, quotas={"docs": 1.0}, weights={"m": 1.0}))
    assert found.lengths["code"].kept_quantiles == {}
    assert list(found.documents) == ["docs"]


def test_other_scorers_and_settings_are_held_against_the_kept_set(run):
    turned = Effect("turned", "--turned", {"m": -column("x")})
    found = weighed(run, RULE, effects=[turned])
    assert found.scorers == ["opposite"]
    # of the two windows of code kept by x, the second best is also second best from below
    for name in ("turned", "opposite"):
        assert found.outcome.windows(SELECTED, name, source="code") == 1
        assert found.outcome.windows(SELECTED, name, source="docs") == 1
    (of,) = [of for of in found.outcome.correlations if of.source == "code"]
    assert (of.first, of.second, of.spearman) == (SCORE, "opposite", -1.0)


def test_another_scorer_keeps_as_many_tokens_where_the_rule_is_a_lowest_score(run):
    found = weighed(run, Selecting(share=None, threshold=2.5, max_overlap=1.0, weights={"m": 1.0}))
    assert found.outcome.tokens(SELECTED, source="code") == found.outcome.tokens("opposite", source="code") == 10
    assert found.outcome.tokens(SELECTED, "opposite", source="code") == 0


def test_a_selection_that_its_tables_no_longer_give_is_noticed(run):
    assert not weighed(run, RULE, scores={"m": -column("x")}).same


def test_predictions_are_placed_in_the_bins_of_ds(run):
    """DS of code goes from 0.1 to 0.3; predicted are 0, 0.35 and 9, all outside."""
    found = weighed(run, RULE, token_null=Column("null", None, "m"))
    counts = found.token_null["code"]
    assert (counts[0], counts[-1], sum(counts)) == (1, 2, 3)


def test_means_of_repetition_are_of_all_and_of_kept_windows(run):
    found = weighed(run, RULE, repetition={"new": Column("y", None, "m")})
    assert found.repetition["code"]["new"] == (pytest.approx(0.2), pytest.approx(0.15))
