"""The inspect page: one window's text, shaded by how much of each token's attention reaches far back."""

import base64
import hashlib
import json
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup, escape

from longattn.records import Inspection
from longattn.report.html import page_template
from longattn.report.inspect_charts import (
    along,
    attention_map,
    by_distance,
    by_head,
    key_of_shades,
    null_fits,
    times_average,
)
from longattn.report.text import visible
from longattn.report.words import number
from longattn.tables import write_text

SHADES = 9
"""Shades of a token by its far attention, or what it gets, besides none."""
SIDE = 5
"""Shades to each side by its difference from uniform attention, besides none."""
LISTED = 8
"""Dependencies beside the text; the others are one click away."""


class Scales(NamedTuple):
    """What the strongest shades stand for: round values that one token in a hundred is above."""

    far: float
    """Far attention."""
    beyond: float
    """Its difference from uniform, to each side."""
    received: float
    """Far attention from later tokens, times its average."""


def page_path(run: Path, window_id: str) -> Path:
    """Where a window's page is in a run folder: its id, as far as a file name can hold it, and its hash.

    >>> page_path(Path("RUN"), "books/1.txt@4096").as_posix()
    'RUN/inspect/books-1.txt-4096-e666e269.html'
    """
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", window_id).strip("-.")[-60:]
    return run / "inspect" / f"{readable}-{hashlib.sha256(window_id.encode()).hexdigest()[:8]}.html"


def write_inspection(path: Path, found: Inspection, command: str = "") -> Path:
    """Write the page and return its path; equal inspections give equal bytes."""
    write_text(path, render_inspection(found, command))
    return path


def render_inspection(found: Inspection, command: str = "") -> str:
    """The page as HTML; ``command`` is what a person types to get it again."""
    listed, more = found.dependencies[:LISTED], found.dependencies[LISTED:]
    far, cells, scales = found.far.sum(), _busiest_cells(found), scales_of(found)
    linked = {quote.first for d in found.dependencies for quote in (d.query, d.key)}
    linked |= {edge for cell in cells for edge in cell["edges"][::2]}
    return _template().render(
        found=found,
        command=command,
        listed=listed,
        more=more,
        words=_words(found, linked, scales),
        data=Markup(json.dumps(_data(found))),
        along=along(found),
        distance=by_distance(found),
        heads=by_head(found),
        map=attention_map(found),
        key=key_of_shades(),
        scales=scales,
        null_fits=null_fits(found),
        heads_said=_heads_said(found),
        on_noise=found.received[found.noise].sum() / far if far else 0.0,
        sinks=[place for place in np.argsort(-found.received).tolist() if found.noise[place]][:3],
        busiest=cells,
    )


def _words(found: Inspection, linked: Collection[int], scales: Scales) -> Markup:
    """Every token as an element with its shades; those that a link leads to have an id."""
    shades = zip(
        *(
            np.clip(np.rint(values / scale * most), -most, most).astype(int).tolist()
            for values, scale, most in (
                (found.far, scales.far, SHADES),
                (found.far - found.far_null, scales.beyond, SIDE),
                (received_times_average(found), scales.received, SHADES),
            )
        ),
        strict=True,
    )
    return Markup("").join(
        Markup("<i{}{}>{}</i>").format(
            Markup(f' id="t{n}"') if n in linked else "", _shade_class(*of), escape(visible(piece))
        )
        for n, (piece, of) in enumerate(zip(found.pieces, shades, strict=True))
    )


@cache
def _shade_class(far: int, beyond: int, received: int) -> Markup:
    side = "u" if beyond < 0 else "o"
    shades = (("a", far), (side, abs(beyond)), ("g", received))
    names = " ".join(f"{letter}{shade}" for letter, shade in shades if shade)
    return Markup(f' class="{names}"') if names else Markup("")


