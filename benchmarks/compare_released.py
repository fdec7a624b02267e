"""Compare our statistics of layer 0 with those of the authors' released code, head by head, on the same token ids.

The released code (https://github.com/Lyun0912-wu/LongAttn) has no licence, so none of it is here: name a checkout of
it, and a Python that has torch and the transformers version it pins::

    git clone https://github.com/Lyun0912-wu/LongAttn released
    python3.11 -m venv released-env
    released-env/bin/pip install "transformers==4.43.3" torch "numpy<2"
    python benchmarks/compare_released.py released --python released-env/bin/python

Compared per head, with ``attn_implementation="eager"`` in float32: DS, and the variance over all L² cells of the map.
Its distance is k = L - 3·(L // 4), a quarter of a window whose length is a multiple of 4; the neighbouring distances
are shown, so that a difference of one diagonal cannot hide below the tolerance. Ends with status 1 if a head differs by
more than that.

``--faults`` shows what that code does otherwise, without any bearing on the verdict: as shipped, the causal mask is
there only if the batch holds padding, and rows of padding are counted.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers

import longattn
from common import commit
from longattn import settings
from longattn.expressions import evaluate
from longattn.measuring import measure_windows
from longattn.models import Checkpoint, load_model, resolve
from longattn.records import Window
from longattn.scorers.longattn import LongAttn
from longattn.tokens import Tokenizer

TOLERANCE = 1e-3
"""Largest relative difference of a head's DS or variance."""

Tokens = npt.NDArray[np.uint32]
Numbers = npt.NDArray[np.float64]


class Heads(NamedTuple):
    """Two statistics of layer 0, a number per head."""

    ds: Numbers
    variance: Numbers


@dataclass(frozen=True)
class Released:
    """The released code, in its own environment, with a model both sides read."""

    checkout: Path
    python: str
    model: settings.Model
    folder: Path
    """The model's checkpoint."""

    def ask(
        self,
        tokens: Sequence[Sequence[int]],
        mask: Sequence[Sequence[int]] | None = None,
        attention: str = "eager",
        dtype: str = "float32",
    ) -> tuple[list[Heads], dict[str, Any]]:
        """DS and variance of each sequence of a batch, and everything else the other side says of its run."""
        question = {
            "model": str(self.folder),
            "rope_theta": self.model.rope_theta,
            "tokens": tokens,
            "mask": mask,
            "attention": attention,
            "dtype": dtype,
        }
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "answer.json"
            script = Path(__file__).with_name("run_released.py")
            # -I -B: nothing of this environment gets into the other, nothing is written into the checkout
            command = [self.python, "-I", "-B", str(script), str(self.checkout), str(answer)]
            done = subprocess.run(
                command,
                input=json.dumps(question),
                capture_output=True,
                text=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
            )
            if done.returncode:
                raise SystemExit(f"the released code failed with status {done.returncode}:\n{done.stderr}")
            facts = json.loads(answer.read_text())
        numbers = zip(facts.pop("ds"), facts.pop("variance"), strict=True)
        return [Heads(np.array(ds), np.array(variance)) for ds, variance in numbers], facts


