"""Checks before training that every second derivative a penalty needs exists and is right."""

from tfgrad.second_order.guard import Finding, Inspection, check, inspect

__all__ = ["Finding", "Inspection", "check", "inspect"]
