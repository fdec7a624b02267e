"""The report's charts: distributions, dependency strength by distance, tokens kept per source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from longattn.report.svg import (
    Number,
    Scale,
    drawing,
    element,
    label,
    line,
    polygon,
    polyline,
    power_of_ten,
    superscript,
)

Quantity = Mapping[str, Any]
"""Edges and distributions of a score or reading, as the selection's summary in the manifest has them."""


@dataclass(frozen=True)
class Mark:
    """A value to point out on the horizontal axis."""

    value: Number
    text: str
    kind: str
    """``null`` or ``cut``: its colour."""


WIDTH, HEIGHT = 340.0, 184.0
LEFT, RIGHT, TOP, BOTTOM = 10.0, 10.0, 30.0, 30.0


def histogram(title: str, quantity: Quantity, marks: Sequence[Mark] = (), explained: Sequence[int] = ()) -> Markup:
    """All scored windows, the kept ones in front of them, and marks such as the uniform null and the cut.

    ``explained`` are windows by the same bins, placed by what another model predicts of the quantity.
    """
    edges = quantity["edges"]
    scored, kept = quantity["scored"]["histogram"], (quantity["kept"] or {}).get("histogram", ())
    low, high = _with_marks(edges[0], edges[-1], marks)
    x = Scale(low, high, LEFT, WIDTH - RIGHT)
    y = Scale(0, max(*scored, *explained, 1), HEIGHT - BOTTOM, TOP)
    return drawing(
        WIDTH,
        HEIGHT,
        f"{title}: {sum(scored)} windows, {sum(kept)} kept",
        _steps(edges, scored, x, y, "all"),
        _steps(edges, kept, x, y, "kept") if kept else Markup(""),
        _steps(edges, explained, x, y, "explained") if explained else Markup(""),
        line(LEFT, y(0), WIDTH - RIGHT, y(0), "axis"),
        *_horizontal_axis(x, y(0), title),
        *(_mark(mark, x, low, high) for mark in marks),
    )


def _with_marks(low: Number, high: Number, marks: Sequence[Mark]) -> tuple[Number, Number]:
    """The range of the axis, widened for a mark that lies not too far outside."""
    reach = 0.75 * (high - low)
    near = [mark.value for mark in marks if low - reach <= mark.value <= high + reach]
    pad = 0.03 * (high - low)
    return min([low, *(value - pad for value in near)]), max([high, *(value + pad for value in near)])


def _steps(edges: Sequence[Number], counts: Sequence[int], x: Scale, y: Scale, class_: str) -> Markup:
    """The outline of a histogram's bars as one shape."""
    points = [(x(edges[0]), y(0))]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        points += [(x(left), y(count)), (x(right), y(count))]
    return polygon([*points, (x(edges[-1]), y(0))], class_)


def _horizontal_axis(x: Scale, base: Number, name: str) -> list[Markup]:
    exponent = power_of_ten(max(abs(x.low), abs(x.high)))
    unit = 10.0**exponent
    ticks = Scale(x.low / unit, x.high / unit, x.start, x.stop)
    suffix = f" × {superscript(exponent)}" if exponent else ""
    shown = ticks.ticks(5)
    return [
        *(line(ticks(value), base, ticks(value), base + 4, "axis") for value in shown),
        *(label(ticks(value), base + 16, _number(value)) for value in shown),
        label(LEFT, 12, name + suffix, "name", "start"),
    ]


def _mark(mark: Mark, x: Scale, low: Number, high: Number) -> Markup:
    """A line with its word on top, or an arrow at the border for a value that is off the picture."""
    if low <= mark.value <= high:
        place = x(mark.value)
        anchor = "start" if place < WIDTH / 2 else "end"
        away = 4 if anchor == "start" else -4
        row = TOP + (2 if mark.kind == "null" else 14)
        return line(place, TOP - 6, place, HEIGHT - BOTTOM, mark.kind) + label(
            place + away, row, mark.text, mark.kind, anchor
        )
    right = mark.value > high
    text = f"{mark.text} {_number(mark.value)} →" if right else f"← {_number(mark.value)} {mark.text}"
    return label(WIDTH - RIGHT if right else LEFT, TOP + 2, text, mark.kind, "end" if right else "start")


def strength_by_distance(title: str, by_distance: Mapping[int, Quantity], null: Mapping[int, Number]) -> Markup:
    """DS at every measured distance against what it is under uniform attention."""
    distances = sorted(set(by_distance) & set(null))
    lines = _quantile_lines([by_distance[d] for d in distances], [0.0] * len(distances))
    lines["null-line"] = [null[d] for d in distances]
    return _lines_by_distance(f"{title}: DS by minimum distance k", distances, lines)


def spread_by_distance(title: str, by_distance: Mapping[int, Quantity]) -> Markup:
    """How far windows differ in DS at every measured distance: the same, counted from the median window."""
    distances = sorted(by_distance)
    quantities = [by_distance[d] for d in distances]
    lines = _quantile_lines(quantities, [of["scored"]["quantiles"]["50"] for of in quantities])
    return _lines_by_distance(f"{title}: DS − median, by distance k", distances, lines)


