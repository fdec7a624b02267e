"""What tests of several scorers share: a model run the plain way, with every attention map, in float64."""

from typing import NamedTuple

import numpy as np
import pytest


class Whole(NamedTuple):
    """All that a model makes of some tokens."""

    maps: np.ndarray
    """Attention [layers, H, T, T]."""
    log_probs: np.ndarray
    """Of each token but the first, given those before it [T - 1]."""
    hits: np.ndarray
    """Whether it was the most probable one [T - 1]."""


@pytest.fixture(scope="session")
def whole():
    """The model in a folder as ``transformers`` runs it by itself."""
    import torch
    from transformers import LlamaForCausalLM

    loaded = {}

    def run(folder, tokens):
        if folder not in loaded:
            options = {"dtype": torch.float64, "attn_implementation": "eager"}
            loaded[folder] = LlamaForCausalLM.from_pretrained(folder, **options).eval()
        tokens = torch.as_tensor(np.asarray(tokens, np.int64))
        with torch.inference_mode():
            found = loaded[folder](tokens[None], output_attentions=True, use_cache=False)
        log_probs = found.logits[0, :-1].log_softmax(-1)
        given = log_probs.gather(1, tokens[1:, None])[:, 0]
        return Whole(
            np.stack([one[0].numpy() for one in found.attentions]),
            given.numpy(),
            (log_probs.argmax(-1) == tokens[1:]).numpy(),
        )

    return run