@dataclass(frozen=True)
class Comparison:
    """One window, both sides."""

    length: int
    distance: int
    ours: Heads
    theirs: Heads
    by_distance: dict[int, float]
    """Largest relative difference of a head, DS or variance, if ours were taken at this distance instead."""
    tokens_hash: str
    """Start of the SHA-256 of the token ids as little-endian uint32."""
    facts: dict[str, Any]
    """What the released side says of its run."""

    @property
    def differences(self) -> Heads:
        """Relative to the released code's numbers."""
        return difference(self.ours, self.theirs)

    def record(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        heads = {"ours": self.ours, "theirs": self.theirs, "differences": self.differences}
        plain = {side: {"ds": h.ds.tolist(), "variance": h.variance.tolist()} for side, h in heads.items()}
        return {**vars(self), **plain}


def difference(ours: Heads, theirs: Heads) -> Heads:
    """Relative difference per head."""
    return Heads(*(np.abs(a - b) / np.abs(b) for a, b in zip(ours, theirs, strict=True)))


def released_distance(length: int) -> int:
    """The smallest distance between query and key that the released code counts.

    >>> released_distance(8192), released_distance(8190)
    (2048, 2049)
    """
    return length - 3 * (length // 4)


def measure(
    checkpoint: Checkpoint, model: settings.Model, tokens: Tokens, distances: Sequence[int], backend: settings.Backend
) -> dict[int, Heads]:
    """Our statistics by distance, through the scorer that selections are made with."""
    length = len(tokens)
    loaded = load_model(checkpoint, model, layers=[0], window=length)
    scorer = LongAttn(
        distances=tuple(distances),
        distance=distances[0],
        per_head=True,
        backend=backend,
        variance="square",
    ).for_length(length)
    window = Window("text", "text", 0, tokens, 0, 0, length)
    columns = measure_windows([scorer], loaded, [window])[scorer.name]
    num_heads = columns[f"heads_s1_l0_d{distances[0]}"].shape[1]

    def reading(distance: int, head: int) -> tuple[float, float]:
        readings = replace(scorer, distance=distance, heads=((0, head),)).readings()
        return evaluate(readings["ds"], columns)[0], -evaluate(readings["du"], columns)[0]

    by_head = {d: np.array([reading(d, head) for head in range(num_heads)]).T for d in distances}
    return {distance: Heads(*statistics) for distance, statistics in by_head.items()}


def compare(released: Released, checkpoint: Checkpoint, tokens: Tokens, backend: settings.Backend) -> Comparison:
    """Both sides on one window."""
    length = len(tokens)
    k = released_distance(length)
    [theirs], facts = released.ask([tokens.tolist()])
    ours = measure(checkpoint, released.model, tokens, [k - 1, k, k + 1], backend)
    worst = {d: float(np.max(difference(heads, theirs))) for d, heads in ours.items()}
    digest = hashlib.sha256(tokens.astype("<u4").tobytes()).hexdigest()[:16]
    return Comparison(length, k, ours[k], theirs, worst, digest, facts)


def faults(
    released: Released, checkpoint: Checkpoint, tokens: Tokens, backend: settings.Backend
) -> list[dict[str, Any]]:
    """DS, the mean over heads and per head, of what should be the same window and is not."""
    length, real = len(tokens), len(tokens) // 2
    k, whole, padding = released_distance(length), tokens.tolist(), [0] * (length - real)
    mask = [[1] * length, [1] * real + padding]
    batch = [whole, whole[:real] + padding]
    [alone], _ = released.ask([whole], attention="as shipped")
    [beside, _], _ = released.ask(batch, mask, attention="as shipped")
    [_, padded], _ = released.ask(batch, mask)
    ours = measure(checkpoint, released.model, tokens, [k], backend)
    part = measure(checkpoint, released.model, tokens[:real], [released_distance(real), k], backend)
    rows = [
        (f"{length} tokens, ours", ours[k].ds),
        (f"{length} tokens, released as shipped, alone: no causal mask", alone.ds),
        (f"{length} tokens, released as shipped, beside a padded window: causal again", beside.ds),
        (f"{real} tokens, ours", part[released_distance(real)].ds),
        (f"{real} tokens padded to {length}, released (eager): padded rows counted", padded.ds),
        (f"of which its {real} real rows (ours at distance {k}, over {length})", part[k].ds * real / length),
    ]
    return [{"case": case, "ds_mean": float(ds.mean()), "ds": ds.tolist()} for case, ds in rows]


def markdown(comparison: Comparison) -> str:
    """The table of one window, for a person."""
    ours, theirs, apart = comparison.ours, comparison.theirs, comparison.differences
    lines = [
        f"### {comparison.length} tokens ({comparison.tokens_hash}), distance {comparison.distance}",
        "",
        "| head | DS ours | DS released | difference | variance ours | variance released | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {h} | {ours.ds[h]:.8f} | {theirs.ds[h]:.8f} | {apart.ds[h]:.1e} "
        f"| {ours.variance[h]:.7e} | {theirs.variance[h]:.7e} | {apart.variance[h]:.1e} |"
        for h in range(len(ours.ds))
    ]
    near = ", ".join(f"{distance}: {worst:.1e}" for distance, worst in comparison.by_distance.items())
    return "\n".join([*lines, "", f"Largest difference by our distance: {near}."])


def fault_table(faults: Sequence[dict[str, Any]]) -> str:
    """What the released code does otherwise, for a person."""
    lines = ["| case | DS, mean | DS per head |", "|---|---|---|"]
    for fault in faults:
        heads = " ".join(f"{ds:.3f}" for ds in fault["ds"])
        lines.append(f"| {fault['case']} | {fault['ds_mean']:.4f} | {heads} |")
    return "\n".join(lines)


def circumstances(arguments: argparse.Namespace, checkpoint: Checkpoint, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that a reader needs to judge or to repeat the figures."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "longattn": f"{longattn.__version__} ({commit(Path(__file__).parent)})",
        "released": commit(arguments.checkout),
        "model": f"{checkpoint.name} ({checkpoint.hash})",
        "text": "language reference of Python's pydoc" if arguments.text is None else arguments.text.name,
        "our backend": arguments.backend,
        "our versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
        "released versions": facts["versions"],
        "released attention": facts["attention"],
        "released dtype": facts["dtype"],
        "released rope base": facts["rope_base"],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder with the released code")
    parser.add_argument("--python", required=True, help="interpreter of the environment it runs in")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192], help="tokens per window")
    parser.add_argument("--model", default="smollm2", help="smollm2, a GGUF file or a checkpoint folder")
    parser.add_argument("--rope-theta", type=float, help="replaces the rotary base, on both sides")
    parser.add_argument("--text", type=Path, help="UTF-8 text file; default: Python's language reference")
    parser.add_argument("--backend", choices=["auto", "reference", "blocked"], default="auto", help="our kernel")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="largest relative difference")
    parser.add_argument("--faults", action="store_true", help="also show what it does as shipped")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> int:
    """Print the tables; 0 if every head agrees within the tolerance, else 1."""
    arguments = parse()
    model = settings.Model(name=arguments.model, rope_theta=arguments.rope_theta)
    checkpoint = resolve(model)
    text = "\n\n".join(text for _, text in sorted(topics.items()))
    if arguments.text is not None:
        text = arguments.text.read_text(encoding="utf-8")
    ids = Tokenizer.load(checkpoint.tokenizer_file).encode(text).ids
    if len(ids) < max(arguments.lengths):
        raise SystemExit(f"the text has {len(ids)} tokens, --lengths asks for {max(arguments.lengths)}")

    released = Released(arguments.checkout, arguments.python, model, checkpoint.tokenizer_file.parent)
    windows = [ids[:length] for length in arguments.lengths]
    compared = [compare(released, checkpoint, window, arguments.backend) for window in windows]
    found = faults(released, checkpoint, min(windows, key=len), arguments.backend) if arguments.faults else []
    about = circumstances(arguments, checkpoint, compared[0].facts)

    # a head that is not a number stays one through np.max, and does not agree
    worst = float(np.max([comparison.differences for comparison in compared]))
    agrees = worst <= arguments.tolerance
    print(*(f"* {name}: {value}" for name, value in about.items()), sep="\n")
    print("", *(markdown(comparison) + "\n" for comparison in compared), sep="\n")
    if found:
        print(fault_table(found), end="\n\n")
    verdict = "Agreed" if agrees else "DIFFERENT"
    print(f"{verdict}: largest relative difference {worst:.1e}, allowed {arguments.tolerance:.0e}.")
    if arguments.json:
        records = [comparison.record() for comparison in compared]
        everything = {**about, "agrees": agrees, "worst": worst, "windows": records, "faults": found}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
