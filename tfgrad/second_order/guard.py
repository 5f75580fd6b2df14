"""The guard: does the second derivative of this network exist, and is it right?

TensorFlow drops or falsifies some second derivatives in silence, so a penalty would train on a
wrong gradient. `inspect` traces the network and its input gradient once and judges the operations
it finds, function bodies included, each attributed to a Keras layer by its name scope. Operations
rather than layer classes, because the same fault sits in bare ops and in users' own layers.
"""

import concurrent.futures
import dataclasses
import re
import warnings
import weakref
from typing import Any, Literal

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError, SecondOrderError, SecondOrderWarning
from tfgrad.internal import keras_private
from tfgrad.second_order.operations import (
    ABSENT,
    INEXACT,
    PIECEWISE_LINEAR,
    SILENT,
    SMOOTH,
    STATE,
    STATEFUL_RANDOM,
    Layers,
    find_probabilities,
    walk,
)

_NO_GRADIENT = re.compile(r"has no entry for: (\w+)|op type: (\w+)")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of a network's second derivative.

    Attributes:
        layer: name of the layer that owns the operation; the network's own name for an operation
            outside every layer.
        operation: the TensorFlow operation or function at fault.
        problem: what is wrong.
        advice: what to use instead.
        severity: an "error" forbids a penalty; a "warning" is small, and the papers live with it.
        layer_class: class name of the layer.
    """

    layer: str
    operation: str
    problem: str
    advice: str
    severity: Literal["error", "warning"]
    layer_class: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether the second derivative is not there at all, rather than wrong."""
        return self.operation in SILENT or self.operation in ABSENT

    def __str__(self) -> str:
        return f"layer {self.layer!r} ({self.layer_class}): {self.problem}; {self.advice}"


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What one trace of a network and its input gradient shows.

    Attributes:
        findings: faults of the second derivative, one per layer and operation, in graph order.
        probabilities: name of the layer whose softmax or sigmoid ends an output (`network/op` for
            an operation outside every layer); None where every output is a logit.
        stateful_random: names of the layers that draw from `tf.random`'s own state, which no seed
            generator can replay. Keras's random layers are not among them.
        untracked_state: names of the layers that assign a `tf.Variable` Keras does not know of, and
            paths of Keras variables outside the network that its call moves: the states of a
            stateful RNN, the global seed of an unseeded `keras.random` call.
        piecewise_linear: ReLUs are the network's only non-linearity, so its Hessian is zero.
    """

    findings: tuple[Finding, ...] = ()
    probabilities: str | None = None
    stateful_random: tuple[str, ...] = ()
    untracked_state: tuple[str, ...] = ()
    piecewise_linear: bool = False


_inspections: weakref.WeakKeyDictionary[Any, dict[Any, Inspection]] = weakref.WeakKeyDictionary()
_warned: weakref.WeakSet[Any] = weakref.WeakSet()


def inspect(network: Any, inputs: Any = None, training: bool = True) -> Inspection:
    """Trace a network with its input gradient, once, and report what is wrong with the second.

    No weight, moving statistic or seed changes. An unbuilt network is built. The answer is cached
    for as long as the network lives, one per mode, input shapes and set of layers.

    Args:
        network: a Keras model or layer.
        inputs: a nest of tensors, arrays, `tf.TensorSpec` or `KerasTensor`, of which only shapes
            and dtypes are read; None takes a functional model's own inputs. The floating ones are
            differentiated.
        training: the mode of the call.

    Raises:
        ArgumentError: `inputs` is None and the network does not define any, or is no tensor.
        ModelError: no output of the network is floating.
    """
    if not isinstance(network, keras.layers.Layer):
        raise ArgumentError(f"network must be a Keras model or layer, not {network!r}")
    specs, training = _specs(network, inputs), bool(training)
    # What a call does may depend on shapes beyond the batch, and layers may be added later.
    shapes = tuple((tuple(s.shape)[1:], s.dtype.name) for s in keras.tree.flatten(specs))
    layers = tuple(
        (type(layer).__name__, layer.name, layer.compute_dtype)
        for layer in keras_private.flatten_layers(network)
    )
    known = _inspections.setdefault(network, {})
    # An unbuilt network grows its layers in the trace; what is asked next is the built one.
    key = (training, shapes, layers if network.built else None)
    if key not in known:
        known[key] = _inspect(network, specs, training)
    return known[key]


def check(network: Any, inputs: Any = None, training: bool = True) -> Inspection:
    """Refuse a network whose second derivative TensorFlow gets wrong.

    Args:
        network: as for `inspect`.
        inputs: as for `inspect`.
        training: as for `inspect`.

    Raises:
        SecondOrderError: lists every layer at fault, what is wrong, and what to use instead.

    Warns:
        SecondOrderWarning: slight faults, once per network.
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


