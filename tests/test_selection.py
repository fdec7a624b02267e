"""The selection against a plain Python reading of its rule, and what it says when the rule cannot be followed."""

import json
import math
import re
import resource
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longattn.errors import DamageError, RunError
from longattn.expressions import Constant, column, evaluate, exp, minmax, moments, softmax, zscore
from longattn.selection import SELECTION_SCHEMA, Formula, keeping, loading, scoring, select, summary
from longattn.selection import database as database_module
from longattn.selection.database import open_database
from longattn.selection.moments import moments_by
from longattn.selection.near_duplicates import num_bands
from longattn.selection.summary import NUM_BINS
from longattn.settings import Selecting, plain
from longattn.tables import RunFolder

NUM_VALUES = 32
"""Values of a signature in these tests."""

WINDOW_TYPES = {
    "window_id": pa.string(),
    "doc_id": pa.string(),
    "source": pa.string(),
    "file": pa.string(),
    "position": pa.int64(),
    "start": pa.int64(),
    "num_tokens": pa.int32(),
    "char_start": pa.int64(),
    "char_end": pa.int64(),
    "doc_tokens": pa.int64(),
    "overlap": pa.int32(),
}
MEASURED_TYPES = {"ds": pa.float64(), "du": pa.float64(), "heads": pa.list_(pa.float64()), "ticks": pa.int64()}

LDS = zscore(column("ds")) + 0.5 * zscore(column("du"))


def window(doc="a", start=0, source="code", num_tokens=10, file="f", position=0, ds=0.5, du=-0.1, **more):
    """A row of everything that the tables hold of one window."""
    return {
        "window_id": f"{doc}@{start}",
        "doc_id": doc,
        "source": source,
        "file": file,
        "position": position,
        "start": start,
        "num_tokens": num_tokens,
        "char_start": 4 * start,
        "char_end": 4 * (start + num_tokens),
        "doc_tokens": 1000,
        "overlap": 0,
        "ds": ds,
        "du": du,
        "heads": [ds, 2 * ds],
        "ticks": 3,
        "minhash": [0] * NUM_VALUES,
    } | more


def documents(scores, source="code", prefix="d"):
    """One window per document, with these values of ``ds``."""
    return [window(f"{prefix}{i:03}", source=source, position=i, ds=ds) for i, ds in enumerate(scores)]


def write(root, rows, num_units=1):
    """The rows dealt out to the units of three tables."""
    run = RunFolder(Path(root))
    tables = SimpleNamespace(
        run=run,
        units=[f"{unit:016x}" for unit in range(num_units)],
        windows=run.table("windows", {"length": 10}),
        longattn=run.table("longattn", {"layer": 0}),
        minhash=run.table("minhash", {}),
    )
    for i, unit in enumerate(tables.units):
        part = rows[i::num_units]
        ids = {"window_id": pa.string()}
        for table, types in (
            (tables.windows, WINDOW_TYPES),
            (tables.longattn, ids | MEASURED_TYPES),
            (tables.minhash, ids | {"minhash": pa.list_(pa.uint32())}),
        ):
            table.commit(unit, pa.Table.from_pylist(part, pa.schema(list(types.items()))), {}, {})
    return tables


def choose(tables, rule, *, score=LDS, readings=None, extra=None, **options):
    """The selection of the tables' windows by ``score``."""
    readings = {"ds": column("ds"), "du": column("du")} if readings is None else readings
    formulas = {
        "longattn": Formula(tables.longattn, score, readings),
        "minhash": Formula(tables.minhash, Constant(0.0)),
    } | (extra or {})
    return select(tables.units, tables.windows, formulas, rule, tables.run.root / "selection.parquet", **options)


def rows_of(selection):
    return pq.read_table(selection.path).to_pylist()


def kept(selection):
    return [row["window_id"] for row in rows_of(selection) if row["kept"]]


def fates(selection):
    return {row["window_id"]: row["reason"] for row in rows_of(selection)}


# --- the rule in plain Python


def reference(rows, rule, score):
    """Score, rank and reason of each row, by the rule as it is written down."""
    duplicate = [False] * len(rows)
    origin = [(row["file"], row["position"], row["source"]) for row in rows]
    first = {doc: min(o for o, r in zip(origin, rows, strict=True) if r["doc_id"] == doc) for doc in doc_ids(rows)}
    seen = set()
    for i, row in enumerate(rows):
        duplicate[i] = origin[i] != first[row["doc_id"]] or row["window_id"] in seen
        if not duplicate[i]:
            seen.add(row["window_id"])
    reasons = ["duplicate_id" if d else None for d in duplicate]
    scores, ranks = [None] * len(rows), [None] * len(rows)
    live = [i for i in range(len(rows)) if not duplicate[i]]
    if live:
        columns = {name: np.array([rows[i][name] for i in live], dtype=float) for name in ("ds", "du")}
        peers = [rows[i]["source"] for i in live] if rule.normalise_over == "source" else None
        for i, value in zip(live, evaluate(score, columns, peers), strict=True):
            scores[i] = None if math.isnan(value) else float(value)
            reasons[i] = "non_finite" if math.isnan(value) else None
    for source in {row["source"] for row in rows}:
        mine = [i for i in live if scores[i] is not None and rows[i]["source"] == source]
        mine.sort(key=lambda i: (-scores[i], rows[i]["window_id"].encode()))
        for rank, i in enumerate(mine, 1):
            ranks[i] = rank
            if rule.where and not rows[i]["start"] < 15:
                reasons[i] = "filtered"
            elif any(reasons[j] is None and conflict(rows[i], rows[j], rule.max_overlap) for j in mine[: rank - 1]):
                reasons[i] = "overlap"
    cut(rows, rule, scores, ranks, reasons)
    return scores, ranks, reasons


