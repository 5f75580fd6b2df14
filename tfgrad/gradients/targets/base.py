"""A scalar per example that is more than one class's logit: what the user asks a network."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError

PACKAGE = "tfgrad"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a target is computed from.

    Attributes:
        nest: The network's outputs as it returns them, in float32 or wider; integers as they are.
        head: A function that returns the output of a key, of any shape; without a key the one that
            was chosen by a head, or the only one.
        y: The labels of the batch, None outside training.
        meaning: A function that returns what the logits of a key mean, see
            `tfgrad.models.output_meaning`.
        network: The network's name, for messages.
    """

    nest: Any
    head: Callable[..., tf.Tensor]
    y: Any
    meaning: Callable[..., str]
    network: str


class Target:
    """One scalar per example of a network's outputs.

    A subclass computes it in `compute`, from TensorFlow operations, and names in `values` what it
    needs of each example beside the outputs, such as a mask: tensors with the batch first, or None
    for one that is given later by `with_values`. A served signature takes these as inputs.

    Args:
        name: Name of the target, which a signature and a term of the decomposition bear.
    """

    # Whether it reads logits, so that a last softmax or sigmoid is left out. A target that is a
    # function of the outputs takes them as the model returns them.
    of_logits = True
    # Whether it is a linear function of the outputs, whose intercept is zero.
    linear = False

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name or "/" in name:
            raise ArgumentError(f"name: got {name!r}; expected a name without '/'.")
        self.name = name

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """The scalar of each example, [batch]."""
        raise NotImplementedError(f"{type(self).__name__} has no compute(outputs).")

    @property
    def key(self) -> Any:
        """What two targets have in common that are one and the same scalar."""
        return self

    def fixed(self, outputs: Outputs) -> Target:
        """The target with its choices, such as the predicted class, made at these outputs.

        What moves the input (noise, a path) then asks the same question everywhere.
        """
        return self

    @property
    def values(self) -> Mapping[str, Any]:
        """{name: the value of each example}, tensors or None."""
        return {}

    @property
    def value_names(self) -> tuple[str, ...]:
        """What `with_values` takes: the names in `values`, and in those of a `fixed` target."""
        return tuple(self.values)

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The same target with other values; one that is left out stays."""
        if unknown := set(values) - set(self.value_names):
            known = [*self.value_names]
            raise ArgumentError(f"values: got {sorted(unknown)}; {self!r} takes {known}.")
        return self

    def specs(self, outputs: Any) -> dict[str, tf.TensorSpec]:
        """The type and shape of each of the `values`, for a network with these outputs.

        Args:
            outputs: A nest of tensors or `tf.TensorSpec`, batch first.
        """
        return {}

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, JSON-serialisable."""
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The target that `get_config` described."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def value_of(target: Target, outputs: Outputs) -> tf.Tensor:
    """The scalar of each example, [batch], in float32 or wider.

    Raises:
        ArgumentError: The target returns something else than one number for each example.
    """
    found = target.compute(outputs)
    batch = next(iter(keras.tree.flatten(outputs.nest))).shape[0]
    fits = (
        tf.is_tensor(found)
        and found.dtype.is_floating
        and found.shape.rank == 1
        and tf.TensorShape([batch]).is_compatible_with(found.shape)
    )
    if not fits:
        got = (
            f"{found.dtype.name} of shape {_written(found.shape)}"
            if tf.is_tensor(found)
            else f"a {type(found).__name__}"
        )
        raise ArgumentError(
            f"target: {target!r} returns {got}; expected floats [batch], one number for each "
            "example; try tf.reduce_sum or tf.reduce_mean over all axes but the first."
        )
    return found if found.dtype.size >= 4 else tf.cast(found, tf.float32)


def _written(shape: tf.TensorShape) -> str:
    return "unknown" if shape.rank is None else str(tuple(shape))


def checked(tensor: tf.Tensor, holds: tf.Tensor, *message: Any) -> tf.Tensor:
    """The tensor, of which something must hold: an error eagerly, an assertion in a graph.

    Args:
        tensor: What is returned.
        holds: Whether it is as it should be, a boolean.
        message: Words and tensors, in order.

    Raises:
        ArgumentError: It does not hold.
    """
    if tf.executing_eagerly():
        if not holds:
            words = " ".join(f"{part}" for part in message)
            raise ArgumentError(re.sub(r" (?=[;,.])", "", words))
        return tensor
    check = tf.debugging.Assert(holds, [*message])
    # XLA drops assertions, and has no operation to depend on.
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(tensor)
