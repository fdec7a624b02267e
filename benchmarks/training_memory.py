"""Memory and time of one training step on a long window: the whole window at once, layers again, chunks (SeCO).

``python benchmarks/training_memory.py [--model smollm2] [--length 4096] [--chunk 512]`` makes each step in a process of
its own, on one thread, and prints the process' highest memory without what it held before the step; gradients must
agree with those of the first way to 1e-5 before anything is printed. Without ``--model`` the model is a random Llama of
eight layers.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import publish

WAYS = ("whole", "layers", "chunks")


def main() -> None:
    """Make a step in each way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model's name; without it, a random one")
    parser.add_argument("--length", type=int, default=8192, help="tokens of the window")
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a chunk")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--step", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        way, folder = options.step
        print(json.dumps(step(way, options.length, options.chunk, options.model, Path(folder))))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in options.ways:
            command = [sys.executable, __file__, "--step", way, folder, "--length", str(options.length)]
            command += ["--chunk", str(options.chunk), *(["--model", options.model] if options.model else [])]
            found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    first = found[options.ways[0]]
    rows = []
    for way, facts in found.items():
        assert facts["error"] < 1e-5, f"{way}: gradients differ by {facts['error']}"
        share = facts["bytes"] / first["bytes"]
        rows.append({"way": way, "MiB": round(facts["bytes"] / 2**20), "share": share, "CPU_s": facts["seconds"]})
        rows[-1] |= {"loss": facts["loss"], "error_of_gradients": facts["error"]}
    publish(rows, options.json, model=options.model or "random", length=options.length, chunk=options.chunk)


def step(way: str, length: int, chunk: int, name: str | None, folder: Path) -> dict[str, float]:
    """One forward and backward pass: bytes beyond those before, CPU seconds, loss, error against the first way's."""
    import torch

    from longattn.train.chunks import EXACT, backward_by_chunks
    from longattn.train.recomputing import keep_attention

    torch.set_num_threads(1)
    model = load(name).train()
    tokens = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    # gradients and all that a first step makes
    model(input_ids=tokens[:, :8], labels=tokens[:, :8]).loss.backward()
    model.zero_grad(set_to_none=False)
    before, begun = highest(), time.process_time()
    if way == "chunks":
        weights = [EXACT] * -(-length // chunk)
        loss = backward_by_chunks(model, tokens, tokens, chunk=chunk, weights=weights, items=length - 1)
    else:
        if way == "layers":
            model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": keep_attention})
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
    seconds, used = time.process_time() - begun, highest() - before
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    right = folder / "gradients.pt"
    if not right.exists():
        torch.save(gradients, right)
    errors = [(gradients[name] - g).norm() / g.norm() for name, g in torch.load(right, mmap=True).items()]
    return {"bytes": used, "seconds": seconds, "loss": loss.item(), "error": max(errors).item()}


def load(name: str | None):
    """The model named, or a random one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from longattn.models import resolve
    from longattn.settings import Model
    from longattn.train import Training
    from longattn.train.models import load_trainable, trainable_config

    if name is not None:
        facts = Model(name=name)
        checkpoint = resolve(facts)
        return load_trainable(checkpoint, trainable_config(checkpoint, facts, 0.0), Training())
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
    }
    return LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, vocab_size=4096, tie_word_embeddings=True))


def highest() -> int:
    """The most memory that this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
