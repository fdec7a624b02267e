"""Other choices against selecting by each of them in turn."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from longattn.expressions import Constant, column, in_table, minmax, zscore
from longattn.selection import Formula, select
from longattn.selection.choices import Choice, columns_of_all, try_choices
from longattn.selection.database import open_database
from longattn.selection.loading import Inputs, load, mark_duplicates
from longattn.settings import Selecting
from longattn.tables import RunFolder, read_parquet

SOURCES = ("code", "docs")


def write(root, count=60, seed=0):
    """Windows of documents that overlap by half, three measured columns with ties, signatures; one is read twice."""
    random = np.random.default_rng(seed)
    run = RunFolder(root)
    windows, table, signatures = run.table("windows", {}), run.table("m", {}), run.table("minhash", {})
    for number, source in enumerate(SOURCES):
        docs = [f"{source}{i // 3}" for i in range(count)]
        starts = [5 * (i % 3) for i in range(count)]
        if number:
            # read a second time under another place
            docs[-3:] = docs[:3]
        ids = [f"{doc}@{start}" for doc, start in zip(docs, starts, strict=True)]
        places = [i // 3 for i in range(count)]
        rows = {
            "window_id": ids,
            "doc_id": docs,
            "source": [source] * count,
            "file": [source] * count,
            "position": places,
            "start": starts,
            "num_tokens": pa.array([10 - i % 2 for i in range(count)], pa.int32()),
            "char_start": starts,
            "char_end": [start + 10 for start in starts],
            "doc_tokens": [20] * count,
        }
        values = {name: random.integers(0, 12, count).astype(float) for name in ("x", "y", "z")}
        values["z"][random.integers(0, count, 4)] = np.nan
        hashes = random.integers(0, 2, (count, 32)).astype(np.uint32)
        unit = f"{number:016x}"
        windows.commit(unit, pa.table(rows), {}, {})
        table.commit(unit, pa.table({"window_id": ids, **values}), {}, {})
        lists = pa.array(hashes.tolist(), pa.list_(pa.uint32()))
        signatures.commit(unit, pa.table({"window_id": ids, "minhash": lists}), {}, {})
    return windows, {"m": table, "minhash": signatures}


SCORES = {
    "x": zscore(column("x")),
    "x and y": zscore(column("x")) + 0.5 * zscore(column("y")),
    "scaled": minmax(column("x")) - minmax(column("y")),
    "z": column("z"),
}


def outcome_of(tmp_path, windows, tables, choices, given=None):
    inputs = Inputs([f"{i:016x}" for i in range(len(SOURCES))], {"windows": windows, **tables})
    columns = columns_of_all(choices)
    rule = next(iter(choices.values())).rule
    with open_database(tmp_path, "500MB", 2) as database:
        load(database, inputs, columns, rule.near_duplicates is not None, rule.where)
        mark_duplicates(database)
        if given is not None:
            ids = pa.table({"id": sorted(given)})
            database.lend("ids", ids)
            query = (
                "CREATE TABLE given AS SELECT loaded.rowid AS row FROM loaded JOIN ids ON id = doc_id || '@' || start"
            )
            database.run(f"{query} WHERE NOT duplicate")
        return try_choices(database, choices, columns, given=None if given is None else "given")


@pytest.mark.parametrize(
    "rule",
    [
        Selecting(share=0.3),
        Selecting(share=None, count=7, max_overlap=0.2, quotas={"docs": 3.0}),
        Selecting(share=None, tokens=120, normalise_over="corpus", where="start < 10"),
        Selecting(share=0.4, near_duplicates=0.7, max_overlap=1.0),
    ],
)
def test_a_choice_keeps_what_selecting_by_it_keeps(tmp_path, rule):
    windows, tables = write(tmp_path / "run")
    kept: dict[str, set[str]] = {}
    for name, score in SCORES.items():
        formulas = {"m": Formula(tables["m"], score)}
        if rule.near_duplicates:
            formulas["minhash"] = Formula(tables["minhash"], Constant(0.0))
        units = [f"{i:016x}" for i in range(len(SOURCES))]
        found = select(units, windows, formulas, replace(rule, weights={"m": 1.0}), tmp_path / "s.parquet")
        rows = read_parquet(tmp_path / "s.parquet").to_pylist()
        kept[name] = {row["window_id"] for row in rows if row["kept"]}
        assert found.sources
    choices = {name: Choice(in_table(score, "m"), rule) for name, score in SCORES.items()}
    outcome = outcome_of(tmp_path, windows, tables, choices, given=kept["x"])
    for name, ids in kept.items():
        assert outcome.windows(name) == len(ids)
        assert outcome.windows("given", name) == len(ids & kept["x"])
        for other, others in kept.items():
            assert outcome.windows(name, other) == len(ids & others)
    tokens = {row["window_id"]: row["num_tokens"] for row in rows if row["reason"] != "duplicate_id"}
    assert outcome.tokens("z", source="docs") == sum(tokens[id] for id in kept["z"] if id.startswith("docs"))


def midranks(values):
    return np.array([(np.sum(values < v) + np.sum(values <= v) + 1) / 2 for v in values])


def test_correlations_are_spearmans_of_the_windows_that_all_have_scored(tmp_path):
    windows, tables = write(tmp_path / "run", count=90, seed=3)
    names = ("x", "scaled", "z")
    choices = {name: Choice(in_table(SCORES[name], "m"), Selecting(), correlate=True) for name in names}
    choices["apart"] = Choice(in_table(SCORES["x and y"], "m"), Selecting())
    found = outcome_of(tmp_path, windows, tables, choices).correlations
    assert {(of.first, of.second) for of in found} == {("x", "scaled"), ("x", "z"), ("scaled", "z")}
    measured = next(tables["m"].read(["0" * 16])).to_pydict()
    x, y, z = (np.array(measured[name]) for name in "xyz")
    known = np.isfinite(z)
    x, y, z = x[known], y[known], z[known]
    (scaled,) = [of for of in found if (of.source, of.first, of.second) == ("code", "x", "scaled")]
    (other,) = [of for of in found if (of.source, of.first, of.second) == ("code", "x", "z")]
    # the ranges are those of all windows, as in selecting
    (low_x, high_x), (low_y, high_y) = ((min(measured[name]), max(measured[name])) for name in "xy")
    difference = (x - low_x) / (high_x - low_x) - (y - low_y) / (high_y - low_y)
    expected = np.corrcoef(midranks(x), midranks(difference))[0, 1]
    assert scaled.windows == known.sum()
    assert scaled.spearman == pytest.approx(expected, abs=1e-12)
    assert other.spearman == pytest.approx(np.corrcoef(midranks(x), midranks(z))[0, 1], abs=1e-12)


def test_where_all_are_equal_there_is_no_correlation(tmp_path):
    windows, tables = write(tmp_path / "run", count=12)
    flat = in_table(column("x") - column("x"), "m")
    choices = {"x": Choice(in_table(SCORES["x"], "m"), Selecting(), True), "flat": Choice(flat, Selecting(), True)}
    assert [of.spearman for of in outcome_of(tmp_path, windows, tables, choices).correlations] == [None, None]


def test_there_may_be_more_choices_than_a_number_has_bits(tmp_path):
    windows, tables = write(tmp_path / "run")
    score = in_table(SCORES["x"], "m")
    choices = {str(count): Choice(score, Selecting(share=None, count=count, max_overlap=1.0)) for count in range(130)}
    found = outcome_of(tmp_path, windows, tables, choices)
    assert [found.windows(name) for name in choices] == [min(count, 60) + min(count, 57) for count in range(130)]
    assert [found.windows("9", str(other)) for other in (0, 9, 63, 129)] == [0, 18, 18, 18]
