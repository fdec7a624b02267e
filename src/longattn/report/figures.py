"""Figures of pages as files of their own: those of an inspect page for papers, those of a run for its dataset card."""

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from longattn.records import Inspection
from longattn.report import charts
from longattn.report.data import largest_sources
from longattn.report.inspect_charts import figures
from longattn.report.sections import Source
from longattn.report.text import visible
from longattn.tables import durable, write_text

SOURCES_SHOWN = 3
"""Sources whose distributions a dataset card shows."""

MOST_BARS = 40

ZOOM = 3
"""Pixels of a PNG for each of the picture's own units."""


def write_figures(folder: Path, found: Inspection) -> Path:
    """Write every figure as SVG and, where ``resvg-py`` is installed, as PNG; returns the folder."""
    for name, figure in figures(found).items():
        picture = standalone(figure)
        write_text(folder / f"{name}.svg", picture)
        if importlib.util.find_spec("resvg_py") is not None:
            with durable(folder / f"{name}.png") as file:
                file.write(_png(picture))
    return folder


def card_figures(manifest: Mapping[str, Any], null: Mapping[str, float]) -> dict[str, str]:
    """What a dataset card shows of a selected run, SVG by caption: tokens kept, and distributions of score, DS and DU.

    ``manifest`` is the run's; ``null`` holds the readings under uniform attention. Equal runs give equal pictures.
    """
    sources = manifest.get("selection", {}).get("sources", {})
    if not sources:
        return {}
    rows = [(visible(name), of["scored_tokens"], of["kept_tokens"]) for name, of in sorted(sources.items())]
    found = {"Tokens scored and kept, by source": charts.token_bars(rows[:MOST_BARS])}
    for name in sorted(largest_sources(manifest, SOURCES_SHOWN)):
        pictures = Source(name, sources[name], null).histograms
        caption = f"{visible(name)}: all scored windows, and the kept ones"
        found |= {f"{caption} ({i} of {len(pictures)})": picture for i, picture in enumerate(pictures, 1)}
    return {caption: standalone(picture) for caption, picture in found.items()}


def _png(picture: str) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=picture, zoom=ZOOM, background="white"))


def standalone(figure: Markup) -> str:
    """A figure of a page as a document that needs no page: with its size, and the light style written out."""
    width, height = re.match(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)"', figure).groups()  # pyright: ignore[reportOptionalMemberAccess]
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    head, rest = figure.removeprefix("<svg ").split(">", 1)
    return f"{opening}{head}><style>{_style()}</style>{rest}\n"


@cache
def _style() -> str:
    """The pages' rules for pictures, with the light colours in place of their names: not every program knows these."""
    package = resources.files("longattn.report")
    sheets = "\n".join(package.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "inspect.css"))
    colours = dict(re.findall(r"(--[\w-]+): (#\w+);", sheets[: sheets.index("@media")]))
    rules = re.findall(r"^\s*(svg [^{]+\{[^}]*\})|(?<=\} )(svg [^{]+\{[^}]*\})", sheets, re.MULTILINE)
    style = "\n".join(first or second for first, second in rules)
    style = re.sub(r"font: (\w+) ", r"font-size: \1; font-family: ", style)
    return re.sub(r"var\((--[\w-]+)\)", lambda name: colours[name[1]], style)
