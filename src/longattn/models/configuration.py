"""Decide from its configuration whether a model's attention is what the row moments describe."""

import copy
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from transformers import CONFIG_MAPPING, PreTrainedConfig

from longattn import settings
from longattn.errors import ModelError
from longattn.models.checkpoint import Checkpoint

Layers = Sequence[int] | Literal["all"]
"""Decoder layers, 0-based."""
_MOST = 100_000
_STRETCHED = ("dynamic", "yarn", "longrope")
_SOFTCAPS = ("attn_logit_softcapping", "attn_logit_softcap", "attention_logit_cap")


def read_config(checkpoint: Checkpoint, model: settings.Model, *, layers: Layers, window: int) -> PreTrainedConfig:
    """The model's configuration, with the settings applied and checked for what will be asked.

    The moments describe causal softmax attention over the whole window. Raises ``ModelError`` for a model
    that has another, and for windows longer than it was made for; a BOS before them counts.
    """
    _check_counts(checkpoint)
    windows = _Windows(window + model.bos, f"windows have {window} tokens" + (" and a BOS" if model.bos else ""))
    kind = str(checkpoint.config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ModelError(f"{checkpoint.name}: the installed transformers has no model type {kind!r}")
    try:
        config = CONFIG_MAPPING[kind].from_dict(copy.deepcopy(dict(checkpoint.config)))
    except Exception as error:  # whatever a class does with what it gets
        raise ModelError(f"{checkpoint.name}: config.json does not fit {kind}: {error}"[:500]) from error
    try:
        _check_kind(config)
        _check_layers(config, range(config.num_hidden_layers) if layers == "all" else layers, windows)
        _set_rope_theta(config, model.rope_theta)
        _check_positions(config, model, windows)
    except ModelError as error:
        raise ModelError(f"{checkpoint.name}: {error}") from error
    return config


def _check_counts(checkpoint: Checkpoint) -> None:
    """Raise ``ModelError`` for more layers, heads or experts than there can be: lists of that length would be made."""
    for name, value in checkpoint.config.items():
        if not isinstance(value, int) or not re.match(r"num_|n_", name) or name in ("n_positions", "n_ctx"):
            continue
        # every layer has a tensor of its own at least
        most = len(checkpoint.weights.names) if re.fullmatch(r"num_(hidden_)?layers|n_layers?", name) else _MOST
        if value > most:
            raise ModelError(f"{checkpoint.name}: {name} in config.json is {value}, more than {most}")


def max_positions(config: PreTrainedConfig) -> int:
    """Positions that the model was made for, 0 if its config does not say.

    With dynamic, YaRN and LongRoPE scaling these are the stretched ones.
    """
    limit = getattr(config, "max_position_embeddings", None) or 0
    rope = _rope(config)
    if rope.get("rope_type") in _STRETCHED:
        stretched = (rope.get("factor") or 1) * (rope.get("original_max_position_embeddings") or limit)
        return max(limit, int(stretched))
    return limit


def _check_kind(config: PreTrainedConfig) -> None:
    if config.is_encoder_decoder:
        raise ModelError("encoder-decoder models are not supported")
    if config.get_text_config() is not config:
        raise ModelError("models of text and other media are not supported")
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", False):
        raise ModelError("its attention is not causal")
    for name in _SOFTCAPS:
        if getattr(config, name, None):
            raise ModelError(f"its attention logits are capped ({name}), which the moments do not describe")
    if getattr(config, "alibi", False) or getattr(config, "position_embedding_type", "") == "alibi":
        raise ModelError("its attention is biased by distance (ALiBi), which the moments do not describe")


class _Windows(NamedTuple):
    """What goes through the model at once."""

    tokens: int
    described: str


def _check_layers(config: PreTrainedConfig, layers: Sequence[int], windows: _Windows) -> None:
    """Every layer up to the deepest one asked must attend to the whole window."""
    depth = config.num_hidden_layers
    if not layers or not 0 <= min(layers) <= max(layers) < depth:
        raise ModelError(f"layers must be from 0 to {depth - 1}, got {list(layers)}")
    kinds = getattr(config, "layer_types", None)
    used = set(kinds[: max(layers) + 1]) if kinds else {"full_attention"}
    if other := sorted(used - {"full_attention", "sliding_attention"}):
        raise ModelError(f"layers of the kind {', '.join(other)} are not supported")
    reach = getattr(config, "sliding_window", None)
    if reach and reach < windows.tokens and (not kinds or "sliding_attention" in used):
        raise ModelError(f"its attention reaches only {reach} tokens back (sliding window), {windows.described}")


def _set_rope_theta(config: PreTrainedConfig, theta: float | None) -> None:
    if theta is None:
        return
    rope = _rope(config)
    if "rope_theta" not in rope:
        raise ModelError("rope_theta does not apply: it has no rotary embedding with a single base")
    rope["rope_theta"] = theta


def _check_positions(config: PreTrainedConfig, model: settings.Model, windows: _Windows) -> None:
    limit = max_positions(config)
    if windows.tokens <= limit:
        return
    if not _rope(config):
        raise ModelError(f"{windows.described}, more than the {limit} positions that it has embeddings for")
    if model.rope_theta is None and not model.allow_extrapolation:
        raise ModelError(
            f"it was made for {limit} positions, {windows.described}; choose a shorter window, "
            "or set rope_theta (--model.rope-theta; the released LongAttn code uses 2500000) or allow_extrapolation "
            "(--model.allow-extrapolation)"
        )


def _rope(config: PreTrainedConfig) -> dict[str, Any]:
    """The parameters of the rotary embedding, empty if there is none."""
    return getattr(config, "rope_parameters", None) or {}
