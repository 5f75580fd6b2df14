"""Outputs of a teacher, computed once for all images instead of in every step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad import data
from tfgrad.penalties.teacher import Lesson

MAX_BYTES = 4 << 30

Labelled = Callable[[Any], Any]


def recorded(
    model: tfgrad.PenalizedModel, train: data.Dataset, images: np.ndarray, with_labels: Labelled
) -> tuple[data.Dataset, Callable[[Any, Any], tuple[Lesson, Any]]] | None:
    """A data set whose labels are positions, and a function from these to lessons and labels.

    Args:
        model: Model with the teacher.
        train: Training set.
        images: All of its images as the network takes them.
        with_labels: Function from labels to what the model takes as labels.

    Returns:
        (data set, function of (images, positions)), or None if the outputs would not fit into
        `MAX_BYTES`.
    """
    y = with_labels(train.labels)
    one = model.lessons(images[:1], tf.nest.map_structure(lambda labels: labels[:1], y)).taught
    size = len(train) * sum(part.nbytes for part in tf.nest.flatten(one))
    if size > MAX_BYTES:
        print(f"the teacher runs in every step: its outputs would take {size / 2**30:.0f} GiB")
        return None
    with tf.device("CPU:0"):  # Eager tensors are passed on by reference, as are those of `train`.
        taught = tf.nest.map_structure(tf.convert_to_tensor, model.lessons(images, y).taught)
    print(f"the teacher's outputs are recorded once, {size / 2**20:.1f} MiB", flush=True)
    labels = train.tensors[1]

    def lesson(x: Any, index: Any) -> tuple[Lesson, Any]:
        outputs = tf.nest.map_structure(lambda part: tf.gather(part, index), taught)
        return Lesson(x, outputs), with_labels(tf.gather(labels, index))

    return data.from_arrays(train.images, np.arange(len(train)), name=train.name), lesson
