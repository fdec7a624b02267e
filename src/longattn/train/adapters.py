"""Train little of a model: low-rank additions to its attention, with embeddings and norms as they are (LongLoRA).

LoRA alone does not learn a longer window; with embeddings and norms trainable it comes close to training all weights
(LongLoRA, arXiv 2309.12307, section 3.3 and table 2). A head that shares the embeddings' weights keeps sharing them.
"""

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from longattn.errors import ModelError
from longattn.train.settings import Training


def with_lora(module: PreTrainedModel, training: Training) -> PeftModel:
    """The model with additions of rank ``training.lora_rank``, drawn from ``training.seed`` and 0 until trained.

    Raises ``ModelError`` for a model without linear projections in its attention.
    """
    assert training.lora_rank is not None, "who asks for additions says of which rank"
    parts = dict(module.named_modules())
    attention = [name for name, part in parts.items() if isinstance(part, nn.Linear) and re.search("att", name)]
    whole = [
        name for name, part in parts.items() if isinstance(part, nn.Embedding) or type(part).__name__.endswith("Norm")
    ]
    if not attention:
        raise ModelError(f"{type(module).__name__} has no linear projections in its attention for LoRA to add to")
    config = LoraConfig(
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        target_modules=attention,
        modules_to_save=whole if training.lora_whole else None,
        ensure_weight_tying=training.lora_whole and bool(module.config.tie_word_embeddings),
        task_type="CAUSAL_LM",
    )
    with _as_released(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return get_peft_model(module, config)


def merged(module: PreTrainedModel, training: Training, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model that does without the additions; ``weights`` are those of :func:`with_lora`'s.

    ``module`` is the model as it was before, and is changed.
    """
    trained = with_lora(module, training)
    trained.load_state_dict(dict(weights))
    return trained.merge_and_unload().state_dict()


@contextlib.contextmanager
def _as_released() -> Iterator[None]:
    """The library asks transformers for a property by its former name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
