"""Intercepts of calls without a closed form: y minus a Jacobian-vector product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgrad.errors import TfgradError
from tfgrad.gradients.intercepts.call_structure import Call, has_layers_inside
from tfgrad.gradients.intercepts.recording import Recording
from tfgrad.gradients.intercepts.refusals import NOT_DIFFERENTIABLE, of_layer, refusal
from tfgrad.gradients.intercepts.tangents import Code, finite, is_differentiable, transposed
from tfgrad.internal import call_hooks, gradient_registry, keras_private
from tfgrad.internal.function_copies import inlined_functions

_Product = Callable[[tf.Tensor], tf.Tensor | None]


def differentiated(recording: Recording, call: Call) -> Any:
    """The outputs of a call with no rule, whose residues are recorded.

    Forward mode follows a call from layer to layer and cuts it at the calls inside it, but cannot
    pass loops or custom gradients. A transposed backward pass can, and takes the call as one.

    Raises:
        ModelError: The call cannot be differentiated.
    """
    inputs = [t for t in call.inputs if recording.frame.varies(t)]
    whole = has_layers_inside(call.operation)
    with recording.frame.paused():
        if whole:
            restore = call_hooks.checkpoint()
            code = Code(call.operation, inputs, recording.aside, call.name)
            try:
                with code.tangents, recording.inside(code), inlined_functions():
                    outputs = call.run()
                return residues(recording, call, outputs, code.tangents.jvp, code.is_known)
            except TfgradError:
                raise
            except NOT_DIFFERENTIABLE:
                restore()
            # The layers inside are differentiated with the call.
            inside = keras_private.flatten_layers(call.operation)
            recording.terms.differentiated.update(layer.name for layer in inside)
        outputs, product = _transposed(recording, call, inputs)
        return residues(recording, call, outputs, product, whole=whole)


def at_tangents(recording: Recording, call: Call, has_term: bool) -> Any:
    """The outputs of a call inside code that forward mode cannot follow, on inputs not known.

    A transposed backward pass gives J times the inputs' tangents.

    Args:
        recording: Where the terms are added.
        call: The call, in which no other call is made.
        has_term: Whether the residues are recorded; the next call counts them otherwise.

    Raises:
        ModelError: The call cannot be differentiated.
    """
    code = recording.frame
    assert isinstance(code, Code)
    inputs = [t for t in call.inputs if code.varies(t)]
    with code.paused():
        vectors = [code.tangent(t) for t in inputs]
        outputs, product = _transposed(recording, call, inputs, vectors)
        if has_term:
            return residues(recording, call, outputs, product)
        return tf.nest.map_structure(lambda y: _followed_by(code, y, product), outputs)


def _followed_by(code: Code, y: Any, product: _Product) -> Any:
    tangent = product(y) if is_differentiable(y) else None
    return y if tangent is None else code.with_tangent(y, tangent)


def arithmetic_term(recording: Recording, call: Call, tensor: tf.Tensor) -> tf.Tensor:
    """A known copy of an input of a call, after a term for the arithmetic that made the input.

    The term belongs to the layer in whose `call` the arithmetic is, by whose call it is named.
    """
    code = recording.frame
    assert isinstance(code, Code)
    with code.paused():
        own = recording.own(tensor)
        value = finite(own)
        name = recording.names.next(f"{code.name}/arithmetic")
        recording.add(call.operation, name, "arithmetic", own, value - code.tangent(tensor))
        code.mark_known(own, value)
    return own


def followed(recording: Recording, call: Call) -> Any:
    """The outputs of a call inside code, which the forward-mode pass of that code follows."""
    code = recording.frame
    assert isinstance(code, Code)
    outputs = call.run()
    with code.paused():
        return residues(recording, call, outputs, code.tangents.jvp, code.is_known)


def residues(
    recording: Recording,
    call: Call,
    outputs: Any,
    product: _Product,
    is_known: Callable[[tf.Tensor], bool] = lambda y: False,
    whole: bool = False,
) -> Any:
    """Record y − J·x for every output of a call that has been differentiated.

    Args:
        recording: Where the terms are added.
        call: The call.
        outputs: Its outputs.
        product: A function from an output to J·x; None if it does not depend on the input.
        is_known: A function that tells whether an output is that of a call inside, unchanged.
        whole: Whether the call contains layers and was differentiated as a single one.

    Returns:
        The outputs, of which the recorded ones are copies.
    """
    recording.terms.differentiated.add(call.operation.name)
    number, frame = 0, recording.frame

    def one(y: Any) -> Any:
        nonlocal number
        if isinstance(y, tf.RaggedTensor | tf.SparseTensor):
            problem = f"it returns a {type(y).__name__}"
            raise of_layer(
                recording.path, call.operation, problem, "return a dense tensor and a mask"
            )
        if not is_differentiable(y):
            return y
        tangent = product(y)
        if is_known(y):
            frame.mark_known(y)
            return y
        if tangent is None:
            frame.mark_constant(y)
            return y
        own = recording.own(y)
        value = finite(own)
        name = f"{call.name}/{number}" if number else call.name
        number += 1
        recording.add(call.operation, name, "residue", own, value - tangent, whole=whole)
        frame.mark_known(own, value)
        return own

    return tf.nest.map_structure(one, outputs)


def _transposed(
    recording: Recording,
    call: Call,
    inputs: list[tf.Tensor],
    vectors: list[tf.Tensor] | None = None,
) -> tuple[Any, _Product]:
    def run() -> Any:
        with recording.inside(None):
            return call.run()

    try:
        return transposed(run, inputs, vectors)
    except NOT_DIFFERENTIABLE as error:
        gradient_registry.check(error)
        with recording.inside(None):
            problem = refusal(recording.path, call, error)
        raise problem from error
