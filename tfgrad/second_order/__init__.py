"""Checks before training that every second derivative a penalty needs exists and is right."""

from tfgrad.second_order.findings import Finding, Inspection
from tfgrad.second_order.guard import check, inspect

__all__ = ["Finding", "Inspection", "check", "inspect"]
