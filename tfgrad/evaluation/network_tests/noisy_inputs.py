"""Noise on the float inputs of a network; masked steps get none."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import masks
from tfgrad.gradients.sources import Sources, keys_of
from tfgrad.internal.stateless_noise import Draws


def float_sources(x: Any, inputs: Any = None) -> Sources:
    """The float inputs that get noise.

    Args:
        x: The inputs, a nest of tensors.
        inputs: Keys or positions of some of several inputs, or one of them; None for all.

    Raises:
        ArgumentError: There is no such input; or one holds integers, or all do.
    """
    keys = keys_of(x)
    chosen = [inputs] if isinstance(inputs, str | int) else inputs
    for key in chosen or ():
        if key not in keys:
            raise ArgumentError(f"inputs: got {key!r}; expected some of {keys or None}.")
    for key in keys if chosen is None else chosen:
        flat = tf.nest.flatten(x[key])
        if chosen is not None and not any(t.dtype.is_floating for t in flat):
            raise ArgumentError(
                f"inputs: got {key!r}, which holds {flat[0].dtype.name} values; expected an input "
                "of floats, as noise is added to it."
            )
    if not any(t.dtype.is_floating for t in tf.nest.flatten(x)):
        raise ArgumentError(
            "batches: got integers alone, such as token ids, to which no noise is added; expected "
            "a float input; try tfgrad.evaluation.pixel_perturbation, which replaces tokens."
        )
    return Sources(None if chosen is None else tuple(chosen))


class NoisyInputs:
    """Inputs, of which the float ones, or some of them, get noise.

    Args:
        network: The network, whose masked steps get none.
        x: Its inputs, a nest of tensors.
        inputs: Keys or positions of the inputs that get noise; None for all float ones.

    Raises:
        ArgumentError: There is no such input, or none is of floats.
    """

    def __init__(self, network: Any, x: Any, inputs: Any = None) -> None:
        self._x, self._flat = x, tf.nest.flatten(x)
        chosen = float_sources(x, inputs).chosen(network, x)
        visible = iter(masks.Masks(network, x).visible)
        steps = [next(visible) if t.dtype.is_floating else None for t in self._flat]
        self._places = [place for place, one in enumerate(chosen) if one]
        self._visible = [steps[place] for place in self._places]

    def noise(self, draws: Draws, seed: int) -> list[tf.Tensor]:
        """Normal noise of standard deviation 1 for each of the inputs that get some."""
        drawn = [
            draws.normal(self._flat[place], 1, seed, stream)[0]
            for stream, place in enumerate(self._places)
        ]
        return masks.where_visible(drawn, self._visible)

    def at(self, sigma: tf.Tensor, noise: list[tf.Tensor]) -> Any:
        """The inputs with noise of a standard deviation."""
        flat = [*self._flat]
        for place, one in zip(self._places, noise, strict=True):
            flat[place] = flat[place] + tf.cast(sigma, one.dtype) * one
        return tf.nest.pack_sequence_as(self._x, flat)
