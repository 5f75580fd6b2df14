"""Checks of what a saliency method is called with: images and the target class."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.gradients import targets


def float_tensor(x: Any) -> tf.Tensor:
    """The images as one float tensor, whatever holds the numbers.

    Raises:
        ArgumentError: x is not an array of numbers, or the numbers are not floats.
    """
    if not isinstance(x, tf.Tensor | tf.Variable):
        try:
            x = tf.convert_to_tensor(np.asarray(x))
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"x: got a {type(x).__name__} that is no array of numbers; expected float images "
                "[batch, height, width, channels]. A method takes one input."
            ) from error
    if not x.dtype.is_floating:
        raise ArgumentError(
            f"x: got {x.dtype.name} images; expected float ones, scaled as in training, as only "
            "these have a gradient; try tf.cast(x, tf.float32) / 255."
        )
    return tf.convert_to_tensor(x)


def check_shape(images: tf.Tensor, expected: tuple[int | None, ...] | None) -> None:
    """Reject images that lack the batch axis, do not fit the model, or are none at all.

    Args:
        images: The images as one tensor.
        expected: The shape that the model takes, batch first; None if the model does not tell.

    Raises:
        ArgumentError: The shape does not fit.
    """
    got = images.shape
    if expected is None:
        if got.rank < 2:
            raise ArgumentError(f"x: got shape {got}; expected a batch of images [batch, …].")
    elif not got.is_compatible_with(expected):
        single = got.is_compatible_with(expected[1:])
        hint = " The batch axis is missing: pass x[None]." if single else ""
        raise ArgumentError(f"x: got shape {got}; expected {expected}, as the model takes.{hint}")
    if 0 in got:
        raise ArgumentError(f"x: got shape {got}; expected at least one image.")


def check_finite(images: tf.Tensor) -> None:
    """Reject a batch that holds NaN or infinite pixels.

    Raises:
        DataError: It does; the message names the first such image.
    """
    count = images.shape[0]
    finite = tf.math.is_finite(tf.reshape(images, [count, -1]))
    finite = np.asarray(tf.reduce_all(finite, -1))
    if not finite.all():
        raise DataError(
            f"x: example {int(finite.argmin())} of {count} holds NaN or infinite pixels; expected "
            "finite ones. Look for a division by zero in the preprocessing."
        )


def validated_target(target: Any) -> Any:
    """The target as `tfgrad.gradients.targets` takes it: `"predicted"`, an int, or ints [batch].

    Raises:
        ArgumentError: The target is none of these.
    """
    if isinstance(target, str) and target != "predicted":
        raise ArgumentError(
            f"target: got {target!r}; expected one int, the classes as ints [batch], or None for "
            "the predicted class, as a map explains one class and a method has no labels."
        )
    return targets.validated(target, allow_all=False)
