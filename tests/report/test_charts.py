from xml.etree import ElementTree

import pytest

from longattn.report.charts import (
    Mark,
    around_the_cut,
    change_bars,
    histogram,
    overlap_bars,
    shares_by_length,
    spread_by_distance,
    strength_by_distance,
    token_bars,
)
from longattn.report.svg import Scale, drawing, element, label


def quantity(counts: list[int], kept: list[int] | None, low: float, high: float) -> dict:
    edges = [low + (high - low) * i / len(counts) for i in range(len(counts) + 1)]
    quantiles = {str(p): low + (high - low) * p / 100 for p in (5, 25, 50, 75, 95)}
    return {
        "edges": edges,
        "scored": {"histogram": counts, "quantiles": quantiles},
        "kept": None if kept is None else {"histogram": kept, "quantiles": dict(quantiles)},
    }


def shapes(chart: str, name: str, class_: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(chart).iter(name) if e.get("class") == class_]


def points(shape: ElementTree.Element) -> list[tuple[float, ...]]:
    return [tuple(map(float, pair.split(","))) for pair in shape.attrib["points"].split()]


def test_bars_are_as_high_as_their_counts():
    chart = histogram("x", quantity([1, 4, 2], [0, 2, 2], 0.0, 3.0))
    base = 154.0
    (everything,), (kept,) = shapes(chart, "polygon", "all"), shapes(chart, "polygon", "kept")
    heights = [base - y for _, y in points(everything)]
    assert heights == pytest.approx([0, 31, 31, 124, 124, 62, 62, 0])
    assert [base - y for _, y in points(kept)] == pytest.approx([0, 0, 0, 62, 62, 62, 62, 0])
    assert [x for x, _ in points(everything)][:3] == pytest.approx([10, 10, 10 + 320 / 3], abs=0.01)


def test_a_mark_stands_at_its_value():
    chart = histogram("x", quantity([1, 1], None, 0.0, 4.0), [Mark(1.0, "uniform", "null"), Mark(3.0, "cut", "cut")])
    (null,), (cut,) = shapes(chart, "line", "null"), shapes(chart, "line", "cut")
    assert float(null.attrib["x1"]) == pytest.approx(10 + 320 / 4)
    assert float(cut.attrib["x1"]) == pytest.approx(10 + 320 * 3 / 4)


def test_a_mark_a_little_outside_widens_the_axis():
    chart = histogram("x", quantity([1, 1], None, 1.0, 2.0), [Mark(0.5, "uniform", "null")])
    (null,) = shapes(chart, "line", "null")
    (bars,) = shapes(chart, "polygon", "all")
    assert 10 < float(null.attrib["x1"]) < points(bars)[0][0]


def test_a_mark_far_outside_is_an_arrow_with_its_value():
    chart = histogram("x", quantity([1, 1], None, 1.0, 2.0), [Mark(9.0, "uniform", "null")])
    assert shapes(chart, "line", "null") == []
    assert "uniform 9 →" in chart


def test_small_values_share_a_power_of_ten():
    chart = histogram("DU", quantity([1, 1], None, -6e-9, -2e-9))
    assert "DU × 10⁻⁹" in chart
    assert "−4" in chart


def test_strength_is_drawn_against_its_null_where_both_are_known():
    by_distance = {256: quantity([1], [1], 0.71, 0.75), 1024: quantity([1], None, 0.41, 0.45)}
    chart = strength_by_distance("code", by_distance, {256: 0.90, 1024: 0.40, 2048: 0.2})
    (null,), (median,) = shapes(chart, "polyline", "null-line"), shapes(chart, "polyline", "median-line")
    low, high = 0.4 - 0.06 * 0.5, 0.9 + 0.06 * 0.5
    y = Scale(low, high, 154.0, 30.0)
    assert [place[1] for place in points(null)] == pytest.approx([y(0.90), y(0.40)], abs=0.01)
    assert [place[1] for place in points(median)] == pytest.approx([y(0.73), y(0.43)], abs=0.01)
    # nothing is kept at one distance, so there is no line of kept windows
    assert shapes(chart, "polyline", "kept-line") == []
    assert "1,024" in chart
    assert "2,048" not in chart


def test_spread_is_counted_from_the_median():
    of = quantity([1], [1], 0.40, 0.50)
    of["kept"]["quantiles"] = {"50": 0.47}
    chart = spread_by_distance("code", {256: of, 1024: of})
    (median,), (kept,) = shapes(chart, "polyline", "median-line"), shapes(chart, "polyline", "kept-line")
    y = Scale(-0.045 - 0.06 * 0.09, 0.045 + 0.06 * 0.09, 154.0, 30.0)
    assert [place[1] for place in points(median)] == pytest.approx([y(0.0)] * 2, abs=0.01)
    assert [place[1] for place in points(kept)] == pytest.approx([y(0.02)] * 2, abs=0.01)


