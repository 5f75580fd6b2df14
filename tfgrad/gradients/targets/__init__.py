"""The scalar per example that is differentiated."""

from tfgrad.gradients.targets.base import Outputs, Target, value_of
from tfgrad.gradients.targets.named import (
    NAMES,
    classes,
    labels,
    scalar,
    select,
    to_config,
    validated,
)
from tfgrad.gradients.targets.ready import Contrast, Output, Scalar

__all__ = [
    "NAMES",
    "Contrast",
    "Output",
    "Outputs",
    "Scalar",
    "Target",
    "classes",
    "labels",
    "scalar",
    "select",
    "to_config",
    "validated",
    "value_of",
]
