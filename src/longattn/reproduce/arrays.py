"""Arrays on disk, which hold numbers and nothing that would have to be unpickled."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.lib.format
import numpy.typing as npt

from longattn.tables import durable


def save_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write an array durably, as ``.npy``."""
    with durable(path) as file:
        np.save(file, values, allow_pickle=False)


def load_array(path: Path) -> npt.NDArray[Any]:
    """Read an array. Raises ``ValueError`` for one of Python objects."""
    with path.open("rb") as file:
        return numpy.lib.format.read_array(file, allow_pickle=False)
