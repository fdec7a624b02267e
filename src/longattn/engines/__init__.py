"""How work units are spread over processes and machines; what a unit is and does is not decided here."""

from longattn.engines.embedded import check, devices, measure
from longattn.engines.progress import Progress, Quiet, read_progress

__all__ = ["Progress", "Quiet", "check", "devices", "measure", "read_progress"]
