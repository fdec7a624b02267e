"""The page of a comparison of two selections."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from longattn.report.charts import change_bars
from longattn.report.diff import Difference
from longattn.report.html import page_template
from longattn.report.text import visible
from longattn.report.words import FILTERS, REASONS
from longattn.tables import write_text

CAUSES = {
    "rank": "ranked too low",
    "budget": "ranked high enough, but less was kept",
    "overlap": "overlapped a better one",
    "near_duplicate": "all but repeated a better one",
    "filtered": "failed the condition of --keep.where",
    "non_finite": "had no finite score",
    "absent": "was not among the windows",
}
"""Why a window was not kept, on the side that does not keep it."""

MAX_SOURCES = 24
"""Sources with a bar; the table has more."""
MAX_ROWS = 400


def write_difference(path: Path, found: Difference) -> None:
    """Write the page; equal differences give equal bytes."""
    write_text(path, render_difference(found))


def render_difference(found: Difference) -> str:
    """The page as HTML: nothing that is fetched; data are text and never markup."""
    largest = sorted(found.sources, key=lambda of: (-sum(of.tokens), of.source))
    shown = sorted(largest[:MAX_SOURCES], key=lambda of: of.source)
    return _template().render(
        found=found,
        sources=sorted(largest[:MAX_ROWS], key=lambda of: of.source),
        bars=change_bars([(visible(of.source), *_parts(of.both_tokens, of.tokens)) for of in shown]),
        causes=CAUSES,
        fates=REASONS | {None: "not there"},
    )


def _parts(both: int, tokens: Sequence[int]) -> tuple[int, int, int]:
    """Tokens that left, stay and entered."""
    return tokens[0] - both, both, tokens[1] - both


@cache
def _template() -> jinja2.Template:
    filters = {**FILTERS, "cause": lambda word: CAUSES.get(word, word)}
    return page_template("longattn.report", "diff.html.jinja", scripts=("tables.js",), filters=filters)
