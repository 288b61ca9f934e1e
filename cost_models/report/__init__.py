"""The cost report: one HTML file that a head of platform forwards to finance.

A `Report` is a value; `write_report` makes the page, `document` the same facts as JSON. Plotly is
reached from here alone, and only when a page is written.
"""

from __future__ import annotations

from cost_models.report.document import document
from cost_models.report.page import page, write_report
from cost_models.report.values import (
    Assumption,
    Capacity,
    GpuWork,
    LeftOut,
    Measured,
    Outcome,
    Proof,
    Report,
)
from cost_models.report.whatif import Row, write_whatif

__all__ = [
    "Assumption",
    "Capacity",
    "GpuWork",
    "LeftOut",
    "Measured",
    "Outcome",
    "Proof",
    "Report",
    "Row",
    "document",
    "page",
    "write_report",
    "write_whatif",
]
