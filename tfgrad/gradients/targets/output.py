"""One number of a network's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.targets.base import PACKAGE, Outputs, Target
from tfgrad.internal.arguments import is_integer


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
