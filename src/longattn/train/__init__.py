"""Continue a model's pre-training on selected windows: its checkpoint, and Hugging Face's loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from longattn.errors import LongAttnError
from longattn.train.settings import Training

if TYPE_CHECKING:
    from longattn.train.continuing import begin, continue_pretraining
    from longattn.train.loop import Trained, train
    from longattn.train.windows import Windows, read_windows

__all__ = ["Trained", "Training", "Windows", "begin", "continue_pretraining", "read_windows", "train"]

_HOMES = {
    "Trained": "loop",
    "Windows": "windows",
    "begin": "continuing",
    "continue_pretraining": "continuing",
    "read_windows": "windows",
    "train": "loop",
}
_EXTRA = ("accelerate", "peft", "torch", "transformers")


def __getattr__(name: str) -> Any:
    """What needs torch, imported when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"longattn.train.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise LongAttnError(f"training needs {error.name}: pip install 'longattn[train]'") from error
