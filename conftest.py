"""Triton in this test run: interpreted, unless TRITON_INTERPRET=0 asks for a GPU; not collected where it is missing."""

import os
from importlib.util import find_spec

# read when triton is imported, which the doctests of src do first
os.environ.setdefault("TRITON_INTERPRET", "1")

collect_ignore = [] if find_spec("triton") else ["src/longattn/attention/triton_kernel.py"]
