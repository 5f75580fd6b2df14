"""The pre-activation z and the bias b of named calls, for penalties on bias-gradients ∇_z f ⊙ b.

A convolution or dense layer has its own bias, added before the activation fused into it, if any.
If its output is read by a batch norm alone, the two form a block: z is the norm's output and

    b = β + γ (b_conv − μ) / √(v + ε)

with the statistics that the forward pass used, so that a penalty on b is differentiated through
them too. A batch norm that is named itself has b = β − γμ/√(v + ε).

Source: thesis §4.2, §4.3; full-Jacobian paper §3.2 for batch norm.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.intercepts import call_structure, closed_forms
from tfgrad.internal import call_hooks
from tfgrad.internal.precision import at_least_float32


@dataclasses.dataclass
class Biased:
    """One call of a named layer.

    Attributes:
        layer: The layer that was called.
        z: The pre-activation, a copy that only the rest of the network reads.
        norm: The batch norm that reads z, if one does.
        readers: The number of layers and operations that read the call's output.
    """

    layer: Any
    z: tf.Tensor
    norm: _Norm | None = None
    readers: int = 0

    @property
    def is_block(self) -> bool:
        """Whether a batch norm alone reads the call's output."""
        return self.norm is not None and self.readers == 1

    @property
    def output(self) -> tf.Tensor:
        """The z of the papers: where the bias has been added last."""
        return self.norm.z if self.norm is not None and self.is_block else self.z

    def bias(self) -> tf.Tensor:
        """b in float32 or wider, of a shape that broadcasts to `output`.

        Raises:
            ArgumentError: There is no bias.
        """
        if isinstance(self.layer, keras.layers.BatchNormalization):
            assert self.norm is not None
            return self.norm.bias(None)
        own = closed_forms.bias(self.layer, self.z.shape.rank)
        if self.norm is not None and self.is_block:
            return self.norm.bias(own)
        if own is None:
            raise ArgumentError(
                f"layers: got {self.layer.name!r}, which has no bias, and no batch norm alone "
                "reads it; try a layer with use_bias=True, or one that a "
                "BatchNormalization follows."
            )
        return at_least_float32(own)


@dataclasses.dataclass
class _Norm:
    """A call of a batch norm: its input, its output, and whether it used the batch's statistics."""

    layer: Any
    x: tf.Tensor
    z: tf.Tensor
    training: bool

    def bias(self, before: Any) -> tf.Tensor:
        """β + γ (before − μ)/√(v + ε), shaped to broadcast; `before` None means 0."""
        layer, x = self.layer, at_least_float32(self.x)
        shape = [1] * x.shape.rank
        shape[layer.axis] = -1

        def along(vector: Any) -> tf.Tensor:
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


def products(biases: dict[str, Biased], gradients: list[Any]) -> dict[str, tf.Tensor]:
    """∇_z f ⊙ b of every recorded call, {call name: like z}.

    Args:
        biases: The recorded calls.
        gradients: ∂f/∂z of each, in the same order; None means zero.
    """
    found = {}
    for (name, biased), gradient in zip(biases.items(), gradients, strict=True):
        if gradient is None:
            gradient = tf.zeros_like(biased.output)
        bias = biased.bias()
        found[name] = tf.cast(gradient, bias.dtype) * bias
    return found


def check(network: keras.layers.Layer, names: Iterable[str]) -> None:
    """Check that the bias of every named layer is known.

    Raises:
        ArgumentError: A layer does not exist, or is not Keras's own dense layer, convolution or
            batch norm.
    """
    call_hooks.check_names(network, names)
    for layer in call_hooks.flatten(network):
        if layer.name in names and closed_forms.rule(layer) not in ("affine", "batch_norm"):
            raise ArgumentError(
                f"layers: got {layer.name!r} of network {network.name!r}, a "
                f"{type(layer).__name__}, whose bias tfgrad does not know; expected a dense layer, "
                "a convolution or a batch norm of Keras's."
            )


@contextlib.contextmanager
def recorded_biases(names: Iterable[str]) -> Iterator[dict[str, Biased]]:
    """Record the calls of the layers called `names` in this thread.

    Yields:
        A dict {call name: Biased}, filled in call order; a layer called again appears as name:1,
        name:2. Layers that `check` rejects are skipped.
    """
    if not names:
        yield {}
        return
    with call_hooks.handled(_Recorder(names)) as recorder:
        yield recorder.found


