"""The figures of an inspect page: far attention along the window, by distance, by head, and as a map."""

import math
from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
from markupsafe import Markup

from longattn.records import Inspection
from longattn.report.charts import HEIGHT, WIDTH
from longattn.report.svg import Number, Scale, drawing, element, label, line, polygon, polyline

RIBBON_WIDTH, RIBBON_HEIGHT, RIBBON_ARCS = 1000.0, 110.0, 66.0
"""Size of the picture of the whole window, and how much of its height is kept for arcs."""
RIBBON_BINS = 250
STEPS = range(-4, 9)
"""Shades of the map: half powers of two, from a quarter to sixteen times of what is usual in this window."""
BARS = 32
"""Heads that are shown as bars; more of them are a grid."""


def figures(found: Inspection) -> dict[str, Markup]:
    """Every figure by the name of its file."""
    return {
        "along": along(found, labels=True),
        "distance": by_distance(found),
        "heads": by_head(found),
        "map": attention_map(found),
    }


def along(found: Inspection, *, labels: bool = False) -> Markup:
    """Far attention from the window's first token to its last, and arcs of the strongest dependencies over it."""
    length, base = len(found.pieces), RIBBON_HEIGHT
    edges = np.linspace(0, length, min(RIBBON_BINS, length) + 1).round().astype(int)
    far, null = (_block_means(of, edges) for of in (found.far, found.far_null))
    high = max(far) or 1.0
    x, y = (
        Scale(0, length, 0, RIBBON_WIDTH),
        Scale(0, max(high, *null) if null_fits(found) else high, base, RIBBON_ARCS),
    )
    middles = [x((a + b) / 2) for a, b in pairwise(edges.tolist())]
    shape = [(0, base), *zip(middles, map(y, far), strict=True), (RIBBON_WIDTH, base)]
    uniform = [polyline([*zip(middles, map(y, null), strict=True)], "null-line")] if null_fits(found) else []
    height = base + (22 if labels else 0)
    ticks = Scale(0, length, 0, RIBBON_WIDTH).ticks(8) if labels else []
    return drawing(
        RIBBON_WIDTH,
        height,
        f"Far attention of {length:,} tokens, {found.readings['ds']:.3f} on average, and the strongest dependencies",
        element("g", *(arc(x, d.query.first, d.key.first, d.weight) for d in found.dependencies), class_="arcs"),
        polygon(shape, "far"),
        *uniform,
        line(0, base, RIBBON_WIDTH, base, "axis"),
        *(
            label(min(max(x(t), 4), RIBBON_WIDTH - 4), base + 16, f"{t:,.0f}", "tick", _anchor(t, length))
            for t in ticks
        ),
    )


def null_fits(found: Inspection) -> bool:
    """Whether uniform attention is near enough to what was found to be drawn on one scale with it."""
    return found.null["ds"] <= 2.5 * max(found.readings["ds"], *found.head_ds[np.array(found.chosen)].tolist())


def arc(x: Scale, query: int, key: int, weight: float) -> Markup:
    """A bow from a token to the earlier one it attends to, wider for more weight."""
    a, b = x(key + 0.5), x(query + 0.5)
    top = RIBBON_ARCS * (1 - 1.25 * math.sqrt((b - a) / RIBBON_WIDTH))
    bow = f"M{a:.1f} {RIBBON_ARCS:.0f}C{a:.1f} {top:.1f} {b:.1f} {top:.1f} {b:.1f} {RIBBON_ARCS:.0f}"
    return element("path", d=bow, stroke_width=min(6.0, 1 + 20 * weight))


def _block_means(values: np.ndarray, edges: np.ndarray) -> list[float]:
    return (np.add.reduceat(values, edges[:-1]) / np.diff(edges)).tolist()


def _anchor(tick: Number, length: int) -> str:
    return "start" if tick == 0 else "end" if tick > 0.97 * length else "middle"


