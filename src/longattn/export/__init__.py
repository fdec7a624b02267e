"""Write the selected windows as what trainers read, with a dataset card, and push them to the hub."""

from longattn.export.attributes import write_attributes
from longattn.export.exporting import export, has_tokens
from longattn.export.hub import push
from longattn.export.rereading import read_texts, read_tokenized
from longattn.export.retokenizing import Retokenized
from longattn.export.summary import ExportedFile, ExportSummary

__all__ = [
    "ExportSummary",
    "ExportedFile",
    "Retokenized",
    "export",
    "has_tokens",
    "push",
    "read_texts",
    "read_tokenized",
    "write_attributes",
]