def doc_ids(rows):
    return {row["doc_id"] for row in rows}


def conflict(worse, better, limit):
    stop = min(worse["start"] + worse["num_tokens"], better["start"] + better["num_tokens"])
    shared = stop - max(worse["start"], better["start"])
    return worse["doc_id"] == better["doc_id"] and shared > limit * worse["num_tokens"] and limit < 1


def cut(rows, rule, scores, ranks, reasons):
    """Take windows by rank, then source, until each source's budget is used up."""
    sources = {row["source"] for row in rows}
    scored_tokens = {
        s: sum(r["num_tokens"] for r, x in zip(rows, scores, strict=True) if x is not None and r["source"] == s)
        for s in sources
    }
    used, full, taken = dict.fromkeys(sources, 0), set(), []
    queue = [i for i in range(len(rows)) if ranks[i] is not None and reasons[i] is None]
    for i in sorted(queue, key=lambda i: (ranks[i], rows[i]["source"])):
        source, tokens = rows[i]["source"], rows[i]["num_tokens"]
        if rule.threshold is not None:
            cost, budget = 0, 0 if scores[i] >= rule.quotas.get(source, rule.threshold) else -1
        elif rule.tokens is not None:
            cost, budget = tokens, rule.quotas.get(source, rule.tokens)
        elif rule.count is not None:
            cost, budget = 1, rule.quotas.get(source, rule.count)
        else:
            share = Fraction(repr(rule.quotas.get(source, rule.share)))
            cost, budget = tokens, share * scored_tokens[source]
        if source in full or used[source] + cost > budget:
            full.add(source)
            reasons[i] = "below_cut"
        elif rule.near_duplicates and any(similar(rows[i], rows[j]) >= rule.near_duplicates for j in taken):
            reasons[i] = "near_duplicate"
        else:
            used[source] += cost
            taken.append(i)
            reasons[i] = "kept"


def similar(a, b):
    return np.mean(np.array(a["minhash"]) == np.array(b["minhash"]))


# --- agreement with the rule


