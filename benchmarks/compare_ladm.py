"""Compare our LADM scores with those of the authors' released code, layer by layer, on the same token ids.

The released code (https://github.com/ZNLP/LADM) has no licence, so none of it is here: name a checkout of it, and a
Python that has torch and a transformers 4 it works with (4.43.3 does)::

    git clone https://github.com/ZNLP/LADM ladm
    python3.11 -m venv released-env
    released-env/bin/pip install "transformers==4.43.3" torch "numpy<2"
    python benchmarks/compare_ladm.py ladm --python released-env/bin/python

Compared: CDS of every layer and of their mean, with both factors and with each of the code's two ablations, in
float32; ours with ``convention="released"``. Spans and strides are the same on both sides: 256 spans of L/256 tokens,
of which a length that 256 does not divide leaves some tokens over. ``run_ladm.py`` says what of the released code is
run as it is, and what cannot be. Ends with status 1 if a layer differs by more than the tolerance.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

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
from longattn.scorers import LADM, Columns
from longattn.tokens import Tokenizer

TOLERANCE = 1e-5
"""Largest relative difference of a layer's CDS."""

SPANS, STRIDE = 256, 4

ABLATIONS = {
    "No": {},
    "no_std": {"std": False},
    "no_len_weight": {"length_weights": False},
}
"""Our settings by the released code's word for what it leaves out."""


def ask_released(arguments: argparse.Namespace, checkpoint: Checkpoint, tokens: list[int], ablation: str) -> Any:
    """CDS of every layer by the released code, and the versions it ran with."""
    width = len(tokens) // SPANS
    question = {
        "model": str(checkpoint.tokenizer_file.parent),
        "tokens": tokens,
        "attn_chunk_size": width,
        "stride": width * STRIDE,
        "interval": width * STRIDE,
        "ablation": ablation,
    }
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        script = Path(__file__).with_name("run_ladm.py")
        # -I -B: nothing of this environment gets into the other, nothing is written into the checkout
        command = [arguments.python, "-I", "-B", str(script), str(arguments.checkout), str(answer)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"the released code failed with status {done.returncode}:\n{done.stderr}")
        return json.loads(answer.read_text())


def measure(checkpoint: Checkpoint, tokens: npt.NDArray[np.uint32]) -> Columns:
    """Our columns of one window, through the scorer that selections are made with."""
    length = len(tokens)
    model = load_model(checkpoint, settings.Model(), layers="all", window=length)
    scorer = LADM(spans=SPANS, query_stride=STRIDE, key_stride=STRIDE).for_length(length)
    return measure_windows([scorer], model, [Window("text", "text", 0, tokens, 0, 0, length)])[scorer.name]


def read(columns: Columns, length: int, num_layers: int, **choice: Any) -> npt.NDArray[np.float64]:
    """CDS of each layer, then their mean, by the released code's convention."""
    places = [(n,) for n in range(num_layers)]
    scorers = [LADM(spans=SPANS, convention="released", layers=layers, **choice) for layers in [*places, None]]
    return np.array([evaluate(scorer.for_length(length).score(), columns)[0] for scorer in scorers])


def compare(arguments: argparse.Namespace, checkpoint: Checkpoint, tokens: npt.NDArray[np.uint32]) -> dict[str, Any]:
    """Both sides on one window, with and without each factor."""
    columns, sides = measure(checkpoint, tokens), {}
    versions: dict[str, str] = {}
    for ablation, choice in ABLATIONS.items():
        found = ask_released(arguments, checkpoint, tokens.tolist(), ablation)
        versions, theirs = found["versions"], np.array([*found["cds"], np.mean(found["cds"])])
        ours = read(columns, len(tokens), len(found["cds"]), **choice)
        apart = np.abs(ours - theirs) / np.abs(theirs)
        sides[ablation] = {"ours": ours.tolist(), "released": theirs.tolist(), "difference": apart.tolist()}
    return {"length": len(tokens), "released versions": versions, "ablations": sides}


def markdown(window: dict[str, Any]) -> str:
    """The table of one window, for a person: the means over layers, and the worst layer."""
    lines = [
        f"### {window['length']} tokens, {SPANS} spans of {window['length'] // SPANS}",
        "",
        "| left out | CDS ours | CDS released | difference | largest difference of a layer |",
        "|---|---|---|---|---|",
    ]
    for ablation, side in window["ablations"].items():
        ours, theirs, apart = (side[name][-1] for name in ("ours", "released", "difference"))
        lines.append(f"| {ablation} | {ours:.8f} | {theirs:.8f} | {apart:.1e} | {max(side['difference']):.1e} |")
    return "\n".join(lines)


def circumstances(arguments: argparse.Namespace, checkpoint: Checkpoint, windows: list[dict[str, Any]]) -> dict:
    """Everything that a reader needs to judge or to repeat the figures."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "longattn": f"{longattn.__version__} ({commit(Path(__file__).parent)})",
        "released": commit(arguments.checkout),
        "model": f"{checkpoint.name} ({checkpoint.hash})",
        "text": "language reference of Python's pydoc",
        "our versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
        "released versions": windows[0]["released versions"],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder with the released code")
    parser.add_argument("--python", required=True, help="interpreter of the environment it runs in")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4100], help="tokens per window")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="largest relative difference")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> int:
    """Print the tables; 0 if every layer agrees within the tolerance, else 1."""
    arguments = parse()
    checkpoint = resolve(settings.Model())
    text = "\n\n".join(text for _, text in sorted(topics.items()))
    ids = Tokenizer.load(checkpoint.tokenizer_file).encode(text).ids
    windows = [compare(arguments, checkpoint, ids[:length]) for length in arguments.lengths]
    about = circumstances(arguments, checkpoint, windows)

    # a layer that is not a number stays one through np.max, and does not agree
    worst = float(np.max([np.max(side["difference"]) for window in windows for side in window["ablations"].values()]))
    agrees = worst <= arguments.tolerance
    print(*(f"* {name}: {value}" for name, value in about.items()), sep="\n")
    print("", *(markdown(window) + "\n" for window in windows), sep="\n")
    verdict = "Agreed" if agrees else "DIFFERENT"
    print(f"{verdict}: largest relative difference {worst:.1e}, allowed {arguments.tolerance:.0e}.")
    if arguments.json:
        arguments.json.write_text(json.dumps({**about, "agrees": agrees, "worst": worst, "windows": windows}, indent=2))
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
