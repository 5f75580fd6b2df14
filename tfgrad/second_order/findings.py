"""What an inspection reports: faults of the second derivative, with the advice for each."""

import dataclasses
import weakref
from collections.abc import Iterable
from typing import Any, Literal

import keras

from tfgrad.internal import keras_private
from tfgrad.second_order.operations import (
    ABSENT,
    INEXACT,
    MENDED_BY,
    SILENT,
    WRONG_AT_TIES,
    WRONG_UNDER_XLA,
)

# The names of patterns in a finding, not of one operation: a stopped mean; a call that is repeated
# in the backward pass (`keras.RematScope`, `keras.remat`).
MOMENTS = "tf.nn.moments"
RECOMPUTED = "tf.recompute_grad"
# So many layers of one class and fault are named; further ones are counted.
_NAMED = 3
# The operations of a layer that `make_safe` was asked to mend and could not.
not_mended: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of a network's second derivative.

    Attributes:
        layer: Name of the layer that owns the operation; the network's own name for an operation
            outside every layer.
        operation: The TensorFlow operation or function at fault.
        problem: What is wrong.
        advice: What to use instead.
        severity: "error" if no penalty can be trained with it; "warning" if the error is small,
            as in the batch normalisation that the papers train with, or is corrected by
            `PenalizedModel`.
        layer_class: Class name of the layer.
    """

    layer: str
    operation: str
    problem: str
    advice: str
    severity: Literal["error", "warning"]
    layer_class: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether there is no second derivative at all, rather than a wrong one."""
        return self.operation in SILENT or self.operation in ABSENT

    def __str__(self) -> str:
        return described([self])[0]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A finding and the layer that it is about.

    Attributes:
        finding: The finding.
        owner: A reference to the layer; to the network for an operation outside every layer.
        holder: A reference to what `make_safe` changes: the layer, or the one that makes it in its
            call.
        only_under_xla: Whether it is right in a step that XLA does not compile.
    """

    finding: Finding
    owner: weakref.ref[Any]
    holder: weakref.ref[Any]
    only_under_xla: bool = False

    @property
    def mendable(self) -> bool:
        """Whether `make_safe` can mend it in place, as far as is known."""
        tried = not_mended.get(self.holder(), ())
        return self.finding.operation in MENDED_BY and self.finding.operation not in tried


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What one trace of a network and its input-gradient shows.

    Attributes:
        findings: Faults of the second derivative, one per layer and operation, in graph order.
        under_xla: Further faults, which only a step has that XLA compiles (`jit_compile=True`).
        probabilities: Name of the layer whose softmax or sigmoid ends an output (`network/op` for
            an operation outside every layer); None if every output is a logit.
        stateful_random: Names of the layers that draw from the global state of `tf.random`, which
            no seed generator can replay. Keras's random layers are not among them.
        untracked_state: Names of the layers that assign a `tf.Variable` unknown to Keras, and
            paths of Keras variables outside the network that its call assigns: the states of a
            stateful RNN, the global seed of an unseeded `keras.random` call.
        piecewise_linear: Whether ReLUs are the network's only non-linearity, so that its Hessian
            is zero.
    """

    findings: tuple[Finding, ...] = ()
    under_xla: tuple[Finding, ...] = ()
    probabilities: str | None = None
    stateful_random: tuple[str, ...] = ()
    untracked_state: tuple[str, ...] = ()
    piecewise_linear: bool = False


def described(findings: Iterable[Finding]) -> list[str]:
    """One sentence for all layers of a class that have the same fault, in graph order."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for one in findings:
        key = (one.layer_class, one.problem, one.advice)
        alike.setdefault(key, []).append(repr(one.layer))
    sentences = []
    for (layer_class, problem, advice), layers in alike.items():
        plural = "s" if len(layers) > 1 else ""
        sentences.append(f"layer{plural} {counted(layers)} ({layer_class}): {problem}; {advice}")
    return sentences


def counted(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def remedy(faults: Iterable[Fault]) -> str:
    """A sentence on which of the faults `make_safe` mends."""
    faults = list(faults)
    mended = [fault.finding for fault in faults if fault.mendable]
    if not mended:
        return "tfgrad.second_order.make_safe mends none of these; change the layers as stated"
    xla = ", xla=True" if any(one.operation in WRONG_UNDER_XLA for one in mended) else ""
    call = f"try tfgrad.second_order.make_safe(network{xla}), which mends"
    how = "in place, with the same weights"
    if len(mended) == len(faults):
        return f"{call} {'it' if len(mended) == 1 else f'all {len(mended)}'} {how}"
    others = dict.fromkeys(repr(fault.finding.layer) for fault in faults if not fault.mendable)
    return f"{call} {len(mended)} of these {len(faults)} {how}; not {counted(list(others))}"


def finding(network: keras.layers.Layer, owner: keras.layers.Layer, operation: str) -> Finding:
    """The finding for an unsafe operation of a layer.

    Args:
        network: The inspected network.
        owner: The layer that the operation belongs to; the network itself if it is in no layer.
        operation: A name out of the tables, `MOMENTS`, `RECOMPUTED`, or an operation without a
            first derivative.
    """
    severity: Literal["error", "warning"] = "error"
    if operation == MOMENTS:
        problem, advice, severity = _moments(owner)
    elif operation == RECOMPUTED:
        advice = "build it without them"
        problem = (
            "keras.RematScope, keras.remat and tf.recompute_grad repeat a call in the backward "
            "pass and define no second derivative"
        )
    elif operation in WRONG_UNDER_XLA:
        advice = WRONG_UNDER_XLA[operation]
        problem = (
            f"XLA (jit_compile=True) computes a wrong derivative of {operation} in float32 and "
            "none in float64"
        )
    elif operation in WRONG_AT_TIES:
        advice, severity = WRONG_AT_TIES[operation], "warning"
        problem = (
            "on a CPU, TensorFlow gives the whole gradient of a window of a volume to each of its "
            "equal entries, as in a constant background; PenalizedModel and the maps correct "
            "that, a tf.GradientTape of your own does not"
        )
    elif operation in SILENT:
        advice = SILENT[operation]
        problem = (
            f"TensorFlow registers {operation} as not differentiable and raises no error, so "
            "weights after the layer get no gradient from the penalty and weights before it a "
            "wrong one"
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
    return Finding(owner.name, operation, problem, advice, severity, type(owner).__name__)


def _moments(owner: keras.layers.Layer) -> tuple[str, str, Literal["error", "warning"]]:
    """(problem, advice, severity) of a stopped mean, by the layer that takes it."""
    problem = "tf.nn.moments stops the gradient of the mean, so the second derivative is wrong"
    if isinstance(owner, keras.layers.BatchNormalization):
        problem += " (slightly: the papers train with it)"
        return problem, "use tfgrad.layers.BatchNormalization", "warning"
    if isinstance(owner, keras.layers.LayerNormalization):
        return f"{problem} by some 5 to 10 %", "use tfgrad.layers.LayerNormalization", "error"
    if isinstance(owner, keras.layers.GroupNormalization):
        return f"{problem} by some 5 to 10 %", "use tfgrad.layers.GroupNormalization", "error"
    return problem, "use keras.ops.mean and keras.ops.var, which stop no gradient", "error"
