"""Does a measure see what it claims to see: controls from the user's own corpus, and what scorers make of them."""

from longattn.validity.calibrating import Preset, calibrate
from longattn.validity.comparing import Comparison, compare, compare_tables
from longattn.validity.controls import CONTROLS, Control, Piece, Pool
from longattn.validity.page import write_comparison, write_validation
from longattn.validity.statistics import Estimate
from longattn.validity.validating import Cost, Reading, Separation, Validation, check_rule, validate

__all__ = [
    "CONTROLS",
    "Comparison",
    "Control",
    "Cost",
    "Estimate",
    "Piece",
    "Pool",
    "Preset",
    "Reading",
    "Separation",
    "Validation",
    "calibrate",
    "check_rule",
    "compare",
    "compare_tables",
    "validate",
    "write_comparison",
    "write_validation",
]
