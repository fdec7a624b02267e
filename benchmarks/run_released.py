"""Ask the authors' released LongAttn code for the numbers of one batch; started by ``compare_released.py``.

Runs in the Python environment of that code, not in ours: it needs torch and the transformers version which that code
pins, and nothing of longattn. A question is a JSON object on standard input, the answer one in the file named.

Whatever precision it is loaded in, that code casts the output of its attention to float16 before the output projection.
In float32 this ends in an error, so that projection is made float16 as well; the statistics are taken before it.
"""

import argparse
import importlib
import json
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers


def load(checkout: Path, question: dict[str, Any]) -> Any:
    """The released model class with one layer, in evaluation mode."""
    sys.path.insert(0, str(checkout / "src"))
    released = importlib.import_module("LongAttn")
    changes = {} if question["rope_theta"] is None else {"rope_theta": question["rope_theta"]}
    config = transformers.AutoConfig.from_pretrained(question["model"], num_hidden_layers=1, **changes)
    # "as shipped" leaves the choice to transformers, as the released scripts do
    choice = {} if question["attention"] == "as shipped" else {"attn_implementation": question["attention"]}
    model = released.CustomLlamaForCausalLM.from_pretrained(
        question["model"], config=config, torch_dtype=getattr(torch, question["dtype"]), **choice
    ).eval()
    model.model.layers[0].self_attn.o_proj.half()
    return model


def rope_base(model: Any) -> float:
    """The base of the rotary embedding in use, read back from its frequencies (where these are not scaled)."""
    frequencies = model.model.rotary_emb.inv_freq.double()
    return float(frequencies[1] ** -len(frequencies))


def answer(checkout: Path, question: dict[str, Any]) -> dict[str, Any]:
    """Dependency strength and variance of layer 0, per sequence and head, and what they were computed with."""
    model = load(checkout, question)
    tokens = torch.tensor(question["tokens"])
    mask = None if question["mask"] is None else torch.tensor(question["mask"])
    start = time.perf_counter()
    with torch.inference_mode():
        output = model(input_ids=tokens, attention_mask=mask)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "ds": output.proportions[0].tolist(),
        "variance": output.uniformities[0].tolist(),
        "attention": model.config._attn_implementation,
        "dtype": str(model.dtype).removeprefix("torch."),
        "rope_base": rope_base(model),
        "seconds": seconds,
        "peak_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": numpy.__version__,
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder with the released code")
    parser.add_argument("answer", type=Path, help="file to write")
    arguments = parser.parse_args()
    arguments.answer.write_text(json.dumps(answer(arguments.checkout, json.load(sys.stdin))))