@contextmanager
def small_parts():
    """What is done in parts where there are millions of windows is done so with a few; numbers of documents collide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "DOCUMENT", "hash(doc_id) % 3")
        patch.setattr(loading, "COPIED_TOGETHER", 2)
        patch.setattr(scoring, "SORTED_TOGETHER", 2)
        patch.setattr(keeping, "COMPARED_TOGETHER", 5)
        patch.setattr(summary, "TOGETHER", 4)
        patch.setattr("longattn.selection.database.SETTLED_TOGETHER", 9)
        patch.setattr(keeping, "SETTLED_TOGETHER", 3)
        yield


ODD = [0.0, -0.0, 0.1, 0.1 + 2**-54, 0.3, 1e9, 1e-300, -7.25, math.nan, math.inf]
MEASURED = st.one_of(st.floats(-1, 1), st.floats(-1, 1), st.sampled_from(ODD))
SIGNATURE = st.tuples(st.integers(0, 1), st.sampled_from([0, 2, 3, 4, 6, 7]))


@st.composite
def tables_of_rows(draw):
    """Documents with overlapping windows of several lengths; some ids are used twice, some values are no numbers."""
    rows = []
    for position in range(draw(st.integers(0, 9))):
        doc = draw(st.sampled_from(["a", "a9", "b", "c", "d", "e\u00e9", "f", "g", "h"]))
        source = draw(st.sampled_from(["code", "books", "it's"]))
        file = draw(st.sampled_from(["f", "g"]))
        for start in draw(st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True)):
            base, changed = draw(SIGNATURE)
            rows.append(
                window(
                    doc,
                    start,
                    source,
                    draw(st.sampled_from([10, 10, 10, 1, 4, 25])),
                    file,
                    position,
                    draw(MEASURED),
                    draw(MEASURED),
                    minhash=[base * 1000 + 100 * (k < changed) + k for k in range(NUM_VALUES)],
                )
            )
    return draw(st.permutations(rows))


@st.composite
def rules(draw):
    """Arguments of ``Selecting``: type checks of our own classes draw random numbers, which strategies must not."""
    rule = draw(
        st.sampled_from(
            [
                {"share": 0.125},
                {"share": 0.3},
                {"share": 0.5, "quotas": {"code": 1.0}},
                {"share": 1.0},
                {"tokens": 24},
                {"tokens": 20, "quotas": {"books": 0.0, "it's": 1000.0}},
                {"count": 2},
                {"count": 0, "quotas": {"code": 3.0}},
                {"threshold": 0.0},
                {"threshold": 0.2, "quotas": {"it's": -10.0}},
            ]
        )
    )
    return rule | {
        "normalise_over": draw(st.sampled_from(["source", "corpus"])),
        "max_overlap": draw(st.sampled_from([0.0, 0.5, 0.5, 0.9, 1.0])),
        "near_duplicates": draw(st.sampled_from([None, 0.8, 0.9])),
        "where": draw(st.sampled_from([None, None, "start < 15 -- early windows"])),
    }


SCORES = st.sampled_from(
    [
        column("ds"),
        LDS,
        -minmax(column("ds")),
        zscore(minmax(column("ds")) * column("du") - 0.3),
        zscore(column("ds") / column("du")),
        exp(column("ds")) - exp(-column("du")),
        softmax(column("ds")),
        0.7 * softmax(minmax(exp(column("ds"))) - minmax(exp(column("du")))) + column("ds"),
        Constant(1.0),
    ]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(tables_of_rows(), rules(), SCORES, st.integers(1, 3), st.booleans())
def test_selection_follows_the_rule_to_the_bit(tmp_path_factory, rows, rule, score, num_units, in_parts):
    sources = {row["source"] for row in rows}
    quotas = {source: quota for source, quota in rule.get("quotas", {}).items() if source in sources}
    rule = Selecting(**rule | {"quotas": quotas})
    with small_parts() if in_parts else nullcontext():
        selection = choose(write(tmp_path_factory.mktemp("run"), rows, num_units), rule, score=score)
    found = rows_of(selection)
    names = ("source", "rank", "window_id", "char_end", "score", "reason")
    wanted = [
        (row["source"], rank, row["window_id"], row["char_end"], value, reason)
        for row, value, rank, reason in zip(rows, *reference(rows, rule, score), strict=True)
    ]
    ranked = [tuple(row[name] for name in names) for row in found if row["rank"]]
    unranked = [tuple(row[name] for name in names) for row in found if not row["rank"]]
    assert ranked == sorted(row for row in wanted if row[1])
    assert Counter(unranked) == Counter(row for row in wanted if not row[1])
    assert all(row["kept"] == (row["reason"] == "kept") for row in found)
    check_summary(selection, found)


@pytest.mark.parametrize(
    "rule", [{"share": 0.25}, {"count": 30}, {"tokens": 700, "quotas": {"b": 90.0}}, {"threshold": 0.4}]
)
def test_near_duplicates_of_near_duplicates_follow_the_rule(tmp_path, rule):
    """Families of windows that change value by value, so that whom one gives way to depends on who was taken."""
    random = np.random.default_rng(5)
    rows = []
    for i in range(400):
        family, changed = random.integers(0, 60), random.permutation(NUM_VALUES)[: random.integers(0, 7)]
        signature = family * 1000 + np.arange(NUM_VALUES)
        signature[changed] += 500
        source, tokens = str(random.choice(["a", "b", "c"])), int(random.integers(5, 15))
        ds = float(random.random().__round__(2))
        rows.append(window(f"{i:03}", 0, source, tokens, ds=ds, position=i, minhash=signature.tolist()))
    rule = Selecting(**rule, near_duplicates=0.8)
    selection = choose(write(tmp_path, rows, 2), rule, score=column("ds"))
    reasons = reference(rows, rule, column("ds"))[2]
    assert Counter(reasons)["near_duplicate"] > 20
    assert fates(selection) == {row["window_id"]: reason for row, reason in zip(rows, reasons, strict=True)}


def check_summary(selection, found):
    """The summary says of each source what its rows say."""
    json.dumps(plain(selection), allow_nan=False)
    for name, source in selection.sources.items():
        mine = [row for row in found if row["source"] == name]
        best = [row for row in mine if row["kept"]]
        assert source.windows == len(mine)
        assert source.tokens == sum(row["num_tokens"] for row in mine)
        assert source.documents == len(doc_ids(mine))
        assert source.scored == sum(row["score"] is not None for row in mine)
        assert (source.kept, source.kept_tokens) == (len(best), sum(row["num_tokens"] for row in best))
        assert source.kept_documents == len(doc_ids(best))
        assert source.cut_score == min((row["score"] for row in best), default=None)
        assert sum(source.reasons.values()) == len(mine)
        for quantity in ("score", "ds", "du"):
            for part, of in (("scored", mine), ("kept", best)):
                values = np.array([r[quantity] for r in of if r["score"] is not None and r[quantity] is not None])
                check_distribution(source.quantities.get(quantity), part, values)


def check_distribution(quantity, part, values):
    distribution = quantity and getattr(quantity, part)
    if not distribution:
        assert len(values) == 0
        return
    assert distribution.count == len(values) == sum(distribution.histogram)
    assert (distribution.low, distribution.high) == (values.min(), values.max())
    percents = list(distribution.quantiles)
    quantiles = np.quantile(values, np.array(percents) / 100, method="inverted_cdf")
    assert list(distribution.quantiles.values()) == quantiles.tolist()
    assert len(quantity.edges) == 41


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with open_database(tmp_path_factory.mktemp("database"), "1GB", None) as database:
        yield database


def execute(folder, memory_limit, *statements):
    with open_database(folder, memory_limit, 1) as database:
        for statement in statements:
            database.run(statement)


MANY = "CREATE TABLE numbers AS SELECT hash(range) AS number FROM range(1000000)"


def test_a_database_without_room_is_an_error_that_names_its_folder(tmp_path):
    """A limit on the size of files stands for a disk that fails, where nobody may mount a small one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(RunError, match=f"^{re.escape(str(tmp_path))} cannot hold the database: .*File too large"):
            execute(tmp_path, "100MB", MANY, "CHECKPOINT")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_database_that_may_not_spill_all_says_that_the_disk_is_full(tmp_path):
    """DuckDB leaves a tenth of a disk to others, and says so in words of its own."""
    spilled = "CREATE TEMP TABLE numbers AS SELECT hash(range) AS number FROM range(10000000)"
    with pytest.raises(RunError, match=r"has no room for the database, .*: .*give the command again"):
        execute(tmp_path, "20MB", "SET max_temp_directory_size = '1MB'", spilled)


