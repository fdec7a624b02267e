"""Continue a model's pre-training on selected windows: its checkpoint, and the loop of Hugging Face (``longattn[train]``)."""

from typing import TYPE_CHECKING, Any

from longattn.train.settings import Training

if TYPE_CHECKING:
    from longattn.train.continuing import continue_pretraining
    from longattn.train.loop import Trained, train
    from longattn.train.windows import Windows, read_windows

__all__ = ["Trained", "Training", "Windows", "continue_pretraining", "read_windows", "train"]

_HOMES = {
    "Trained": "loop",
    "Windows": "windows",
    "continue_pretraining": "continuing",
    "read_windows": "windows",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    """What needs torch, imported when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"longattn.train.{_HOMES[name]}"), name)
