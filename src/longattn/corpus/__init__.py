"""Files, local or remote, become documents: listed, split into work units, read as a stream."""

from longattn.corpus.listing import Listing, list_files
from longattn.corpus.manifests import write_manifest
from longattn.corpus.reading import UnitReader, read_unit
from longattn.corpus.reasons import REASONS, reject
from longattn.corpus.units import list_units

__all__ = ["REASONS", "Listing", "UnitReader", "list_files", "list_units", "read_unit", "reject", "write_manifest"]