def _quantile_lines(quantities: Sequence[Quantity], origins: Sequence[Number]) -> dict[str, list[Number]]:
    """Quantiles of all windows and the median of the kept ones, by class, each less its distance's origin."""

    def quantile(part: str, percent: str) -> list[Number]:
        return [of[part]["quantiles"][percent] - origin for of, origin in zip(quantities, origins, strict=True)]

    lines = {f"q{percent}": quantile("scored", percent) for percent in ("5", "25", "75", "95")}
    lines["median-line"] = quantile("scored", "50")
    if all(of["kept"] for of in quantities):
        lines["kept-line"] = quantile("kept", "50")
    return lines


def _lines_by_distance(title: str, distances: Sequence[int], lines: Mapping[str, Sequence[Number]]) -> Markup:
    """Lines over the distances, which stand side by side; quantiles are drawn as two bands."""
    low, high = min(map(min, lines.values())), max(map(max, lines.values()))
    pad = 0.06 * (high - low) or 0.01
    left = 52.0
    step = (WIDTH - left - 58) / max(1, len(distances) - 1)
    places = [left + 24 + i * step for i in range(len(distances))]
    y = Scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    points = {
        name: [(place, y(value)) for place, value in zip(places, values, strict=True)] for name, values in lines.items()
    }
    return drawing(
        WIDTH,
        HEIGHT,
        title,
        *(line(left - 4, y(value), left, y(value), "axis") for value in y.ticks(4)),
        *(label(left - 7, y(value) + 3.5, _number(value), "tick", "end") for value in y.ticks(4)),
        polygon(points["q5"] + points["q95"][::-1], "band"),
        polygon(points["q25"] + points["q75"][::-1], "band"),
        *(polyline(points[name], name) for name in points if name.endswith("-line")),
        *(
            element("circle", cx=x, cy=y, r=3, class_=name.replace("line", "dot"))
            for name in ("median-line", "kept-line")
            for x, y in points.get(name, ())
        ),
        *(label(place, HEIGHT - 12, f"{d:,}") for place, d in zip(places, distances, strict=True)),
        label(LEFT, 12, title, "name", "start"),
    )


def token_bars(rows: Sequence[tuple[str, int, int]]) -> Markup:
    """Scored and kept tokens of each source, given as (source, scored, kept)."""
    width, row_height, left, right = 520.0, 30.0, 125.0, 185.0
    x = Scale(0, max([1, *(scored for _, scored, _ in rows)]), left, width - right)
    parts: list[Markup] = []
    for i, (source, scored, kept) in enumerate(rows):
        top = 6 + i * row_height
        name = source if len(source) <= 17 else source[:16] + "…"
        share = f" ({100 * kept / scored:.1f} %)" if scored else ""
        parts += [
            label(left - 10, top + 15, name, "row", "end"),
            element("rect", x=left, y=top, width=x(scored) - left, height=20, rx=3, class_="all"),
            element("rect", x=left, y=top, width=x(kept) - left, height=20, rx=3, class_="kept"),
            label(x(scored) + 8, top + 14.5, f"{compact(kept)} of {compact(scored)}{share}", "tick", "start"),
        ]
    return drawing(width, 12 + len(rows) * row_height, "Tokens kept and scored per source", *parts)


def compact(number: Number) -> str:
    """A count in three digits and a letter.

    >>> [compact(n) for n in (7, 12_345, 999_990, 20e9)]
    ['7', '12.3K', '1M', '20B']
    """
    for power, letter in ((12, "T"), (9, "B"), (6, "M"), (3, "K")):
        if number >= 0.9995 * 10**power:
            return f"{number / 10**power:.3g}{letter}"
    return f"{number:,.0f}"


def _number(value: Number) -> str:
    return f"{value:.4g}".replace("-", "−")


def overlap_bars(title: str, rows: Sequence[tuple[str, float]], chance: float) -> Markup:
    """What part of the kept tokens each of several choices keeps too, and what a choice at random would."""
    width, row_height, left, right, top = 500.0, 26.0, 160.0, 50.0, 26.0
    x = Scale(0.0, 1.0, left, width - right)
    height = top + len(rows) * row_height + 6
    parts: list[Markup] = [
        *(line(x(tick), top - 4, x(tick), height - 4, "grid") for tick in (0.0, 0.25, 0.5, 0.75, 1.0)),
        *(label(x(tick), 14, f"{100 * tick:.0f} %") for tick in (0.0, 0.5, 1.0)),
    ]
    for i, (name, share) in enumerate(rows):
        y = top + i * row_height
        shown = name if len(name) <= 21 else name[:20] + "…"
        parts += [
            label(left - 10, y + 15, shown, "row", "end"),
            element("rect", x=left, y=y + 3, width=x(share) - left, height=16, rx=3, class_="kept"),
            label(x(share) + 8, y + 15.5, f"{100 * share:.0f} %", "tick", "start"),
        ]
    parts.append(line(x(chance), top - 4, x(chance), height - 4, "null"))
    return drawing(width, height, title, *parts)


