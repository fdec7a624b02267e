"""Named settings found by measurement: where a preset is looked for, and that its file is one.

A preset is a JSON object with the content hash of the ``model`` it was found on, what was found, and its ``evidence``.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from longattn.errors import PresetError

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
