"""The start of the path of integrated gradients, for each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.saliency.explained import Explained


def checked(value: Any) -> Any:
    """A baseline as an array, or as a dict or list of arrays.

    Raises:
        ArgumentError: It is no number, array, or dict or list of these; or it is not finite.
    """
    if isinstance(value, Mapping):
        return {key: _array(one, f"baseline: input {key!r}:") for key, one in value.items()}
    if isinstance(value, list | tuple) and len({np.shape(one) for one in value}) > 1:
        return [_array(one, f"baseline: input {place}:") for place, one in enumerate(value)]
    return _array(value, "baseline:")


def listed(value: Any) -> Any:
    """A baseline as JSON holds it."""
    if isinstance(value, Mapping):
        return {key: one.tolist() for key, one in value.items()}
    return [one.tolist() for one in value] if isinstance(value, list) else value.tolist()


def of_each(value: Any, found: Explained) -> list[np.ndarray]:
    """The baseline of each of what is explained.

    Raises:
        ArgumentError: It is for an input that is not explained, or for another number of inputs.
    """
    several = found.keys[0] is not None
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in found.keys]
        if unknown:
            expected = list(found.keys) if several else "a number or array, for one input"
            raise ArgumentError(
                f"baseline: got one for {unknown[0]!r}; expected {expected}, what is explained."
            )
        return [value.get(key, np.zeros([])) for key in found.keys]
    if several and isinstance(found.specs, list | tuple):
        if isinstance(value, list) or value.ndim:
            if len(value) != len(found.keys):
                raise ArgumentError(
                    f"baseline: got {len(value)} for {len(found.keys)} inputs; expected one for "
                    "each that is explained, or a number for all."
                )
            return [np.asarray(one) for one in value]
        return [value] * len(found.keys)
    if isinstance(value, list):
        raise ArgumentError(
            f"baseline: got a list of arrays; expected {'a dict' if several else 'an array'} or a "
            "number."
        )
    return [value] * len(found.keys)


def with_ids(own: Sequence[np.ndarray], found: Explained, x: Any) -> Any:
    """The inputs with baseline tokens in the places of the ids; None if there are no ids.

    Raises:
        ArgumentError: A baseline is no id, or its shape does not fit.
    """
    if not found.of_ids:
        return None
    flat = tf.nest.flatten(x)
    places = [place for place, chosen in enumerate(found.chosen) if chosen]
    for index in found.of_ids:
        ids, name = flat[places[index]], found.keys[index]
        value = own[index]
        if ids.dtype == tf.string:
            if value.any():
                raise ArgumentError(
                    f"baseline: got {value.tolist()!r}{_of(name)}, which takes strings; expected "
                    "0, which stands for the empty one."
                )
            flat[places[index]] = tf.zeros_like(ids)
            continue
        if not np.equal(np.mod(value, 1), 0).all() or (value < 0).any():
            raise ArgumentError(
                f"baseline: got {value.tolist()!r}{_of(name)}; expected a token id ≥ 0, or one for "
                "each step, such as that of padding or of a mask token."
            )
        value = fitting(value, ids.shape[1:], name)
        start = tf.constant(value, ids.dtype)[tf.newaxis]
        flat[places[index]] = tf.broadcast_to(start, tf.shape(ids))
    return tf.nest.pack_sequence_as(x, flat)


def fitting(baseline: np.ndarray, image: tf.TensorShape, name: Any = None) -> np.ndarray:
    """The baseline with as many axes as an image.

    Raises:
        ArgumentError: It does not broadcast to the image's shape.
    """
    sizes = [None] * (image.rank - baseline.ndim) + list(baseline.shape)
    fits = baseline.ndim <= image.rank and all(
        b in (None, 1) or i in (None, b) for b, i in zip(sizes, image, strict=True)
    )
    if not fits:
        raise ArgumentError(
            f"baseline: got shape {baseline.shape}{_of(name)}; expected a number, or an array that "
            f"broadcasts to one image {tuple(image)}."
        )
    return baseline.reshape([1] * (image.rank - baseline.ndim) + list(baseline.shape))


def _array(value: Any, what: str) -> np.ndarray:
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{what} got {value!r}; expected a number, or an array that broadcasts to one image."
        ) from error
    if not np.isfinite(array).all():
        raise ArgumentError(f"{what} got NaN or infinite values; expected finite numbers.")
    return array


def _of(name: Any) -> str:
    return "" if name is None else f" for input {name!r}"
