"""A run as one static page that a person opens: what was kept, why, and how far to believe it; and two of them."""

from longattn.report.data import Example, Excerpt, ReportData, excerpt, gather
from longattn.report.diff import Difference, compare_selections
from longattn.report.diff_page import render_difference, write_difference
from longattn.report.evidence import Effect, Evidence, Measured
from longattn.report.page import render, write_report

__all__ = [
    "Difference",
    "Effect",
    "Evidence",
    "Example",
    "Excerpt",
    "Measured",
    "ReportData",
    "compare_selections",
    "excerpt",
    "gather",
    "render",
    "render_difference",
    "write_difference",
    "write_report",
]
