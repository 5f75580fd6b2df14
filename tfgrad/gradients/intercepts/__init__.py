"""The intercept y − J·x of every call that a model makes."""

from tfgrad.gradients.intercepts.arithmetic import plan
from tfgrad.gradients.intercepts.batch_axis import unbatched
from tfgrad.gradients.intercepts.recorder import recorded_intercepts
from tfgrad.gradients.intercepts.refusals import without_float8
from tfgrad.gradients.intercepts.sums import TermSums
from tfgrad.gradients.intercepts.terms import Intercept, Intercepts

__all__ = [
    "Intercept",
    "Intercepts",
    "TermSums",
    "plan",
    "recorded_intercepts",
    "unbatched",
    "without_float8",
]