def test_a_database_without_memory_says_how_much_it_may_take(tmp_path):
    with pytest.raises(RunError, match=r"^the database may take 5MB of memory.*; each core takes a part"):
        execute(tmp_path, "5MB", MANY, "CREATE TABLE sorted AS SELECT number FROM numbers ORDER BY number")


def test_other_errors_of_the_database_stay_what_they_are(tmp_path):
    import duckdb

    with pytest.raises(duckdb.CatalogException):
        execute(tmp_path, "100MB", "SELECT * FROM nothing")


def test_where_files_cannot_be_locked_tables_are_in_memory(tmp_path, monkeypatch, caplog):
    """On a file system without locks, as another process's lock stands for here."""
    file = tmp_path / "rows.duckdb"
    held = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
    command = [sys.executable, "-c", held, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        monkeypatch.setattr(database_module, "spilling", lambda _: nullcontext(tmp_path))
        monkeypatch.setattr(database_module, "SETTLED_TOGETHER", 2)
        with open_database(tmp_path, "100MB", 1) as database:
            database.run("CREATE TABLE numbers (number BIGINT)")
            database.put("numbers", "SELECT range AS number FROM range(5)")
            database.change("UPDATE numbers SET number = number + 1")
            assert database.rows("SELECT sum(number) FROM numbers") == [(15,)]
        other.communicate()
    assert "cannot be locked" in caplog.text


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(-1e300, 1e300)), min_size=1, max_size=30))
def test_the_database_computes_moments_to_the_same_bit(database, rows):
    groups, values = zip(*rows, strict=True)
    database.lend("measured", pa.table({"g": groups, "x": pa.array(values, pa.float64())}))
    of = moments_by(database, "measured", "g", "x")
    assert of == {group: moments(np.array([x for g, x in rows if g == group])) for group in sorted(set(groups))}


def test_equality_to_the_bit_holds_on_many_rows_of_mixed_magnitude(database):
    random = np.random.default_rng(1)
    values = random.normal(size=100_000) * 10.0 ** random.integers(-300, 12, 100_000)
    values[77] = 1e280
    database.lend("measured", pa.table({"x": values}))
    assert moments_by(database, "measured", "'all'", "x") == {"all": moments(values)}


# --- the rule by hand


def test_the_best_eighth_of_the_tokens_of_each_source_is_kept(tmp_path):
    rows = documents(np.arange(17) / 17, "code", "c") + documents(np.arange(8) / 8, "books", "b")
    selection = choose(write(tmp_path, rows), Selecting(), score=column("ds"))
    assert kept(selection) == ["b007@0", "c016@0", "c015@0"]
    assert selection.sources["code"].cut_score == 15 / 17
    assert selection.notes == []


def test_a_share_is_taken_as_it_is_written_in_decimals(tmp_path):
    """0.3 is a little less than 3/10 as a binary fraction; of 10 windows it still keeps 3."""
    selection = choose(write(tmp_path, documents(np.arange(10.0))), Selecting(share=0.3), score=column("ds"))
    assert selection.sources["code"].kept == 3


def test_a_source_too_small_for_its_budget_keeps_nothing_and_says_so(tmp_path):
    selection = choose(write(tmp_path, documents([0.1, 0.2, 0.3])), Selecting())
    assert kept(selection) == []
    assert selection.notes == ["no window is kept in code"]


def test_the_window_behind_an_overlapping_one_takes_its_place(tmp_path):
    rows = [window("a", 0, ds=0.9), window("a", 4, ds=0.8), window("a", 9, ds=0.7), window("b", 0, ds=0.6)]
    selection = choose(write(tmp_path, rows), Selecting(count=3), score=column("ds"))
    assert fates(selection) == {"a@0": "kept", "a@4": "overlap", "a@9": "kept", "b@0": "kept"}


def test_a_window_reaching_over_its_neighbours_is_seen(tmp_path):
    """The long window meets the last one only beyond the short window between them."""
    rows = [
        window("a", 0, num_tokens=50, ds=0.9),
        window("a", 5, num_tokens=2, ds=0.1),
        window("a", 30, num_tokens=22, ds=0.5),
    ]
    selection = choose(write(tmp_path, rows), Selecting(count=9), score=column("ds"))
    assert fates(selection) == {"a@0": "kept", "a@5": "overlap", "a@30": "overlap"}


