"""Targets for questions that are often asked of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import class_scores
from tfgrad.gradients.targets.base import PACKAGE, Outputs, Target
from tfgrad.internal.arguments import is_integer
from tfgrad.models.output_meaning import class_count
from tfgrad.second_order.operations import PYTHON, STATE, STATEFUL_RANDOM


@keras.saving.register_keras_serializable(PACKAGE)
class Scalar(Target):
    """Any scalar of a network's outputs: function(outputs)[b] for example b.

    The outputs are those that the model returns, in float32 or wider: of a model that ends in a
    softmax, probabilities.

    Args:
        function: A function from the outputs, a tensor or the nest that the model returns, to
            floats [batch], made of TensorFlow or Keras operations. Each value must depend on its
            own example alone, and on no random number. To save a penalty with it, register it by
            `keras.saving.register_keras_serializable`.
        name: Name of the target; None for that of the function.

    Raises:
        ArgumentError: `function` cannot be called. Where it is used: it returns another shape, does
            not depend on the outputs, or draws random numbers.

    Example:

    ```python
    price = tfgrad.targets.Scalar(lambda outputs: outputs["price"][:, 0], "price")
    maps = tfgrad.saliency.InputGradient(network, target=price)(images)
    ```
    """

    of_logits = False

    def __init__(self, function: Callable[[Any], tf.Tensor], name: str | None = None) -> None:
        if not callable(function):
            raise ArgumentError(
                f"function: got a {type(function).__name__}; expected a function of the outputs."
            )
        own = getattr(function, "__name__", "scalar")
        super().__init__(name or ("scalar" if "<" in own else own))
        self.function = function
        self._checked: set[Any] = set()

    @property
    def key(self) -> Any:
        """The function: what was computed for it serves every target made of it."""
        return Scalar, self.function

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """function(outputs)."""
        self._check(outputs.nest)
        return self.function(outputs.nest)

    def get_config(self) -> dict[str, Any]:
        """`function`, by its registered name, and `name`.

        Raises:
            ArgumentError: The function is a lambda, which no file can name.
        """
        if getattr(self.function, "__name__", "") == "<lambda>":
            raise ArgumentError(
                f"function: got a lambda in {self!r}; expected a function that can be saved; try a "
                "named one with @keras.saving.register_keras_serializable()."
            )
        saved = keras.saving.serialize_keras_object(self.function)
        return {**super().get_config(), "function": saved}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The target that `get_config` described."""
        function = keras.saving.deserialize_keras_object(config["function"])
        return cls(function, config["name"])

    def _check(self, outputs: Any) -> None:
        """Refuse a function that draws random numbers, once for each form of the outputs."""
        specs = tf.nest.map_structure(
            lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), outputs
        )
        key = tuple((tuple(s.shape), s.dtype) for s in tf.nest.flatten(specs))
        if key in self._checked:
            return
        traced = tf.function(self.function, autograph=False).get_concrete_function(specs)
        graph = traced.graph.as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        for node in nodes:
            if STATEFUL_RANDOM.fullmatch(node.op) or STATE.fullmatch(node.op):
                raise ArgumentError(
                    f"target: {self!r} draws random numbers or keeps state ({node.op}), so that "
                    "its gradient is another one at every call; expected a function of the outputs "
                    "alone."
                )
            if node.op in PYTHON:
                raise ArgumentError(
                    f"target: {self!r} calls Python ({node.op}), of which there is no gradient in "
                    "a graph; expected TensorFlow or Keras operations."
                )
        self._checked.add(key)


@keras.saving.register_keras_serializable(PACKAGE)
class Output(Target):
    """One number of the outputs: of a regression, or of one of several heads.

    Args:
        index: The output's key or position, for a model with several; or the position of a number
            in the only output [batch, K]. Of a head with several numbers, a pair (head, position).
        name: Name of the target; None for one made of the index.

    Raises:
        ArgumentError: `index` is none of these. Where it is used: there is no such output, or it
            has several numbers.

    Example:

    ```python
    tfgrad.full_gradients(network, x, tfgrad.targets.Output(("price", 0)))
    ```
    """

    of_logits = False
    linear = True

    def __init__(self, index: Any = 0, name: str | None = None) -> None:
        self.index = tuple(index) if isinstance(index, list) else index
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if not 1 <= len(parts) <= 2 or not all(isinstance(p, str) or is_integer(p) for p in parts):
            raise ArgumentError(
                f"index: got {index!r}; expected the key or position of an output, or a pair "
                "(head, position)."
            )
        super().__init__(name or "_".join(["output", *map(str, parts)]).replace("/", "_"))

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """The number, [batch]."""
        flat = tf.nest.flatten(outputs.nest)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        found, position = outputs.nest, None
        if len(flat) > 1 or isinstance(parts[0], str) or len(parts) == 2:
            found, parts = self._head(outputs, parts[0]), parts[1:]
        else:
            found = flat[0]
        position = parts[0] if parts else None
        if found.shape.rank == 1 and position in (None, 0):
            return found
        if position is None and found.shape.rank == 2 and found.shape[-1] == 1:
            position = 0
        count = found.shape[-1]
        if found.shape.rank != 2 or position is None or (count and not -count <= position < count):
            raise ArgumentError(
                f"target: got Output({self.index!r}) on an output of shape {tuple(found.shape)} of "
                f"network {outputs.network!r}; expected the position of one number of [batch, K]; "
                "try a pair (head, position), or tfgrad.targets.Scalar with a function."
            )
        return found[:, position]

    def _head(self, outputs: Outputs, key: Any) -> tf.Tensor:
        nest = outputs.nest
        try:
            if isinstance(nest, Mapping | list | tuple):
                return tf.nest.flatten(nest[key])[0]
        except (KeyError, IndexError, TypeError):
            pass
        known = [*nest] if isinstance(nest, Mapping) else f"{len(tf.nest.flatten(nest))} outputs"
        raise ArgumentError(
            f"target: got Output({self.index!r}); network {outputs.network!r} has {known}."
        )

    def get_config(self) -> dict[str, Any]:
        """`index` and `name`."""
        index = list(self.index) if isinstance(self.index, tuple) else self.index
        return {**super().get_config(), "index": index}

    def __repr__(self) -> str:
        return f"Output({self.index!r})"


