"""The questions a scorer may ask a model, and the ways to load one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from longattn import settings
from longattn.models.checkpoint import Checkpoint, resolve

if TYPE_CHECKING:
    from longattn.models.base import Model

__all__ = ["Checkpoint", "load_model", "resolve", "tokenizer_and_end"]


def tokenizer_and_end(name: str) -> tuple[Path, int | None]:
    """A tokenizer.json by itself, or that of a model, whose end token is known too."""
    path = Path(name)
    if path.suffix == ".json":
        return path, None
    checkpoint = resolve(settings.Model(name=name))
    return checkpoint.tokenizer_file, checkpoint.end_token


def load_model(
    checkpoint: Checkpoint,
    model: settings.Model,
    *,
    layers: Sequence[int] | Literal["all"],
    window: int,
    predicts: bool = False,
    device: str = "cpu",
) -> "Model":
    """A model that answers for ``layers`` and windows of up to ``window`` tokens; needs ``longattn[torch]``.

    See :func:`longattn.models.loading.load_model`.
    """
    from longattn.models import loading

    return loading.load_model(checkpoint, model, layers=layers, window=window, predicts=predicts, device=device)
