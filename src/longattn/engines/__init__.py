"""How work units are spread over processes and machines; what a unit is and does is not decided here."""

from longattn.engines.embedded import devices, measure
from longattn.engines.progress import Progress, Quiet

__all__ = ["Progress", "Quiet", "devices", "measure"]
