"""The base that old and new versions of transformers take from checkpoints made by ``longattn abf``.

``python benchmarks/abf_versions.py FOLDER [VERSION ...]`` installs each version below FOLDER with pip (without torch,
which is taken from this environment), loads tiny checkpoints with it and compares the rotary table of the living model
with the one that the base asks for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from longattn.settings import Adjusting
from longattn.testing import tiny_checkpoint
from longattn.train.abf import adjust

VERSIONS = ("4.40.2", "4.44.2", "4.57.6", "5.0.0", "5.23.0")
BASE, DIMS = 160_000.0, 8
CONTROLS = 2
"""The last checkpoints, each with one spelling taken out: some versions must read them wrongly."""
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
PROBE = """
import json, sys
from pathlib import Path
import transformers
from transformers import AutoModelForCausalLM
found = {"": transformers.__version__}
for folder in map(Path, sys.argv[1:]):
    try:
        model = AutoModelForCausalLM.from_pretrained(folder)
        tables = [buffer for name, buffer in model.named_buffers() if name.endswith("rotary_emb.inv_freq")]
        found[folder.name] = [float(x) for x in tables[0]]
    except Exception as error:  # a release that cannot load it is part of the answer, however it says so
        found[folder.name] = f"{type(error).__name__}: {error}"[:200]
print(json.dumps(found))
"""


def main(root: Path, versions: tuple[str, ...]) -> None:
    """Make the checkpoints, install the versions, print a row for each."""
    made, wanted = checkpoints(root / "models"), expected()
    names = [folder.name for folder in made]
    print("| transformers | " + " | ".join(names) + " |")
    print("|" + "---|" * (len(names) + 1))
    right = True
    for version in versions:
        tables = probe(root / version, version, made)
        cells = [verdict(tables[name], wanted[name]) for name in names]
        right &= not any(cell.startswith("another") for cell in cells[:-CONTROLS])
        print(f"| {tables['']} | " + " | ".join(cells) + " |", flush=True)
    if not right:
        sys.exit("a version takes another base from a checkpoint that longattn abf made")


def checkpoints(root: Path) -> list[Path]:
    """Checkpoints of several spellings after ``abf``, and two that only one generation reads rightly."""
    plain = {"max_position_embeddings": 256}
    fives = {**plain, "rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    before: dict[str, tuple[dict[str, Any], Adjusting]] = {
        "saved by 4": (plain, Adjusting(length=2048)),
        "saved by 5": (fives, Adjusting(length=2048)),
        "mistral": (
            {**plain, "model_type": "mistral", "architectures": ["MistralForCausalLM"]},
            Adjusting(length=2048),
        ),
        "qwen2": ({**plain, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, Adjusting(length=2048)),
        "llama3 dropped": ({**plain, "rope_scaling": LLAMA31}, Adjusting(length=2048, scaling="drop")),
        "llama3 kept": ({**plain, "rope_scaling": LLAMA31}, Adjusting(length=2048, scaling="keep")),
    }
    made = []
    for name, (config, rule) in before.items():
        source = tiny_checkpoint(root / "before" / name, **config)
        weights = source / "model.safetensors"
        # early versions refuse weights that do not say which library they are of
        save_file(load_file(weights), weights, metadata={"format": "pt"})
        found = adjust(str(source), rule, root / name)
        assert found.base == BASE, found
        made.append(root / name)
    for name, missing in (("rope_theta alone", "rope_parameters"), ("rope_parameters alone", "rope_theta")):
        adjust(str(root / "before" / "saved by 4"), Adjusting(length=2048), root / name)
        path = root / name / "config.json"
        config = json.loads(path.read_text())
        del config[missing]
        path.write_text(json.dumps(config))
        made.append(root / name)
    return made


def expected() -> Mapping[str, np.ndarray]:
    """The table that each checkpoint should be run with; of the last ones, which are controls, too."""
    plain = BASE ** (-np.arange(0, DIMS, 2) / DIMS)
    names = ("saved by 4", "saved by 5", "mistral", "qwen2", "llama3 dropped", "rope_theta alone")
    return {**dict.fromkeys((*names, "rope_parameters alone"), plain), "llama3 kept": llama3(plain)}


def llama3(table: np.ndarray) -> np.ndarray:
    """Llama 3.1's scaling: slow pairs an eighth, fast ones as they are, in between by their wavelength."""
    turns = LLAMA31["original_max_position_embeddings"] * table / (2 * np.pi)
    low, high = LLAMA31["low_freq_factor"], LLAMA31["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - smooth) * table / LLAMA31["factor"] + smooth * table


def probe(folder: Path, version: str, models: list[Path]) -> dict[str, Any]:
    """What this version makes of the checkpoints."""
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
        # pip compares what is installed elsewhere too, and complains of it
        subprocess.run([*command, f"transformers=={version}"], check=True, stderr=subprocess.DEVNULL)
    environment = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "USE_TF": "0"}
    command = [sys.executable, "-W", "ignore", "-c", PROBE, *map(str, models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"transformers {version} does not run here: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def verdict(found: list[float] | str, wanted: np.ndarray) -> str:
    """The base that was found, or what went wrong."""
    if isinstance(found, str):
        return f"refused: {found}"
    if np.allclose(found, wanted, rtol=1e-5):
        return f"{BASE:,.0f}"
    return f"another: {found[1] ** (-DIMS / 2):,.0f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or VERSIONS)
