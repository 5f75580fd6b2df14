"""Checks of what a saliency method is called with: images, or several inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.gradients import input_structure, model_checks
from tfgrad.gradients.sources import keys_of
from tfgrad.internal import keras_private
from tfgrad.internal.keras_private import flatten_layers


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
        self.structure = keras_private.input_structure(network)
        declared = keras.tree.flatten(getattr(network, "inputs", None) or [])
        built = None if declared else (network.get_build_config() or {}).get("input_shape")
        self.several = len(declared) > 1 or _is_nest(built)
        # Which parts of inputs hold further ones: also of a subclassed model, by its first call.
        self._nesting = self.structure
        if built is not None:
            built = dict(built) if isinstance(built, Mapping) else built
            self._nesting = keras.tree.map_shape_structure(lambda shape: "input", built)
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
            if isinstance(x, Mapping):
                raise ArgumentError(
                    f"x: got a dict of {[*x]}; expected one tensor, as model {self.network.name!r} "
                    f"takes one input; try x[{next(iter(x), 'key')!r}]."
                )
            return self._one(x, self._dtypes[0] if self._dtypes else None)
        if not _is_nest(x):
            expected = keys_of(self.structure) if self.structure is not None else ""
            raise ArgumentError(
                f"x: got a {type(x).__name__}; expected the inputs {expected} of model "
                f"{self.network.name!r}, as a dict or list."
            )
        input_structure.check(x, self.structure, self.network.name)
        return self._each(x)

    def check(self, x: Any) -> Any:
        """The tensors of an eager call in the network's dtypes, checked.

        Raises:
            ArgumentError: A shape does not fit.
            DataError: An input holds NaN or infinite values.
        """
        self.check_shapes(x)
        if not _is_nest(x):
            if x.dtype.is_floating:
                x = tf.cast(x, self.dtype)
                check_finite(x)
            return x
        for name, tensor in zip(input_structure.names(x), tf.nest.flatten(x), strict=True):
            if tensor.dtype.is_floating:
                check_finite(tensor, name)
        return x

    def check_shapes(self, x: Any) -> None:
        """Check the shapes of tensors.

        Raises:
            ArgumentError: A shape does not fit.
        """
        if not _is_nest(x):
            check_shape(x, self.shape)
            return
        names, flat = input_structure.names(x), tf.nest.flatten(x)
        for place, (name, tensor) in enumerate(zip(names, flat, strict=True)):
            expected = self._shapes[place] if self._shapes else None
            check_shape(tensor, expected, f"x: input {name}:", lowest=1)
        input_structure.check_batch(names, flat)

    def _each(self, x: Any) -> Any:
        """Each input in its dtype."""
        dtypes = iter(self._dtypes)

        def leaf(value: Any, path: tuple[Any, ...]) -> tf.Tensor:
            dtype = next(dtypes, None)
            tensor = self._one(value, dtype, f" for input {input_structure.name(path)}")
            return tf.cast(tensor, dtype or self.dtype) if tensor.dtype.is_floating else tensor

        def each(part: Any, structure: Any, path: tuple[Any, ...]) -> Any:
            if isinstance(part, Mapping):
                # In the order of `tf.nest.flatten`, which is that of the dtypes.
                made = {
                    k: each(part[k], input_structure.part(structure, k), (*path, k))
                    for k in sorted(part)
                }
                return {key: made[key] for key in part}
            if not path or _holds_inputs(part, structure):
                found = [
                    each(p, input_structure.part(structure, i), (*path, i))
                    for i, p in enumerate(part)
                ]
                return found if isinstance(part, list) else tuple(found)
            return leaf(part, path)

        return each(x, self._nesting, ())

    def _one(self, value: Any, dtype: tf.DType | None, where: str = "") -> tf.Tensor:
        if dtype is not None and not dtype.is_floating:
            return _integers(value, dtype, where)
        tensor = as_tensor(value)
        if tensor.dtype.is_floating:
            return tensor
        ids = tensor.dtype.is_integer or tensor.dtype == tf.string
        if dtype is None and ids and (self._takes_integers or where):
            return tensor
        if self._cast and tensor.dtype.is_integer:
            return tf.cast(tensor, self.dtype)
        raise _no_floats(tensor, where)

    def _is_nest_of_arrays(self, x: Any) -> bool:
        """Whether x is several inputs, for a model that does not tell what it takes."""
        return isinstance(x, Mapping) or (
            self.shape is None and all(hasattr(t, "shape") for t in x)
        )


def _is_nest(x: Any) -> bool:
    if isinstance(x, Mapping):
        return True
    return (
        isinstance(x, list | tuple)
        and bool(x)
        and not all(isinstance(n, int | float | None) for n in x)
    )


def _holds_inputs(part: Any, structure: Any) -> bool:
    """Whether a list holds further inputs; else it is one array in lists of numbers."""
    if not isinstance(part, list | tuple):
        return False
    if structure is not None:
        return input_structure.is_container(structure)
    return bool(part) and all(hasattr(p, "shape") or isinstance(p, Mapping) for p in part)


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
    if dtype == tensor.dtype == tf.string:
        return tensor
    if dtype == tf.string:
        raise ArgumentError(f"x: got {tensor.dtype.name} values{where}; expected strings.")
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
