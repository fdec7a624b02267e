"""What each scorer costs on one window, relative to one forward pass of the whole model over it.

    python benchmarks/scorer_cost.py --length 2048

Every scorer is measured alone, as if no other shared its contexts. A round times the plain forward pass and every
scorer once, one after the other, and the least of the rounds counts; times are of the processor, on one thread, so that
other work on the machine does not enter. ``tokens`` is the number of tokens that go through the model per token of the
window, which does not depend on a machine.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import publish, standard_library
from longattn import settings
from longattn.asking import load_model_for, look
from longattn.measuring import measure_windows
from longattn.models import resolve
from longattn.records import Window
from longattn.scorers import SCORERS, Ask, LongAttn, Scorer, WholeWindow
from longattn.tokens import Tokenizer

PLAIN = "one forward pass"
CALIBRATED = ("smollm2-far", "smollm2-far-21")
"""Presets of far attention that come with the package, beside the scorers with their defaults."""
HEADS = tuple((layer, head) for layer in (10, 15, 20) for head in range(4))
"""Which heads are masked does not change the cost; how many hardly does: 12 of 270 are the paper's 5 %."""


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds that a call takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def made(name: str) -> Scorer:
    """A scorer with its defaults, or the calibrated far attention that comes with the package."""
    if name in CALIBRATED:
        return LongAttn(preset=name)
    return SCORERS[name](**({"heads": HEADS} if name == "headmask" else {}))


def passed(scorer: Scorer, window: Window) -> float | None:
    """Tokens through the whole model per token of the window; None for a scorer that needs no prediction."""
    ask = scorer.ask()
    if ask is None or not ask.contexts:
        return None
    total = 0
    for context in ask.contexts:
        excerpts = context.excerpts(window)
        beginnings = {excerpt.tokens[: excerpt.shared].tobytes(): excerpt.shared for excerpt in excerpts}
        total += sum(len(excerpt.tokens) - excerpt.shared for excerpt in excerpts) + sum(beginnings.values())
    return total / len(window.tokens)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ["headmask", "longattn", *CALIBRATED, "longce", "longfilter", "longwanjuan", "prolong", "repetition"]
    parser.add_argument("--scorers", nargs="+", default=names, choices=sorted({*SCORERS, *CALIBRATED}))
    parser.add_argument("--length", type=int, default=2048, help="tokens of the window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    arguments = parse()
    torch.set_num_threads(1)
    facts = settings.Model(name=arguments.model, dtype=arguments.dtype)
    checkpoint = resolve(facts)
    tokens = standard_library(Tokenizer.load(checkpoint.tokenizer_file), arguments.length)
    window = Window("text", "text", 0, tokens, 0, 0, len(tokens))

    scorers = {name: made(name).for_length(len(tokens)) for name in arguments.scorers}
    plain = Ask(contexts=(WholeWindow(),))
    asks = [plain, *(ask for scorer in scorers.values() if (ask := scorer.ask()))]
    model = load_model_for(asks, checkpoint, facts, len(tokens), "cpu")

    work: dict[str, Callable[[], object]] = {PLAIN: lambda: look([plain], model, window)}
    for name, scorer in scorers.items():
        work[name] = lambda scorer=scorer: measure_windows([scorer], model, [window])
    work[PLAIN]()
    rounds = [{name: seconds(call) for name, call in work.items()} for _ in range(arguments.rounds)]
    least = {name: min(one[name] for one in rounds) for name in work}

    counts = {PLAIN: 1.0, **{name: passed(scorer, window) for name, scorer in scorers.items()}}
    rows = [
        {
            "scorer": name,
            "tokens": "–" if counts[name] is None else counts[name],
            "forward_passes": taken / least[PLAIN],
            "processor_seconds": taken,
        }
        for name, taken in least.items()
    ]
    publish(rows, arguments.json, model=checkpoint.hash, dtype=arguments.dtype, length=len(tokens), rounds=rounds)


if __name__ == "__main__":
    main()
