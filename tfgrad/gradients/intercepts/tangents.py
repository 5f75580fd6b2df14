"""Jacobian-vector products at the point itself: J·x, for one call or from call to call inside one.

A frame represents the place in a model where a call is made. Inside a graph of layers (`Graph`) a
call takes what another has returned. Inside a layer's own `call` (`Code`) its inputs may have come
through any arithmetic, which a forward-mode pass follows: tangents start as the values, and are set
to the values again wherever an intercept has been recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.intercepts.arithmetic import Arithmetic

Aside = Callable[[], contextlib.AbstractContextManager[Any]]


class Graph:
    """Inside a graph of layers: every input of a call is another call's output, or constant.

    Args:
        inside: The layer in whose `call` the graph runs; None at the top.
        constants: The tensors that the graph contains as constants.
    """

    def __init__(
        self, inside: keras.layers.Layer | None = None, constants: Iterable[tf.Tensor] = ()
    ) -> None:
        self.inside = inside
        self._constants = {id(t): t for t in constants}  # kept alive, so that ids stay their own

    def varies(self, tensor: tf.Tensor) -> bool:
        """Whether the tensor depends on the input."""
        return id(tensor) not in self._constants

    def is_known(self, tensor: tf.Tensor) -> bool:
        """Whether the tensor's tangent is its value: all intercepts before it are recorded."""
        return self.varies(tensor)

    def mark_known(self, tensor: tf.Tensor, value: tf.Tensor | None = None) -> None:
        """Note that the tensor's intercept has been recorded."""

    def mark_constant(self, tensor: tf.Tensor) -> None:
        """Note that the tensor does not depend on the input; the call that takes it counts it."""
        self._constants[id(tensor)] = tensor

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """A context that no forward-mode pass records."""
        return contextlib.nullcontext()


class Code:
    """Inside a layer's `call`: an input of a call may have come through any arithmetic.

    Args:
        inside: The layer.
        inputs: The tensors it was called with that depend on the input.
        aside: A context in which the tape that will differentiate the network does not record.
            Tangents are made there: a tensor that is both watched by a tape and another's tangent
            confuses TensorFlow where a `tf.function` is called.
        name: The name of the layer's call.

    Attributes:
        twins: Copies of results of arithmetic whose intercept has been recorded, by the id of the
            result, beside the result, which is kept alive so that its id stays its own.
        arithmetic: The operations since the tensors that are known, in a graph.
    """

    def __init__(
        self,
        inside: keras.layers.Layer | None,
        inputs: list[tf.Tensor],
        aside: Aside,
        name: str = "",
    ) -> None:
        self.inside, self.name, self._aside = inside, name, aside
        self.twins: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
        self.arithmetic = Arithmetic(self.is_known)
        self._kept = {id(t): t for t in inputs}
        with aside():
            values = [finite(t) for t in inputs]
        self.tangents = tf.autodiff.ForwardAccumulator(inputs, values)

    def varies(self, tensor: tf.Tensor) -> bool:
        """Whether the tensor depends on the input."""
        return self.is_known(tensor) or self.tangents.jvp(tensor) is not None

    def is_known(self, tensor: tf.Tensor) -> bool:
        """Whether the tensor is an output (or input) whose tangent is its value."""
        return id(tensor) in self._kept

    def mark_known(self, tensor: tf.Tensor, value: tf.Tensor | None = None) -> None:
        """Set the tangent of a tensor made while paused to its value, or to the `finite` one."""
        if id(tensor) not in self._kept:
            self._kept[id(tensor)] = tensor
            with self._aside():
                value = tf.identity(tensor if value is None else value)
            self.tangents._watch(tensor, value)

    def with_tangent(self, tensor: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
        """A copy, made while paused, of a tensor that is not known, with its tangent."""
        twin = tf.identity(tensor)
        with self._aside():
            self.tangents._watch(twin, tf.identity(tangent))
        return twin

    def note_known(self, tensor: tf.Tensor) -> None:
        """Note that the tangent, which the forward-mode pass has computed, is the value."""
        self._kept[id(tensor)] = tensor

    def mark_constant(self, tensor: tf.Tensor) -> None:
        """Nothing to note: a tensor that does not depend on the input has no tangent."""

    def tangent(self, tensor: tf.Tensor) -> tf.Tensor:
        """J·x at the tensor, zeros if it does not depend on the input."""
        return self.tangents.jvp(tensor, tf.UnconnectedGradients.ZERO)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context that no forward-mode pass records."""
        self.tangents.__exit__(None, None, None)
        try:
            yield
        finally:
            self.tangents.__enter__()


Frame = Graph | Code


def transposed(
    call: Callable[[], Any], inputs: list[tf.Tensor], vectors: list[tf.Tensor] | None = None
) -> tuple[Any, Callable[[tf.Tensor], tf.Tensor | None]]:
    """A call's outputs, and a function from each of them to J·x, or to J times other vectors.

    J·x is the derivative of ⟨Jᵀu, x⟩ with respect to u, for any u: a backward pass, transposed.
    Of complex tensors, ⟨a, b⟩ is Re(āb), as in TensorFlow's gradients.
    """
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(inputs)
            outputs = call()
        ys = differentiable(outputs)
        us = [tf.zeros_like(y) for y in ys]
        outer.watch(us)
        pulled = inner.gradient(ys, inputs, output_gradients=us)
        # That of a gather is `tf.IndexedSlices`, which a tape in a graph cannot differentiate.
        pairs = [
            (tf.convert_to_tensor(g), v)
            for g, v in zip(pulled, vectors or inputs, strict=True)
            if g is not None
        ]
    table = {}
    if pairs:
        gradients, vs = zip(*pairs, strict=True)
        products = outer.gradient(list(gradients), us, output_gradients=[finite(v) for v in vs])
        # The caller keeps the outputs alive, so their ids stay their own.
        table = {id(y): p for y, p in zip(ys, products, strict=True)}
    return outputs, lambda y: table.get(id(y))


def finite(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor with 0 in place of infinite values and NaN.

    Networks set what they ignore to −∞: padding before a maximum, masked scores. A finite output
    has the derivative 0 with respect to such an entry, so that any value in its place gives the
    same sum, and only a finite one does so without 0 · ∞. Where the derivative is not 0, the sum
    misses the output and the decomposition is rejected.
    """
    if tensor.dtype.is_complex:
        return tf.complex(finite(tf.math.real(tensor)), finite(tf.math.imag(tensor)))
    return tf.where(tf.math.is_finite(tensor), tensor, tf.zeros([], tensor.dtype))


def is_differentiable(value: Any) -> bool:
    """Whether a value is a tensor that may be differentiated, floating or complex.

    Variables are constants here.
    """
    return isinstance(value, tf.Tensor) and (value.dtype.is_floating or value.dtype.is_complex)


def differentiable(structure: Any) -> list[tf.Tensor]:
    """The floating and complex tensors of a structure, each once."""
    return list({id(t): t for t in tf.nest.flatten(structure) if is_differentiable(t)}.values())
