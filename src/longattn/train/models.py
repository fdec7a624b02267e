"""Load a checkpoint to be trained, and write what became of it as a checkpoint that every tool reads."""

import copy
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from longattn import settings
from longattn.errors import ModelError, RunError
from longattn.export.staging import replacing
from longattn.models.cache import file_digest
from longattn.models.checkpoint import Checkpoint, check_unchanged
from longattn.models.configuration import max_positions
from longattn.models.transformer import filled, quiet
from longattn.models.weights import LocalWeights
from longattn.tables import write_json, write_text
from longattn.train.settings import Training
from longattn.train.shifted import shifted_name
from longattn.train.windows import Windows

_BESIDE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def trainable_config(checkpoint: Checkpoint, model: settings.Model, dropout: float) -> PreTrainedConfig:
    """The model's configuration. Raises ``ModelError`` for one that is no causal language model of ``transformers``."""
    for name in ("rope_theta", "bos", "dtype"):
        if getattr(model, name) != getattr(settings.Model(), name):
            raise ValueError(f"model.{name} is for measuring; training takes what config.json says (see longattn abf)")
    kind = str(checkpoint.config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ModelError(f"{checkpoint.name}: the installed transformers has no model type {kind!r}")
    config = CONFIG_MAPPING[kind].from_dict(copy.deepcopy(dict(checkpoint.config)))
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{checkpoint.name}: transformers has no causal language model {kind!r}")
    if dropout and not hasattr(config, "attention_dropout"):
        raise ModelError(f"{checkpoint.name}: models of the type {kind!r} have no attention_dropout")
    if dropout:
        config.attention_dropout = dropout
    return config


def check_fit(checkpoint: Checkpoint, config: PreTrainedConfig, model: settings.Model, windows: Windows) -> None:
    """Raise ``ModelError`` for windows that the model's positions or its tokenizer are not made for."""
    own = file_digest(checkpoint.tokenizer_file)[:16]
    if windows.tokenizer is not None and windows.tokenizer != own:
        raise ModelError(
            f"{windows.name} has token ids of the tokenizer {windows.tokenizer}, {checkpoint.name} has {own}; export "
            f"with --write.retokenize {checkpoint.name}"
        )
    if windows.tokenizer is None and (highest := windows.highest_id()) >= config.vocab_size:
        raise ModelError(
            f"{windows.name} has the token id {highest}, {checkpoint.name} only {config.vocab_size} tokens"
        )
    longest, limit = int(windows.lengths.max()), max_positions(config)
    if longest > limit and not model.allow_extrapolation:
        raise ModelError(
            f"{checkpoint.name} was made for {limit} positions, {windows.name} has windows of {longest}; raise the "
            "base of its rotary embedding first (longattn abf), or give --model.allow-extrapolation"
        )


def check_documents(windows: Windows, training: Training) -> None:
    """Raise :class:`RunError` where documents are to be kept apart and the windows do not say where they begin."""
    if training.documents == "apart" and not windows.has_documents:
        raise RunError(
            f"{windows.name} does not say where documents begin; it needs boundaries, as longattn mix writes them, or "
            "position_ids"
        )


def check_apart(module: PreTrainedModel, name: str) -> None:
    """Raise ``ModelError`` for a model that sees other documents although positions begin anew, found by trying it.

    ``transformers`` makes a mask of the positions for attention; layers without attention may not look at them.
    """
    tokens = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 1, 0, 0, 1, 2]], device=module.device)
    module.eval()
    with torch.no_grad():
        one, other = module(input_ids=tokens, position_ids=tokens[:1].expand(2, -1), use_cache=False).logits[:, 3:]
    if not torch.allclose(one, other, rtol=1e-4, atol=1e-4):
        raise ModelError(f"{name} cannot keep documents apart: what a token sees of others changes what follows it")


def load_trainable(checkpoint: Checkpoint, config: PreTrainedConfig, training: Training) -> PreTrainedModel:
    """The model in float32, with every tensor of its files. Raises ``ModelError`` for files that lack some."""
    attention = shifted_name(training.groups) if training.attention == "shifted" else None
    weights = checkpoint.weights.fetch(checkpoint.weights.names)
    module = filled(AutoModelForCausalLM, checkpoint.name, weights, config, torch.float32, attention)
    check_unchanged(checkpoint)
    return module


def save_trained(
    module: PreTrainedModel, weights: Mapping[str, Tensor], checkpoint: Checkpoint, folder: Path, made: str
) -> None:
    """Write the trained weights, in the precision of the model's own, with its configuration and tokenizer.

    ``made`` is said in the README. The configuration is the model's own file, so that it keeps every spelling of the
    base of its rotary embedding. Replaces ``folder`` as a whole.
    """
    kind = _precision(checkpoint.config)
    with replacing(folder, marker="config.json") as new, quiet():
        module.save_pretrained(new, state_dict={name: tensor.to(kind) for name, tensor in weights.items()})
        write_json(new / "config.json", checkpoint.config)
        beside = checkpoint.weights.folder if isinstance(checkpoint.weights, LocalWeights) else None
        for name in _BESIDE:
            if beside is not None and (beside / name).is_file():
                shutil.copyfile(beside / name, new / name)
        shutil.copyfile(checkpoint.tokenizer_file, new / "tokenizer.json")
        write_text(new / "README.md", f"---\nlicense: {checkpoint.license or 'unknown'}\n---\n\n{made}\n")
        for path in new.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _precision(config: Mapping[str, Any]) -> torch.dtype:
    """What the weights of a model are kept in, by either spelling of its configuration."""
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"config.json names the precision {name!r}, which torch does not have")
    return found
