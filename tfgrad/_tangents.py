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

    def __init__(self, inside=None, constants=frozenset()):
        self.inside, self.constants = inside, constants

    def varies(self, tensor):
        return id(tensor) not in self.constants

    def is_known(self, tensor):
        return self.varies(tensor)

    def knows(self, tensor):
        pass

    def paused(self):
        return contextlib.nullcontext()


class Code:
    """Inside a layer's `call`: what a call takes may have come through any arithmetic."""

    def __init__(self, inside, inputs):
        self.inside = inside
        self.kept = {id(t): t for t in inputs}
        self.tangents = tf.autodiff.ForwardAccumulator(inputs, inputs)

    def varies(self, tensor):
        return True

    def is_known(self, tensor):
        """Whether the tensor is an output (or input) whose tangent is its value."""
        return id(tensor) in self.kept

    def knows(self, tensor):
        """Set the tangent of a tensor made while paused, or of none at all, to its value."""
        if id(tensor) not in self.kept:
            self.kept[id(tensor)] = tensor  # held, so that the id stays its own
            self.tangents._watch(tensor, tensor)

    @contextlib.contextmanager
    def paused(self):
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
    return tf.is_tensor(value) and value.dtype.is_floating


def floating(structure):
    """The floating tensors of a structure, each once."""
    return list({id(t): t for t in tf.nest.flatten(structure) if is_floating(t)}.values())
