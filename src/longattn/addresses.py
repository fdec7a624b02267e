"""Local paths and the addresses of remote files, told apart and put together as texts; nothing is opened."""

import re
from pathlib import Path

# Options are told from a file name's own question mark, or a glob's, by the ``name=`` that follows.
PARTS = re.compile(r"(?P<root>[A-Za-z][A-Za-z0-9+.-]+://[^/?]*)(?P<path>.*?)(?P<options>\?[A-Za-z_]+=.*)?", re.DOTALL)
"""What a URI is made of: ``s3://bucket`` or the like, the path, and options such as ``?region=eu-west-1``."""


def is_uri(location: str) -> bool:
    """Whether this is the address of a remote file or folder rather than a local path."""
    return PARTS.fullmatch(location) is not None


def without_options(location: str) -> str:
    """The location without the ``?region=...`` that a URI may end with."""
    match = PARTS.fullmatch(location)
    return match["root"] + match["path"] if match else location


def below(place: str | Path, name: str) -> str:
    """The location of a file below a folder, local or remote.

    >>> below("run", "plan.parquet"), below("s3://bucket/run/?region=eu-west-1", "plan.parquet")
    ('run/plan.parquet', 's3://bucket/run/plan.parquet?region=eu-west-1')
    """
    plain = without_options(str(place))
    return f"{plain.rstrip('/')}/{name}{str(place)[len(plain) :]}"
