"""Checks whether the second derivative of a network exists and is right.

TensorFlow drops or falsifies some second derivatives in silence, so a penalty would train on a
wrong gradient. `inspect` traces the network and its input-gradient once and compares the operations
it finds, function bodies included, with the tables of unsafe ones. It reads operations rather than
layer classes, because the same fault occurs in bare operations and in users' own layers; each is
attributed to the layer whose call created it.
"""

import warnings
import weakref
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, SecondOrderError, SecondOrderWarning
from tfgrad.internal import keras_private
from tfgrad.second_order.findings import MOMENTS, Finding, Inspection, finding
from tfgrad.second_order.graph_walk import find_probabilities, walk
from tfgrad.second_order.operations import (
    ABSENT,
    INEXACT,
    PIECEWISE_LINEAR,
    SILENT,
    SMOOTH,
    STATE,
    STATEFUL_RANDOM,
)
from tfgrad.second_order.tracing import Trace, trace

_inspections: weakref.WeakKeyDictionary[Any, dict[Any, Inspection]] = weakref.WeakKeyDictionary()
_warned: weakref.WeakSet[Any] = weakref.WeakSet()


def inspect(network: keras.layers.Layer, inputs: Any = None, training: bool = True) -> Inspection:
    """Trace a network with its input-gradient once and report faults of the second derivative.

    No weight, moving statistic or seed changes. An unbuilt network is built. The result is cached
    for as long as the network lives, one per mode, input shapes and set of layers.

    Args:
        network: A Keras model or layer.
        inputs: A nest of tensors, arrays, `tf.TensorSpec` or `KerasTensor`, of which only shapes
            and dtypes are read; None takes a functional model's own inputs. The floating ones are
            differentiated.
        training: The mode of the call.

    Raises:
        ArgumentError: `network` is no Keras layer; `inputs` is None and the network does not
            define any, or is no nest of tensors.
        ModelError: No output of the network is floating.
    """
    if not isinstance(network, keras.layers.Layer):
        raise ArgumentError(f"network: got {network!r}; expected a Keras model or layer.")
    specs, training = _specs(network, inputs), bool(training)
    # What a call does may depend on shapes beyond the batch, and layers may be added later.
    shapes = tuple((tuple(s.shape)[1:], s.dtype.name) for s in keras.tree.flatten(specs))
    layers = tuple(
        (type(layer).__name__, layer.name, layer.compute_dtype)
        for layer in keras_private.flatten_layers(network)
    )
    known = _inspections.setdefault(network, {})
    # An unbuilt network creates its layers in the trace; later calls inspect the built one.
    key = (training, shapes, layers if network.built else None)
    if key not in known:
        known[key] = _judged(network, trace(network, specs, training))
    return known[key]


def check(network: keras.layers.Layer, inputs: Any = None, training: bool = True) -> Inspection:
    """`inspect` a network, and raise if TensorFlow gets its second derivative wrong.

    Args:
        network: As for `inspect`.
        inputs: As for `inspect`.
        training: As for `inspect`.

    Raises:
        SecondOrderError: Lists every layer at fault, what is wrong, and what to use instead.

    Warns:
        SecondOrderWarning: Slight faults, once per network.
    """
    inspection = inspect(network, inputs, training)
    errors = [str(f) for f in inspection.findings if f.severity == "error"]
    if errors:
        raise SecondOrderError(
            f"network {network.name!r}: a gradient penalty differentiates twice, and the second "
            "derivative is wrong or missing here:\n  " + "\n  ".join(errors)
        )
    slight = [str(f) for f in inspection.findings]
    if slight and network not in _warned:
        _warned.add(network)
        message = f"network {network.name!r}:\n  " + "\n  ".join(slight)
        warnings.warn(message, SecondOrderWarning, stacklevel=2)
    return inspection


def _specs(network: keras.layers.Layer, inputs: Any) -> Any:
    """The inputs, or the network's own, as a nest of `tf.TensorSpec`."""
    if inputs is None:
        try:  # `Sequential.input` needs a symbolic call, `Functional.inputs` loses the structure
            sequential = isinstance(network, keras.Sequential)
            inputs = network.inputs[0] if sequential else network.input
        except (AttributeError, ValueError):
            raise ArgumentError(
                f"inputs: got None; network {network.name!r} does not define its inputs; try "
                "inputs=tf.TensorSpec([None, 32, 32, 3])."
            ) from None

    def spec(x: Any) -> tf.TensorSpec:
        try:
            return tf.TensorSpec(x.shape, x.dtype)
        except (AttributeError, TypeError, ValueError):
            raise ArgumentError(
                f"inputs: got {x!r}; expected a nest of tensors or tf.TensorSpec."
            ) from None

    return keras.tree.map_structure(spec, inputs)


def _judged(network: keras.layers.Layer, traced: Trace) -> Inspection:
    # FuncGraph inputs are placeholders; weights are captured as resources, inputs never are.
    inputs = {
        n.name
        for n in traced.nodes
        if n.op == "Placeholder" and tf.as_dtype(n.attr["dtype"].type).is_floating
    }
    unsafe = {*SILENT, *ABSENT, *INEXACT, traced.missing}
    findings: dict[tuple[int, str], Finding] = {}
    random: dict[str, None] = {}
    state: dict[str, None] = dict.fromkeys(traced.moved)
    kinds = set()
    for node, owner, stopped in walk(traced, inputs):
        # Batch statistics are no activation: their squares do not make a network smooth.
        if not isinstance(owner, keras.layers.BatchNormalization):
            kinds.add(node.op)
        if STATEFUL_RANDOM.fullmatch(node.op):
            random[owner.name] = None
        elif STATE.fullmatch(node.op):
            state[owner.name] = None
        elif stopped or node.op in unsafe:
            operation = MOMENTS if stopped else node.op
            findings.setdefault((id(owner), operation), finding(network, owner, operation))
    probabilities = None
    for output in traced.outputs:
        probabilities = probabilities or find_probabilities(traced, output)
    flat = bool(kinds & PIECEWISE_LINEAR) and not any(SMOOTH.fullmatch(kind) for kind in kinds)
    return Inspection(tuple(findings.values()), probabilities, tuple(random), tuple(state), flat)
