"""What a method explains of a model's inputs, and which axes of it are positions."""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf

from tfgrad.errors import AxesWarning
from tfgrad.gradients import axes
from tfgrad.gradients.forward_pass import EVERY_FLOAT
from tfgrad.gradients.probe import Probe
from tfgrad.gradients.sources import keys_of
from tfgrad.saliency import options
from tfgrad.saliency.compiled import Shapes
from tfgrad.saliency.explained import Explained, explained, said
from tfgrad.saliency.inputs import Inputs


class Explaining:
    """The part of a method that knows its inputs.

    Args:
        network: The network.
        dtype: The float type of its inputs.
        channels, inputs, at: See `MethodOptions`.
    """

    # Whether `explain` consists of TensorFlow operations, so that it can be traced.
    traceable: bool = True
    # Whether inputs that are held are differentiated, too.
    _every: bool = False

    _inputs: Inputs

    def __init__(self, network: Any, dtype: str, channels: Any, inputs: Any, at: Any) -> None:
        self.network, self.dtype = network, dtype
        self.channels, self.inputs, self.at = channels, inputs, at
        self._shapes = Shapes()
        # By the shapes of what is explained, as the model takes it and with its channels last.
        self._given: dict[Any, Explained] = {}
        self._laid: dict[Any, Explained] = {}

    def explained(self, x: Any) -> Explained:
        """What is explained of inputs like x, a nest of tensors or specifications."""
        with self._shapes.lock:
            known = self._shapes.of(x)
            if known.explained is None:
                known.explained = found = self._found(x)
                if found.network is not self.network:
                    self._given[_lengths(found.tensors)] = found
                    laid = map(_laid_spec, found.layouts, found.tensors)
                    self._laid[_lengths([*laid])] = found
            return known.explained

    def checked(self, x: Any) -> Any:
        """The inputs of a call as tensors in the network's dtypes.

        Raises:
            ArgumentError: They are not what the model takes.
            DataError: One holds NaN or infinite values.
        """
        return self._inputs.check(self._inputs.tensors(x))

    def image(self, probe: Probe) -> tf.Tensor:
        """What feature maps are laid on: the input, or the main one of several."""
        return probe.differentiated[self.explained(probe.x).main]

    def layout(self, x: tf.Tensor) -> axes.InputAxes:
        """Which axes of inputs shaped like x are positions, and which are channels."""
        return self.layouts(x)[0]

    def layouts(self, x: Any) -> tuple[axes.InputAxes, ...]:
        """The axes of each of what is explained, a nest of values shaped like it."""
        flat = tf.nest.flatten(x)
        found = self._given.get(_lengths(flat))
        if found is not None:
            return found.layouts
        shape = tuple(flat[0].shape)
        if isinstance(self.channels, str):
            return (said(self.channels, len(shape)),)
        of_input = axes.of_input(self.network, self._spec(shape))
        if not of_input.certain:
            self._warn_of_axes(shape)
        return (of_input,)

    def channels_last(self, values: Any) -> Any:
        """Values shaped like what is explained as [B, *positions, C]."""
        flat = [
            layout.channels_last(t)
            for layout, t in zip(self.layouts(values), tf.nest.flatten(values), strict=True)
        ]
        return tf.nest.pack_sequence_as(values, flat)

    def main_of(self, x: Any) -> int:
        """The index of the one that feature maps are laid on, in the x of `assemble`."""
        found = self._laid.get(_lengths(tf.nest.flatten(x)))
        return 0 if found is None else found.main

    def map_of_main(self, x: Any, value: tf.Tensor) -> Any:
        """A map of the main input in the structure of the x of `assemble`, without the others."""
        found = self._laid.get(_lengths(tf.nest.flatten(x)))
        return value if found is None else found.packed_main(value)

    # Inside

    def _found(self, x: Any) -> Explained:
        """What is explained of inputs like x, found anew."""
        single = not tf.nest.is_nested(x) and x.dtype.is_floating
        options.check_channels(self.channels, keys_of(x), self.network.name)
        if single and self.at is None and self.inputs is None:
            spec = tf.TensorSpec([None, *x.shape[1:]], x.dtype)
            # The axes are looked up where they are needed, as some methods need none.
            return Explained(
                *(EVERY_FLOAT, spec, (True,), (spec,), (), (True,), (None,), 0, self.network)
            )
        return explained(self.network, x, self.inputs, self.at, self.channels, self._every)

    def _warn_of_axes(self, shape: tuple[int | None, ...]) -> None:
        with self._shapes.lock:
            known = self._shapes.of(self._spec(shape))
            if known.axes_told:
                return
            known.axes_told = True
        sizes = ", ".join(str(n or "any") for n in shape[1:])
        warnings.warn(
            f"model {self.network.name!r}: got inputs [batch, {sizes}], of which its layers do not "
            "tell whether they are series with channels or images without; taken for series "
            "[batch, time, channels]; expected an argument that says it; try channels='none' for "
            "images [batch, height, width], or channels='last' for series.",
            AxesWarning,
            stacklevel=2,
        )

    def _spec(self, shape: tuple[int | None, ...]) -> tf.TensorSpec:
        return tf.TensorSpec((None, *shape[1:]), self.dtype)


def _lengths(tensors: Any) -> tuple[tuple[int | None, ...], ...]:
    """The shapes of tensors without the batch."""
    return tuple(tuple(t.shape[1:]) for t in tensors)


def _laid_spec(layout: axes.InputAxes, spec: tf.TensorSpec) -> tf.TensorSpec:
    lengths = spec.shape.as_list()
    channels = 1 if layout.channels is None else lengths[layout.channels]
    return tf.TensorSpec([None, *layout.sizes(lengths), channels], spec.dtype)


def fitting(steps: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """A mask [B, T, 1, …] of embeddings, for maps [B, T, …]."""
    while steps.shape.rank > values.shape.rank:
        steps = tf.squeeze(steps, -1)
    return steps
