"""What must be settled before Triton and torch are imported: the one is interpreted, the other told its threads."""

import os
from importlib.util import find_spec

# read when triton is imported, which the doctests of src do first
os.environ.setdefault("TRITON_INTERPRET", "1")
# a test process has one core, and torch's threads would wait for each other on it
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore = [] if find_spec("triton") else ["src/longattn/attention/triton_kernel.py"]


def pytest_addoption(parser):
    """How much of ``tests/torture`` is run, and with which random numbers."""
    parser.addoption("--torture", action="store_true", help="make every trial of tests/torture, not a bounded number")
    parser.addoption("--torture-seed", type=int, default=20261122, help="seed of inputs, kill points and faults")
