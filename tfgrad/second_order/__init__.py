"""Checks before training that every second derivative a penalty needs exists and is right.

`make_safe` changes the layers of a network, in place, so that they are.
"""

from tfgrad.second_order.findings import Finding, Inspection
from tfgrad.second_order.guard import check, inspect
from tfgrad.second_order.mending import made_safe, make_safe
from tfgrad.second_order.report import Change, Report
from tfgrad.second_order.safe_calls import changes

__all__ = [
    "Change",
    "Finding",
    "Inspection",
    "Report",
    "changes",
    "check",
    "inspect",
    "made_safe",
    "make_safe",
]
