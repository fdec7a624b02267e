"""Compare our LongCE with the authors' released code: key tokens and LongPPL, and the weights that it trains with.

The released code (https://github.com/PKU-ML/LongPPL, Apache-2.0) is a package, and a training script beside it::

    pip install --no-deps --target released longppl
    git clone https://github.com/PKU-ML/LongPPL checkout
    PYTHONPATH=released python benchmarks/compare_longppl.py --finetune checkout/finetune/finetune.py

The package runs as it is, and is given text, a model of transformers and its tokenizer. The script does not run without
the training libraries that it imports; its function ``loss_weight`` needs torch alone and is run by itself. Both sides
read the same short contexts, which are given. Ends with status 1 if the number of key tokens differs, or LongPPL or the
mean weight by more than the tolerance.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers

from common import publish
from longattn import settings
from longattn.asking import load_model_for
from longattn.expressions import evaluate
from longattn.measuring import measure_windows
from longattn.models import resolve
from longattn.records import Window
from longattn.scorers import LongCE
from longattn.tokens import Tokenizer

TOLERANCE = 1e-3
"""Largest relative difference of LongPPL or the mean weight."""


def text_of(tokens: int, tokenizer: Tokenizer) -> str:
    """The beginning of Python's language reference that makes this many tokens."""
    text = "\n\n".join(text for _, text in sorted(topics.items()))[: 16 * tokens]
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if len(tokenizer.encode(text[:middle]).ids) < tokens else (low, middle)
    return text[:low]


def loss_weight(script: Path) -> Callable[..., Any]:
    """The function of that name, without the rest of the script."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    only: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "loss_weight"
    ]
    names: dict[str, Any] = {"torch": torch}
    exec(compile(ast.Module(only, []), str(script), "exec"), names)
    return names["loss_weight"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--finetune", type=Path, help="the training script, to compare weights as well")
    parser.add_argument("--length", type=int, default=1024, help="tokens of the window")
    parser.add_argument("--context", type=int, default=128, help="least number of tokens of short context")
    parser.add_argument("--step", type=int, default=32, help="tokens that share a beginning of their context")
    parser.add_argument("--model", default="smollm2", help="smollm2, a GGUF file or a checkpoint folder")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="largest relative difference")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> int:
    """Print both sides; 0 if they agree within the tolerance, else 1."""
    arguments = parse()
    facts = settings.Model(name=arguments.model)
    checkpoint = resolve(facts)
    folder = checkpoint.tokenizer_file.parent
    text = text_of(arguments.length, Tokenizer.load(checkpoint.tokenizer_file))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(checkpoint.tokenizer_file))
    tokens = np.array(tokenizer(text)["input_ids"], dtype=np.uint32)
    window = Window("text", "text", 0, tokens, 0, len(text), len(tokens))

    scorer = LongCE(context=arguments.context, step=arguments.step).for_length(len(tokens))
    model = load_model_for([scorer.ask()], checkpoint, facts, len(tokens), "cpu")
    columns = measure_windows([scorer], model, [window])[scorer.name]
    weight = evaluate(scorer.readings()["weight"], columns)[0]

    other = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    package = importlib.import_module("longppl.longppl")
    rows = []
    for i, alpha in enumerate(scorer.alphas):
        theirs = package.compute_longppl(
            text,
            other,
            other,
            tokenizer,
            tokenizer,
            trunc_len=arguments.context,
            sliding_window=arguments.step,
            alpha=alpha,
            beta=scorer.beta,
        )
        count = columns["key_tokens"][0][i]
        rows.append((f"key tokens, alpha {alpha}", count, theirs["n_key_token"] or 0))
        if count and theirs["longppl"] is not None:
            rows.append((f"LongPPL, alpha {alpha}", np.exp(columns["key_loss"][0][i] / count), theirs["longppl"]))
    if arguments.finetune:
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        with torch.no_grad():
            weights, _ = loss_weight(arguments.finetune)(
                lambda ids: SimpleNamespace(logits=other(ids).logits),
                ids,
                trunc_len=arguments.context,
                internal=arguments.step,
                thre=scorer.gamma,
            )
        # theirs has a weight for every token but the first; the tokens without a short context weigh 1
        rows.append(("mean weight", weight, float(weights[arguments.context - 1 :].double().mean())))

    apart = [0.0 if ours == theirs else abs(ours - theirs) / abs(theirs) for _, ours, theirs in rows]
    table = [
        {"what": name, "ours": f"{ours:.6f}", "released": f"{theirs:.6f}", "difference": difference}
        for (name, ours, theirs), difference in zip(rows, apart, strict=True)
    ]
    publish(table, arguments.json, model=checkpoint.hash, length=len(tokens))
    counts = all(ours == theirs for name, ours, theirs in rows if name.startswith("key"))
    agrees = counts and max(apart) <= arguments.tolerance
    print(f"\n{'Agreed' if agrees else 'DIFFERENT'}: allowed {arguments.tolerance:.0e}, and no key token.")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