def by_distance(found: Inspection) -> Markup:
    """Share of all attention between one distance and the next, beside the same for uniform attention."""
    left, bottom = 40.0, HEIGHT - 40
    count = len(found.by_reach)
    high = max(found.by_reach.max(), found.by_reach_null.max())
    x, y = Scale(0, count, left, WIDTH - 10), Scale(0, 1.05 * high, bottom, 30.0)
    bars = [
        element(
            "rect",
            x=x(i) + 1.5,
            y=y(share),
            width=x(1) - x(0) - 3,
            height=bottom - y(share),
            class_="kept" if found.reach[i] >= found.distance else "all",
        )
        for i, share in enumerate(found.by_reach.tolist())
    ]
    marks = [
        line(x(i) + 0.5, y(share), x(i + 1) - 0.5, y(share), "uniform")
        for i, share in enumerate(found.by_reach_null.tolist())
    ]
    return drawing(
        WIDTH,
        HEIGHT,
        f"Share of attention by distance; {found.readings['ds']:.1%} reaches {found.distance:,} tokens or more",
        *(line(left - 4, y(value), left, y(value), "axis") for value in y.ticks(4)),
        *(label(left - 7, y(value) + 3.5, f"{100 * value:g} %", "tick", "end") for value in y.ticks(4)),
        *bars,
        *marks,
        line(left, bottom, WIDTH - 10, bottom, "axis"),
        *_distance_labels(found.reach, x, bottom),
        label(10, 12, "Share of attention by distance", "name", "start"),
        label((left + WIDTH) / 2, HEIGHT - 4, "tokens back, from … on", "tick"),
    )


def _distance_labels(reach: Sequence[int], x: Scale, base: Number) -> list[Markup]:
    """Labels under the beginnings of bars, as many as have room."""
    every = math.ceil((len(reach) - 1) * 26 / (x.stop - x.start))
    return [
        label(x(i) + 1.5, base + 15, compact_power(reach[i]), "tick", "start") for i in range(0, len(reach) - 1, every)
    ]


def compact_power(number: int) -> str:
    """A number of tokens in few characters: thousands of 1,024 are what windows are made of.

    >>> [compact_power(n) for n in (512, 1024, 1500, 32768)]
    ['512', '1K', '1,500', '32K']
    """
    return f"{number // 1024}K" if number >= 1024 and number % 1024 == 0 else f"{number:,}"


def by_head(found: Inspection) -> Markup:
    """DS of every head of the layers against that of uniform attention: bars, or a grid where they are many."""
    return _head_bars(found) if len(found.heads) <= BARS else _head_grid(found)


def _head_bars(found: Inspection) -> Markup:
    row, top, left = 17.0, 44.0, 72.0
    null = found.null["ds"]
    high = max([null] if null_fits(found) else [1e-9, *found.head_ds.tolist()])
    x = Scale(0, max(high, *found.head_ds.tolist()) * 1.02, left, WIDTH - 100)
    height = top + row * len(found.heads) + 8
    parts = []
    for i, ((layer, head), ds, chosen) in enumerate(
        zip(found.heads, found.head_ds.tolist(), found.chosen, strict=True)
    ):
        y = top + row * i
        parts += [
            label(left - 8, y + 11, f"{layer}.{head}", "row" if chosen else "tick", "end"),
            element("rect", x=left, y=y + 2, width=x(ds) - left, height=row - 5, class_="kept" if chosen else "all"),
            label(WIDTH - 8, y + 11, f"{ds:.3f} {_signed(ds - null)}", "tick", "end"),
        ]
    if null_fits(found):
        place, anchor = x(null), "end" if x(null) > WIDTH / 2 else "start"
        mark = [
            line(place, top - 6, place, height - 6, "null"),
            label(place, top - 11, f"uniform {null:.3f}", "null", anchor),
        ]
    else:
        mark = [label(WIDTH - 8, top - 11, f"uniform {null:.3f} →", "null", "end")]
    return drawing(
        WIDTH,
        height,
        f"DS by head; uniform attention has {null:.3f}",
        label(10, 12, "DS by head (layer.head)", "name", "start"),
        *parts,
        *mark,
    )