def _specs(network: Any, inputs: Any) -> Any:
    if inputs is None:
        try:  # `Sequential.input` needs a symbolic call, `Functional.inputs` loses the structure
            sequential = isinstance(network, keras.Sequential)
            inputs = network.inputs[0] if sequential else network.input
        except (AttributeError, ValueError):
            raise ArgumentError(
                f"network {network.name!r} does not define its inputs; pass inputs=, e.g. "
                "tf.TensorSpec([None, 32, 32, 3])"
            ) from None

    def spec(x: Any) -> tf.TensorSpec:
        try:
            return tf.TensorSpec(x.shape, x.dtype)
        except (AttributeError, TypeError, ValueError):
            raise ArgumentError(
                f"inputs must be a nest of tensors or tf.TensorSpec, not {x!r}"
            ) from None

    return keras.tree.map_structure(spec, inputs)


def _inspect(network: Any, specs: Any, training: bool) -> Inspection:
    if not network.built:
        symbolic = keras.tree.map_structure(
            lambda s: keras.KerasTensor(tuple(s.shape), s.dtype.name), specs
        )
        with tf.init_scope():
            network(symbolic, training=training)
    # The caller may be inside a tf.function, a tape, a strategy, a stateless scope: all of them are
    # local to its thread. tf.init_scope would not do, for it pauses tapes, the one here included.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        graph_def, outputs, missing, moved = thread.submit(
            _trace, network, specs, training
        ).result()
    return _judge(network, graph_def, outputs, missing, moved)


class _Watching(keras.StatelessScope):
    """A stateless scope that remembers which variables a call would have moved."""

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.moved: list[Any] = []

    def add_update(self, update: Any) -> None:
        self.moved.append(update[0])
        super().add_update(update)


def _trace(network: Any, specs: Any, training: bool) -> tuple[Any, list[str], str | None, list]:
    """GraphDef of f and ∇x Σf, names of f's tensors, op without derivative, foreign variables."""
    count = 0
    missing: str | None = None

    def run(*flat: Any) -> Any:
        nonlocal count, missing
        floating = [x for x in flat if x.dtype.is_floating]
        # Watching the inputs alone keeps the weights' gradients, which no penalty differentiates
        # twice, out of the graph.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(floating)
            y = network(keras.tree.pack_sequence_as(specs, flat), training=training)
            outputs = [o for o in keras.tree.flatten(y) if _is_floating(o)]
            if not outputs:
                raise ModelError(
                    f"network {network.name!r} has no floating output to differentiate; pass the "
                    "part of the network that yields logits"
                )
            total = tf.add_n([tf.reduce_sum(tf.cast(o, tf.float32)) for o in outputs])
        count = len(outputs)
        try:
            gradients = tape.gradient(total, floating) if floating else []
        except LookupError as error:
            found = _NO_GRADIENT.search(str(error))
            if found is None:
                raise
            missing, gradients = found[1] or found[2], []
        return outputs, [g for g in gradients if g is not None]

    flat_specs = keras.tree.flatten(specs)
    with _Watching() as scope:
        traced = tf.function(run, autograph=False).get_concrete_function(*flat_specs)
    outputs = [t.name for t in traced.graph.outputs[:count]]
    own = {id(v) for v in network.variables}
    moved = list(dict.fromkeys(v.path for v in scope.moved if id(v) not in own))
    return traced.graph.as_graph_def(), outputs, missing, moved