def test_near_duplicates_give_way_to_the_next_best(tmp_path):
    same, other = list(range(NUM_VALUES)), list(range(100, 100 + NUM_VALUES))
    rows = documents([0.9, 0.8, 0.7, 0.6, 0.5])
    for row, signature in zip(rows, [same, same, other, [*same[:26], *other[26:]], None], strict=True):
        row["minhash"] = signature
    tables = write(tmp_path, rows)
    rule = Selecting(count=3, near_duplicates=0.8)
    # what agrees in exactly as much as is asked for is a near duplicate too
    for exact in (rule, replace(rule, near_duplicates=26 / NUM_VALUES)):
        assert list(fates(choose(tables, exact, score=column("ds"))).values()) == [
            "kept",
            "near_duplicate",
            "kept",
            "near_duplicate",
            "kept",
        ]
    stricter = replace(rule, near_duplicates=0.9)
    assert kept(choose(tables, stricter, score=column("ds"))) == ["d000@0", "d002@0", "d003@0"]


@pytest.mark.parametrize("threshold", [0.76, 0.8, 0.9, 0.95, 1.0])
def test_no_pair_above_the_threshold_can_differ_in_every_band(threshold):
    differences = sum((NUM_VALUES * 4 - k) / (NUM_VALUES * 4) >= threshold for k in range(1, NUM_VALUES * 4))
    assert num_bands(NUM_VALUES * 4, threshold) > differences


def test_a_second_document_of_the_same_id_is_left_out_and_reported(tmp_path):
    rows = [
        window("a", 0, file="f", position=7, ds=0.1),
        window("a", 10, file="f", position=7, ds=0.2),
        window("a", 0, file="f", position=900, ds=0.9),
        window("a", 23, file="f", position=900, ds=0.9),
        window("b", 0, file="g", ds=0.3),
    ]
    selection = choose(write(tmp_path, rows, 2), Selecting(share=1.0), score=column("ds"))
    assert kept(selection) == ["b@0", "a@10", "a@0"]
    assert selection.sources["code"].reasons == {"duplicate_id": 2, "kept": 3}
    (reject,) = selection.duplicates
    assert (reject.file, reject.position, reject.reason) == ("f", 900, "duplicate_id")
    assert reject.detail == "document id 'a' was read before, at f:7"
    assert selection.notes == ["documents with an id that was read before, left out: 1"]


def test_a_file_listed_twice_counts_once(tmp_path):
    selection = choose(write(tmp_path, documents([0.1, 0.2]) * 2), Selecting(share=1.0))
    assert selection.sources["code"].reasons == {"duplicate_id": 2, "kept": 2}


def test_a_filtered_window_is_ranked_but_leaves_its_place_to_others(tmp_path):
    rule = Selecting(count=2, where="longattn.ds < 0.35 AND doc_tokens >= 1000 AND heads[2] > 0")
    selection = choose(write(tmp_path, documents([0.1, 0.2, 0.3, 0.4])), rule)
    assert fates(selection) == {"d003@0": "filtered", "d002@0": "kept", "d001@0": "kept", "d000@0": "below_cut"}


def test_several_scorers_are_standardised_before_they_are_weighed(tmp_path):
    tables = write(tmp_path, documents([0.1, 0.2, 0.4]))
    extra = {"other": Formula(tables.longattn, column("heads", 1) * column("ticks"))}
    rule = Selecting(weights={"longattn": 1.0, "other": -2.0, "column:position": 0.5}, share=1.0)
    selection = choose(tables, rule, score=column("ds"), extra=extra)
    ds, position = np.array([0.1, 0.2, 0.4]), np.arange(3.0)
    parts = [evaluate(zscore(column("x")), {"x": x}) for x in (ds, 2 * ds * 3, position)]
    expected = (1.0 * parts[0] + -2.0 * parts[1]) + 0.5 * parts[2]
    found = {row["window_id"]: row["score"] for row in rows_of(selection)}
    assert [found[f"d{i:03}@0"] for i in range(3)] == expected.tolist()


def test_a_negative_weight_turns_a_single_score_round(tmp_path):
    tables = write(tmp_path, documents([0.1, 0.2, 0.4]))
    rule = Selecting(weights={"column:longattn.ds": -3.0}, count=1)
    assert kept(choose(tables, rule)) == ["d000@0"]


def test_a_table_of_the_users_own_is_joined_by_window_id(tmp_path):
    tables = write(tmp_path, documents([0.1, 0.2, 0.3]))
    own = tmp_path / "quality.parquet"
    pq.write_table(pa.table({"window_id": ["d002@0", "d000@0"], "quality": [1, 5]}), own)
    rule = Selecting(weights={"column:quality": 1.0}, share=1.0, where="own.quality < 5 OR window_id = 'd001@0'")
    selection = choose(tables, rule, extra={"own": Formula(own, Constant(0.0))})
    assert fates(selection) == {"d000@0": "filtered", "d002@0": "kept", "d001@0": "non_finite"}
    pq.write_table(pa.table({"window_id": ["d002@0", "d002@0"], "quality": [1, 5]}), own)
    with pytest.raises(ValueError, match="several rows for window 'd002@0'"):
        choose(tables, rule, extra={"own": Formula(own, Constant(0.0))})


