"""Any scalar of a network's outputs, by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.targets.base import PACKAGE, Outputs, Target
from tfgrad.gradients.targets.functions import check


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

    @property
    def key(self) -> Any:
        """The function: what was computed for it serves every target made of it."""
        return Scalar, self.function

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """function(outputs)."""
        check(self, self.function, outputs.nest)
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
