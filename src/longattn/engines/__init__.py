"""How work units are spread over processes and machines; what a unit is and does is not decided here."""

from longattn.engines.embedded import Survey, check, measure, survey
from longattn.engines.places import device, devices
from longattn.engines.progress import Progress, Quiet, read_progress
from longattn.engines.sharding import resolve_shard, shard_of, shards_of
from longattn.engines.watching import Together, together

__all__ = [
    "Progress",
    "Quiet",
    "Survey",
    "Together",
    "check",
    "device",
    "devices",
    "measure",
    "read_progress",
    "resolve_shard",
    "shard_of",
    "shards_of",
    "survey",
    "together",
]