def _is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and tf.as_dtype(x.dtype).is_floating


def _judge(
    network: Any, graph_def: Any, outputs: list[str], missing: str | None, moved: list[str]
) -> Inspection:
    layers = Layers(network)
    functions = {f.signature.name: f for f in graph_def.library.function}
    # FuncGraph inputs are placeholders; weights are captured as resources, inputs never are.
    inputs = {
        n.name
        for n in graph_def.node
        if n.op == "Placeholder" and tf.as_dtype(n.attr["dtype"].type).is_floating
    }
    findings: dict[tuple[int, str], Finding] = {}
    random: dict[str, None] = {}
    state: dict[str, None] = dict.fromkeys(moved)
    kinds = set()
    for node, owner, stopped in walk(layers, graph_def.node, functions, inputs):
        # Batch statistics are no activation: their squares do not make a network smooth.
        if not isinstance(owner, keras.layers.BatchNormalization):
            kinds.add(node.op)
        if STATEFUL_RANDOM.fullmatch(node.op):
            random[owner.name] = None
        elif STATE.fullmatch(node.op):
            state[owner.name] = None
        elif stopped or node.op in {*SILENT, *ABSENT, *INEXACT, missing}:
            operation = "tf.nn.moments" if stopped else node.op
            findings.setdefault((id(owner), operation), _finding(network, owner, operation))
    probabilities = None
    for output in outputs:
        found = find_probabilities(layers, graph_def.node, functions, output)
        probabilities = probabilities or found
    flat = bool(kinds & PIECEWISE_LINEAR) and not any(SMOOTH.fullmatch(kind) for kind in kinds)
    return Inspection(tuple(findings.values()), probabilities, tuple(random), tuple(state), flat)


def _finding(network: Any, owner: Any, operation: str) -> Finding:
    name = type(owner).__name__
    severity: Literal["error", "warning"] = "error"
    if operation == "tf.nn.moments":
        problem = "tf.nn.moments stops the gradient of the mean, so the second derivative is wrong"
        if isinstance(owner, keras.layers.BatchNormalization):
            severity = "warning"
            problem += " (slightly: the papers train with it)"
            advice = "use tfgrad.layers.BatchNormalization"
        elif isinstance(owner, (keras.layers.LayerNormalization, keras.layers.GroupNormalization)):
            stock = isinstance(owner, keras.layers.LayerNormalization)
            problem += " by some 5 to 10 %"
            advice = f"use tfgrad.layers.{'Layer' if stock else 'Group'}Normalization"
        else:
            advice = "take keras.ops.mean and keras.ops.var, which stop nothing"
    elif operation in SILENT:
        advice = SILENT[operation]
        problem = (
            f"TensorFlow gives {operation} no gradient and says nothing, so weights after the "
            "layer get none from the penalty and weights before it a wrong one"
        )
    elif operation in INEXACT:
        advice = INEXACT[operation]
        problem = f"TensorFlow only approximates the gradient of {operation}"
    elif operation in ABSENT:
        advice = ABSENT[operation]
        problem = f"TensorFlow defines no gradient for {operation}, so the penalty has none"
    else:
        advice = "write it with operations that have a gradient"
        problem = f"TensorFlow defines not even a first derivative for {operation}"
    if owner is network and keras_private.has_layers(network):
        problem = f"an operation outside every layer: {problem}"
    return Finding(owner.name, operation, problem, advice, severity, name)