def _head_grid(found: Inspection) -> Markup:
    """A row per layer, a cell per head; the shade is DS in steps of a tenth."""
    layers = sorted({layer for layer, _ in found.heads})
    most = max(head for _, head in found.heads) + 1
    left, top = 40.0, 40.0
    side = min(24.0, (WIDTH - left - 10) / most)
    parts = []
    for (layer, head), ds, chosen in zip(found.heads, found.head_ds.tolist(), found.chosen, strict=True):
        y = top + side * layers.index(layer)
        shade = f"s{min(9, int(10 * ds))}" + ("" if chosen else " unchosen")
        parts.append(element("rect", x=left + side * head, y=y, width=side - 1, height=side - 1, class_=shade))
    return drawing(
        WIDTH,
        top + side * len(layers) + 8,
        f"DS by layer and head; uniform attention has {found.null['ds']:.3f}",
        label(10, 12, "DS by layer (down) and head (across)", "name", "start"),
        *(label(left + side * (h + 0.5), top - 6, str(h)) for h in range(0, most, max(1, math.ceil(18 / side)))),
        *(label(left - 8, top + side * (i + 0.5) + 4, str(layer), "tick", "end") for i, layer in enumerate(layers)),
        *parts,
    )


def _signed(value: float) -> str:
    return f"({value:+.3f})".replace("-", "−")


def attention_map(found: Inspection) -> Markup:
    """Far attention between blocks of tokens, as multiples of what they would have if it were spread evenly."""
    side, left, top = 400.0, 52.0, 34.0
    length = len(found.pieces)
    place = Scale(0, length, 0, side)
    blocks = [*pairwise(found.edges.tolist())]
    cells = []
    for (low, high), shades in zip(blocks, _shades(found), strict=True):
        # neighbours of one shade are one rectangle
        for class_, run in groupby(zip(shades, blocks, strict=True), key=lambda cell: cell[0]):
            borders = [border for _, block in run for border in block]
            x, y = place(borders[0]), place(low)
            if class_:
                size = {"width": place(borders[-1]) - x, "height": place(high) - y}
                cells.append(element("rect", x=left + x, y=top + y, **size, class_=class_))
    ticks = [tick for tick in place.ticks(4) if tick < 0.95 * length]
    return drawing(
        left + side + 10,
        top + side + 42,
        f"Map of far attention, {len(blocks)} by {len(blocks)} blocks: rows look at columns",
        label(10, 12, "Who looks at what: far attention, times its average", "name", "start"),
        element("g", *cells, class_="map"),
        polyline([(left, top), (left, top + side), (left + side, top + side)], "frame"),
        *(label(left - 6, top + place(t) + 4, f"{t:,.0f}", "tick", "end") for t in ticks if t),
        *(label(left + place(t), top + side + 15, f"{t:,.0f}", "tick", "start") for t in ticks),
        label(left + side, top + side + 32, "token looked at →", "tick", "end"),
        label(left + side, top + 12, "↓ token that looks", "tick", "end"),
    )


def _shades(found: Inspection) -> list[list[str]]:
    """Classes of the map's cells by half powers of two; empty for cells that hold nothing far."""
    with np.errstate(divide="ignore", invalid="ignore"):
        halves = np.rint(2 * np.log2(times_average(found)))
    halves = np.clip(np.nan_to_num(halves, nan=0.0, neginf=STEPS[0]), STEPS[0], STEPS[-1]).astype(int)
    return [
        [shade(half) if far else "" for half, far in zip(row, is_far, strict=True)]
        for row, is_far in zip(halves.tolist(), (found.pooled_null > 0).tolist(), strict=True)
    ]


def times_average(found: Inspection) -> np.ndarray:
    """Far attention of the map's cells over what they would have if all of it were spread evenly, [M, M].

    Not a number where nothing is far.
    """
    far, null = found.pooled.sum(), found.pooled_null.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return found.pooled / (found.pooled_null * (far / null if far else 1.0))


def shade(half_powers: int) -> str:
    """The class of so many half powers of two.

    >>> shade(-3), shade(0), shade(8)
    ('n3', 'p0', 'p8')
    """
    return f"n{-half_powers}" if half_powers < 0 else f"p{half_powers}"


def key_of_shades() -> list[tuple[list[str], str]]:
    """Classes of the map's shades, for a legend: up to each whole power of two, with its number.

    >>> key_of_shades()[:2]
    [(['n4'], '0.25×'), (['n3', 'n2'], '0.5×')]
    """
    return [([shade(h) for h in (w - 1, w) if h in STEPS], f"{2.0 ** (w / 2):g}×") for w in STEPS if w % 2 == 0]
