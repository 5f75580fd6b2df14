"""The pre-activation z and the bias b of named calls, for penalties on bias-gradients ∇_z f ⊙ b.

A convolution or dense layer has its own bias, before the activation fused into it if there is one.
One that nothing but a batch norm reads makes a block with it: z is the norm's output and

    b = β + γ (b_conv − μ) / √(v + ε)

with the statistics that the forward pass used, so that what a penalty makes of b is differentiated
through them too. A batch norm named itself has b = β − γμ/√(v + ε).

Source: thesis §4.2, §4.3; full-Jacobian paper §3.2 for batch norm.
"""

import contextlib
import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import call_hooks
from tfgrad.gradients.intercepts import call_structure, closed_forms
from tfgrad.internal.precision import at_least_float32


@dataclasses.dataclass
class Biased:
    """One call of a named layer.

    Attributes:
        layer: that was called.
        z: the pre-activation, a copy that only the rest of the network reads.
        norm: the batch norm that reads z, if one does.
        readers: how many layers and operations read the call's output.
    """

    layer: Any
    z: tf.Tensor
    norm: "_Norm | None" = None
    readers: int = 0

    @property
    def is_block(self) -> bool:
        """Whether a batch norm, and nothing else, reads the call's output."""
        return self.norm is not None and self.readers == 1

    @property
    def output(self) -> tf.Tensor:
        """The z of the papers: where the bias has been added last."""
        return self.norm.z if self.norm is not None and self.is_block else self.z

    def bias(self) -> tf.Tensor:
        """b in float32 or wider, of a shape that broadcasts to `output`.

        Raises:
            ArgumentError: there is no bias.
        """
        if isinstance(self.layer, keras.layers.BatchNormalization):
            assert self.norm is not None
            return self.norm.bias(None)
        own = closed_forms.bias(self.layer, self.z.shape.rank)
        if self.norm is not None and self.is_block:
            return self.norm.bias(own)
        if own is None:
            raise ArgumentError(
                f"layers: {self.layer.name!r} has no bias, and no batch norm alone reads it; name "
                "a layer with use_bias=True, or one that a BatchNormalization follows."
            )
        return at_least_float32(own)


@dataclasses.dataclass
class _Norm:
    """A call of a batch norm: its input and output, and which statistics it took."""

    layer: Any
    x: tf.Tensor
    z: tf.Tensor
    training: bool

    def bias(self, before) -> tf.Tensor:
        """β + γ (before − μ)/√(v + ε), shaped to broadcast."""
        layer, x = self.layer, at_least_float32(self.x)
        shape = [1] * x.shape.rank
        shape[layer.axis] = -1

        def along(vector):
            return tf.reshape(tf.cast(tf.convert_to_tensor(vector), x.dtype), shape)

        if self.training:
            axes = [a for a in range(x.shape.rank) if a != layer.axis % x.shape.rank]
            mean = tf.reduce_mean(x, axes, keepdims=True)
            variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)
        else:
            mean, variance = along(layer.moving_mean), along(layer.moving_variance)
        scale = tf.math.rsqrt(variance + layer.epsilon)
        if layer.scale:
            scale *= along(layer.gamma)
        shift = -mean if before is None else tf.cast(before, x.dtype) - mean
        shift *= scale
        return shift + along(layer.beta) if layer.center else shift


def check(network, names) -> None:
    """Refuse names of layers whose bias is not known.

    Raises:
        ArgumentError: one is not there, or no dense layer, convolution or batch norm of Keras's.
    """
    call_hooks.check_names(network, names)
    for layer in call_hooks.flatten(network):
        if layer.name in names and closed_forms.rule(layer) not in ("affine", "batch_norm"):
            raise ArgumentError(
                f"layers: {layer.name!r} of network {network.name!r} is a {type(layer).__name__}, "
                "whose bias tfgrad does not know; name a dense layer, a convolution or a batch "
                "norm of Keras's."
            )


