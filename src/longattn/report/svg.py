"""A few SVG elements as safe markup: values are escaped, colours come from the page's style."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Number = int | float
Points = Sequence[tuple[Number, Number]]


def element(name: str, *children: Markup | str, **attributes: Number | str) -> Markup:
    """An element; attribute names lose a last ``_`` and get ``-`` for the others.

    >>> element("text", "a<b", x=1.0, class_="label", text_anchor="end")
    Markup('<text x="1" class="label" text-anchor="end">a&lt;b</text>')
    """
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), short(value)) for key, value in attributes.items()
    )
    return Markup("<{}{}>{}</{}>").format(name, pairs, Markup("").join(children), name)


def drawing(width: Number, height: Number, title: str, *children: Markup) -> Markup:
    """A picture of this size, or shape when it is scaled; ``title`` is for those who cannot see it."""
    return element("svg", element("title", title), *children, viewBox=f"0 0 {short(width)} {short(height)}", role="img")


def line(x1: Number, y1: Number, x2: Number, y2: Number, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def label(x: Number, y: Number, text: str, class_: str = "tick", anchor: str = "middle") -> Markup:
    """A line of text; ``anchor`` is ``start``, ``middle`` or ``end``."""
    return element("text", text, x=x, y=y, class_=class_, text_anchor=anchor)


def polygon(points: Points, class_: str) -> Markup:
    """A filled shape."""
    return element("polygon", points=_pairs(points), class_=class_)


def polyline(points: Points, class_: str) -> Markup:
    """A line through points."""
    return element("polyline", points=_pairs(points), class_=class_)


def short(value: Number | str) -> str:
    """A number with two decimals at most; text as it is."""
    # adding 0.0 turns -0.0 into 0.0
    return value if isinstance(value, str) else f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _pairs(points: Points) -> str:
    return " ".join(f"{short(x)},{short(y)}" for x, y in points)


@dataclass(frozen=True)
class Scale:
    """A straight map from values to a stretch of the picture."""

    low: Number
    high: Number
    start: Number
    stop: Number

    def __call__(self, value: Number) -> float:
        """Where the value is; beyond the ends of the stretch for values beyond ``low`` and ``high``."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round values within the scale, about as many as asked for.

        >>> Scale(0.37, 0.45, 0, 1).ticks(4)
        [0.38, 0.4, 0.42, 0.44]
        """
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda step: abs(math.log(step / raw)))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, 2 - math.floor(math.log10(step)))
        return [round(k * step, digits) for k in range(first, last + 1)]


def power_of_ten(largest: Number) -> int:
    """The exponent to take out of an axis so that its labels stay short; 0 where they are short as they are.

    >>> power_of_ten(4.4e-10), power_of_ten(0.4), power_of_ten(12.0)
    (-10, 0, 0)
    """
    exponent = math.floor(math.log10(abs(largest))) if largest else 0
    return 0 if -3 <= exponent <= 4 else exponent


def superscript(exponent: int) -> str:
    """``10`` to this power, as text."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
