import json
import math
from contextlib import contextmanager
from hashlib import md5

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longattn.errors import DamageError, RunError
from longattn.report import Measured, gather, render
from longattn.report.cut import find_cuts
from longattn.report.data import find_windows, table_costs
from longattn.report.selections import load_selection, reading
from longattn.selection import SELECTION_SCHEMA
from longattn.settings import Selecting
from longattn.tables import RunFolder, write_sealed


def write_selection(path, rows, row_group_rows=3, sampled=False):
    """Rows are (source, score, reason), each source's best first; ``sampled`` gives every score an error of 0.5."""
    ranks = {}
    found = []
    for i, (source, score, reason) in enumerate(rows):
        ranks[source] = ranks.get(source, 0) + (score is not None)
        found.append(
            {
                "window_id": f"w{i:03d}",
                "doc_id": "d",
                "source": source,
                "start": i,
                "num_tokens": 8,
                "char_start": 4 * i,
                "char_end": 4 * i + 32,
                "ds": None,
                "du": None,
                "score": score,
                "rank": ranks[source] if score is not None else None,
                "kept": reason == "kept",
                "reason": reason,
                "score_se": 0.5,
            }
        )
    schema = SELECTION_SCHEMA.append(pa.field("score_se", pa.float64())) if sampled else SELECTION_SCHEMA
    table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in found], schema)
    pq.write_table(table, path, row_group_size=row_group_rows, write_page_checksum=True)


@contextmanager
def chosen(path):
    with reading(path.parent) as database:
        load_selection(database, path, "chosen")
        yield database


@st.composite
def selections(draw):
    """Two sources, ranked by score, the first so many of each kept; some windows overlap, some have no score."""
    rows = []
    for source in "ab":
        scores = sorted(draw(st.lists(st.integers(-9, 9).map(float), max_size=20)), reverse=True)
        kept = draw(st.integers(0, len(scores)))
        reasons = ["kept" if i < kept else "below_cut" for i in range(len(scores))]
        reasons = [draw(st.sampled_from([reason, reason, reason, "overlap"])) for reason in reasons]
        rows += [(source, *pair) for pair in zip(scores, reasons, strict=True)]
        rows += [(source, None, "non_finite")] * draw(st.integers(0, 2))
    return rows