@contextlib.contextmanager
def recorded(names):
    """Record the calls of the layers called `names` in this thread.

    Yields:
        A dict {call name: Biased} that fills in call order; a layer called again appears as
        name:1, name:2. Layers that `check` refuses are passed over.
    """
    if not names:
        yield {}
        return
    with call_hooks.handled(_Recorder(names)) as recorder:
        yield recorder.found


class _Recorder(call_hooks.Handler):
    def __init__(self, names):
        self.names, self.found = frozenset(names), {}
        self._calls = call_hooks.CallNames()
        self._running: list[Any] = []  # [layer, its Biased once made] of calls on the way
        self._made: dict[int, Any] = {}  # outputs of recorded calls, kept alive with their ids
        self._graph = call_structure.current_graph()

    def layer(self, layer, proceed, args, kwargs):
        if self._is_foreign(args, kwargs):
            return proceed(*args, **kwargs)
        read = self._read(layer, args, kwargs)
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        if layer.name not in self.names and not (is_norm and read):
            return proceed(*args, **kwargs)
        kind = closed_forms.rule(layer)
        if kind not in ("affine", "batch_norm"):
            return proceed(*args, **kwargs)
        self._running.append([layer, read[0] if read else None, None])
        try:
            output = proceed(*args, **kwargs)
        finally:
            _, _, made = self._running.pop()
        if layer.name in self.names:
            self.found[self._calls.next(layer.name)] = made
        if kind == "affine" and layer.activation in (None, keras.activations.linear):
            self._made[id(output)] = (output, made)
        return output

    def operation(self, operation, proceed, args, kwargs):
        if self._is_foreign(args, kwargs):
            return proceed(*args, **kwargs)
        if not isinstance(operation, keras.layers.Layer):
            self._read(operation, args, kwargs)
            return proceed(*args, **kwargs)
        if not self._running or self._running[-1][0] is not operation:
            return proceed(*args, **kwargs)
        running = self._running[-1]
        if isinstance(operation, keras.layers.BatchNormalization):
            return self._norm(running, proceed, args, kwargs)
        z = call_hooks.copy(
            type(operation).call(call_hooks.without_activation(operation), *args, **kwargs)
        )
        running[2] = Biased(operation, z)
        return z if operation.activation is None else operation.activation(z)

    def _norm(self, running, proceed, args, kwargs):
        layer, source, _ = running
        if getattr(layer, "synchronized", False):
            raise ArgumentError(
                f"layers: {layer.name!r} has synchronized=True, whose statistics are those of all "
                "replicas; bias-gradients need synchronized=False."
            )
        given = kwargs.get("training", args[1] if len(args) > 1 else None)
        training = bool(given) and layer.trainable
        if training and (layer.renorm or kwargs.get("mask") is not None):
            what = "renorm=True" if layer.renorm else "a mask"
            raise ArgumentError(
                f"layers: {layer.name!r} has {what}, and bias-gradients do not know the statistics "
                "that it takes in training; use a batch norm without."
            )
        z = call_hooks.copy(proceed(*args, **kwargs))
        norm = _Norm(layer, args[0], z, training)
        running[2] = Biased(layer, z, norm)
        if source is not None:
            source.norm = norm
        return z

    def _read(self, reader, args, kwargs):
        """The recorded calls whose output this call reads; models that hold it are no readers."""
        if not self._made or call_structure.has_layers_inside(reader):
            return []
        tensors = {id(t) for t in tf.nest.flatten((args, kwargs))}
        read = [made for key, (_, made) in self._made.items() if key in tensors]
        for made in read:
            made.readers += 1
        return read

    def _is_foreign(self, args, kwargs):
        """Symbolic calls, and calls in the body of a loop."""
        return call_structure.current_graph() is not self._graph or any(
            isinstance(a, keras.KerasTensor) for a in tf.nest.flatten((args, kwargs))
        )
