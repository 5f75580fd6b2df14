"""Jacobian-vector products at the point itself: J·x, for one call or from call to call inside one.

A frame says where in a model a call is made. Inside a graph of layers (`Graph`) a call takes what
another has put out. Inside a layer's own `call` (`Code`) its inputs may have come through any
arithmetic, which a forward-mode pass follows: tangents start as the values, and are set to the
values again wherever an intercept has been recorded.
"""

import contextlib

import tensorflow as tf


class Graph:
    """Inside a graph of layers: whatever a call takes was put out by another, or is constant."""

    tangents = None

    def __init__(self, inside=None, constants=()):
        self.inside = inside
        self._constants = {id(t): t for t in constants}  # held, so that ids stay their own

    def varies(self, tensor):
        """Whether the tensor depends on the input."""
        return id(tensor) not in self._constants

    def is_known(self, tensor):
        """Whether the tensor's intercept is recorded: its tangent is its value."""
        return self.varies(tensor)

    def knows(self, tensor):
        """The tensor's intercept has been recorded."""

    def is_constant(self, tensor):
        """The tensor does not depend on the input; whoever takes it counts it."""
        self._constants[id(tensor)] = tensor

    def paused(self):
        """No forward-mode pass sees what is done here."""
        return contextlib.nullcontext()


class Code:
    """Inside a layer's `call`: what a call takes may have come through any arithmetic.

    Args:
        inside: the layer.
        inputs: the tensors it was called with that depend on the input.
        aside: a context in which the tape that will differentiate the network does not record.
            Tangents are made there: a tensor that is both watched by a tape and another's tangent
            confuses TensorFlow where a `tf.function` is called.
    """

    def __init__(self, inside, inputs, aside):
        self.inside, self._aside = inside, aside
        self._kept = {id(t): t for t in inputs}
        with aside():
            values = [tf.identity(t) for t in inputs]
        self.tangents = tf.autodiff.ForwardAccumulator(inputs, values)

    def varies(self, tensor):
        """Whether the tensor depends on the input."""
        return self.is_known(tensor) or self.tangents.jvp(tensor) is not None

    def is_known(self, tensor):
        """Whether the tensor is an output (or input) whose tangent is its value."""
        return id(tensor) in self._kept

    def knows(self, tensor):
        """Set the tangent of a tensor made while paused to its value."""
        if id(tensor) not in self._kept:
            self._kept[id(tensor)] = tensor
            with self._aside():
                value = tf.identity(tensor)
            self.tangents._watch(tensor, value)

    def is_constant(self, tensor):
        """The tensor does not depend on the input; it has no tangent."""

    @contextlib.contextmanager
    def paused(self):
        """No forward-mode pass sees what is done here."""
        self.tangents.__exit__(None, None, None)
        try:
            yield
        finally:
            self.tangents.__enter__()


def transposed(call, inputs):
    """A call's outputs and {output: J·x}: what ⟨Jᵀu, x⟩ changes by with u, for any u."""
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(inputs)
            outputs = call()
        ys = floating(outputs)
        us = [tf.zeros_like(y) for y in ys]
        outer.watch(us)
        pulled = inner.gradient(ys, inputs, output_gradients=us)
    pairs = [(g, x) for g, x in zip(pulled, inputs, strict=True) if g is not None]
    if not pairs:
        return outputs, _ById({})
    gradients, xs = zip(*pairs, strict=True)
    products = outer.gradient(list(gradients), us, output_gradients=list(xs))
    return outputs, _ById({id(y): p for y, p in zip(ys, products, strict=True)})


class _ById:
    """A table of tensors, which are not hashable."""

    def __init__(self, table):
        self.table = table

    def get(self, tensor):
        return self.table.get(id(tensor))


def is_floating(value):
    """Whether a value is a tensor that may be differentiated; variables are constants here."""
    return isinstance(value, tf.Tensor) and value.dtype.is_floating


def floating(structure):
    """The floating tensors of a structure, each once."""
    return list({id(t): t for t in tf.nest.flatten(structure) if is_floating(t)}.values())
