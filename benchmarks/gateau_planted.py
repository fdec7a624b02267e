"""What GATEAU's contextual awareness (CAS) says of samples whose answer stands in one segment of their context.

    python benchmarks/gateau_planted.py --dtype bfloat16

The context is the beginning of one of Python's help topics. The response is a passage of it (``copied``) or of another
topic (``other``), so that the first needs one segment and the second none. The readings differ in how attention and
importance are made comparable (``squash``) and in the first keys left out (``skip_first``). Both models are the same
one here, since perplexities of two have no part in CAS.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch

from common import publish
from longattn import settings
from longattn.asking import load_model_for, look, resolve_others
from longattn.expressions import evaluate
from longattn.measuring import measure_each
from longattn.models import resolve
from longattn.records import Turn, Window
from longattn.scorers import Ask, Gateau, WholeWindow
from longattn.tokens import Tokenizer
from scorer_cost import seconds

INSTRUCTION = "\n\nRepeat one passage of the text above word by word.\n\n"
CONTEXT, SEGMENT, RESPONSE = 1024, 128, 40
"""Tokens."""


def sample(tokenizer: Tokenizer, text: str, other: str | None, random: np.random.Generator) -> Window:
    """A sample with a response of 40 tokens from within one segment of the text but the first, or of another text."""
    context = tokenizer.encode(text).ids[:CONTEXT]
    instruction = tokenizer.encode(INSTRUCTION).ids
    if other is None:
        first = SEGMENT * int(random.integers(1, CONTEXT // SEGMENT)) + 30
        response = context[first : first + RESPONSE]
    else:
        response = tokenizer.encode(other).ids[300 : 300 + RESPONSE]
    parts = (context, instruction, response)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    turns = [Turn(role, end - len(part), end) for role, part, end in zip(ROLES, parts, ends, strict=True)]
    return Window(text[:20], "planted", 0, np.concatenate(parts), 0, 1, ends[-1], turns=tuple(turns))


ROLES = ("user", "user", "assistant")


def samples(tokenizer: Tokenizer, number: int, random: np.random.Generator) -> list[Window]:
    """As many with a copied response, then as many with another topic's."""
    texts = [text for text in topics.values() if len(text) > 6000]
    random.shuffle(texts)
    pairs = [(texts[i], None) for i in range(number)] + [(texts[i], texts[-1 - i]) for i in range(number)]
    return [sample(tokenizer, text, other, random) for text, other in pairs]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=12, help="of each kind")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts = settings.Model(name=arguments.model, dtype=arguments.dtype)
    checkpoint = resolve(facts)
    tokenizer, random = Tokenizer.load(checkpoint.tokenizer_file), np.random.default_rng(0)
    windows = samples(tokenizer, arguments.samples, random)
    n = arguments.samples

    scorers = [Gateau(short_model=facts, segment=SEGMENT, skip_first=skip) for skip in (0, 4)]
    asks = [scorer.ask() for scorer in scorers]
    model = load_model_for(asks, checkpoint, facts, CONTEXT * 2, "cpu", resolve_others(asks, checkpoint))
    plain = Ask(contexts=(WholeWindow(),))
    look([plain], model, windows[0])
    one_pass = seconds(lambda: look([plain], model, windows[0]))
    alone = seconds(lambda: measure_each(scorers[:1], model, windows[:1]))
    rows = []
    for scorer, columns in zip(scorers, measure_each(scorers, model, windows), strict=True):
        for squash in ("softmax", "share"):
            cas = evaluate(Gateau(squash=squash).awareness(), columns)
            copied, other = cas[:n], cas[n:]
            rows.append(
                {
                    "skip_first": scorer.skip_first,
                    "squash": squash,
                    "copied": copied.mean(),
                    "other": other.mean(),
                    "auc": float((copied[:, None] > other).mean()),
                }
            )
    publish(
        rows, arguments.json, model=checkpoint.hash, dtype=arguments.dtype, samples=n, forward_passes=alone / one_pass
    )
    print(f"one sample takes {alone / one_pass:.2f} times the processor time of one forward pass over it")


if __name__ == "__main__":
    main()
