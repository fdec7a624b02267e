import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.errors import RunError
from longattn.report import gather
from longattn.report.data import best_and_worst
from longattn.tables import RunFolder

SCHEMA = pa.schema(
    [
        ("window_id", pa.string()),
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("start", pa.int64()),
        ("num_tokens", pa.int32()),
        ("ds", pa.float64()),
        ("du", pa.float64()),
        ("score", pa.float64()),
        ("rank", pa.int64()),
        ("reason", pa.string()),
    ]
)


def write_selection(path, scores, row_group_rows=3):
    rows = [
        {
            "window_id": f"w{i:03d}",
            "doc_id": "d",
            "source": source,
            "start": i,
            "num_tokens": 8,
            "ds": None,
            "du": None,
            "score": score,
            "rank": None,
            "reason": "below_cut",
        }
        for i, (source, score) in enumerate(scores)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=row_group_rows, write_page_checksum=True)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.integers(-9, 9).map(float)), max_size=40))
def test_best_and_worst_are_those_of_a_full_sort(tmp_path_factory, scores):
    path = tmp_path_factory.mktemp("selection") / "selection.parquet"
    write_selection(path, scores)
    best, worst = best_and_worst(path, 3)
    for source in "ab":
        ranked = [(-score, f"w{i:03d}") for i, (s, score) in enumerate(scores) if s == source and score is not None]
        ranked = [id for _, id in sorted(ranked)]
        assert [e.window_id for e in best.get(source, ())] == ranked[:3]
        assert [e.window_id for e in worst.get(source, ())] == ranked[3:][-3:][::-1]


@pytest.fixture
def run(tmp_path):
    write_selection(tmp_path / "selection.parquet", [("a", float(i)) for i in range(10)])
    reject = {"file": "f", "position": 0, "line": 1, "reason": "bad_json", "detail": "x"}
    (tmp_path / "rejects.jsonl").write_text((json.dumps(reject) + "\n") * 9)
    run = RunFolder(tmp_path)
    run.update_manifest(selection={"sources": {"a": {"tokens": 80}}})
    return run


def test_texts_are_asked_for_once_and_cut(run):
    asked = []

    def texts(ids):
        asked.append(list(ids))
        return dict.fromkeys(ids, "x" * 5000)

    data = gather(run, null={}, command="again", texts=texts, per_source=2, max_rejects=4)
    assert asked == [["w009", "w008", "w000", "w001"]]
    assert data.best["a"][0].excerpt.left_out == 3900
    assert len(data.rejects) == 4
    assert data.rejects[0].reason == "bad_json"


def test_without_texts_no_text_is_in_the_report(run):
    data = gather(run, null={}, command="again")
    assert all(example.excerpt is None for group in data.best.values() for example in group)


def test_a_run_that_was_not_selected_is_refused(tmp_path):
    with pytest.raises(RunError, match="select before reporting"):
        gather(RunFolder(tmp_path), null={}, command="")
