"""Compare our ProLong with the authors' released code on the same chunks, pair by pair.

The released code (https://github.com/October2001/ProLong) has no licence, so none of it is here; name a checkout::

    git clone https://github.com/October2001/ProLong released
    python benchmarks/compare_prolong.py released

Its script does not run beside a current transformers: it pins 4.36 and a Python of before 3.11, asks for an argument
that is gone (``use_flash_attention_2``), and loads half precision onto the CPU. The functions that make the score do
run, with the model put where they look for it, in float32: perplexities of chunks and of pairs, and the score from
them. They are called as the script calls them, on our tokens.

Compared per window: every perplexity; the score of all pairs; and the score of the pairs that the released code draws,
with our numbers for the same pairs. Ends with status 1 if anything differs by more than the tolerance.
"""

import argparse
import importlib.util
import random
import sys
import types
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from common import commit, publish
from longattn import settings
from longattn.asking import load_model_for, look
from longattn.expressions import evaluate
from longattn.models import resolve
from longattn.models.base import Model
from longattn.records import Window
from longattn.scorers import ProLong
from longattn.scorers.prolong import dependencies
from longattn.tokens import Tokenizer

TOLERANCE = 1e-3
"""Largest relative difference of a perplexity or a score."""


class Compared(NamedTuple):
    """Largest relative differences on one window, and its scores."""

    chunks: float
    pairs: float
    all_pairs: tuple[float, float]
    """Our score and theirs."""
    drawn: tuple[float, float]

    def worst(self) -> float:
        """The largest of them."""
        scores = (relative(*self.all_pairs), relative(*self.drawn))
        return float(np.max([self.chunks, self.pairs, *scores]))


def relative(ours: Any, theirs: Any) -> float:
    """The largest difference, relative to theirs; nothing where both are 0."""
    ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
    apart = np.abs(ours - theirs)
    return float(np.max(np.divide(apart, np.abs(theirs), out=apart.copy(), where=theirs != 0)))


def released(checkout: Path, folder: Path, chunk: int, length: int, threshold: float) -> Any:
    """Their module, with what their script would have set before it calls its functions."""
    spec = importlib.util.spec_from_file_location("prolong_released", checkout / "prolong" / "run.py")
    assert spec is not None, "the name ends with .py"
    assert spec.loader is not None, "the name ends with .py"
    # only their pictures need it
    for name in ("matplotlib", "matplotlib.pyplot"):
        sys.modules.setdefault(name, types.ModuleType(name))
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    module.device = torch.device("cpu")
    module.args = argparse.Namespace(chunk_num=length // chunk, dlt_ppl_threshold=threshold)
    return module


def compare(theirs: Any, model: Model, window: Window, scorer: ProLong, draw: int, batch: int) -> Compared:
    """Both sides on one window."""
    alone, paired = scorer.ask().contexts
    seen = look([scorer.ask()], model, window)[0]
    ours, ours_paired = (
        np.exp([-scores.log_probs.mean(dtype=np.float64) for scores in seen.predictions[context]])
        for context in (alone, paired)
    )
    later, earlier = np.tril_indices(len(ours), -1)

    chunks = [excerpt.tokens.tolist() for excerpt in alone.excerpts(window)]
    single = theirs.compute_single_ppl(chunks, batch)
    pairs = theirs.compute_pair_ppl(chunks, batch, -1)
    score, _, _ = theirs.compute_lds(single, pairs)
    random.seed(11)
    some = theirs.compute_pair_ppl(chunks, batch, draw)
    score_of_some, _, _ = theirs.compute_lds(single, some)

    drawn = np.isfinite(np.array(some)[later, earlier])
    strength, distance, specificity = dependencies(ours, ours_paired[drawn], later[drawn], earlier[drawn])
    counted = strength > scorer.threshold
    return Compared(
        chunks=relative(ours, single),
        pairs=relative(ours_paired, np.array(pairs)[later, earlier]),
        all_pairs=(float(evaluate(scorer.score(), scorer.measure([window], seen))[0]), float(score)),
        drawn=(float(((strength + distance) * specificity)[counted].sum()), float(score_of_some)),
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder with the released code")
    parser.add_argument("--windows", type=int, default=2, help="how many to compare")
    parser.add_argument("--length", type=int, default=1024, help="tokens per window")
    parser.add_argument("--chunk", type=int, default=64, help="tokens per chunk")
    parser.add_argument("--draw", type=int, default=40, help="pairs that the released code draws")
    parser.add_argument("--batch", type=int, default=16, help="its batch; it holds all logits of one")
    parser.add_argument("--model", default="smollm2", help="smollm2, a GGUF file or a checkpoint folder")
    parser.add_argument("--text", type=Path, help="UTF-8 text file; default: Python's language reference")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="largest relative difference")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> int:
    """Print the table; 0 if everything agrees within the tolerance, else 1."""
    arguments = parse()
    facts = settings.Model(name=arguments.model)
    checkpoint = resolve(facts)
    text = "\n\n".join(text for _, text in sorted(topics.items()))
    if arguments.text is not None:
        text = arguments.text.read_text(encoding="utf-8")
    ids = Tokenizer.load(checkpoint.tokenizer_file).encode(text).ids
    length = arguments.length
    if len(ids) < length * arguments.windows:
        raise SystemExit(f"the text has {len(ids)} tokens, {arguments.windows} windows of {length} were asked for")

    scorer = ProLong(chunk=arguments.chunk, pairs=None).for_length(length)
    theirs = released(arguments.checkout, checkpoint.tokenizer_file.parent, arguments.chunk, length, scorer.threshold)
    model = load_model_for([scorer.ask()], checkpoint, facts, length, "cpu")
    windows = [
        Window("text", "text", start, ids[start : start + length], 0, 0, len(ids))
        for start in range(0, length * arguments.windows, length)
    ]
    found = [compare(theirs, model, window, scorer, arguments.draw, arguments.batch) for window in windows]
    # a number that is none stays one through np.max, and does not agree
    worst = float(np.max([one.worst() for one in found]))
    rows = [
        {
            "first_token": window.start,
            "chunks_apart": one.chunks,
            "pairs_apart": one.pairs,
            **dict(zip(("all_pairs_ours", "all_pairs_released"), map("{:.6f}".format, one.all_pairs), strict=True)),
            **dict(zip(("its_draw_ours", "its_draw_released"), map("{:.6f}".format, one.drawn), strict=True)),
        }
        for window, one in zip(windows, found, strict=True)
    ]
    publish(
        rows, arguments.json, released=commit(arguments.checkout), model=checkpoint.hash, length=length, worst=worst
    )
    agrees = worst <= arguments.tolerance
    verdict = "Agreed" if agrees else "DIFFERENT"
    print(f"\n{verdict}: largest relative difference {worst:.1e}, allowed {arguments.tolerance:.0e}.")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
