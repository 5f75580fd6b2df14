"""Whether a record is what an entry expects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .entries import CHECKS, Entry

# The largest relative error of the sum of terms (in float32 and float64), change of the logits by
# `make_safe`, difference of weight gradients, and difference of served values.
BOUNDS: dict[str, float] = {
    "float32": 1e-5,
    "float64": 1e-9,
    "maps": 0.0,
    "penalty": 1e-5,
    "difference": 1e-6,
    "export": 1e-5,
}


def wrong(entry: Entry, record: Mapping[str, Any]) -> list[str]:
    """What is not as expected; empty if all is."""
    if "died" in record:
        return [f"the process died {record['died']}"]
    if "build" in record:
        return [f"not built: {message(record['build'])}"]
    checks = record.get("checks", {})
    found = [_fault(entry, check, checks.get(check)) for check in CHECKS]
    return [fault for fault in found if fault]


def _fault(entry: Entry, check: str, outcome: Mapping[str, Any] | None) -> str | None:
    if check in entry.skipped:
        return None
    if outcome is None:
        return f"{check}: not run"
    expected = entry.refused.get(check)
    if "value" in outcome:
        if expected is not None:
            return f"{check}: expected a refusal ({expected!r}), got a result"
        bound = entry.bounds.get(check, BOUNDS[check])
        return None if outcome["value"] <= bound else f"{check}: {outcome['value']:.1e}"
    if expected is not None and expected in message(outcome, 2000) and is_refusal(outcome):
        return None
    return f"{check}: {message(outcome)}"


def is_refusal(outcome: Mapping[str, Any]) -> bool:
    """Whether tfgrad refused, with an error of its own, or the package has no float64."""
    return "refusal" in outcome or "message" in outcome


def message(outcome: Mapping[str, Any], length: int = 400) -> str:
    """The message of an outcome without a value, on one line and without a terminal's colours."""
    text = outcome.get("refusal") or outcome.get("error") or outcome.get("message") or "no message"
    return " ".join(re.sub(r"\x1b\[\d*m", "", str(text)).split())[:length]
