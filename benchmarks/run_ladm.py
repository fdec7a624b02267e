"""Ask the authors' released LADM code for its scores of one window; started by ``compare_ladm.py``.

Runs in the Python environment of that code, not in ours: it needs torch and a transformers 4 that its copy of the Llama
model fits, and nothing of longattn. A question is a JSON object on standard input, the answer one in the file named.

That code computes its scores inside the class that calls flash-attn, which runs on CUDA in half precision only. Here
that class is used as it is, in float32, with torch's own causal attention put in the place of the one call to
flash-attn, whose result goes on to the next layer and has no part in the score of its own.
"""

import argparse
import importlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import transformers


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """What flash-attn computes for a window without padding; heads come third, and keys are repeated already."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)


def load(checkout: Path, question: dict[str, Any]) -> Any:
    """The released model class with all layers, in float32 and evaluation mode."""
    sys.path.insert(0, str(checkout))
    released: Any = importlib.import_module("modeling_llama2")
    released._flash_attention_forward = causal_attention
    # the name that transformers accepts without flash-attn, for the class that the scores are computed in
    released.LLAMA_ATTENTION_CLASSES["eager"] = released.LlamaFlashAttention2
    config = transformers.AutoConfig.from_pretrained(question["model"])
    for name in ("attn_chunk_size", "stride", "interval", "ablation"):
        setattr(config, name, question[name])
    return released.LlamaModel.from_pretrained(
        question["model"], config=config, torch_dtype=torch.float32, attn_implementation="eager"
    ).eval()


def answer(checkout: Path, question: dict[str, Any]) -> dict[str, Any]:
    """CDS of every layer, as that code returns it, and what it was computed with."""
    model = load(checkout, question)
    with torch.inference_mode():
        by_layer = model(torch.tensor([question["tokens"]]), return_dict=False, use_cache=False)[-1]
    return {
        "cds": [float(cds[0]) for cds in by_layer],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder with the released code")
    parser.add_argument("answer", type=Path, help="file to write")
    arguments = parser.parse_args()
    arguments.answer.write_text(json.dumps(answer(arguments.checkout, json.load(sys.stdin))))
