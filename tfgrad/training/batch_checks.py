"""Checks of the values of a batch: finite images, labels in range.

On a GPU, labels out of range would train without an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients import output_heads
from tfgrad.gradients.labels import class_indices
from tfgrad.gradients.probe import Probe
from tfgrad.models import output_meaning
from tfgrad.penalties.base import Penalty
from tfgrad.penalties.examples import apart, unpacked, with_inputs
from tfgrad.training.batch import own_head

NOT_FINITE = "x: got NaN or infinite values; expected finite images"
OUT_OF_RANGE = "y: got labels from"


def checked_labels(
    network: keras.Model, loss: Any, penalties: Iterable[Penalty], x: Any, y: Any
) -> Any:
    """The labels y, behind assertions on x and y that `failures` translates.

    They depend on the assertions so that the loss, whose own message says less, cannot come first.

    Args:
        network: The network that is trained.
        loss: Its compiled loss.
        penalties: Its penalties.
        x: A nest of inputs.
        y: Labels, {head: labels}, or None.
    """
    floats = [t for t in tf.nest.flatten(x) if t.dtype.is_floating]
    checks = [tf.debugging.assert_all_finite(t, NOT_FINITE) for t in floats]
    on_labels = [own_head(penalty) for penalty in _on_labels(penalties)]
    for head, labels, shape in _labels_by_head(network, y):
        outputs = shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None
        if not outputs or not tf.is_tensor(labels):
            continue
        # Rows are one-hot where a penalty reads the class from them, and anything elsewhere.
        vector = labels.shape.rank == 1 or labels.shape[1:] == [1]
        if head in on_labels or (vector and _names_classes(loss, head)):
            meaning = output_meaning.meaning(network, None, outputs, head)
            classes = output_meaning.class_count(meaning, outputs) or outputs
            indices = class_indices(labels, classes, meaning)
            owner = "the network" if head is None else f"head {head}"
            has = "one logit of two classes" if classes > outputs else f"{classes} logits"
            if classes > outputs and _is_hinge(loss, head):
                has += "; for -1 and 1 use 0 and 1, which Keras's hinge losses convert themselves"
            checks.append(_assert_in_range(indices, classes, f"{owner} has {has}"))
    if y is None:
        return None
    with tf.control_dependencies([c for c in checks if c is not None]):
        return tf.nest.map_structure(tf.identity, y)


def checked_data(network: keras.Model, loss: Any, penalties: Iterable[Penalty], data: Any) -> Any:
    """A batch as `train_step` receives it, behind the assertions of `checked_labels`.

    Args:
        network: The network that is trained.
        loss: Its compiled loss.
        penalties: Its penalties.
        data: x, or a tuple of x, y and sample weights; x may be a `Lesson` or `Examples`.
    """
    x, y, weight = unpacked(data)
    inputs = tf.nest.map_structure(tf.convert_to_tensor, apart(x)[0])
    if y is None:  # Nothing else depends on the assertions.
        inputs = tf.nest.map_structure(_finite, inputs)
    else:
        y = tf.nest.map_structure(tf.convert_to_tensor, y)
        y = checked_labels(network, loss, penalties, inputs, y)
    return keras.utils.pack_x_y_sample_weight(with_inputs(x, inputs), y, weight)


def _finite(t: tf.Tensor) -> tf.Tensor:
    return tf.debugging.assert_all_finite(t, NOT_FINITE) if t.dtype.is_floating else t


def check_target_labels(penalties: Iterable[Penalty], probe: Probe) -> None:
    """Raise if a penalty cannot use the labels, before the loss, whose message says less."""
    for penalty in _on_labels(penalties):
        probe.on(penalty.head).classes("label")


def _on_labels(penalties: Iterable[Penalty]) -> list[Penalty]:
    """The penalties whose target is the label."""
    wanted = [(penalty, getattr(penalty, "target", None)) for penalty in penalties]
    return [p for p, target in wanted if isinstance(target, str) and target == "label"]


def _labels_by_head(network: keras.Model, y: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(head, labels, shape of the logits) of every head that has labels; head None for one."""
    if not isinstance(y, Mapping | list | tuple):
        yield None, y, getattr(network, "output_shape", None)
        return
    output = getattr(network, "output", None)  # `output_shape` forgets the heads' names.
    for head, labels in y.items() if isinstance(y, Mapping) else enumerate(y):
        logits = output_heads.part(output, head)
        yield head, labels, None if logits is None else tuple(logits.shape)


def _names_classes(loss: Any, head: Any) -> bool:
    """Whether the loss of a head takes integer labels that must all name logits."""
    if isinstance(loss, Mapping | list | tuple):
        loss = output_heads.part(loss, head)
    sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    return sparse and loss.get_config().get("ignore_class") is None


def _is_hinge(loss: Any, head: Any) -> bool:
    """Whether the loss of a head is one of Keras's that take the labels −1 and 1, too."""
    if isinstance(loss, Mapping | list | tuple):
        loss = output_heads.part(loss, head)
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return name.lower().replace("_", "") in ("hinge", "squaredhinge")


def _assert_in_range(labels: tf.Tensor, classes: int, reason: str) -> Any:
    labels = tf.cast(labels, tf.int64)
    inside = tf.reduce_all(tf.logical_and(labels >= 0, labels < classes))
    found = [OUT_OF_RANGE, tf.reduce_min(labels), "to", tf.reduce_max(labels)]
    expected = f"; expected 0 to {classes - 1}, {reason}"
    return tf.debugging.Assert(inside, [*found, expected])
