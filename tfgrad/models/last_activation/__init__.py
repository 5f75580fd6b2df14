"""Models that end before their last softmax or sigmoid."""

from tfgrad.models.last_activation.calls import LogitsOf
from tfgrad.models.last_activation.logits import leaving_out, logits, may_return_probabilities

__all__ = ["LogitsOf", "leaving_out", "logits", "may_return_probabilities"]
