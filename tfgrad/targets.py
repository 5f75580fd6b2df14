"""Which scalar per example is differentiated: the public names of `tfgrad.gradients.targets`."""

from tfgrad.gradients.targets import (
    NAMES,
    Contrast,
    Output,
    Outputs,
    Scalar,
    Target,
    classes,
    labels,
    select,
    to_config,
    validated,
)

__all__ = [
    "NAMES",
    "Contrast",
    "Output",
    "Outputs",
    "Scalar",
    "Target",
    "classes",
    "labels",
    "select",
    "to_config",
    "validated",
]