def test_readings_are_shown_and_summarised_under_their_names(tmp_path):
    tables = write(tmp_path, documents([0.1, math.nan, 0.3]))
    extra = {"other": Formula(tables.longattn, column("ds"), {"ds": column("ticks"), "ds@4": column("du")})}
    readings = {"ds": column("ds")}
    selection = choose(tables, Selecting(share=1.0), score=column("du"), readings=readings, extra=extra)
    assert [(row["ds"], row["du"]) for row in rows_of(selection)] == [(0.1, None), (None, None), (0.3, None)]
    assert {name: q.scored.mean for name, q in selection.sources["code"].quantities.items()} == {
        "score": -0.1,
        "ds": 0.2,
        "other.ds": 3.0,
        "ds@4": -0.1,
    }


def test_histograms_count_windows_between_edges_that_far_outliers_do_not_stretch(tmp_path):
    values = {
        "even": [*np.linspace(2, 10, 101).tolist(), 5000.0, -3000.0],
        "one outlier above": [*np.linspace(-4, 4, 50).tolist(), 40.0],
        "one value": [3.0] * 5,
        "zeros": [0.0] * 4,
    }
    rows = [row for source, ds in values.items() for row in documents(ds, source=source, prefix=source)]
    selection = choose(write(tmp_path, rows, 3), Selecting(count=4), score=column("ds"))
    edges = {"one value": (1.5, 4.5), "zeros": (-0.5, 0.5)}
    for source, numbers in values.items():
        found = selection.sources[source].quantities["ds"]
        low, high = edges.get(source, (min(numbers), max(numbers)))
        if source not in edges:
            lower, upper = np.quantile(numbers, [0.25, 0.75], method="inverted_cdf")
            reach = 4 * (upper - lower)
            low, high = max(low, lower - reach), min(high, upper + reach)
        np.testing.assert_allclose(found.edges, np.linspace(low, high, NUM_BINS + 1), rtol=1e-12)
        for distribution, some in ((found.scored, numbers), (found.kept, sorted(numbers)[-4:])):
            bins = np.floor((np.array(some) - low) / (high - low) * NUM_BINS).astype(int)
            counted = np.bincount(np.clip(bins, 0, NUM_BINS - 1), minlength=NUM_BINS)
            assert distribution.histogram == counted.tolist()


def test_a_histogram_is_not_stretched_by_an_outlier(tmp_path):
    selection = choose(write(tmp_path, documents([*np.linspace(0, 1, 41), 1e9])), Selecting(), score=column("ds"))
    score = selection.sources["code"].quantities["score"]
    assert score.edges[0] == 0
    assert score.edges[-1] < 4
    assert sum(score.scored.histogram) == 42
    assert score.scored.histogram[-1] == 1
    assert score.kept.histogram[-1] == 1


def test_what_is_unusual_is_noted(tmp_path):
    rows = documents([0.1, 0.2, 0.15, 9.0]) + documents([math.nan], "empty", "e") + documents([0.5, 0.5], "flat", "f")
    selection = choose(write(tmp_path, rows), Selecting(count=1), score=minmax(column("ds")))
    assert selection.notes == [
        "source code: one window sets half or more of the min-max scale from 0.1 to 9 (the next values are 0.15 and "
        "0.2); zscore is not so easily moved",
        "no window has a score in empty",
        "all scores are equal, so windows are ranked by id alone in flat",
    ]


def test_a_note_names_a_few_sources_and_counts_the_others(tmp_path):
    rows = [window(f"d{i}", source=f"s{i:02}", position=i) for i in range(20)]
    selection = choose(write(tmp_path, rows), Selecting())
    assert selection.notes == ["no window is kept in s00, s01, s02, s03, s04 and 15 more"]


# --- the file


def test_the_file_has_the_promised_columns_and_page_checksums(tmp_path):
    selection = choose(write(tmp_path, documents([0.1, 0.2])), Selecting())
    assert pq.read_schema(selection.path) == SELECTION_SCHEMA
    assert pq.read_table(selection.path, page_checksum_verification=True).num_rows == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["selection.parquet", "tables"]


@pytest.mark.parametrize("num_units", [0, 1])
def test_no_window_gives_an_empty_file_and_a_note(tmp_path, num_units):
    selection = choose(write(tmp_path, [], num_units), Selecting())
    assert pq.read_schema(selection.path) == SELECTION_SCHEMA
    assert rows_of(selection) == []
    assert selection.notes == ["there is no window to select from"]


