"""Select long-context training data by measured long-range dependency.

Letters in tensor shapes: B windows, R query rows, T tokens (keys), H query heads, G key heads, K head size,
D distances.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longattn.recipes import Recipe, longattn_laptop, longattn_paper, longattn_released
    from longattn.records import Document, Window
    from longattn.scorers import SCORERS, Scorer
    from longattn.verbs import cut, export_selection, measure, plan, run, score, select, status, write_report

__version__ = "0.1.0"

__all__ = [
    "SCORERS",
    "Document",
    "Recipe",
    "Scorer",
    "Window",
    "cut",
    "export_selection",
    "longattn_laptop",
    "longattn_paper",
    "longattn_released",
    "measure",
    "plan",
    "run",
    "score",
    "select",
    "status",
    "write_report",
]

_HOMES = ("records", "scorers", "recipes", "verbs")


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used, so that importing the package costs nothing."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"longattn.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'longattn' has no attribute {name!r}")
