"""Guided backpropagation: a backward pass that drops negative gradients at every ReLU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

import keras
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks
from tfgrad.internal.keras_private import with_mask_of
from tfgrad.saliency import zero_maps
from tfgrad.saliency.channels import ChannelReduced, in_float32
from tfgrad.saliency.options import MethodOptions
from tfgrad.saliency.tracing import operations, traced

_FUNCTIONS = (
    keras.activations.relu,
    keras.activations.relu6,
    keras.ops.relu,
    keras.ops.relu6,
    tf.nn.relu,
    tf.nn.relu6,
)
# Layers whose output is activation(…) of what they compute; a subclass that overrides `call` may
# return something else.
_FUSED = (
    keras.layers.Activation,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.EinsumDense,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
# Activations that are computed with a ReLU operation without being one.
_OTHERS = (keras.activations.hard_sigmoid, keras.activations.hard_silu)
_OPERATIONS = ("Relu", "Relu6")


class GuidedBackprop(ChannelReduced):
    """The input-gradient, with negative gradients stopped at the output of every ReLU.

    At a ReLU with input z and incoming gradient g the backward pass propagates g · [z > 0] ·
    [g > 0] instead of g · [z > 0]. The map is Σ_c abs(·) over a pixel's channels by default.

    ReLU and ReLU6 are guided as layers, as `activation="relu"` of a layer and as operations of a
    functional graph; leaky, parametric and other activations are not. The model itself does not
    change. The maps depend little on the later layers' weights and on the class (Adebayo et al.,
    "Sanity Checks for Saliency Maps", 2018), so they do not show what a network has learned.

    Args:
        model: See `Method`.
        reduce: Reduction over a pixel's channels: `"abs_sum"`, the signed `"sum"`, `"max_abs"`, or
            `"deviation"`, their standard deviation.
        **options: See `MethodOptions`.

    `explain` also returns `gradient` [B, …] float32, the guided gradient.

    Raises:
        ModelError: At the first call, if the model has no ReLU, or one that cannot be guided:
            inside the `call` of a custom layer or model.

    Source: Springenberg et al., "Striving for Simplicity" (2015), section 3.4.
    """

    name = "guided_backprop"
    zero_map = zero_maps.CUT_OFF

    def __init__(
        self,
        model: Any,
        reduce: str = "abs_sum",
        **options: Unpack[MethodOptions],
    ) -> None:
        self._guided: set[tuple[Any, ...]] = set()
        super().__init__(model, reduce, **options)

    def probe(
        self, x: Any, target: Any = None, values: Mapping[str, tf.Tensor] | None = None
    ) -> Probe:
        """A probe of the network at x with every ReLU guided."""
        specs = self.explained(x).specs
        shapes = tuple(tuple(spec.shape) for spec in tf.nest.flatten(specs))
        if shapes not in self._guided:
            _check(self.network, specs)
            self._guided.add(shapes)
        with call_hooks.handled(_Guide()):
            return super().probe(x, target, values)

    def attribute(self, probe: Probe, target: Any) -> Any:
        """The guided gradient, shaped like x."""
        return self.input_gradient(probe, target)

    def extras(self, probe: Probe, target: Any, terms: Any) -> dict[str, Any]:
        """`gradient`, before the channels are reduced."""
        return {"gradient": in_float32(terms)}


class _Guide(call_hooks.Handler):
    """A gate after every ReLU: the factor [g > 0]; the ReLU's own derivative has [z > 0]."""

    def layer(self, layer: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        if not _ends_in_relu(layer):
            return proceed(*args, **kwargs)
        return self.guided(lambda: proceed(*args, **kwargs))

    def operation(self, operation: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(operation, keras.layers.Layer) or not _is_relu(operation):
            return proceed(*args, **kwargs)
        return self.guided(lambda: proceed(*args, **kwargs))

    def guided(self, run: Callable[[], Any]) -> Any:
        """The output of a ReLU, behind a gate."""
        output = run()
        return with_mask_of(_gate(output), output)


class _Counting(_Guide):
    """Counts gates, and the ReLU operations that have one or need none."""

    def __init__(self) -> None:
        self.gates = 0
        self.known = 0

    def layer(self, layer: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        if _is_other(layer):
            return self._counted(lambda: proceed(*args, **kwargs))
        return super().layer(layer, proceed, args, kwargs)

    def guided(self, run: Callable[[], Any]) -> Any:
        """The output of a ReLU, counted."""
        self.gates += 1
        return self._counted(run)

    def _counted(self, run: Callable[[], Any]) -> Any:
        graph = tf.compat.v1.get_default_graph()
        before = _count(o.type for o in graph.get_operations())
        output = run()
        self.known += _count(o.type for o in graph.get_operations()) - before
        return output


@tf.custom_gradient
def _gate(y: tf.Tensor) -> Any:
    """The identity, whose backward pass lets only positive gradients through."""
    return tf.identity(y), tf.nn.relu


def _is_relu(operation: Any) -> bool:
    """Whether the operation is a ReLU; one with a `negative_slope` is a leaky ReLU."""
    kind = type(operation)
    known = isinstance(operation, keras.layers.ReLU) or (
        kind.__name__ in ("Relu", "Relu6", "ReLU") and kind.__module__.startswith("keras.")
    )
    return known and not getattr(operation, "negative_slope", 0.0)


def _ends_in_relu(layer: Any) -> bool:
    """Whether the layer's output is that of a ReLU."""
    if isinstance(layer, keras.layers.ReLU):
        return _is_relu(layer)
    return _ends_in(layer, _FUNCTIONS)


def _is_other(layer: Any) -> bool:
    """Whether the layer's activation contains ReLU operations and is not a ReLU."""
    if isinstance(layer, keras.layers.PReLU):
        return type(layer).call is keras.layers.PReLU.call
    return _ends_in(layer, _OTHERS)


def _ends_in(layer: Any, functions: tuple[Any, ...]) -> bool:
    own = type(layer).call
    fused = any(isinstance(layer, kind) and own is kind.call for kind in _FUSED)
    return fused and any(layer.activation is function for function in functions)


def _check(network: keras.Model, spec: Any) -> None:
    """Reject a network whose ReLUs do not all get a gate, as its map would be wrong."""
    counting = _Counting()
    total = _count(operations(traced(network, spec, counting)))
    who = f"model {network.name!r}"
    if total > counting.known:
        raise ModelError(
            f"{who}: got {total - counting.known} of its {total} ReLU operations inside the call "
            "of a custom layer or model, where they cannot be guided; expected none there; try "
            'keras.layers.ReLU(), or activation="relu" of a Keras layer, in their place.'
        )
    if not counting.gates:
        raise ModelError(
            f"{who}: got no ReLU; expected one or more, as guided backpropagation is defined for "
            "ReLUs; try 'input_gradient', which it equals here."
        )


def _count(kinds: Iterable[str]) -> int:
    """The number of ReLU operations among operation types."""
    return sum(kind in _OPERATIONS for kind in kinds)