def test_token_bars_are_as_long_as_their_tokens():
    chart = token_bars([("code", 1000, 250), ("a very long name of a source", 500, 0)])
    all_, kept = shapes(chart, "rect", "all"), shapes(chart, "rect", "kept")
    assert [float(bar.attrib["width"]) for bar in all_] == [210, 105]
    assert [float(bar.attrib["width"]) for bar in kept] == [52.5, 0]
    assert "250 of 1K (25.0 %)" in chart
    assert "a very long name…" in chart


def test_charts_say_what_they_show_to_those_who_cannot_see_them():
    chart = histogram("Score", quantity([1, 4], [0, 2], 0.0, 3.0))
    assert "<title>Score: 5 windows, 2 kept</title>" in chart
    assert 'role="img"' in chart


def test_markup_in_names_and_values_is_text():
    picture = drawing(1, 1, "<b>", label(0, 0, "</text><script>"), element("rect", class_='"><script>'))
    assert ElementTree.fromstring(picture).find("rect").attrib["class"] == '"><script>'
    assert [e.tag for e in ElementTree.fromstring(picture).iter()] == ["svg", "title", "text", "rect"]


def test_what_another_model_predicts_is_an_outline_on_the_same_scale():
    chart = histogram("x", quantity([1, 4], None, 0.0, 2.0), explained=[8, 2])
    (everything,), (outline,) = shapes(chart, "polygon", "all"), shapes(chart, "polygon", "explained")
    assert [154.0 - y for _, y in points(outline)] == pytest.approx([0, 124, 124, 31, 31, 0])
    assert [154.0 - y for _, y in points(everything)] == pytest.approx([0, 15.5, 15.5, 62, 62, 0])


def test_overlaps_are_bars_from_nothing_to_all_with_chance_marked():
    chart = overlap_bars("x", [("alpha 0", 0.5), ("a very long name of a choice", 1.0)], 0.125)
    assert [float(bar.attrib["width"]) for bar in shapes(chart, "rect", "kept")] == [145, 290]
    (chance,) = shapes(chart, "line", "null")
    assert float(chance.attrib["x1"]) == pytest.approx(160 + 290 / 8, abs=0.01)
    assert "50 %" in chart


def test_windows_next_to_the_cut_stand_above_and_below_it_with_their_errors():
    points_of = [(9, 1.0, 0.1, True), (11, 0.6, 0.0, False)]
    chart = around_the_cut("code", points_of, 0.8, 0.05)
    (cut,), (band,) = shapes(chart, "line", "cut"), shapes(chart, "rect", "band")
    kept, left_out = (shapes(chart, "circle", name) for name in ("kept-dot", "median-dot"))
    assert float(kept[0].attrib["cy"]) < float(cut.attrib["y1"]) < float(left_out[0].attrib["cy"])
    # the scale goes from 0.6 - 0.2 to 1.0 + 0.2 and 6 % of that beyond: the band is 0.1 of 0.896 high
    assert float(band.attrib["height"]) == pytest.approx(124 * 0.1 / (0.8 * 1.12), abs=0.01)
    # one of the two has an error, and a line of four of them
    lines = [e for e in shapes(chart, "line", "axis") if e.attrib["x1"] == kept[0].attrib["cx"]]
    heights = [float(e.attrib["y2"]) - float(e.attrib["y1"]) for e in lines]
    assert heights == pytest.approx([-124 * 0.4 / (0.8 * 1.12)], abs=0.01)


def test_lengths_of_all_and_of_kept_windows_add_up_to_one_each():
    """Half of all windows, and all kept ones, are of documents of 2 windows; class 3 is empty."""
    chart = shares_by_length("code", {2: (5, 4), 4: (5, 0)})
    heights = {name: [float(bar.attrib["height"]) for bar in shapes(chart, "rect", name)] for name in ("all", "kept")}
    assert heights == {"all": [62, 0, 62], "kept": [124, 0, 0]}
    assert ">2</text>" in chart
    assert ">4</text>" in chart


def test_changes_of_a_source_stand_one_after_another():
    chart = change_bars([("code", 100, 300, 200), ("docs", 0, 0, 60)])
    left, both, entered = (shapes(chart, "rect", name)[0] for name in ("left", "kept", "entered"))
    assert [float(bar.attrib["width"]) for bar in (left, both, entered)] == [35, 105, 70]
    assert [float(bar.attrib["x"]) for bar in (left, both, entered)] == [120, 155, 260]
    assert "−100, 300 in both, +200" in chart
