"""The steps of its input that a network masks, such as padding.

`keras.layers.Masking` hides the steps at which all features have one value. Noise on such a step
would show it to the network. What perturbs an input therefore leaves masked steps as they are.

Masks are found from the network: its `Masking` layers, and layers of other packages that make masks
(`compute_mask`). A comparison that a network makes of its own, without a Keras mask, is not seen. A
mask that is passed as a further input is no property of the float input; pass it as booleans or
integers, which nothing perturbs.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.internal import call_hooks
from tfgrad.internal.keras_private import flatten_layers, mask_of
from tfgrad.internal.unchanged_state import unchanged_state


class Masks:
    """The masks that a network makes of its inputs.

    Args:
        network: The network; no state of it changes.
        x: Its inputs, a nest of tensors.

    Attributes:
        visible: For each float input, in order, whether its values are not masked: bool, of a shape
            that broadcasts to it; None where the network masks nothing of it.

    Raises:
        ModelError: The network masks steps that are not those of an input.
    """

    def __init__(self, network: keras.layers.Layer, x: Any) -> None:
        inputs = [t for t in tf.nest.flatten(x) if t.dtype.is_floating]
        self.visible: list[tf.Tensor | None] = [None] * len(inputs)
        if not may_mask(network):
            return
        recorder = _Recorder()
        with call_hooks.handled(recorder), unchanged_state():
            network(x, training=False)
        for name, (source, mask) in recorder.made.items():
            place = _place(network, name, source, mask, inputs)
            steps = like(tf.cast(mask, tf.bool), inputs[place])
            before = self.visible[place]
            self.visible[place] = steps if before is None else tf.logical_and(before, steps)

    def __bool__(self) -> bool:
        return any(steps is not None for steps in self.visible)


def where_visible(values: list[tf.Tensor], visible: list[tf.Tensor | None]) -> list[tf.Tensor]:
    """Values with zeros at masked steps.

    Args:
        values: Tensors.
        visible: For each of them what `Masks.visible` holds.
    """
    pairs = zip(values, visible, strict=True)
    return [v if s is None else tf.where(s, v, tf.zeros_like(v)) for v, s in pairs]


def visible(network: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor | None:
    """`Masks.visible` of a network with one float input; None if it masks nothing."""
    return Masks(network, x).visible[0]


def may_mask(network: keras.layers.Layer) -> bool:
    """Whether a network has a layer that makes masks of float inputs."""
    if not isinstance(network, keras.layers.Layer):
        return False
    return any(map(_makes_masks, flatten_layers(network)))


def _makes_masks(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.Masking):
        return True
    kind = type(layer)
    if kind.__module__.partition(".")[0] in ("keras", "tfgrad") or isinstance(layer, keras.Model):
        return False
    return kind.compute_mask is not _inherited(kind)


def _inherited(kind: type) -> Any:
    """The `compute_mask` of the first class that Keras defines among a layer's bases."""
    bases = (base for base in kind.__mro__ if base.__module__.startswith("keras."))
    return getattr(next(bases), "compute_mask", None)


class _Recorder(call_hooks.Handler):
    """Records {call name: (the tensor that a layer masked, its mask)}."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}
        self._names = call_hooks.CallNames()

    def layer(self, layer: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        output = proceed(*args, **kwargs)
        if not _makes_masks(layer) or call_hooks.is_symbolic(args, kwargs):
            return output
        name = self._names.next(layer.name)
        tensors = [t for t in tf.nest.flatten((args, kwargs)) if tf.is_tensor(t)]
        mask = mask_of(output) if tf.is_tensor(output) else None
        if tensors and mask is not None and tensors[0].dtype.is_floating:
            self.made[name] = tensors[0], mask
        return output


def _place(
    network: keras.layers.Layer,
    name: str,
    source: tf.Tensor,
    mask: tf.Tensor,
    inputs: list[tf.Tensor],
) -> int:
    """The index of the input whose steps a mask is of."""
    for place, tensor in enumerate(inputs):
        if tensor is source:
            return place
    rank = mask.shape.rank or 0
    fitting = [
        place
        for place, tensor in enumerate(inputs)
        if 1 < rank <= tensor.shape.rank and tensor.shape[:rank].is_compatible_with(mask.shape)
    ]
    if len(fitting) != 1:
        shapes = [tuple(t.shape) for t in inputs]
        raise ModelError(
            f"network {network.name!r}: got layer {name!r}, which masks {tuple(mask.shape)}, among "
            f"inputs {shapes}; expected a mask of the steps of one input, so that noise leaves "
            "masked steps as they are; try the Masking layer directly on the input."
        )
    return fitting[0]


def like(mask: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """A mask with as many axes as values."""
    return tf.reshape(
        mask, tf.concat([tf.shape(mask), [1] * (values.shape.rank - mask.shape.rank)], 0)
    )
