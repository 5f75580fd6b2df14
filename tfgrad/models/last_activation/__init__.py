"""Models that end before their last softmax or sigmoid."""

from tfgrad.models.last_activation.calls import LogitsOf
from tfgrad.models.last_activation.removal import (
    check_no_probabilities,
    combines,
    leaving_out,
    logits,
    may_return_probabilities,
)

__all__ = [
    "LogitsOf",
    "check_no_probabilities",
    "combines",
    "leaving_out",
    "logits",
    "may_return_probabilities",
]
