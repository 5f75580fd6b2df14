"""The network that a target is computed from: the model, or the model without its last softmax."""

from __future__ import annotations

from typing import Any

import keras

from tfgrad.gradients import model_checks
from tfgrad.gradients.targets import Target


class Networks:
    """A model with and without its last softmax or sigmoid, each made when it is asked for.

    Args:
        model: A built Keras model, or a `PenalizedModel` of one.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._logits: keras.Model | None = None
        self._returned: keras.Model | None = None

    def of(self, target: Any) -> keras.Model:
        """The network whose outputs a target reads.

        Raises:
            ArgumentError: The model is no Keras model.
            ModelError: It is not built, or ends in the softmax of one unit.
        """
        if isinstance(target, Target) and not target.of_logits:
            if self._returned is None:
                self._returned = self._as_returned()
            return self._returned
        if self._logits is None:
            self._logits = model_checks.network(self._model)
        return self._logits

    def _as_returned(self) -> keras.Model:
        """One network for both, if nothing is left out; else the model with its softmax."""
        bare = model_checks.network(self._model, as_returned=True)
        return (
            bare if self._logits is None or not _same_outputs(bare, self._logits) else self._logits
        )


def _same_outputs(network: keras.Model, other: keras.Model) -> bool:
    ends, others = ([*(getattr(n, "outputs", None) or [])] for n in (network, other))
    same = len(ends) == len(others) > 0 and all(a is b for a, b in zip(ends, others, strict=True))
    return network is other or same