def scales_of(found: Inspection) -> Scales:
    """The scales that suit a window."""
    beyond = np.abs(found.far - found.far_null)
    return Scales(*(_round_up(np.quantile(of, 0.99)) for of in (found.far, beyond, received_times_average(found))))


def _round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten, from 0.01 on.

    >>> _round_up(0.13), _round_up(1.0), _round_up(0.0)
    (0.2, 1.0, 0.01)
    """
    steps = (step * 10.0**power for power in range(-2, 9) for step in (1, 2, 5))
    return next(round(step, 2) for step in steps if value <= step * (1 + 1e-9))


def received_times_average(found: Inspection) -> np.ndarray:
    """Far attention that each token gets over what it would get if all of the window's were spread evenly, [T]."""
    null, total = found.received_null, found.received_null.sum()
    average = found.far.sum() / total if total else 0.0
    return np.divide(found.received, null * average, out=np.zeros(len(null)), where=null * average > 0)


def _data(found: Inspection) -> dict[str, Any]:
    """Numbers for the script, little-endian, base64: far attention in 16 bits, which does for a percentage."""
    length = len(found.pieces)
    wide = "<u4" if length > 2**16 - 2 else "<u2"
    none = np.iinfo(wide).max
    return {
        "distance": found.distance,
        "skip": found.skip_first,
        "top": found.keys.shape[1],
        "wide": wide == "<u4",
        "far": _packed(np.rint(found.far * 65535), "<u2"),
        "keys": _packed(np.where(found.keys < 0, none, found.keys), wide),
        "weights": _packed(found.weights, "<f4"),
        "edges": found.edges.tolist(),
        "pooled": _packed(found.pooled, "<f4"),
        "times": _packed(np.nan_to_num(times_average(found)), "<f4"),
    }


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _heads_said(found: Inspection) -> str:
    """Which heads are averaged, in words."""
    layers = f"layer{'s' if len(found.layers) > 1 else ''} {', '.join(map(str, found.layers))}"
    if all(found.chosen):
        return f"all {len(found.heads)} heads of {layers}"
    heads = [f"{layer}.{head}" for (layer, head), chosen in zip(found.heads, found.chosen, strict=True) if chosen]
    return f"head{'s' if len(heads) > 1 else ''} {', '.join(heads)} (layer.head)"


def _busiest_cells(found: Inspection) -> list[dict[str, Any]]:
    """The three blocks between which there is most attention beyond its average."""
    times = times_average(found)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.nan_to_num(found.pooled - found.pooled / times)
    rows, columns = np.unravel_index(np.argsort(-excess, axis=None)[:3], excess.shape)
    return [
        {
            "edges": found.edges[[row, row + 1, column, column + 1]].tolist(),
            "share": found.pooled[row, column] / (found.edges[row + 1] - found.edges[row]),
            "times": times[row, column],
        }
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        if excess[row, column] > 0
    ]


@cache
def _template() -> jinja2.Template:
    filters = {
        "number": number,
        "thousands": "{:,}".format,
        "percent": percent,
        "times": times,
        "whole": "{:.0%}".format,
    }
    return page_template(
        "longattn.report", "inspect.html.jinja", styles=["inspect.css"], scripts=["inspect.js"], filters=filters
    )


def percent(share: float) -> str:
    """A share with three digits that say something.

    >>> percent(0.403518), percent(0.00241), percent(0.00002), percent(0.0)
    ('40.4 %', '0.24 %', '0.002 %', '0 %')
    """
    if not share:
        return "0 %"
    digits = 1 if share >= 0.1 else 2 if share >= 0.001 else 3
    return f"{100 * share:.{digits}f} %"


def times(ratio: float) -> str:
    """A multiple in two or three digits.

    >>> times(0.5314), times(12.34), times(5123.4)
    ('0.53', '12', '5,120')
    """
    return f"{ratio:.2g}" if ratio < 10 else f"{float(f'{ratio:.3g}'):,.0f}"
