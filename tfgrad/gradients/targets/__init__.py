"""The scalar per example that is differentiated."""

from tfgrad.gradients.targets.any_scalar import Scalar
from tfgrad.gradients.targets.base import Outputs, Target, value_of
from tfgrad.gradients.targets.box import Box
from tfgrad.gradients.targets.contrast import Contrast
from tfgrad.gradients.targets.named import (
    NAMES,
    classes,
    labels,
    scalar,
    select,
    to_config,
    validated,
)
from tfgrad.gradients.targets.output import Output
from tfgrad.gradients.targets.region import Region
from tfgrad.gradients.targets.similarity import Similarity

__all__ = [
    "NAMES",
    "Box",
    "Contrast",
    "Output",
    "Outputs",
    "Region",
    "Scalar",
    "Similarity",
    "Target",
    "classes",
    "labels",
    "scalar",
    "select",
    "to_config",
    "validated",
    "value_of",
]
