"""Load a checkpoint as the model that answers what will be asked, with no more of it than that takes."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from longattn import settings
from longattn.errors import LongAttnError, ModelError
from longattn.models.base import Model
from longattn.models.bos import WithBos, with_bos
from longattn.models.checkpoint import Checkpoint, check_unchanged
from longattn.models.configuration import Layers, read_config
from longattn.models.first_layer import FirstLayer, follows_llama, load_first_layer
from longattn.models.transformer import load_any_layer
from longattn.models.vocabulary import TOKENS_PER_ID
from longattn.tokens import Tokenizer, check_vocabulary

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    checkpoint: Checkpoint,
    model: settings.Model,
    *,
    layers: Layers,
    window: int,
    predicts: bool = False,
    device: str = "cpu",
) -> Model:
    """A model that answers for ``layers`` and windows of up to ``window`` tokens, and predicts if asked to.

    Layer 0 of the Llama family takes only the tensors it depends on; everything else runs in
    ``transformers``. Raises ``ModelError`` for a model whose attention the moments do not describe, for
    missing tensors, for a tokenizer with ids that the model does not embed, and where a BOS is asked for of a model
    that has none.
    """
    with _told_as_model_error(checkpoint):
        loaded = _load(checkpoint, model, layers=layers, window=window, predicts=predicts, device=device)
    # the hash was taken before the files were read
    check_unchanged(checkpoint)
    check_vocabulary(Tokenizer.load(checkpoint.tokenizer_file), loaded.vocab_size)
    return with_bos(loaded, checkpoint) if model.bos else loaded


@contextlib.contextmanager
def _told_as_model_error(checkpoint: Checkpoint) -> Iterator[None]:
    """Whatever a library raises for numbers in config.json that do not fit is the model's fault."""
    try:
        yield
    except (LongAttnError, OSError, MemoryError, torch.OutOfMemoryError, ImportError):
        raise
    except Exception as error:  # the libraries on the way have no common base for their errors
        raise ModelError(f"{checkpoint.name} cannot be loaded as its config.json says: {error!r}"[:500]) from error


def _load(
    checkpoint: Checkpoint, model: settings.Model, *, layers: Layers, window: int, predicts: bool, device: str
) -> Model:
    # a prediction depends on every layer
    config = read_config(checkpoint, model, layers="all" if predicts else layers, window=window)
    layers = range(config.num_hidden_layers) if predicts or layers == "all" else layers
    place = {"window": window + model.bos, "device": torch.device(device), "dtype": _DTYPES[model.dtype]}
    if tuple(layers) == (0,) and not predicts and follows_llama(config):
        return load_first_layer(checkpoint, config, **place)
    return load_any_layer(checkpoint, config, layers=layers, predicts=predicts, **place)


def with_table(model: Model, choice: settings.VocabularyTable, num_tokens: int) -> Model:
    """The same model reading layer-0 queries and keys from the table on disk, where it has one and that is worth it.

    ``auto`` uses a table that is there. It makes one when the ``num_tokens`` to be measured hold so much of the
    vocabulary that about half of the table would be computed anyway (see :data:`TOKENS_PER_ID`): the next process or
    run then computes none of it.
    """
    if isinstance(model, WithBos):
        return replace(model, inner=with_table(model.inner, choice, num_tokens))
    if choice == "never" or not isinstance(model, FirstLayer):
        return model
    return model.with_table(build=choice == "always" or num_tokens >= TOKENS_PER_ID * model.vocab_size)