@dataclasses.dataclass
class _Running:
    """A call in progress.

    Attributes:
        layer: The layer.
        source: The recorded call whose output it reads, if there is one.
        made: What is recorded of it, once its own `call` has run.
    """

    layer: keras.layers.Layer
    source: Biased | None
    made: Biased | None = None


class _Recorder(call_hooks.Handler):
    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.found: dict[str, Biased] = {}
        self._calls = call_hooks.CallNames()
        self._running: list[_Running] = []
        # Outputs of recorded calls, kept alive so that their ids stay their own.
        self._made: dict[int, tuple[Any, Biased]] = {}
        self._graph = call_hooks.current_graph()

    def layer(
        self,
        layer: keras.layers.Layer,
        proceed: call_hooks.Proceed,
        args: call_hooks.Args,
        kwargs: call_hooks.Kwargs,
    ) -> Any:
        if call_hooks.is_elsewhere(self._graph, args, kwargs):
            return proceed(*args, **kwargs)
        read = self._read(layer, args, kwargs)
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        if layer.name not in self.names and not (is_norm and read):
            return proceed(*args, **kwargs)
        kind = closed_forms.rule(layer)
        if kind not in ("affine", "batch_norm"):
            return proceed(*args, **kwargs)
        self._running.append(_Running(layer, read[0] if read else None))
        try:
            output = proceed(*args, **kwargs)
        finally:
            made = self._running.pop().made
        if made is None:  # the layer's own `call` did not run
            return output
        if layer.name in self.names:
            self.found[self._calls.next(layer.name)] = made
        if kind == "affine" and layer.activation in (None, keras.activations.linear):
            self._made[id(output)] = (output, made)
        return output

    def operation(
        self,
        operation: keras.Operation,
        proceed: call_hooks.Proceed,
        args: call_hooks.Args,
        kwargs: call_hooks.Kwargs,
    ) -> Any:
        if call_hooks.is_elsewhere(self._graph, args, kwargs):
            return proceed(*args, **kwargs)
        if not isinstance(operation, keras.layers.Layer):
            self._read(operation, args, kwargs)
            return proceed(*args, **kwargs)
        if not self._running or self._running[-1].layer is not operation:
            return proceed(*args, **kwargs)
        running = self._running[-1]
        if isinstance(operation, keras.layers.BatchNormalization):
            return self._norm(running, proceed, args, kwargs)
        z = call_hooks.copy(
            type(operation).call(call_hooks.without_activation(operation), *args, **kwargs)
        )
        running.made = Biased(operation, z)
        return z if operation.activation is None else operation.activation(z)

    def checkpoint(self) -> Callable[[], None]:
        restore_names, found, made = self._calls.checkpoint(), dict(self.found), dict(self._made)
        reads = [(biased, biased.norm, biased.readers) for _, biased in made.values()]

        def restore() -> None:
            restore_names()
            call_hooks.restore_dict(self.found, found)
            call_hooks.restore_dict(self._made, made)
            for biased, norm, readers in reads:
                biased.norm, biased.readers = norm, readers

        return restore

    def _norm(
        self,
        running: _Running,
        proceed: call_hooks.Proceed,
        args: call_hooks.Args,
        kwargs: call_hooks.Kwargs,
    ) -> tf.Tensor:
        layer = running.layer
        if getattr(layer, "synchronized", False):
            raise ArgumentError(
                f"layers: got {layer.name!r} with synchronized=True, whose statistics are those of "
                "all replicas; bias-gradients need a batch norm with synchronized=False."
            )
        given = kwargs.get("training", args[1] if len(args) > 1 else None)
        training = bool(given) and layer.trainable
        if training and (layer.renorm or kwargs.get("mask") is not None):
            what = "renorm=True" if layer.renorm else "a mask"
            raise ArgumentError(
                f"layers: got {layer.name!r} with {what}, and bias-gradients do not know the "
                "statistics that it uses in training; expected a batch norm without."
            )
        z = call_hooks.copy(proceed(*args, **kwargs))
        norm = _Norm(layer, args[0], z, training)
        running.made = Biased(layer, z, norm)
        if running.source is not None:
            running.source.norm = norm
        return z

    def _read(self, reader: keras.Operation, args: Any, kwargs: Any) -> list[Biased]:
        """The recorded calls whose output this call reads.

        A call that contains others is no reader: the calls inside it are.
        """
        if not self._made or call_structure.has_layers_inside(reader):
            return []
        tensors = {id(t) for t in tf.nest.flatten((args, kwargs))}
        read = [made for key, (_, made) in self._made.items() if key in tensors]
        for made in read:
            made.readers += 1
        return read
