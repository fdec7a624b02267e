"""The rotary table that ``transformers`` makes of a checkpoint."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from longattn.errors import ModelError


def reader() -> str:
    """The installed ``transformers`` with its version."""
    return f"transformers {transformers.__version__}"


def rotary_table(folder: Path) -> npt.NDArray[np.float32]:
    """The inverse frequencies, [d/2], with which the installed ``transformers`` would run a checkpoint.

    The model is made without weights, and its rotary embedding once more with values. Raises ``ModelError`` for a model
    that has none.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    for module in model.modules():
        if "inv_freq" in dict(module.named_buffers(recurse=False)):
            return type(module)(config=config).inv_freq.numpy()
    raise ModelError(f"{folder}: transformers makes no rotary embedding of it")
