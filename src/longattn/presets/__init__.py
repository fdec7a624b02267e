"""Named settings found by measurement: where a preset is looked for, and that its file is one.

A preset is a JSON object with the content hash of the ``model`` it was found on, what was found, and its ``evidence``.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from longattn.errors import PresetError

Heads = tuple[tuple[int, int], ...]
"""Pairs of a layer and a head, both 0-based."""

FOLDER = Path(__file__).parent


def read_preset(name: str, needed: Iterable[str]) -> dict[str, Any]:
    """The preset in the file ``name``, or the one of that name that comes with the package.

    Raises :class:`PresetError` for a preset that is not there, or that lacks one of the ``needed`` keys.
    """
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json"))) or "none"
        raise PresetError(
            f"there is no preset {name!r}; name a .json file, or one that comes with the package: {known}"
        )
    try:
        preset = json.loads(path.read_bytes())
    except ValueError as error:
        raise PresetError(f"{path} is not JSON: {error}") from error
    if not isinstance(preset, dict):
        raise PresetError(f"{path} is not a JSON object")
    if missing := [key for key in needed if key not in preset]:
        raise PresetError(f"{path} has no {', '.join(missing)}; is it a preset of another kind?")
    return preset


def read_heads(preset: str, top: float | int | None = None) -> Heads:
    """The heads of a preset, or the ``top`` ones with the highest scores, the first listed first among equals.

    Raises ``PresetError`` for a preset that is not one of heads, ``ValueError`` for more heads than it has.
    """
    found = read_preset(preset, ["heads"])
    try:
        rows = [(int(layer), int(head), float(score)) for layer, head, score in found["heads"]]
        if top is not None and 0 < top < 1:
            every = np.array(found["evidence"]["scores"], dtype=np.float64)
            rows = [(layer, head, float(every[layer, head])) for layer, head in np.ndindex(every.shape)]
            top = max(1, round(top * len(rows)))
    except (KeyError, ValueError, TypeError) as error:
        raise PresetError(
            f"{preset} has no heads as [layer, head, score], or not the scores of all: {error}"
        ) from error
    if top is not None and not (top == int(top) and 1 <= top <= len(rows)):
        raise ValueError(f"top must be from 1 to {len(rows)}, the heads of {preset}, or a share below 1; got {top:g}")
    ranked = sorted(rows, key=lambda row: -row[2])[: None if top is None else int(top)]
    return tuple((layer, head) for layer, head, _ in ranked)
