"""Train a Llama-type model on windows of token ids, and ask it for their log-probabilities.

A plain loop: at a few milliseconds a step, what a trainer does around each one would take longer than the step. Sums
are made by one thread, so equal seeds give equal weights, bit by bit, on one machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from longattn.tables import durable, write_json

Windows = npt.NDArray[np.integer]
"""[N, T] token ids."""
LogProbs = npt.NDArray[np.float64]

TOKENS_AT_ONCE = 8192
"""Tokens that go through a model together where nothing is learned."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A small Llama-type model."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    rope_theta: float = 1e4
    spread: float = 0.08
    """Standard deviation of the weights at the beginning; the usual 0.02 is made for wide models."""
    bias: bool = False
    """Queries and keys have a part that no token decides: a head that looks at the token before is made of it."""
    tied: bool = False
    """What a token is read as is what it is predicted by, so that to copy need not be learned token by token."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a model is trained: AdamW, warm-up, then a cosine down to a tenth of the rate; each window is seen once."""

    rate: float
    batch: int
    """Windows per step."""
    seed: int
    """Another seed shows the windows in another order."""
    warmup: float = 0.05
    """Share of the steps in which the rate rises."""
    weight_decay: float = 0.01
    memory: float = 0.95
    """AdamW's second beta. Steps of few windows need a longer memory: rare tokens are in few of them."""


def new_model(shape: Shape, vocab_size: int, positions: int, seed: int) -> PreTrainedModel:
    """A model with random weights; equal seeds give equal ones."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=positions,
        initializer_range=shape.spread,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        attention_bias=shape.bias,
        tie_word_embeddings=shape.tied,
    )
    return LlamaForCausalLM(config)


def read_model(
    folder: str | Path, *, rope_scale: float = 1.0, positions: int | None = None, device: str = "cpu"
) -> PreTrainedModel:
    """A checkpoint, with the base of its rotary embedding ``rope_scale`` times as large (Adjusted Base Frequency).

    Raises ``ValueError`` for a checkpoint whose rotary embedding is stretched in another way already.
    """
    config = AutoConfig.from_pretrained(folder)
    rope: Mapping[str, Any] = config.rope_parameters
    if rope_scale != 1.0:
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"{folder} has rope_type {rope['rope_type']!r}; only the plain base can be adjusted")
        config.rope_parameters = {**rope, "rope_theta": rope["rope_theta"] * rope_scale}
    if positions is not None:
        config.max_position_embeddings = positions
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    # in place; transformers' own signature of to() is lost on type checkers
    torch.nn.Module.to(model, device)
    return model


def write_model(model: PreTrainedModel, folder: Path, tokenizer: str) -> None:
    """Write a checkpoint whose configuration names the rotary base in both of the ways that readers look for it."""
    # weights that are tied are written once
    shared = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items() if name not in shared
    }
    facts = model.config.to_dict()
    facts["rope_theta"] = facts["rope_parameters"]["rope_theta"]
    facts["architectures"] = [type(model).__name__]
    with durable(folder / "model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    write_json(folder / "config.json", facts)
    with durable(folder / "tokenizer.json") as file:
        file.write(tokenizer.encode())


def train(model: PreTrainedModel, windows: Windows, course: Course) -> list[float]:
    """Train in place, one pass over the windows; returns the mean loss of each twentieth of the steps, in nats.

    Raises ``ValueError`` for fewer windows than a step takes, and ``FloatingPointError`` where the loss is no number.
    """
    steps = len(windows) // course.batch
    if not steps:
        raise ValueError(f"a step takes {course.batch} windows, got {len(windows)}")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=course.rate, betas=(0.9, course.memory), weight_decay=course.weight_decay
    )
    order = np.random.default_rng((course.seed, 1)).permutation(len(windows))
    # made once: a number kept from every step would lie in the room of the large tensors that come after it, and the
    # process would grow by their size
    losses = torch.empty(steps, device=model.device)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = course.rate * rate_at(step, steps, course.warmup)
        batch = _tensor(windows[np.sort(order[step * course.batch : (step + 1) * course.batch])], model)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses[step] = loss.detach()
    curve = [float(part.mean()) for part in losses.tensor_split(min(20, steps))]
    if not np.isfinite(curve).all():
        raise FloatingPointError(f"the loss is no number any more, at a rate of {course.rate}; a lower one would help")
    return curve


def rate_at(step: int, steps: int, warmup: float) -> float:
    """The share of the rate that a step has: up in a straight line, then down a cosine to a tenth.

    >>> [round(rate_at(step, 100, 0.1), 2) for step in (0, 9, 10, 99)]
    [0.1, 1.0, 1.0, 0.1]
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    through = (step - rising) / max(1, steps - rising)
    return 0.1 + 0.45 * (1 + float(np.cos(np.pi * through)))


def log_probs(model: PreTrainedModel, windows: Windows) -> LogProbs:
    """[N, T - 1]: natural logarithm of the probability of each token but the first, given all before it."""
    model.eval()
    at_once = max(1, TOKENS_AT_ONCE // windows.shape[1])
    found = []
    with torch.inference_mode():
        for start in range(0, len(windows), at_once):
            batch = _tensor(windows[start : start + at_once], model)
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            of_tokens = logits.log_softmax(-1).gather(-1, batch[:, 1:, None])[..., 0]
            found.append(of_tokens.double().cpu().numpy())
    return np.concatenate(found)


def short_log_probs(model: PreTrainedModel, windows: Windows, context: int, step: int) -> LogProbs:
    """[N, T - context]: the same of the tokens from number ``context`` on, from ``context`` to ``context + step - 1``
    tokens before each; ``step`` of them share where their context begins.
    """
    starts = range(context, windows.shape[1], step)
    parts = [log_probs(model, windows[:, start - context : start + step])[:, context - 1 :] for start in starts]
    return np.concatenate(parts, axis=1)


def _tensor(windows: Windows, model: PreTrainedModel) -> torch.Tensor:
    return torch.from_numpy(windows.astype(np.int64)).to(model.device)
