"""How numbers, settings, ids and reasons are written on a page."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from longattn.report.charts import compact
from longattn.report.svg import superscript

REASONS = {
    "kept": "kept",
    "below_cut": "below the cut",
    "overlap": "overlaps a better window",
    "near_duplicate": "all but repeats a better window",
    "filtered": "fails the condition of --keep.where",
    "non_finite": "no finite score",
    "duplicate_id": "the document's id was read before",
}
"""What the reasons in the selection file mean."""

LONGEST_ID = 120
"""Characters of an id that are shown; the tables have all of it."""


def reason(word: str) -> str:
    """A reason of the selection file in words."""
    return REASONS.get(word, word)


def place(word: str) -> tuple[int, str]:
    """Sorts known reasons in the order of ``REASONS``, others after them."""
    known = list(REASONS)
    return (known.index(word) if word in known else len(known), word)


def number(value: int | float | None, digits: int = 4) -> str:
    """A measured value for a table; a dash where there is none.

    >>> number(0.40343785), number(-5.74e-10), number(None)
    ('0.4034', '−5.74 × 10⁻¹⁰', '–')
    """
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × {superscript(int(exponent))}".replace("-", "−")


def signed(value: int | float | None, digits: int = 2) -> str:
    """A difference; a dash where there is none.

    >>> signed(0.5), signed(-0.25), signed(None)
    ('+0.50', '−0.25', '–')
    """
    if value is None:
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def percent(part: int | float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash where there is none.

    >>> percent(0.125), percent(1.0, 0), percent(None)
    ('12.5 %', '100 %', '–')
    """
    return "–" if part is None else f"{100 * part:.{digits}f} %"


def thousands(value: int | None) -> str:
    """A count; a dash where there is none."""
    return "–" if value is None else f"{value:,}"


def num_bytes(value: int) -> str:
    """A size in the unit that keeps it short.

    >>> num_bytes(980), num_bytes(24_620), num_bytes(3_000_000_000)
    ('980 bytes', '24.6 kB', '3 GB')
    """
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {unit}"
    return f"{value} bytes"


def setting(value: object) -> str:
    """A setting as it would be written in a file; a dash where nothing is set."""
    if isinstance(value, str):
        return value
    return "–" if value is None or value in ([], {}) else json.dumps(value, ensure_ascii=False)


def brief(text: str, longest: int = LONGEST_ID) -> str:
    """A text cut in its middle to a length that a table can hold.

    >>> brief("abcdefghij", 7)
    'abc…hij'
    """
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def raw(value: int | float | None) -> str:
    """A number to sort by, in plain digits; empty where there is none."""
    return "" if value is None else f"{value:.7g}"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": number,
    "signed": signed,
    "percent": percent,
    "thousands": thousands,
    "compact": compact,
    "bytes": num_bytes,
    "setting": setting,
    "reason": reason,
    "brief": brief,
    "raw": raw,
}
"""What templates can write values with."""