def test_bytes_do_not_depend_on_units_order_threads_or_memory(tmp_path):
    random = np.random.default_rng(3)
    num_rows = 150_000
    doc = random.integers(0, 40_000, num_rows)
    start = 5 * random.permutation(num_rows)
    rows = pa.table(
        {
            "window_id": [f"{d}@{s}" for d, s in zip(doc, start, strict=True)],
            "doc_id": [str(d) for d in doc],
            "source": [f"source{d % 3}" for d in doc],
            "file": ["f"] * num_rows,
            "position": doc % 39_900,
            "start": start,
            "num_tokens": pa.array(np.full(num_rows, 4096), pa.int32()),
            "char_start": start,
            "char_end": start,
            "doc_tokens": start,
            "overlap": pa.array(np.zeros(num_rows), pa.int32()),
            "ds": random.normal(size=num_rows).round(4),
            "du": random.gamma(2.0, size=num_rows),
        }
    )

    def bytes_of(name, order, cuts, **options):
        tables = write(tmp_path / name, [], 0)
        edges = [0, *cuts, num_rows]
        tables.units = [f"{i:03}" for i in range(len(edges) - 1)]
        for unit, begin, end in zip(tables.units, edges, edges[1:], strict=False):
            part = rows.take(order[begin:end])
            tables.windows.commit(unit, part.select(list(WINDOW_TYPES)), {}, {})
            tables.longattn.commit(unit, part.select(["window_id", "ds", "du"]), {}, {})
        formulas = {"longattn": Formula(tables.longattn, LDS, {"ds": column("ds")})}
        output = tables.run.root / "selection.parquet"
        selection = select(tables.units, tables.windows, formulas, Selecting(), output, **options)
        return output.read_bytes(), replace(selection, path="")

    order = np.arange(num_rows)
    first = bytes_of("one", order, [], threads=1)
    assert set(first[1].sources["source1"].reasons) == {"kept", "below_cut", "overlap"}
    shuffled = random.permutation(num_rows)
    assert bytes_of("many", shuffled, [7, 7, 70_000, 140_001], threads=2, memory_limit="100MB") == first


# --- what cannot be followed


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"share": 0.0}, r"share must be in \(0, 1\], got 0.0"),
        ({"share": None}, "one of share, tokens, count and threshold must be set"),
        ({"tokens": 5, "count": 5}, "choose one of tokens, count and threshold, got tokens and count"),
        ({"count": -1}, "count must not be negative, got -1"),
        ({"max_overlap": 1.5}, r"max_overlap must be in \[0, 1\], got 1.5"),
        ({"near_duplicates": 0.0}, "Jaccard"),
        ({"quotas": {"cod": 0.5}}, "unknown source 'cod'; did you mean 'code'\\? the sources are books, code"),
        ({"quotas": {"code": 5.0}}, r"quota of code must be a share in \[0, 1\], got 5.0"),
        ({"tokens": 9, "quotas": {"code": 0.5}}, "quota of code must be a whole number of tokens, got 0.5"),
        ({"tokens": 9, "quotas": {"code": math.inf}}, "quota of code must be a whole number of tokens, got inf"),
        ({"count": 9, "quotas": {"code": math.nan}}, "quota of code must be a whole number of count, got nan"),
        ({"threshold": math.nan}, "threshold must be a number, got nan"),
        ({"threshold": 1.0, "quotas": {"code": math.nan}}, "quota of code must be a lowest score, got nan"),
        ({"weights": {}}, "weights must name at least one"),
        ({"weights": {"longatn": 1.0}}, "weights name 'longatn', .*did you mean 'longattn'"),
        ({"weights": {"longattn": 0.0}}, "weight of longattn must be a number other than 0"),
        ({"weights": {"column:qualty": 1.0}}, "column 'qualty' is in no table"),
        ({"weights": {"column:heads": 1.0}}, "column 'heads' of table 'longattn' holds list<"),
        ({"where": "dss < 3"}, "'dss < 3' gave: .*dss"),
        ({"where": "start <"}, "where must be an SQL condition on a window's windows.window_id, .*longattn.ds"),
        ({"where": "sum(start) > 3"}, "must be an SQL condition .*aggregate"),
        ({"where": "row_number() OVER () > 3"}, "must be an SQL condition .*window functions"),
        ({"where": "ds > (SELECT avg(ds) FROM longattn)"}, "one window's own columns, got a subquery"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_answered(tmp_path, rule, message):
    tables = write(tmp_path, [window(), window("b", source="books")])
    with pytest.raises(ValueError, match=message):
        choose(tables, Selecting(**rule))
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_a_column_in_two_tables_must_be_named_with_its_table(tmp_path):
    tables = write(tmp_path, documents([0.1]))
    with pytest.raises(ValueError, match=r"is in longattn\.ds and other\.ds; write column:longattn\.ds"):
        choose(tables, Selecting(weights={"column:ds": 1.0}), extra={"other": Formula(tables.longattn, Constant(0.0))})


def test_near_duplicates_need_signatures(tmp_path):
    tables = write(tmp_path, documents([0.1]))
    formulas = {"longattn": Formula(tables.longattn, LDS)}
    with pytest.raises(ValueError, match="measure with the scorer minhash first"):
        select(tables.units, tables.windows, formulas, Selecting(near_duplicates=0.8), tmp_path / "s.parquet")


def test_tables_that_do_not_fit_together_are_refused(tmp_path):
    tables = write(tmp_path, documents([0.1, 0.2]))
    (unit,) = tables.units
    (rows,) = tables.longattn.read([unit])
    tables.longattn.commit(unit, rows.take([1, 0]), {}, {})
    with pytest.raises(RunError, match=f"unit {unit}: .* does not hold the windows of the unit"):
        choose(tables, Selecting())
    tables.longattn.file(unit).unlink()
    with pytest.raises(DamageError, match="it is gone, and its receipt is there"):
        choose(tables, Selecting())
    tables.longattn.receipt_file(unit).unlink()
    with pytest.raises(RunError, match="no table 'longattn'"):
        choose(tables, Selecting())


@pytest.mark.parametrize("change", [{"window_id": "d000@10"}, {"doc_id": "d001"}, {"start": 10}])
def test_ids_that_are_not_made_of_document_and_start_are_refused(tmp_path, change):
    tables = write(tmp_path, [documents([0.1])[0] | change])
    with pytest.raises(RunError, match="are not made of document and start; measure it again"):
        choose(tables, Selecting())


@given(st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=5), max_size=4))
def test_what_a_window_may_share_with_others_is_no_less_than_what_it_shares(stretches):
    """Of each window of each stretch: how much further its start is than the one before, and its tokens."""
    starts = [np.cumsum([step for step, _ in stretch]) for stretch in stretches]
    spans = [
        [(int(a), int(a) + n) for a, (_, n) in zip(*both, strict=True)] for both in zip(starts, stretches, strict=True)
    ]
    flat = [span for stretch in spans for span in stretch]
    begins = np.array([k == 0 for stretch in spans for k in range(len(stretch))], bool)
    start, stop = np.array(flat, np.int64).reshape(-1, 2).T
    found = iter(loading._shared(begins, start, stop - start).tolist())
    for stretch in spans:
        shortest = max(1, min(stop - start for start, stop in stretch))
        for k, (start, stop) in enumerate(stretch):
            before = max((end for _, end in stretch[:k]), default=start) - start
            after = stop - min((begin for begin, _ in stretch[k + 1 :]), default=stop)
            bound = np.float32(max(0, before, after) / shortest)
            assert next(found) == np.nextafter(bound, np.float32(np.inf))
            others = stretch[:k] + stretch[k + 1 :]
            assert all((min(stop, b) - max(start, a)) / shortest <= bound for a, b in others)
    assert next(found, None) is None


