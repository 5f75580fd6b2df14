"""Checks whether the second derivative of a network exists and is right.

TensorFlow drops or falsifies some second derivatives in silence, so a penalty would train on a
wrong gradient. `inspect` traces the network and its input-gradient once and compares the operations
it finds, function bodies included, with the tables of unsafe ones. It reads operations rather than
layer classes, because the same fault occurs in bare operations and in users' own layers; each is
attributed to the layer whose call created it.
"""

import dataclasses
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, SecondOrderError, SecondOrderWarning
from tfgrad.internal import derivatives, keras_private, xla
from tfgrad.second_order import known_layers
from tfgrad.second_order.findings import (
    MOMENTS,
    RECOMPUTED,
    Fault,
    Inspection,
    described,
    finding,
    remedy,
)
from tfgrad.second_order.fingerprint import fingerprint
from tfgrad.second_order.graph_walk import find_probabilities, is_recomputed, walk
from tfgrad.second_order.operations import (
    ABSENT,
    INEXACT,
    PIECEWISE_LINEAR,
    PYTHON,
    SILENT,
    SMOOTH,
    STATE,
    STATEFUL_RANDOM,
    WRONG_AT_TIES,
    WRONG_UNDER_XLA,
)
from tfgrad.second_order.tracing import Trace, trace

# Per network and its fingerprint: inspections and faults, by mode and input shapes.
_Known = dict[Any, dict[Any, tuple[Inspection, tuple[Fault, ...]]]]
_inspections: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()
# What TensorFlow says of a recomputed call with keyword arguments, which no graph can hold.
_NO_GRAPH = "custom_gradient decorator currently supports keywords"
_KEPT = 4  # So many states of a network are remembered, the latest ones.
_warned: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
# What `make_safe` has still to do with a network of unknown inputs: (network, inputs) → report.
unfinished: weakref.WeakKeyDictionary[Any, Callable[[Any, Any], Any]] = weakref.WeakKeyDictionary()
# The inputs that each network was inspected with last.
last_inputs: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
# The `tf.function`s of its own that each network called.
functions_of: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()


def inspect(
    network: keras.layers.Layer,
    inputs: Any = None,
    training: bool = True,
    embeddings: bool = False,
) -> Inspection:
    """Trace a network with its input-gradient once and report faults of the second derivative.

    No weight, moving statistic or seed changes. An unbuilt network is built. The result is cached
    per mode, input shapes and `fingerprint` of the network, so that it follows `trainable`,
    activations, layers and their options as they are now.

    Args:
        network: A Keras model or layer.
        inputs: A nest of tensors, arrays, `tf.TensorSpec` or `KerasTensor`, of which only shapes
            and dtypes are read; None takes a functional model's own inputs. The floating ones are
            differentiated.
        training: The mode of the call.
        embeddings: Whether the embeddings of integer inputs are differentiated beside floating
            inputs; without these they always are.

    Raises:
        ArgumentError: `network` is no Keras layer; `inputs` is None and the network does not
            define any, or is no nest of tensors.
        ModelError: No output of the network is floating.
    """
    return judged(network, inputs, training, embeddings)[0]


def judged(
    network: keras.layers.Layer, inputs: Any, training: bool, embeddings: bool = False
) -> tuple[Inspection, tuple[Fault, ...]]:
    """`inspect` a network; the same with the layers of the faults."""
    if not isinstance(network, keras.layers.Layer):
        raise ArgumentError(f"network: got {network!r}; expected a Keras model or layer.")
    specs, training = specs_of(network, inputs), bool(training)
    last_inputs[network] = specs
    finish = unfinished.pop(network, None)
    if finish is not None:
        finish(network, specs)
    shapes = tuple((tuple(s.shape)[1:], s.dtype.name) for s in keras.tree.flatten(specs))
    states, now = _inspections.setdefault(network, {}), fingerprint(network)
    if now not in states:
        while len(states) >= _KEPT:
            del states[next(iter(states))]
        states[now] = {}
    known = states[now]
    asked = training, bool(embeddings), shapes
    if asked not in known:
        plain = None
        if not embeddings and all(s.dtype.is_floating for s in keras.tree.flatten(specs)):
            plain = known_layers.verdict(network, training)
        if plain is not None:
            known[asked] = _known(network, plain)
        else:
            traced = trace(network, specs, training, bool(embeddings))
            functions_of.setdefault(network, weakref.WeakSet()).update(traced.called)
            known[asked] = _judged(network, traced)
    return known[asked]


