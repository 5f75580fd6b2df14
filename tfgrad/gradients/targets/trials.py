"""One target of each kind, to be tried on a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfgrad.gradients.targets.box import Box
from tfgrad.gradients.targets.contrast import Contrast
from tfgrad.gradients.targets.output import Output
from tfgrad.gradients.targets.region import Region
from tfgrad.gradients.targets.similarity import Similarity


def one_of_each(outputs: Any) -> dict[str, Callable[[], Any]]:
    """{name: function that makes the target}, without those that need labels or all classes.

    Args:
        outputs: What the network returns, a nest of tensors or specifications, batch first.
    """

    def similarity() -> Similarity:
        target = Similarity()
        spec = target.specs(outputs)["embedding"]
        return Similarity(tf.ones(spec.shape[1:]))

    several = len(tf.nest.flatten(outputs)) > 1
    return {
        '"predicted"': lambda: "predicted",
        "a class": lambda: 0,
        "Contrast": Contrast,
        "Output": lambda: Output((_first_head(outputs), 0)) if several else Output(),
        "Region": Region,
        "Similarity": similarity,
        "Box": Box,
    }


def _first_head(outputs: Any) -> Any:
    """Key or position of the first output of several."""
    return next(iter(outputs)) if isinstance(outputs, Mapping) else 0
