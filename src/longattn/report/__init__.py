"""A run as one static page that a person opens: what was kept, why, and how far to believe it."""

from longattn.report.data import Example, Excerpt, ReportData, excerpt, gather
from longattn.report.page import render, write_report

__all__ = ["Example", "Excerpt", "ReportData", "excerpt", "gather", "render", "write_report"]