def test_signatures_of_different_lengths_are_refused(tmp_path):
    rows = documents([0.1, 0.2])
    rows[1]["minhash"] = [0] * (NUM_VALUES - 1)
    with pytest.raises(ValueError, match=r"one length, got lengths from 31 to 32; measure minhash again$"):
        choose(write(tmp_path, rows), Selecting(near_duplicates=0.8))


def test_an_error_that_is_not_of_the_users_condition_is_not_blamed_on_it(tmp_path):
    import duckdb

    tables = write(tmp_path, documents([0.1]))
    inputs = loading.Inputs(tables.units, {"windows": tables.windows})
    with pytest.raises(duckdb.DataError, match="what it was"), loading._condition_errors(None, inputs):
        raise duckdb.DataError("what it was")


def test_a_database_that_cannot_be_made_is_an_error(tmp_path):
    import duckdb

    with duckdb.connect() as connection, pytest.raises(duckdb.IOException):
        database_module._attach(connection, tmp_path / "no such folder" / "rows.duckdb")


def test_a_formula_over_a_missing_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'longattn' has no column 'dz'"):
        choose(write(tmp_path, documents([0.1])), Selecting(), score=column("dz"))


@pytest.mark.parametrize("index", [-1, 2])
def test_a_head_that_was_not_measured_is_refused(tmp_path, index):
    score = zscore(column("ds")) + column("heads", index)
    with pytest.raises(ValueError, match=f"heads of table longattn .* 2 numbers .* 0 to 1; there is no number {index}"):
        choose(write(tmp_path, documents([0.1, 0.2])), Selecting(), score=score)
    with pytest.raises(ValueError, match=f"there is no number {index}"):
        evaluate(score, {"ds": np.array([0.1]), "heads": np.array([[0.1, 0.2]])})


def test_a_budget_beyond_any_corpus_keeps_everything(tmp_path):
    assert len(kept(choose(write(tmp_path, documents([0.1, 0.2])), Selecting(tokens=10**30)))) == 2


@pytest.mark.parametrize(
    ("rows", "message"), [({"id": ["d000@0"], "quality": [1.0]}, "no column 'window_id'"), (None, "is no Parquet file")]
)
def test_a_table_of_the_users_own_that_cannot_be_joined_is_refused(tmp_path, rows, message):
    path = tmp_path / "own.parquet"
    path.write_bytes(b"window_id,quality") if rows is None else pq.write_table(pa.table(rows), path)
    extra = {"own": Formula(path, Constant(0.0))}
    with pytest.raises((ValueError, RunError), match=f"own.parquet.* {message}"):
        choose(write(tmp_path, documents([0.1])), Selecting(weights={"column:quality": 1.0}), extra=extra)


def test_a_table_of_the_users_own_that_is_not_there_is_named(tmp_path):
    extra = {"own": Formula(tmp_path / "own.parquet", Constant(0.0))}
    with pytest.raises(RunError, match=r"no table 'own' at .*own.parquet; keep.tables must name Parquet files"):
        choose(write(tmp_path, documents([0.1])), Selecting(weights={"column:quality": 1.0}), extra=extra)


def test_a_damaged_table_is_found(tmp_path):
    tables = write(tmp_path, documents(np.linspace(0, 1, 500)))
    path = tables.longattn.file(tables.units[0])
    damaged = bytearray(path.read_bytes())
    damaged[60] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RunError, match="damaged"):
        choose(tables, Selecting())


def test_importing_the_selection_does_not_import_the_database():
    import subprocess

    code = "import sys, longattn.selection; sys.exit(any(m in sys.modules for m in ('duckdb', 'torch')))"
    subprocess.run([sys.executable, "-c", code], check=True)