def around_the_cut(title: str, points: Sequence[tuple[int, float, float, bool]], cut: Number, noise: Number) -> Markup:
    """Scores by rank next to the cut, as (rank, score, standard error, kept), each with twice its error."""
    ranks, scores = [rank for rank, *_ in points], [score for _, score, *_ in points]
    reach = max([noise, *(2 * error for _, _, error, _ in points)])
    low, high = min(scores) - reach, max(scores) + reach
    pad = 0.06 * (high - low) or 0.5
    left = 52.0
    x = Scale(min(ranks) - 1, max(ranks) + 1, left, WIDTH - RIGHT)
    y = Scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    band = max(0.0, y(cut - noise) - y(cut + noise))
    parts: list[Markup] = [
        *(line(left - 4, y(value), left, y(value), "axis") for value in y.ticks(4)),
        *(label(left - 7, y(value) + 3.5, _number(value), "tick", "end") for value in y.ticks(4)),
        element("rect", x=left, y=y(cut + noise), width=WIDTH - RIGHT - left, height=band, class_="band"),
        line(left, y(cut), WIDTH - RIGHT, y(cut), "cut"),
    ]
    for rank, score, error, kept in points:
        if error > 0:
            parts.append(line(x(rank), y(score - 2 * error), x(rank), y(score + 2 * error), "axis"))
        parts.append(element("circle", cx=x(rank), cy=y(score), r=2.6, class_="kept-dot" if kept else "median-dot"))
    whole = sorted({round(value) for value in x.ticks(5) if min(ranks) <= round(value) <= max(ranks)})
    parts += [label(x(value), HEIGHT - 12, f"{value:,}") for value in whole]
    return drawing(
        WIDTH, HEIGHT, f"{title}: score by rank, next to the cut", *parts, label(LEFT, 12, title, "name", "start")
    )


def shares_by_length(title: str, classes: Mapping[int, tuple[int, int]]) -> Markup:
    """How windows, all and kept, are spread over the lengths of their documents, each adding up to one."""
    first, last = min(classes), max(classes)
    totals = [max(1, sum(counts[i] for counts in classes.values())) for i in (0, 1)]
    shares = {c: tuple(classes.get(c, (0, 0))[i] / totals[i] for i in (0, 1)) for c in range(first, last + 1)}
    # room for half of the first label and of the last
    x = Scale(first, last + 1, LEFT + 8, WIDTH - RIGHT - 8)
    y = Scale(0.0, max(max(pair) for pair in shares.values()), HEIGHT - BOTTOM, TOP)
    parts: list[Markup] = []
    for c, pair in shares.items():
        for i, (share, class_) in enumerate(zip(pair, ("all", "kept"), strict=True)):
            start, stop = x(c + 0.08 + 0.42 * i), x(c + 0.5 + 0.42 * i)
            parts.append(
                element("rect", x=start, y=y(share), width=stop - start, height=y(0.0) - y(share), class_=class_)
            )
    parts.append(line(LEFT, y(0.0), WIDTH - RIGHT, y(0.0), "axis"))
    step = max(1, -(-(last + 1 - first) // 8))
    for c in range(first, last + 2, step):
        parts += [line(x(c), y(0.0), x(c), y(0.0) + 4, "axis"), label(x(c), y(0.0) + 16, _windows(2 ** (c / 2)))]
    described = f"{title}: documents of all windows and of kept ones, by length in windows"
    return drawing(WIDTH, HEIGHT, described, *parts, label(LEFT, 12, title, "name", "start"))


def _windows(length: float) -> str:
    """A length in windows as short as it can be told from its neighbours, half a power of two away."""
    return f"{length:,.0f}" if length >= 10 else f"{length:.2g}"


def change_bars(rows: Sequence[tuple[str, int, int, int]]) -> Markup:
    """Tokens of each source that left, stay and entered, given as (source, left, both, entered)."""
    width, row_height, left, right = 540.0, 30.0, 120.0, 210.0
    x = Scale(0, max([1, *(sum(counts) for _, *counts in rows)]), left, width - right)
    parts: list[Markup] = []
    for i, (source, *counts) in enumerate(rows):
        top, start = 6 + i * row_height, left
        parts.append(label(left - 10, top + 15, source if len(source) <= 15 else source[:14] + "…", "row", "end"))
        for count, class_ in zip(counts, ("left", "kept", "entered"), strict=True):
            stop = start + x(count) - left
            parts.append(element("rect", x=start, y=top, width=stop - start, height=20, class_=class_))
            start = stop
        gone, both, new = map(compact, counts)
        parts.append(label(start + 8, top + 14.5, f"−{gone}, {both} in both, +{new}", "tick", "start"))
    return drawing(width, 12 + len(rows) * row_height, "Tokens that left, stay and entered, by source", *parts)
