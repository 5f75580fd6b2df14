"""Checks of what a saliency method is called with: images, or several inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.gradients import model_checks
from tfgrad.gradients.sources import keys_of
from tfgrad.internal.keras_private import flatten_layers, input_structure


class Inputs:
    """What a network takes.

    Args:
        network: The network.
        at: Layers that are explained in the place of inputs; see `MethodOptions`.

    Attributes:
        structure: A nest of `keras.KerasTensor`, as the network takes it; None if it does not tell.
        several: Whether it takes several inputs.
        shape: The shape (None, …) of a single input; None if the network does not tell.
        dtype: The float type of the inputs.
    """

    def __init__(self, network: keras.Model, at: Any = None) -> None:
        self.network = network
        self.structure = input_structure(network)
        declared = keras.tree.flatten(getattr(network, "inputs", None) or [])
        built = None if declared else (network.get_build_config() or {}).get("input_shape")
        self.several = len(declared) > 1 or _is_nest(built)
        self.shape = None if self.several else model_checks.input_shape(network)
        self._dtypes = [tf.as_dtype(one.dtype) for one in declared]
        floats = [dtype for dtype in self._dtypes if dtype.is_floating]
        self.dtype = floats[0].name if floats else network.variable_dtype
        self._shapes = [(None, *one.shape[1:]) for one in declared]
        self._cast = at is not None
        embeds = any(isinstance(one, keras.layers.Embedding) for one in flatten_layers(network))
        self._takes_integers = embeds or at is not None

    @property
    def is_plain(self) -> bool:
        """Whether there is one input, and it is known to be of floats."""
        return not self.several and all(dtype.is_floating for dtype in self._dtypes)

    @property
    def specs(self) -> Any:
        """The inputs as a nest of `tf.TensorSpec`; None if a length is open or unknown."""
        if self.several or self._dtypes:
            if not self._shapes or any(None in shape[1:] for shape in self._shapes):
                return None
            flat = [
                tf.TensorSpec(shape, dtype)
                for shape, dtype in zip(self._shapes, self._dtypes, strict=True)
            ]
            return tf.nest.pack_sequence_as(self.structure, flat) if self.several else flat[0]
        if self.shape is None or None in self.shape[1:]:
            return None
        return tf.TensorSpec(self.shape, self.dtype)

    def tensors(self, x: Any) -> Any:
        """The inputs as tensors, whatever holds the numbers.

        Raises:
            ArgumentError: x is no array of numbers, or no nest of what the network takes; or the
                numbers are not floats where these are expected.
        """
        if not self.several:
            if _is_nest(x) and not self._shapes and self._is_nest_of_arrays(x):
                return self._each(x)
            return self._one(x, self._dtypes[0] if self._dtypes else None)
        self._check_structure(x)
        return self._each(x)

    def check(self, x: Any) -> Any:
        """The tensors of an eager call in the network's dtypes, checked.

        Raises:
            ArgumentError: A shape does not fit.
            DataError: An input holds NaN or infinite values.
        """
        if not _is_nest(x):
            check_shape(x, self.shape)
            if x.dtype.is_floating:
                x = tf.cast(x, self.dtype)
                check_finite(x)
            return x
        names, flat = _names(x), tf.nest.flatten(x)
        batch = flat[0].shape[0] if flat[0].shape.rank else None
        for place, (name, tensor) in enumerate(zip(names, flat, strict=True)):
            expected = self._shapes[place] if self._shapes else None
            check_shape(tensor, expected, f"x: input {name}:", lowest=1)
            if tensor.shape[0] != batch:
                raise ArgumentError(
                    f"x: input {name}: got {tensor.shape[0]} examples; expected {batch}, as in "
                    f"input {names[0]}."
                )
        for name, tensor in zip(names, flat, strict=True):
            if tensor.dtype.is_floating:
                check_finite(tensor, name)
        return x

    def _each(self, x: Any) -> Any:
        """Each input in its dtype."""
        keys = sorted(x) if isinstance(x, Mapping) else range(len(x))
        dtypes = self._dtypes or [None] * len(x)
        made = {}
        for key, dtype in zip(keys, dtypes, strict=True):
            tensor = self._one(x[key], dtype, f" for input {key!r}")
            made[key] = tf.cast(tensor, dtype or self.dtype) if tensor.dtype.is_floating else tensor
        if isinstance(x, Mapping):
            return {key: made[key] for key in x}
        return [*made.values()] if isinstance(x, list) else tuple(made.values())

    def _one(self, value: Any, dtype: tf.DType | None, where: str = "") -> tf.Tensor:
        if dtype is not None and not dtype.is_floating:
            return _integers(value, dtype, where)
        tensor = as_tensor(value)
        if tensor.dtype.is_floating:
            return tensor
        if dtype is None and tensor.dtype.is_integer and (self._takes_integers or where):
            return tensor
        if self._cast and tensor.dtype.is_integer:
            return tf.cast(tensor, self.dtype)
        raise _no_floats(tensor, where)

    def _is_nest_of_arrays(self, x: Any) -> bool:
        """Whether x is several inputs, for a model that does not tell what it takes."""
        return isinstance(x, Mapping) or (
            self.shape is None and all(hasattr(t, "shape") for t in x)
        )

    def _check_structure(self, x: Any) -> None:
        """Raise unless x has what the network takes by key or position."""
        expected = keys_of(self.structure) if self.structure is not None else None
        if not _is_nest(x):
            raise ArgumentError(
                f"x: got a {type(x).__name__}; expected the inputs {expected or ''} of model "
                f"{self.network.name!r}, as a dict or list."
            )
        got = keys_of(x)
        if expected is None:
            return
        if isinstance(x, Mapping) != isinstance(self.structure, Mapping):
            fits = not isinstance(x, Mapping) and len(got) == len(expected)
        else:
            fits = set(got) == set(expected)
        if not fits:
            missing = [key for key in expected if key not in got]
            unknown = [key for key in got if key not in expected]
            what = f"no input {missing[0]!r}" if missing else f"an input {unknown[0]!r}"
            if isinstance(x, Mapping) != isinstance(self.structure, Mapping):
                what = f"a {type(x).__name__} of {len(got)}"
            raise ArgumentError(
                f"x: got {what}; expected the inputs {expected} of model {self.network.name!r}."
            )


def _is_nest(x: Any) -> bool:
    if isinstance(x, Mapping):
        return True
    return (
        isinstance(x, list | tuple)
        and bool(x)
        and not all(isinstance(n, int | float | None) for n in x)
    )


def _names(x: Any) -> list[str]:
    """What messages call each input."""
    keys = sorted(x) if isinstance(x, Mapping) else keys_of(x)
    return [repr(key) for key in keys]


def as_tensor(x: Any) -> tf.Tensor:
    """Numbers as one tensor, whatever holds them.

    Raises:
        ArgumentError: x is no array of numbers.
    """
    if isinstance(x, tf.Tensor | tf.Variable):
        return tf.convert_to_tensor(x)
    try:
        return tf.convert_to_tensor(np.asarray(x))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"x: got a {type(x).__name__} that is no array of numbers; expected float images "
            "[batch, height, width, channels]. A method takes one input of a model with one."
        ) from error


def _no_floats(tensor: tf.Tensor, where: str = "") -> ArgumentError:
    return ArgumentError(
        f"x: got {tensor.dtype.name} images{where}; expected float ones, scaled as in training, as "
        "only these have a gradient; try tf.cast(x, tf.float32) / 255."
    )


def _integers(value: Any, dtype: tf.DType, where: str) -> tf.Tensor:
    tensor = as_tensor(value)
    if not (tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise ArgumentError(
            f"x: got {tensor.dtype.name} values{where}; expected {dtype.name}, such as token ids; "
            f"try tf.cast(x, tf.{dtype.name})."
        )
    return tf.cast(tensor, dtype)


def check_shape(
    images: tf.Tensor, expected: tuple[int | None, ...] | None, what: str = "x:", lowest: int = 2
) -> None:
    """Reject images that lack the batch axis, do not fit the model, or are none at all.

    Args:
        images: The images as one tensor.
        expected: The shape that the model takes, batch first; None if the model does not tell.
        what: What the message calls them.
        lowest: The least number of axes.

    Raises:
        ArgumentError: The shape does not fit.
    """
    got = images.shape
    if expected is None:
        if got.rank < lowest:
            raise ArgumentError(f"{what} got shape {got}; expected a batch of images [batch, …].")
    elif not got.is_compatible_with(expected):
        single = got.is_compatible_with(expected[1:])
        hint = " The batch axis is missing: pass x[None]." if single else ""
        raise ArgumentError(
            f"{what} got shape {got}; expected {expected}, as the model takes.{hint}"
        )
    if 0 in got:
        raise ArgumentError(f"{what} got shape {got}; expected at least one image.")


def check_finite(images: tf.Tensor, name: str | None = None) -> None:
    """Reject a batch that holds NaN or infinite pixels.

    Args:
        images: The batch.
        name: What the message calls the input, of several.

    Raises:
        DataError: It does; the message names the first such image.
    """
    count = images.shape[0]
    finite = tf.math.is_finite(tf.reshape(images, [count, -1]))
    finite = np.asarray(tf.reduce_all(finite, -1))
    if not finite.all():
        first = int(finite.argmin())
        where = "" if name is None else f"input {name} of "
        raise DataError(
            f"x: {where}example {first} of {count} holds NaN or infinite "
            f"{'pixels' if name is None else 'values'}; expected finite ones. Look for a division "
            "by zero in the preprocessing."
        )
