"""The examples run: the notebook from its first cell to its last, as it stands."""

import os
import warnings
from pathlib import Path

import pytest

from longattn.errors import ModelError
from longattn.models import resolve
from longattn.settings import Model

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    try:
        resolve(Model())
    except ModelError as error:
        pytest.skip(str(error))
    # debugpy says that the interpreter's own modules are frozen
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(EXAMPLES / "first_look.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    with warnings.catch_warnings():
        # of jupyter_client and tornado, about event loops and paths; the kernel has warnings of its own
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        client.execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "0.25" in printed
    assert " -> " in printed
    assert not any(cell.outputs for cell in nbformat.read(EXAMPLES / "first_look.ipynb", 4).cells if "outputs" in cell)
