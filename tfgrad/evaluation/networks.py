"""What a test asks of a network: the classes of its logits, or the value of a target."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, TfgradError
from tfgrad.gradients import model_checks, output_heads, targets, view
from tfgrad.gradients.targets import Target
from tfgrad.internal.precision import nest_at_least_float32
from tfgrad.models import output_meaning
from tfgrad.models.output_meaning import BINARY, REGRESSION
from tfgrad.saliency import asked


def target_of(network: Any, maps: Any, target: Any = None, argument: str = "maps") -> Target | None:
    """The target whose value a test measures; None for the logits of classes.

    Args:
        network: The network. Of a regression with one output, that output is the target.
        maps: A method, whose own target counts where none is given; or anything else.
        target: A `Target`, its saved config, a function from the outputs to [batch], or None.
        argument: The argument that the method came in by.

    Raises:
        ArgumentError: The target is a class; it is another one than the method's; or a regression
            has several outputs, of which none is chosen.
    """
    own = getattr(maps, "target", None)
    if target is None:
        return own if isinstance(own, Target) else _of_regression(network)
    found = targets.validated(target)
    if not isinstance(found, Target):
        raise ArgumentError(
            f"target: got {target!r}; expected a tfgrad.targets.Target, or a function from the "
            "outputs to [batch], as the labels of the batches are the classes here; try None, and "
            "the class as the label of every example."
        )
    if own is not None and not same(own, found):
        raise ArgumentError(
            f"target: got {found!r} for {argument} of a method built with target={own!r}; expected "
            "one question; try the method without target=."
        )
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two targets are one and the same scalar of each example."""
    if not isinstance(one, Target) or not isinstance(other, Target):
        return False
    values = asked.tensors(one), asked.tensors(other)
    return asked.key(one) == asked.key(other) and all(
        np.array_equal(values[0][name], values[1][name]) for name in values[0]
    )


def rows_of(target: Target, first: int, count: int) -> dict[str, tf.Tensor]:
    """What a target needs of each of some examples: its `values`, of `count` examples.

    Args:
        target: The target, whose values are one for each example of a data set, or one for all.
        first: The index of the first example.
        count: The number of examples.

    Raises:
        ArgumentError: The target has values of fewer examples.
    """
    found = {}
    for name, value in asked.tensors(target).items():
        if value.shape[0] != 1:
            check_count(target, name, value, first + count, exact=False)
            value = value[first : first + count]
        found[name] = value
    return found


def check_rows(target: Any, count: int) -> None:
    """Check that the values of a target are one for each of `count` examples, or one for all.

    Raises:
        ArgumentError: They are not.
    """
    for name, value in asked.tensors(target).items() if isinstance(target, Target) else ():
        if value.shape[0] != 1:
            check_count(target, name, value, count)


def check_count(target: Target, name: str, value: Any, count: int, exact: bool = True) -> None:
    """Raise if there are not as many values as examples."""
    if value.shape[0] < count or (exact and value.shape[0] != count):
        what = f"{count} examples" if exact else f"{count} examples or more"
        raise ArgumentError(
            f"target: got {value.shape[0]} values {name!r} of {target!r} for {what}; expected one "
            "for each example of the data, in order."
        )


def read_by(network: Any, target: Target | None) -> Any:
    """The network that a test calls: without its last softmax, unless a target reads that.

    Warns:
        LogitsWarning: A softmax or sigmoid is left out; once per model.
    """
    if target is None or target.of_logits:
        return model_checks.returning_logits(network)
    return network.network if isinstance(network, model_checks.Wrapper) else network


def outputs_at(network: Any, x: Any) -> targets.Outputs:
    """The outputs of a network at x in inference mode, as a target reads them."""
    return view.outputs_of(network, nest_at_least_float32(network(x, training=False)))


def score(network: Any, x: Any, target: Target) -> tf.Tensor:
    """The target's value, [batch], in float32 or wider."""
    return targets.value_of(target, outputs_at(network, x))


def class_count(network: Any, x: Any, argument: str = "batches", whose: str = "network") -> int:
    """The number of classes of a network, found by a call on the first image.

    Two for one logit of two classes; for a regression the number of outputs.

    Args:
        network: A model from images to logits.
        x: Images [batch, …], or a nest of inputs.
        argument: The argument that messages name for the images.
        whose: The noun that messages use for the network.

    Raises:
        ArgumentError: The network does not take such images.
        ModelError: Its output is not logits [batch, classes].

    Warns:
        OutputMeaningWarning: There is one output, and nothing says what it means.
    """
    return classes(network, x, argument, whose)[0]


def classes(
    network: Any, x: Any, argument: str = "batches", whose: str = "network"
) -> tuple[int, str]:
    """`class_count`, and what the outputs mean, from one call."""
    answer = first_answer(network, x, argument, whose)
    count = output_heads.logits(network, answer, None).shape[-1]
    output_meaning.warn_if_assumed(network, count=count)
    meaning = output_meaning.meaning(network, count=count)
    return (2 if meaning == BINARY else count), meaning


def first_answer(network: Any, x: Any, argument: str = "batches", whose: str = "network") -> Any:
    """The outputs of a network at the first image.

    Raises:
        ArgumentError: The network does not take such images.
    """
    model_checks.check_preprocessed(whose, network)
    try:
        return network(tf.nest.map_structure(lambda t: t[:1], x), training=False)
    except TfgradError:
        raise
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        if not _differ(x, getattr(network, "inputs", None)):
            raise  # an error of the network's own code
        got = tf.nest.map_structure(lambda t: (None, *t.shape[1:]), x)
        expected = network.input_shape
        raise ArgumentError(
            f"{argument}: got shape {got}; the {whose} takes {expected}. Resize the images, or "
            f"pass a {whose} trained on this shape."
        ) from error


def _of_regression(network: Any) -> Target | None:
    """The only output of a regression; None where outputs are no numbers."""
    inner = network.network if isinstance(network, model_checks.Wrapper) else network
    if not isinstance(inner, keras.Model) or output_meaning.known(inner) != REGRESSION:
        return None
    shapes = [tuple(o.shape) for o in keras.tree.flatten(getattr(inner, "outputs", None) or [])]
    if len(shapes) == 1 and len(shapes[0]) == 2 and (shapes[0][1] or 0) > 1:
        raise ArgumentError(
            f"target: got None for a regression of {shapes[0][1]} outputs; expected the one that "
            "is measured; try target=tfgrad.targets.Output(0)."
        )
    return targets.Output()


def _differ(x: Any, declared: Any) -> bool:
    """Whether inputs have other shapes than those that a network declares, if it declares any."""
    flat = tf.nest.flatten(x)
    if not declared or len(flat) != len(declared):
        return bool(declared)
    shapes = [(tf.TensorShape(t.shape), d.shape) for t, d in zip(flat, declared, strict=True)]
    return any(not got.is_compatible_with(expected) for got, expected in shapes)