@settings(deadline=None, max_examples=12)
@given(selections())
def test_windows_to_look_at_are_those_of_a_full_sort(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("selection") / "selection.parquet"
    write_selection(path, rows)
    with chosen(path) as database:
        found = {kind: find_windows(database, kind, 4, {"a"}) for kind in ("best", "worst", "borderline", "random")}
    mine = [
        (f"w{i:03d}", reason) for i, (source, score, reason) in enumerate(rows) if source == "a" and score is not None
    ]
    ids = {kind: [e.window_id for e in of.get("a", ())] for kind, of in found.items()}
    assert ids["best"] == [id for id, _ in mine[:4]]
    assert ids["worst"] == [id for id, _ in mine[::-1][:4]]
    kept, below = ([id for id, reason in mine if reason == of] for of in ("kept", "below_cut"))
    assert ids["borderline"] == kept[-2:] + below[:2]
    drawn = sorted((id for id, _ in mine), key=lambda id: md5(id.encode()).hexdigest())[:4]
    assert ids["random"] == sorted(drawn)
    assert all(set(of) <= {"a"} for of in found.values())


def test_a_cut_says_what_lies_within_rounding_and_within_sampling_error(tmp_path):
    """Kept are 3, 2 and 1, left out 0.9, 0.5, 0.5: the cut is at 0.95."""
    scores = [(3.0, "kept"), (2.0, "kept"), (1.0, "kept"), (0.9, "below_cut"), (0.5, "overlap"), (0.5, "below_cut")]
    write_selection(tmp_path / "exact", [("a", *pair) for pair in scores])
    write_selection(tmp_path / "sampled", [("a", *pair) for pair in scores], sampled=True)
    with chosen(tmp_path / "exact") as database:
        (cut,) = find_cuts(database, {"a": 0.06}).values()
        (unknown,) = find_cuts(database, {}).values()
    assert (cut.lowest_kept, cut.next_best, cut.ties) == (1.0, 0.9, 0)
    assert cut.margin == pytest.approx(0.1)
    # 1.0 and 0.9 can trade places if each is off by 0.06, no other pair can
    assert (cut.near, cut.uncertain, cut.wrong) == (2, None, None)
    assert (unknown.noise, unknown.near) == (None, None)
    with chosen(tmp_path / "sampled") as database:
        (cut,) = find_cuts(database, {}).values()
    # within 1.0 of 0.95 are 1, 0.9 and 0.5, the overlapping window apart
    assert cut.uncertain == 3
    margins = [abs(score - 0.95) / 0.5 for score, reason in scores if reason != "overlap"]
    assert cut.wrong == pytest.approx(sum(0.5 * math.erfc(m / math.sqrt(2)) for m in margins), abs=0.02)


def test_equal_scores_at_the_cut_are_counted(tmp_path):
    write_selection(tmp_path / "s", [("a", 1.0, "kept"), ("a", 1.0, "below_cut"), ("a", 1.0, "below_cut")])
    with chosen(tmp_path / "s") as database:
        (cut,) = find_cuts(database, {"a": 0.0}).values()
    assert (cut.ties, cut.margin) == (2, 0.0)


def test_a_source_that_keeps_all_or_nothing_has_no_rival_at_its_cut(tmp_path):
    write_selection(tmp_path / "s", [("a", 1.0, "kept"), ("b", 1.0, "below_cut")])
    with chosen(tmp_path / "s") as database:
        cuts = find_cuts(database, {"a": 0.1, "b": 0.1})
    assert list(cuts) == ["a"]
    assert (cuts["a"].next_best, cuts["a"].margin, cuts["a"].near) == (None, None, None)


@pytest.mark.parametrize("content", [b"", b"PAR1 this is not Parquet PAR1"])
def test_a_damaged_selection_is_named(tmp_path, content):
    (tmp_path / "selection.parquet").write_bytes(content)
    with (
        pytest.raises(DamageError, match=r"selection\.parquet"),
        chosen(tmp_path / "selection.parquet"),
    ):
        pass


def test_another_table_is_no_selection(tmp_path):
    pq.write_table(pa.table({"window_id": ["a"]}), tmp_path / "x.parquet", write_page_checksum=True)
    with pytest.raises(RunError, match="no column doc_id, source"), chosen(tmp_path / "x.parquet"):
        pass


@pytest.fixture
def run(tmp_path, make_data):
    fates = ["kept"] * 5 + ["below_cut"] * 5
    write_selection(tmp_path / "selection.parquet", [("a", 9.0 - i, fate) for i, fate in enumerate(fates)])
    reject = {"file": "f", "position": 0, "line": 1, "reason": "bad_json", "detail": "x"}
    (tmp_path / "rejects.jsonl").write_text((json.dumps(reject) + "\n") * 9)
    run = RunFolder(tmp_path)
    run.update_manifest(**make_data(sources=("a",)).manifest)
    return run


def test_texts_are_asked_for_once_and_cut(run):
    asked = []

    def texts(ids):
        asked.append(list(ids))
        return dict.fromkeys(ids, "x" * 5000)

    data = gather(run, null={}, command="again", texts=texts, per_source=2, max_rejects=4)
    # the two best, the two worst, the last two kept and the first two left out
    assert asked == [["w000", "w001", "w009", "w008", "w003", "w004", "w005", "w006"]]
    assert data.best["a"][0].excerpt.left_out == 3900
    assert [e.rank for e in data.borderline["a"]] == [4, 5, 6, 7]
    # more of them without their texts
    assert all(e.excerpt is None for _, e in data.windows)
    assert [kind for kind, _ in data.windows].count("best") == 10
    assert len(data.rejects) == 4
    assert data.rejects[0].reason == "bad_json"


def test_without_texts_no_text_is_in_the_report(run):
    data = gather(run, null={}, command="again")
    assert all(example.excerpt is None for group in data.best.values() for example in group)


def test_inspect_pages_that_are_there_are_linked(run):
    (run.root / "inspect").mkdir()
    (run.root / "inspect" / "w000.html").write_text("x")
    data = gather(run, null={}, command="again", page_of=lambda window: f"inspect/{window}.html")
    assert [e.page for e in data.best["a"]] == ["inspect/w000.html", None, None]
    page = render(data)
    assert '<a href="inspect/w000.html">' in page
    assert "longattn inspect" in page
    assert "w001.html" not in page


def test_a_validation_is_read_from_the_run_or_from_where_it_is_named(run, tmp_path):
    found = {"separations": [], "sources": {}, "scorers": {}}
    assert gather(run, null={}, command="").validation is None
    (run.root / "validity").mkdir()
    (run.root / "validity" / "validation.json").write_text(json.dumps(found))
    assert gather(run, null={}, command="").validation == found
    with pytest.raises(RunError, match="is not there"):
        gather(run, null={}, command="", validation=tmp_path / "other.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(RunError, match="is no validation"):
        gather(run, null={}, command="", validation=tmp_path / "other.json")
    (tmp_path / "other.json").write_text("{")
    with pytest.raises(DamageError, match=r"other\.json"):
        gather(run, null={}, command="", validation=tmp_path / "other.json")


def test_seconds_are_shown_only_where_they_are_asked_for(run):
    write_sealed(run.root / "timings.json", {"attempts": [{"seconds": 1234.5, "windows": 10}]})
    assert "1234.5" not in render(gather(run, null={}, command=""))
    assert "1234.5" in render(gather(run, null={}, command="", timings=True))


def test_windows_without_values_leave_the_cost_of_the_others_known(run):
    table = run.table("longattn", {"measurement": {"rows": 0.1}})
    rows = {"window_id": ["a@0", "b@0", "c@0"], "pairs": [0.1, float("nan"), 0.3]}
    table.commit("0" * 16, pa.table(rows), {}, {})
    run.update_manifest(tables={"longattn": {"folder": table.folder.name, "settings": table.settings}})
    (cost,) = table_costs(run, Measured(units=["0" * 16], windows=table, tables={}, rule=Selecting(), scores={}))
    assert (cost.windows, cost.pairs) == (3, pytest.approx(0.2))


def test_a_run_that_was_not_selected_is_refused(tmp_path):
    with pytest.raises(RunError, match="select before reporting"):
        gather(RunFolder(tmp_path), null={}, command="")