@keras.saving.register_keras_serializable(PACKAGE)
class Contrast(Target):
    """f_a − f_b: why class a and not b.

    Args:
        a: A class index, ints [batch], or None for the predicted class.
        b: A class index, ints [batch], or None for the strongest other class, whose choice is
            frozen as that of the predicted one is.
        name: Name of the target.

    Raises:
        ArgumentError: A class is no index. Where it is used: the network has no such class, or has
            no classes.

    Example:

    ```python
    maps = tfgrad.saliency.FullGrad(network)(images, target=tfgrad.targets.Contrast(3, 5))
    ```
    """

    linear = True

    def __init__(self, a: Any = None, b: Any = None, name: str = "contrast") -> None:
        super().__init__(name)
        self.a, self.b = _classes("a", a), _classes("b", b)

    @property
    def values(self) -> dict[str, Any]:
        """`a` and `b`, int32 [batch], where they are classes of each example or open."""
        return {n: v for n, v in (("a", self.a), ("b", self.b)) if not isinstance(v, int)}

    def with_values(self, values: Mapping[str, Any]) -> Contrast:
        """Other classes; −1 leaves one open."""
        super().with_values(values)
        return Contrast(values.get("a", self.a), values.get("b", self.b), self.name)

    def specs(self, outputs: Any) -> dict[str, tf.TensorSpec]:
        """Classes, int32 [batch]."""
        return {name: tf.TensorSpec([None], tf.int32, name) for name in self.values}

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """f_a − f_b, [batch]; of one logit f of two classes ±2 f."""
        logits, meaning = outputs.head(), outputs.meaning()
        if logits.shape.rank != 2:
            raise ArgumentError(
                f"target: got Contrast on an output of shape {tuple(logits.shape)} of network "
                f"{outputs.network!r}; expected logits [batch, classes]; try "
                "tfgrad.targets.Scalar with a function of the outputs."
            )
        class_scores.check_classes(meaning, "a contrast of classes")
        a, b = self._pair(logits, meaning, class_count(meaning, logits.shape[-1]))
        logit = class_scores.logit
        return logit(logits, a, meaning) - logit(logits, b, meaning)

    def fixed(self, outputs: Outputs) -> Contrast:
        """The contrast of the classes that are chosen at these outputs."""
        logits, meaning = outputs.head(), outputs.meaning()
        pair = self._pair(logits, meaning, class_count(meaning, logits.shape[-1]))
        return Contrast(*pair, self.name)

    def _pair(
        self, logits: tf.Tensor, meaning: str, count: int | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The classes a and b of each example, int32 [batch]."""
        every = class_scores.class_logits(logits, meaning)
        a = _chosen("a", self.a, class_scores.predicted(logits, meaning), count)
        others = tf.where(
            tf.one_hot(a, tf.shape(every)[1], True, False, dtype=tf.bool),
            tf.constant(every.dtype.min, every.dtype),
            every,
        )
        return a, _chosen("b", self.b, tf.argmax(others, 1, tf.int32), count)

    def get_config(self) -> dict[str, Any]:
        """`a`, `b` and `name`."""
        return {**super().get_config(), "a": _listed(self.a), "b": _listed(self.b)}

    def __repr__(self) -> str:
        return f"Contrast({_listed(self.a)!r}, {_listed(self.b)!r})"


def _classes(name: str, given: Any) -> Any:
    """A class index, None, or a tensor int32 [batch]."""
    if given is None or is_integer(given):
        if given is not None and given < 0:
            raise ArgumentError(f"{name}: got class {given}; expected an index from 0 up, or None.")
        return None if given is None else int(given)
    found = given if tf.is_tensor(given) else np.asarray(given)
    kind = tf.as_dtype(found.dtype).is_integer if found.dtype != object else False
    if not kind or len(found.shape) != 1:
        raise ArgumentError(
            f"{name}: got {given!r}; expected a class index, one index per example, or None."
        )
    return tf.cast(found, tf.int32)


def _chosen(name: str, given: Any, otherwise: tf.Tensor, count: int | None) -> tf.Tensor:
    """The class of each example; `otherwise` where it is left open."""
    if given is None:
        return otherwise
    if isinstance(given, int):
        if count is not None and given >= count:
            raise ArgumentError(
                f"{name}: got class {given}; expected 0 to {count - 1}, the network's classes."
            )
        return tf.fill(tf.shape(otherwise), given)
    if not given.shape.is_compatible_with(otherwise.shape):
        raise ArgumentError(
            f"{name}: got {given.shape[0]} classes; expected one for each of "
            f"{otherwise.shape[0]} examples."
        )
    if count is not None:
        inside = tf.reduce_all((given >= -1) & (given < count))
        known = f"expected 0 to {count - 1}, the network's classes, or -1 for one left open"
        if tf.executing_eagerly() and not inside:
            raise ArgumentError(f"{name}: got classes {given.numpy().tolist()}; {known}.")
        with tf.control_dependencies([tf.debugging.Assert(inside, [f"{name}: {known}"])]):
            given = tf.identity(given)
    return tf.where(given < 0, otherwise, given)


def _listed(value: Any) -> Any:
    return value.numpy().tolist() if tf.is_tensor(value) and hasattr(value, "numpy") else value
