"""What a validation found as one page that loads nothing: intervals as charts, every figure in a table."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from longattn.report.html import page_template
from longattn.report.svg import Scale, drawing, element, label, line
from longattn.report.words import signed
from longattn.tables import write_text
from longattn.validity.comparing import Comparison
from longattn.validity.statistics import Estimate
from longattn.validity.validating import Separation, Validation

WIDTH, ROW, LEFT, RIGHT, TOP = 340.0, 20.0, 118.0, 14.0, 44.0


def write_validation(path: Path, found: Validation) -> None:
    """Write the page of a validation."""
    write_text(
        path, _template("validation.html.jinja").render(found=found, separation=_by(found), chart=separation_chart)
    )


def write_comparison(path: Path, found: Comparison) -> None:
    """Write the page of a comparison."""
    write_text(path, _template("comparison.html.jinja").render(found=found))


def _by(found: Validation) -> dict[tuple[str, str, str], Separation]:
    return {(s.source, s.control, s.scorer): s for s in found.separations}


def separation_chart(title: str, rows: Sequence[tuple[str, Estimate]]) -> Markup:
    """A row per scorer: AUC as a dot on its interval, between 0 and 1, with chance in the middle."""
    height = TOP + ROW * len(rows) + 10
    x = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT)
    parts: list[Markup] = [
        label(10, 14, title, "name", "start"),
        *(label(x(tick), TOP - 12, f"{tick:g}") for tick in (0.0, 0.5, 1.0)),
        *(line(x(tick), TOP - 8, x(tick), height - 8, "axis") for tick in (0.0, 1.0)),
        line(x(0.5), TOP - 8, x(0.5), height - 8, "null"),
    ]
    for i, (name, of) in enumerate(rows):
        y = TOP + ROW * i + 8
        shown = name if len(name) <= 18 else name[:17] + "…"
        parts += [
            label(LEFT - 8, y + 4, shown, "tick", "end"),
            *([] if of.low is None or of.high is None else [line(x(of.low), y, x(of.high), y, "axis")]),
            element("circle", cx=x(of.value), cy=y, r=4, class_="kept-dot"),
        ]
    return drawing(WIDTH, height, f"{title}: AUC by scorer", *parts)


def figure(of: Estimate | None) -> str:
    """An estimate with its interval, if it has one; a dash without an estimate.

    >>> figure(Estimate(0.98, 0.95, 1.0)), figure(Estimate(0.98)), figure(None)
    ('0.98 [0.95, 1.00]', '0.98', '–')
    """
    if of is None:
        return "–"
    between = "" if of.low is None else f" [{of.low:.2f}, {of.high:.2f}]"
    return f"{of.value:.2f}{between}".replace("-", "−")


@cache
def _template(name: str) -> jinja2.Template:
    return page_template("longattn.validity", name, filters={"figure": figure, "signed": signed})
