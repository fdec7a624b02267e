"""Greedy answers of a checkpoint to prompts, as ``transformers`` generates them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import tokenizers
import torch
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from longattn import settings
from longattn.models import Checkpoint
from longattn.models.configuration import read_config
from longattn.models.transformer import load_generating
from longattn.tokens import Tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Prompt:
    """What to continue, and when to stop before its tokens are used up."""

    text: str
    is_answered: Callable[[str], bool] = lambda answer: False
    """Called with the answer so far, after each token."""


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    num_prompt_tokens: int
    """Those that the tokenizer puts before a text counted."""
    num_tokens: int
    ended: str
    """``end``: it ended its answer; ``answered``: nothing more was needed; ``length``: the tokens were used up."""


@dataclass(frozen=True)
class Answerer:
    """A loaded model with its tokenizer."""

    module: PreTrainedModel
    tokenizer: Tokenizer
    beginning: tuple[int, ...]
    """What the tokenizer puts before a text: a BOS, or nothing."""
    ends: tuple[int, ...]
    """Ids that end an answer."""

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Answer]:
        """The most probable token again and again, for all prompts at once."""
        rows = [[*self.beginning, *self.tokenizer.encode(prompt.text).ids.tolist()] for prompt in prompts]
        width = max(map(len, rows))
        filler = self.ends[0] if self.ends else 0
        ids = np.full((len(rows), width), filler, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, width - len(tokens) :] = tokens
            mask[row, width - len(tokens) :] = 1
        device = self.module.device
        stop = _Answered(self.tokenizer, prompts, width)
        generated = cast("Any", self.module).generate(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            # a generation_config.json beside the weights may ask for sampling
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=list(self.ends) or None,
                pad_token_id=filler,
            ),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
        new = generated[:, width:].cpu().tolist()
        return [self._told(tokens, said, stop.after[i]) for i, (tokens, said) in enumerate(zip(rows, new, strict=True))]

    def _told(self, prompt: list[int], said: list[int], answered_after: int | None) -> Answer:
        ended = "length"
        if answered_after is not None:
            said, ended = said[:answered_after], "answered"
        for place, token in enumerate(said):
            if token in self.ends:
                said, ended = said[:place], "end"
                break
        return Answer(self.tokenizer.decode(said), len(prompt), len(said), ended)


class _Answered(StoppingCriteria):
    """Ends each answer as soon as nothing that it may still say can change its score."""

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[Prompt], width: int) -> None:
        self.tokenizer, self.prompts, self.width = tokenizer, prompts, width
        self.after: list[int | None] = [None] * len(prompts)
        """Tokens after which each was answered."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        for row, prompt in enumerate(self.prompts):
            if self.after[row] is None:
                said = input_ids[row, self.width :].tolist()
                if prompt.is_answered(self.tokenizer.decode(said)):
                    self.after[row] = len(said)
        done = [after is not None for after in self.after]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def load_answerer(checkpoint: Checkpoint, model: settings.Model, *, longest: int, device: str) -> Answerer:
    """The model for prompts and answers of up to ``longest`` tokens together.

    A BOS is put before a prompt where the tokenizer's own rule does so, or ``model.bos`` asks for it; never two. Raises
    ``ModelError`` for a model that cannot be read, and for lengths beyond its positions.
    """
    beginning = _beginning(checkpoint, model)
    config = read_config(checkpoint, model, layers="all", window=longest + len(beginning) - model.bos)
    module = load_generating(checkpoint, config, device=torch.device(device), dtype=_DTYPES[model.dtype])
    ends = checkpoint.config.get("eos_token_id")
    return Answerer(
        module,
        Tokenizer.load(checkpoint.tokenizer_file),
        beginning,
        tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
    )


def _beginning(checkpoint: Checkpoint, model: settings.Model) -> tuple[int, ...]:
    bos = checkpoint.config.get("bos_token_id")
    own = tokenizers.Tokenizer.from_file(str(checkpoint.tokenizer_file)).encode("").ids
    if isinstance(bos, int) and (model.bos or own[:1] == [bos]):
        return (bos,)
    return ()
