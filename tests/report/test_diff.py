"""Two selections side by side, against counting in plain Python."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longattn.errors import DamageError
from longattn.report import compare_selections, render_difference, write_difference
from longattn.report.diff import CHANGES_SCHEMA, open_side
from longattn.selection import SELECTION_SCHEMA
from longattn.tables import RunFolder, read_parquet


def row(doc, start=0, source="code", score=0.0, rank=1, reason="below_cut", ds=None, du=None, length=10, stretch=4):
    return {
        "window_id": f"{doc}@{start}",
        "doc_id": doc,
        "source": source,
        "start": start,
        "num_tokens": length,
        "char_start": stretch * start,
        "char_end": stretch * (start + length),
        "ds": ds,
        "du": du,
        "score": score,
        "rank": rank,
        "kept": reason == "kept",
        "reason": reason,
    }


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SELECTION_SCHEMA), path, write_page_checksum=True)
    return path


def ranked(readings, kept, weight=0.5, source="code"):
    """Windows of (document, DS, DU) ranked by z(DS) + weight z(DU), the best ``kept`` of them kept."""
    ds, du = (np.array([r[i] for r in readings]) for i in (1, 2))
    scores = [(v - v.mean()) / (v.std() or 1) for v in (ds, du)]
    score = scores[0] + weight * scores[1]
    order = sorted(range(len(readings)), key=lambda i: (-score[i], readings[i][0]))
    rows = []
    for place, i in enumerate(order):
        reason = "kept" if place < kept else "below_cut"
        doc, one, other = readings[i]
        rows.append(row(doc, 0, source, float(score[i]), place + 1, reason, float(one), float(other)))
    return rows


def manifest(alpha=0.5, **keep):
    longattn = {"alpha": alpha, "spread": -1, "convention": "paper", "normalise": None, "preset": None}
    return {
        "recipe": {
            "window": {"length": 10},
            "settings": {"longattn": longattn},
            "keep": {"weights": {"longattn": 1.0}, "normalise_over": "source", **keep},
        },
        "tables": {"windows": {"folder": "windows-0", "settings": {"tokenizer": "t"}}},
        "versions": {"longattn": "0.1.0"},
    }


def run(folder, rows, facts):
    of = RunFolder(folder)
    with of.replacing("selection.parquet") as sections:
        write(folder / "selection.parquet", rows)
        sections |= facts
    return folder


FATES = ("kept", "below_cut", "overlap", "filtered", None)


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(FATES), st.sampled_from(FATES), st.integers(1, 3)), min_size=1, max_size=15))
def test_counts_are_those_of_plain_python(tmp_path, fates):
    """Windows by fate on each side (None: not there) and source."""
    sides = []
    for side in (0, 1):
        rows = [
            row(f"d{i}", source=f"s{of[2]}", score=float(-i), rank=i + 1, reason=of[side])
            for i, of in enumerate(fates)
            if of[side] is not None
        ]
        sides.append(write(tmp_path / f"{side}.parquet", rows))
    found = compare_selections(*sides)
    there = [of for of in fates if of[:2] != (None, None)]
    assert {(m.first, m.second): m.windows for m in found.moves} == {
        pair: sum(of[:2] == pair for of in there) for pair in {of[:2] for of in there}
    }
    for source in found.sources:
        mine = [of for of in there if source.source == f"s{of[2]}"]
        kept = [sum(of[side] == "kept" for of in mine) for side in (0, 1)]
        both = sum(of[:2] == ("kept", "kept") for of in mine)
        assert (source.kept, source.both) == (tuple(kept), both)
        assert (source.left, source.entered) == (kept[0] - both, kept[1] - both)
        assert source.tokens == (10 * kept[0], 10 * kept[1])
        assert source.characters == (40 * kept[0], 40 * kept[1])
        assert source.both_characters == 40 * both
    assert found.only == (sum(of[1] is None for of in there), sum(of[0] is None for of in there))
    changed = [of for of in there if (of[0] == "kept") != (of[1] == "kept")]
    assert sum(of.windows for of in found.reasons) == len(changed) == len(found.windows)


def test_a_selection_differs_in_nothing_from_itself(tmp_path):
    rows = ranked([("a", 3.0, 1.0), ("b", 2.0, 1.0), ("c", 1.0, 2.0)], kept=1)
    one = run(tmp_path / "one", rows, manifest())
    found = compare_selections(one, one)
    assert (found.total("entered"), found.total("left"), found.overlap) == (0, 0, 1.0)
    assert found.same_windows
    assert list(found.settings) == list(found.remarks) == list(found.windows) == list(found.reasons) == []
    assert "The same windows are kept" in render_difference(found)


READINGS = [("a", 4.0, -2.0), ("b", 3.0, -1.0), ("c", 2.0, 1.0), ("d", 1.0, 2.0)]


def changes(found):
    return {of["window_id"].removesuffix("@0"): (of["change"], of["cause"], of["mover"]) for of in found.windows}


def test_another_weight_of_uniformity_is_named_as_what_moved_a_window(tmp_path):
    """The more DU counts, the lower is a and the higher is d; DS and DU are the same on both sides."""
    before = run(tmp_path / "a", ranked(READINGS, 1, weight=0.0), manifest(alpha=0.0))
    after = run(tmp_path / "b", ranked(READINGS, 1, weight=3.0), manifest(alpha=3.0))
    found = compare_selections(before, after)
    assert changes(found) == {"a": ("left", "rank", "weight of DU"), "d": ("entered", "rank", "weight of DU")}
    assert [(name, one, other) for name, one, other in found.settings] == [("longattn.alpha", 0.0, 3.0)]
    (left,) = [of for of in found.windows if of["change"] == "left"]
    ds, du = (np.array([r[i] for r in READINGS]) for i in (1, 2))
    assert left["z_ds_a"] == left["z_ds_b"] == pytest.approx((4.0 - ds.mean()) / ds.std())
    assert left["z_du_a"] == left["z_du_b"] == pytest.approx((-2.0 - du.mean()) / du.std())
    assert (left["rank_a"], left["reason_b"]) == (1, "below_cut")


@pytest.mark.parametrize(("place", "mover"), [(1, "DS"), (2, "DU")])
def test_the_reading_that_changed_is_named_as_what_moved_a_window(tmp_path, place, mover):
    """With alpha 1 document c is the best; then b gets by far the largest reading, and takes its place."""
    other = [list(r) for r in READINGS]
    other[1][place] = 30.0
    before = run(tmp_path / "a", ranked(READINGS, 1, weight=1.0), manifest(alpha=1.0))
    after = run(tmp_path / "b", ranked([tuple(r) for r in other], 1, weight=1.0), manifest(alpha=1.0))
    found = changes(compare_selections(before, after))
    assert found["b"] == ("entered", "rank", mover)
    assert found["c"][0] == "left"


def test_where_more_is_kept_the_rank_is_not_to_blame(tmp_path):
    before = run(tmp_path / "a", ranked(READINGS, 1), manifest(share=0.25))
    after = run(tmp_path / "b", ranked(READINGS, 3), manifest(share=0.75))
    assert {of[:2] for of in changes(compare_selections(before, after)).values()} == {("entered", "budget")}
    assert {of[:2] for of in changes(compare_selections(after, before)).values()} == {("left", "budget")}


def test_the_fate_on_the_other_side_is_the_cause(tmp_path):
    fates = {"a": ("overlap", "kept"), "b": ("kept", "filtered"), "c": (None, "kept"), "d": ("kept", "kept")}
    sides = []
    for side in (0, 1):
        rows = [
            row(doc, score=1.0, rank=i + 1, reason=of[side]) for i, (doc, of) in enumerate(fates.items()) if of[side]
        ]
        sides.append(write(tmp_path / f"{side}.parquet", rows))
    found = compare_selections(*sides)
    assert changes(found) == {
        "a": ("entered", "overlap", None),
        "b": ("left", "filtered", None),
        "c": ("entered", "absent", None),
    }
    assert any("1 only in" in remark for remark in found.remarks)


def test_the_weight_of_uniformity_is_seen_without_a_manifest(tmp_path):
    before = write(tmp_path / "a.parquet", ranked(READINGS, 1, weight=0.0))
    after = write(tmp_path / "b.parquet", ranked(READINGS, 1, weight=3.0))
    assert {of[2] for of in changes(compare_selections(before, after)).values()} == {"weight of DU"}


def test_a_rank_that_ds_and_du_do_not_explain_is_put_down_to_the_score(tmp_path):
    rows = [row("a", score=2.0, rank=1, reason="kept"), row("b", score=1.0, rank=2)]
    turned = [row("b", score=2.0, rank=1, reason="kept"), row("a", score=1.0, rank=2)]
    found = compare_selections(write(tmp_path / "a.parquet", rows), write(tmp_path / "b.parquet", turned))
    assert {of[2] for of in changes(found).values()} == {"score"}


def test_windows_of_another_length_are_different_and_compared_by_characters(tmp_path):
    """Kept: tokens 0 to 20 in windows of 10 and all of 0 to 20 in one of 20, which are the same characters."""
    short = [row("a", 0, reason="kept"), row("a", 10, reason="kept", rank=2), row("b", 0, rank=3)]
    long = [row("a", 0, length=20, reason="kept"), row("b", 0, length=20, rank=2)]
    facts = manifest()
    facts["recipe"]["window"] = {"length": 20}
    facts["tables"]["windows"]["settings"] = {"tokenizer": "u"}
    found = compare_selections(run(tmp_path / "a", short, manifest()), run(tmp_path / "b", long, facts))
    (source,) = found.sources
    assert not found.same_windows
    assert (source.both, source.characters, source.both_characters) == (0, (80, 80), 80)
    said = " ".join(found.remarks)
    assert "windows have 10 tokens here and 20 there" in said
    assert "the tokenizers differ" in said
    assert "2 windows have the same id on both sides but another span of text" in said


def test_a_source_under_another_name_is_compared_under_the_second(tmp_path):
    """Of three windows the first side keeps two, the second the best of the same."""
    one = [row(doc, rank=k + 1, reason="kept" if k < 2 else "below_cut") for k, doc in enumerate("abc")]
    other = [{**of, "source": "py", "reason": "kept" if of["rank"] == 1 else "below_cut"} for of in one]
    found = compare_selections(write(tmp_path / "a.parquet", one), write(tmp_path / "b.parquet", other))
    (source,) = found.sources
    assert (source.source, source.kept, source.both) == ("py", (2, 1), 1)
    assert (source.characters, source.both_characters) == ((80, 40), 40)
    assert changes(found) == {"b": ("left", "budget", None)}


def test_overlapping_windows_count_their_characters_once(tmp_path):
    one = [row("a", 0, reason="kept"), row("a", 5, reason="kept", rank=2)]
    other = [row("a", 5, reason="kept"), row("a", 0, rank=2)]
    (source,) = compare_selections(write(tmp_path / "a.parquet", one), write(tmp_path / "b.parquet", other)).sources
    assert (source.characters, source.both_characters) == ((60, 40), 40)


def test_a_second_reading_of_a_document_is_no_window(tmp_path):
    rows = [row("a", reason="kept"), {**row("a", reason="duplicate_id"), "score": None, "rank": None}]
    one = write(tmp_path / "a.parquet", rows)
    (source,) = compare_selections(one, one).sources
    assert (source.windows, source.both) == ((1, 1), 1)


def test_every_change_is_written_where_it_is_asked_for(tmp_path):
    before = run(tmp_path / "a", ranked([(f"d{i:03d}", i, -i) for i in range(200)], 60, 0.0), manifest(alpha=0.0))
    after = run(tmp_path / "b", ranked([(f"d{i:03d}", i, -i) for i in range(200)], 60, 3.0), manifest(alpha=3.0))
    found = compare_selections(before, after, tmp_path / "changes.parquet")
    rows = read_parquet(tmp_path / "changes.parquet")
    assert rows.schema.equals(CHANGES_SCHEMA)
    assert len(rows) == found.total("entered") + found.total("left") == 120
    assert rows.to_pylist()[:25] == [dict(of) for of in found.windows[:25]]
    assert len(found.windows) == 50


def test_what_is_no_selection_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a run folder nor a selection file"):
        open_side(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"has no selection\.parquet"):
        open_side(tmp_path)
    one = run(tmp_path / "a", ranked(READINGS, 1), manifest())
    write(one / "selection.parquet", ranked(READINGS, 2))
    with pytest.raises(DamageError, match="does not fit"):
        compare_selections(one, one)


def test_a_selection_without_a_manifest_is_compared_and_says_so(tmp_path):
    one = write(tmp_path / "before.parquet", ranked(READINGS, 1))
    other = run(tmp_path / "run", ranked(READINGS, 2), manifest())
    found = compare_selections(one, other)
    assert list(found.settings) == []
    assert any("has no manifest beside it" in remark for remark in found.remarks)
    # a copy beside a manifest need not be the selection that the manifest tells of
    assert open_side(write(other / "copy.parquet", ranked(READINGS, 1))).manifest == {}
    assert open_side(other / "selection.parquet").manifest["recipe"] == manifest()["recipe"]


def test_hostile_names_are_text_on_the_page(tmp_path):
    word = "</td><script>alert(1)</script>\u202e"
    rows = [row(word, source=word, reason="kept"), row("b", source=word, rank=2)]
    turned = [row("b", source=word, reason="kept"), row(word, source=word, rank=2)]
    found = compare_selections(write(tmp_path / "a.parquet", rows), write(tmp_path / "b.parquet", turned))
    page = render_difference(replace(found, names=(word, word), remarks=[word], settings=[(word, word, {"a": word})]))
    assert page.count("<script>") == 1
    assert "alert(1)&lt;/script&gt;⟨U+202E⟩" in page


def test_equal_differences_give_equal_bytes(tmp_path):
    before = run(tmp_path / "a", ranked(READINGS, 1, weight=0.0), manifest(alpha=0.0))
    after = run(tmp_path / "b", ranked(READINGS, 1, weight=3.0), manifest(alpha=3.0))
    for name in ("one.html", "other.html"):
        write_difference(tmp_path / name, compare_selections(before, after))
    page = (tmp_path / "one.html").read_bytes()
    assert page == (tmp_path / "other.html").read_bytes()
    assert json.dumps(str(before))[1:-1] in page.decode()
