"""What a mixture is made of and how many sequences each source gets: shares in whole numbers that add up."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from longattn.settings import Mixture

PUBLISHED: dict[str, dict[str, float]] = {
    "paper": {"arxiv": 0.30, "book": 0.30, "code": 0.30, "wiki": 0.03, "github": 0.03, "web": 0.04}
}
"""Shares of published mixtures by source. ``paper``: LongAttn, Table 7."""


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """One source of a mixture, as declared: windows of runs or documents of files, and how much of it."""

    part: Fraction
    """Its exact part of the mixture's tokens; those of all sources add up to 1."""
    runs: tuple[str, ...]
    inputs: tuple[str, ...]
    source: str
    """What it is called in the runs; ``*`` for all of theirs."""
    max_passes: int


def ingredients(mixture: Mixture) -> dict[str, Ingredient]:
    """What a mixture is made of, by name in order.

    Raises ``ValueError`` for a source without a share, with one that is not above 0, of windows and documents at once,
    or named in the settings and nowhere else; and for a published one that is missing.
    """
    runs, inputs = _places("windows", mixture.windows), _places("documents", mixture.documents)
    names = sorted({*runs, *inputs})
    if not names:
        raise ValueError("a mixture needs sources: --windows NAME=RUN, --documents NAME=PATH")
    if both := sorted(runs.keys() & inputs.keys()):
        raise ValueError(f"{both[0]} is of windows and of documents; give one of them another name")
    for setting in ("shares", "sources", "passes"):
        if strangers := sorted(getattr(mixture, setting).keys() - {*names}):
            raise ValueError(f"{setting} names {strangers[0]}, and there is no such source: {', '.join(names)}")
    if few := [name for name, count in mixture.passes.items() if count < 1]:
        raise ValueError(f"passes of {few[0]} must be at least 1, got {mixture.passes[few[0]]}")
    published = PUBLISHED[mixture.published] if mixture.published else {}
    if missing := sorted(published.keys() - {*names}):
        raise ValueError(f"the mixture {mixture.published!r} has {', '.join(published)}; {missing[0]} is missing")
    shares = {**published, **mixture.shares}
    if missing := [name for name in names if name not in shares]:
        raise ValueError(f"{missing[0]} has no share; give it one, such as --shares.{missing[0]} 0.3")
    if wrong := [name for name in names if not 0 < shares[name] < float("inf")]:
        raise ValueError(f"the share of {wrong[0]} must be above 0, got {shares[wrong[0]]}")
    # as it is written: 0.3 is three tenths
    exact = {name: Fraction(repr(shares[name])) for name in names}
    total = sum(exact.values())
    return {
        name: Ingredient(
            part=exact[name] / total,
            runs=runs.get(name, ()),
            inputs=inputs.get(name, ()),
            source=mixture.sources.get(name, name),
            max_passes=mixture.passes.get(name, 1),
        )
        for name in names
    }


def _places(setting: str, entries: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Places by name."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, _, place = entry.partition("=")
        if not name or not place:
            raise ValueError(f"{setting} must be NAME=PLACE, such as books=RUN, got {entry!r}")
        found[name] = (*found.get(name, ()), place)
    return found


def apportion(parts: Mapping[str, Fraction], total: int) -> dict[str, int]:
    """``total`` split by these parts, in whole numbers that add up to it: the largest remainders are rounded up.

    Every number is within 1 of its exact part; equal remainders go by name. ``parts`` add up to 1.

    >>> apportion({"a": Fraction(1, 3), "b": Fraction(1, 3), "c": Fraction(1, 3)}, 10)
    {'a': 4, 'b': 3, 'c': 3}
    """
    exact = {name: part * total for name, part in parts.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def largest_total(parts: Mapping[str, Fraction], most: Mapping[str, int]) -> int:
    """The largest total of which no source's exact part is more than it can have, and so no apportioned one either.

    >>> largest_total({"a": Fraction(9, 10), "b": Fraction(1, 10)}, {"a": 100, "b": 2})
    20
    """
    return min(int(most[name] / part) for name, part in parts.items())
