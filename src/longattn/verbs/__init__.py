"""The stages of a run as functions: what each command line verb does, for a script or a notebook."""

from longattn.verbs.choosing import refine, select
from longattn.verbs.finding import measured_table, run_table, same_windows
from longattn.verbs.looking import TextScore, inspect_text, inspect_windows, score
from longattn.verbs.preparing import prepare
from longattn.verbs.running import RunResult, cut, estimate, measure, plan, run
from longattn.verbs.watching import Status, status, verify
from longattn.verbs.writing import diff, export_selection, write_attributes, write_report

__all__ = [
    "RunResult",
    "Status",
    "TextScore",
    "cut",
    "diff",
    "estimate",
    "export_selection",
    "inspect_text",
    "inspect_windows",
    "measure",
    "measured_table",
    "plan",
    "prepare",
    "refine",
    "run",
    "run_table",
    "same_windows",
    "score",
    "select",
    "status",
    "verify",
    "write_attributes",
    "write_report",
]
