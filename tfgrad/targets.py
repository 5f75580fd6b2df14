"""Which scalar per example is differentiated: the public names of `tfgrad.gradients.targets`."""

from tfgrad.gradients.targets import (
    NAMES,
    Box,
    Contrast,
    Output,
    Outputs,
    Region,
    Scalar,
    Similarity,
    Target,
    classes,
    labels,
    select,
    to_config,
    validated,
)

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
    "select",
    "to_config",
    "validated",
]
