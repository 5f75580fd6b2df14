"""The inputs that a method explains, checked and in the dtypes of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.taken import Taken
from tfgrad.gradients import model_checks


def checked_inputs(images: Any, network: Any) -> Any:
    """A nest of tensors, as the network takes them.

    Raises:
        ArgumentError: They do not fit the network.
        DataError: A value is NaN or infinite.
    """
    taken = Taken(network)
    if taken.is_plain(images):
        return _checked_images(images, network)
    return taken.checked(images, "images")


def _checked_images(images: Any, network: Any) -> tf.Tensor:
    dtype, shape = model_checks.input_dtype(network), model_checks.input_shape(network)
    try:
        found = images if tf.is_tensor(images) else tf.convert_to_tensor(np.asarray(images))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"images: got a {type(images).__name__} that is no array of numbers; expected float "
            "images [n, H, W, C]."
        ) from error
    rank = found.shape.rank
    fits = rank >= 2 if shape is None else rank == len(shape)
    if not found.dtype.is_floating or not fits or not found.shape[0]:
        raise ArgumentError(
            f"images: got {found.dtype.name} of shape {tuple(found.shape)}; expected float images "
            f"{shape or '[n, …]'}, at least one, as the model takes them."
        )
    finite = np.asarray(tf.reduce_all(tf.math.is_finite(found), range(1, found.shape.rank)))
    if not finite.all():
        raise DataError(
            f"images: number {int(finite.argmin())} of {len(finite)} holds NaN or infinite pixels; "
            "expected finite ones. Look for a division by zero in the preprocessing."
        )
    return tf.cast(found, dtype)