def check(
    network: keras.layers.Layer,
    inputs: Any = None,
    training: bool = True,
    by_xla: bool | None = None,
    embeddings: bool = False,
) -> Inspection:
    """`inspect` a network, and raise if its second derivative is computed wrong.

    Args:
        network: As for `inspect`.
        inputs: As for `inspect`.
        training: As for `inspect`.
        by_xla: Whether XLA compiles the step that differentiates; None if it compiles the code
            that makes this call.
        embeddings: As for `inspect`.

    Raises:
        SecondOrderError: Lists every layer at fault, what is wrong, and what to use instead.

    Warns:
        SecondOrderWarning: Slight faults, each once per network.
    """
    try:
        inspection, faults = judged(network, inputs, training, embeddings)
    except ValueError as error:
        if not is_recomputing(error):
            raise
        raise _second_order_error(network, rematerialised(network)) from error
    with_xla = xla.compiles() if by_xla is None else by_xla
    found = [fault for fault in faults if with_xla or not fault.only_under_xla]
    if derivatives.are_corrected():
        found = [fault for fault in found if fault.finding.operation not in WRONG_AT_TIES]
    errors = [fault for fault in found if fault.finding.severity == "error"]
    if errors:
        raise _second_order_error(network, errors)
    slight = described(fault.finding for fault in found)
    known = _warned.setdefault(network, set())
    if not known.issuperset(slight):
        known.update(slight)
        message = f"network {network.name!r}:\n  " + "\n  ".join([*slight, remedy(found)])
        warnings.warn(message, SecondOrderWarning, stacklevel=2)
    return inspection


def _second_order_error(network: keras.layers.Layer, errors: list[Fault]) -> SecondOrderError:
    lines = [*described(error.finding for error in errors), remedy(errors)]
    return SecondOrderError(
        f"network {network.name!r}: a gradient penalty differentiates twice, and the second "
        "derivative is wrong or missing here:\n  " + "\n  ".join(lines)
    )


def is_recomputing(error: Exception) -> bool:
    """Whether a trace failed because of a call that is repeated in the backward pass."""
    return _NO_GRAPH in str(error)


def rematerialised(network: keras.layers.Layer) -> list[Fault]:
    """Faults of the layers built in a `RematScope`; for the network if there are none."""
    layers = keras_private.flatten_layers(network)
    owners = [layer for layer in layers if keras_private.is_rematerialised(layer)]
    return [_fault(network, owner, owner, RECOMPUTED) for owner in owners or [network]]


def _fault(
    network: keras.layers.Layer,
    owner: Any,
    holder: Any,
    operation: str,
    only_under_xla: bool = False,
) -> Fault:
    found = finding(network, owner, operation)
    if holder is not owner:
        problem = f"made in a call of {holder.name!r}: {found.problem}"
        found = dataclasses.replace(found, problem=problem)
    return Fault(found, weakref.ref(owner), weakref.ref(holder), only_under_xla)


def specs_of(network: keras.layers.Layer, inputs: Any) -> Any:
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


def _is_python_of_floats(node: Any) -> bool:
    types = node.attr["Tin"].list.type if node.op in PYTHON else ()
    return any(tf.as_dtype(t).is_floating for t in types)


def _known(
    network: keras.layers.Layer, verdict: known_layers.Verdict
) -> tuple[Inspection, tuple[Fault, ...]]:
    faults = [_fault(network, layer, layer, name, xla) for layer, name, xla in verdict.faults]
    return _inspection(faults, piecewise_linear=verdict.piecewise_linear), tuple(faults)


def _inspection(faults: Iterable[Fault], **found: Any) -> Inspection:
    return Inspection(
        findings=tuple(f.finding for f in faults if not f.only_under_xla),
        under_xla=tuple(f.finding for f in faults if f.only_under_xla),
        **found,
    )


def _judged(network: keras.layers.Layer, traced: Trace) -> tuple[Inspection, tuple[Fault, ...]]:
    # FuncGraph inputs are placeholders; weights are captured as resources, inputs never are.
    inputs = {
        n.name
        for n in traced.nodes
        if n.op == "Placeholder" and tf.as_dtype(n.attr["dtype"].type).is_floating
    }
    inputs.update(traced.embedded)
    unsafe = {*SILENT, *ABSENT, *INEXACT, traced.missing}
    faults: dict[Any, Fault] = {}
    random: dict[str, None] = {}
    state: dict[str, None] = dict.fromkeys(traced.moved)
    kinds = set()
    for node, owner, holder, stopped, dependent, compiled in walk(traced, inputs):
        # Batch statistics are no activation: their squares do not make a network smooth. Nor do
        # roots of weights, such as those of a known variance.
        if dependent and not isinstance(owner, keras.layers.BatchNormalization):
            kinds.add(node.op)
        if STATEFUL_RANDOM.fullmatch(node.op):
            random[owner.name] = None
            continue
        if STATE.fullmatch(node.op):
            state[owner.name] = None
            continue
        if stopped or node.op in unsafe:
            operation = MOMENTS if stopped else node.op
        elif node.op in WRONG_UNDER_XLA or (
            dependent and (node.op in WRONG_AT_TIES or _is_python_of_floats(node))
        ):
            operation = node.op
        elif dependent and is_recomputed(node):
            operation = RECOMPUTED
        else:
            continue
        only_xla = operation in WRONG_UNDER_XLA and not compiled
        key = id(owner), id(holder), operation, only_xla
        if key not in faults:
            faults[key] = _fault(network, owner, holder, operation, only_xla)
    probabilities = None
    for output in traced.outputs:
        probabilities = probabilities or find_probabilities(traced, output)
    flat = bool(kinds & PIECEWISE_LINEAR) and not any(SMOOTH.fullmatch(kind) for kind in kinds)
    inspection = _inspection(
        faults.values(),
        probabilities=probabilities,
        stateful_random=tuple(random),
        untracked_state=tuple(state),
        piecewise_linear=flat,
    )
    return inspection, tuple(faults.values())
