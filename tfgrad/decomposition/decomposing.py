"""The decomposition of a network's scalars, computed and checked."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import second_order
from tfgrad.decomposition import term_shares
from tfgrad.decomposition.result import FullGradients
from tfgrad.errors import ArgumentError, DataError, ModelError, TfgradError
from tfgrad.gradients import axes, embeddings, input_structure, model_checks, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.intercepts import TermSums
from tfgrad.gradients.model_checks import check_no_probabilities, check_preprocessed
from tfgrad.gradients.probe import Probe
from tfgrad.internal import derivatives, xla
from tfgrad.internal.keras_private import flatten_layers, is_rematerialised
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning
from tfgrad.second_order.operations import INEXACT, PYTHON, SILENT

NEEDS = Needs(intercepts=True)
# The name of the term of a target's own arithmetic on the outputs.
TARGET = "target"

# The rounding of a sum, relative to the sum of its terms' sizes; a larger error means that a term
# is missing.
# Some of TensorFlow's kernels (bilinear resizing) compute in float32 whatever their inputs' dtype.
_ROUNDING = {"float64": 1e-6, "float32": 1e-4, "float16": 0.05, "bfloat16": 0.2}


@output_meaning.takes_outputs("model")
def full_gradients(
    model: keras.Model, x: Any, target: Any = None, *, at: Any = None, outputs: Any = None
) -> FullGradients:
    """The exact full-gradients of one scalar per example, in inference mode.

    Works eagerly and inside a `tf.function`, on functional, Sequential, nested and subclassed
    models with one or several inputs, and does not change the model.

    Args:
        model: A built Keras model that returns logits [batch, classes], or a `PenalizedModel`. Of
            one that ends in a softmax or sigmoid, `tfgrad.models.logits` is decomposed. With a
            target that is no class, a model with any outputs.
        x: Float images [batch, …], or a nest of inputs of which the float ones are differentiated;
            or token ids, whose embeddings are.
        target: None or `"predicted"` (the largest logit), an int, or one class per example, [batch]
            ints, −1 for the predicted one. One logit f has the classes 0, whose logit is −f, and 1.
            Or a scalar of your own, a `tfgrad.targets.Target` or a function from the outputs to
            [batch], whose arithmetic is one more term.
        at: Names of layers, or one name, whose outputs take the place of the inputs: those of a
            network's embeddings. None finds them for a network that takes integers alone.
        outputs: What the outputs mean: `"exclusive"`, `"binary"`, `"independent"` or
            `"regression"`; None for what the compiled loss says. See
            `tfgrad.models.output_meaning`.

    Warns:
        OutputMeaningWarning: The model has one output, and nothing says what it means; it is taken
            for a logit of two classes.

    Raises:
        ArgumentError: x has no float input, or the target does not exist.
        DataError: x contains NaN or infinite values.
        ModelError: The model contains a layer that cannot be differentiated; the logit or a
            derivative is NaN or infinite; or the terms do not add up to the logit.

    Warns:
        LogitsWarning: A softmax or sigmoid is left out; once per model.
    """
    network = model.network if isinstance(model, model_checks.Wrapper) else model
    if not isinstance(network, keras.layers.Layer):
        raise ArgumentError(f"model: got a {type(model).__name__}; expected a keras.Model.")
    check_preprocessed("model", network)
    if isinstance(target, str) and target != "predicted":
        raise ArgumentError(
            f"target: got {target!r}; expected 'predicted', a class index, or one per example; "
            "there are no labels here: try passing the classes."
        )
    target = targets.validated(target, allow_all=False)
    x = _converted(x)
    input_structure.check_given(network, x, at)
    of_class = not isinstance(target, targets.Target)
    if of_class or target.of_logits:
        network = model_checks.returning_logits(network, x)
    x = tf.nest.map_structure(tf.convert_to_tensor, x)
    sources = embeddings.sources(network, x, at=at)
    needs = NEEDS if of_class else dataclasses.replace(NEEDS, logits=False)
    # Losses that layers add in this call must not reach the user's model.
    with unchanged_state():
        probe = Probe(network, x, needs=needs, sources=sources)
    if of_class:
        output_meaning.warn_if_assumed(network, count=probe.logits.shape[-1])
    full = of_probe(probe, target)
    if tf.executing_eagerly() and not bool(full.adds_up()):
        raise _reason(full, network, target)
    return full


def _reason(full: FullGradients, network: keras.Model, target: Any) -> TfgradError:
    """The error that tells why the terms do not add up."""
    if not all(map(_is_finite, full.float_inputs())):
        return DataError("x: got NaN or infinite values; expected finite images.")
    who = f"model {network.name!r}"
    if not _is_finite(full.score):
        example = int(tf.argmin(tf.cast(tf.math.is_finite(full.score), tf.int32)))
        what = f"value of {target!r}" if isinstance(target, targets.Target) else "logit"
        return ModelError(
            f"{who}: got the {what} {float(full.score[example])} for example {example}, whose "
            "inputs are finite; expected finite logits, as others have no gradient; try a finite "
            "constant in place of an infinite one that the logit depends on (a row of scores that "
            "is masked as a whole), or smaller inputs."
        )
    gradients = {
        f"input-gradient {i}": g for i, g in enumerate(tf.nest.flatten(full.input_gradient))
    }
    terms = {f"term of {name!r}": term for name, term in full.bias_gradients.items()}
    for name, value in (terms | gradients).items():
        if not _is_finite(value):
            return ModelError(
                f"{who}: the {name} is NaN or infinite, because a derivative does not exist "
                "there, such as that of a root or a norm at 0 (also behind tf.where); try adding a "
                "small constant under the root."
            )
    return input_structure.not_floats(network, full.x) or ModelError(misses(network))


def of_probe(probe: Probe, target: Any) -> FullGradients:
    """The decomposition at a probe that recorded intercepts (`NEEDS`), computed once per target.

    In a graph, terms that do not add up fail at run time with a message that contains `MISSES`. XLA
    drops assertions: there the input-gradient of such an example is NaN.
    """
    return probe.once("decomposition", target, lambda: _of_probe(probe, target))[0]


def sums_of_probe(probe: Probe, target: Any) -> TermSums:
    """The sums of the terms of `of_probe`, with which it was checked."""
    return probe.once("decomposition", target, lambda: _of_probe(probe, target))[1]


def term_sums_of_probe(probe: Probe, target: Any) -> dict[str, tf.Tensor]:
    """The sums of each term of `of_probe`, for `tfgrad.decomposition.term_shares.unpacked`."""
    full, sums = probe.once("decomposition", target, lambda: _of_probe(probe, target))
    return term_shares.packed(full.terms(), sums, full.score)


def _of_probe(probe: Probe, target: Any) -> tuple[FullGradients, TermSums]:
    asked = target if isinstance(target, targets.Target) else None
    check(probe, probabilities=asked is not None and not asked.of_logits)
    gradients = probe.intercept_gradients(target)
    # The output of a call that is differentiated is the input's term, not the call's.
    inputs = {at.call for at in probe.sources.at}
    pairs = [
        (term, upper)
        for term, upper in zip(probe.intercepts, gradients, strict=True)
        if term.name not in inputs
    ]
    terms = {term.name: term.term(upper) for term, upper in pairs}
    if asked is not None and not asked.linear:
        terms[TARGET] = probe.target_intercept(asked)
    full = FullGradients(
        probe.score(target),
        probe.classes(target) if asked is None else None,
        probe.point,
        probe.input_gradient(target),
        terms,
        tuple(term for term, _ in pairs),
        _rounding(probe),
        "score" if asked else "output" if probe.meaning == output_meaning.REGRESSION else "logit",
        functools.partial(_layouts, probe.network, _specs(probe.point), bool(probe.sources.at)),
    )
    sums = full.sums()
    if not tf.executing_eagerly():
        # An image with a NaN must not make the others of its batch fail: its result is NaN.
        fine = full.adds_up(each=True, sums=sums)
        for t in full.float_inputs():
            fine |= ~tf.reduce_all(tf.math.is_finite(_flat(t)), axis=1)
        if xla.compiles():
            gradient = tf.nest.map_structure(
                lambda g: tf.where(_beside(fine, g), g, tf.constant(float("nan"), g.dtype)),
                full.input_gradient,
            )
            full = dataclasses.replace(full, input_gradient=gradient)
        else:
            tf.debugging.Assert(tf.reduce_all(fine), [misses(probe.network)])
    return full, sums


def _specs(x: Any) -> Any:
    return tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), x)


def _layouts(network: keras.Model, specs: Any, embedded: bool) -> list[axes.InputAxes]:
    """The axes of each input that was differentiated.

    Args:
        network: The network.
        specs: What was differentiated, and integer inputs.
        embedded: Whether some of it is the output of a layer, whose channels are last.
    """
    flat = tf.nest.flatten(specs)
    if len(flat) == 1 and not embedded:
        return [axes.of_input(network, flat[0])]
    found = []
    for place, spec in enumerate(flat):
        rank = spec.shape.rank
        if not spec.dtype.is_floating:
            continue
        if rank <= 2:
            found.append(axes.InputAxes(rank, None))
        elif embedded:
            found.append(axes.InputAxes(rank, axes.default_axis(rank)))
        else:
            found.append(axes.analysed(network, specs).inputs[place])
    return found


def _beside(each: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """[batch] with axes of length 1 for the others of a tensor [batch, …]."""
    return tf.reshape(each, [-1] + [1] * (len(tensor.shape) - 1))


def check(probe: Probe, probabilities: bool = False) -> None:
    """Check that a network returns logits, and that no term of its decomposition is missing.

    Args:
        probe: A probe that recorded intercepts.
        probabilities: Whether outputs may be probabilities.

    Raises:
        ModelError: The network ends in a softmax or sigmoid; or a Jacobian-vector product is needed
            of a layer with an operation whose product TensorFlow silently drops.
    """
    network = probe.network
    try:
        inspection = second_order.inspect(network, probe.x, training=False)
    except ValueError:
        # No graph can hold a recomputed call with keyword arguments; the sum is checked below.
        if not any(map(is_rematerialised, flatten_layers(network))):
            raise
        return
    if not probabilities:
        check_no_probabilities("model", network, inspection)
    for finding in inspection.findings:
        if finding.operation in PYTHON or finding.operation in INEXACT:
            raise ModelError(
                f"layer {finding.layer!r} ({finding.layer_class}): the input-gradient is wrong "
                f"there: {finding.problem}; try: {finding.advice}."
            )
        dropped = finding.operation in SILENT and finding.operation not in derivatives.KNOWN
        if dropped and finding.layer in probe.intercepts.differentiated:
            raise ModelError(
                f"layer {finding.layer!r} ({finding.layer_class}): its intercept needs a Jacobian-"
                f"vector product, which TensorFlow silently drops for {finding.operation}; try: "
                f"{finding.advice}."
            )


def _converted(x: Any) -> Any:
    """Tensors and arrays unchanged; nested lists of numbers become one array."""
    flat = tf.nest.flatten(x)
    if flat and all(hasattr(t, "shape") and hasattr(t, "dtype") for t in flat):
        return x
    try:
        array = np.asarray(x)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{array.dtype} values")
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"x: got a {type(x).__name__} that is no array of numbers ({error}); expected float "
            "images [batch, …], or a nest of inputs, each a tensor or an array."
        ) from error
    return array if array.dtype.kind != "f" else array.astype(keras.config.floatx())


def _is_finite(tensor: tf.Tensor) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(tensor)))


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tensor, [tf.shape(tensor)[0], -1])


def _rounding(probe: Probe) -> float:
    kinds = {layer.compute_dtype for layer in flatten_layers(probe.network)}
    kinds |= {t.dtype.name for t in tf.nest.flatten(probe.x)}
    return max(_ROUNDING.get(kind, 1e-6) for kind in kinds)


# A sum that is wrong for a reason that no check found must not be returned as a decomposition.
MISSES = "the terms miss the logit by more than rounding"


def misses(network: keras.Model) -> str:
    """The message about a network whose terms do not add up."""
    return (
        f"model {network.name!r}: {MISSES}. Either a layer's derivative does not fit its output (a "
        "custom gradient inside a layer that contains others, a call that reads another layer's "
        "tensor without taking it as an argument, an operation that TensorFlow does not "
        "differentiate), or it is NaN or infinite at these inputs, or the output is; or examples "
        "depend on one another; or constants such as -1e9 cancel and leave nothing but rounding. "
        "Try putting it into a layer of its own."
    )
