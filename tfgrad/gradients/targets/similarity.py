"""The cosine of an embedding with a given one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.targets.base import PACKAGE, Outputs, Target, checked
from tfgrad.gradients.targets.choices import array, listed

_NO_DIRECTION = "embedding: got a vector that is 0, NaN or infinite; expected finite numbers."


@keras.saving.register_keras_serializable(PACKAGE)
class Similarity(Target):
    """⟨e, v⟩ / (‖e‖ ‖v‖): what makes an example's embedding e like v.

    Where e is exactly 0, the cosine does not exist; it counts as 0 there, and so does its gradient.

    Args:
        embedding: v, an array [size], or one for each example, [batch, size]; no gradient flows
            into it. None: it is given with the examples, by `with_values`.
        output: Key or position of the output that is the embedding, of a model with several.
        name: Name of the target.

    Raises:
        ArgumentError: `embedding` is no vector of finite numbers, or 0. Where it is used: it has
            another size than the output.

    Example:

    ```python
    like = tfgrad.targets.Similarity(network(other)[0])
    maps = tfgrad.saliency.InputGradient(network, target=like)(images)
    ```
    """

    of_logits = False

    def __init__(
        self, embedding: Any = None, *, output: Any = None, name: str = "similarity"
    ) -> None:
        super().__init__(name)
        self.embedding, self.output = _vector(embedding), output

    @property
    def values(self) -> dict[str, Any]:
        """`embedding`, [batch, size], unless it is the same for all examples."""
        each = self.embedding is None or self.embedding.shape.rank == 2
        return {"embedding": self.embedding} if each else {}

    def with_values(self, values: Mapping[str, Any]) -> Similarity:
        """Other embeddings, [batch, size]."""
        super().with_values(values)
        return Similarity(
            values.get("embedding", self.embedding), output=self.output, name=self.name
        )

    def specs(self, outputs: Any) -> dict[str, tf.TensorSpec]:
        """Embeddings, float32 [batch, size]."""
        found = outputs if self.output is None else outputs[self.output]
        size = tf.nest.flatten(found)[0].shape[-1]
        return {name: tf.TensorSpec([None, size], tf.float32, name) for name in self.values}

    def compute(self, outputs: Outputs) -> tf.Tensor:
        """The cosine, [batch]."""
        own = outputs.head(self.output)
        if self.embedding is None:
            raise ArgumentError(
                f"embedding: got None in {self!r}; expected an embedding for each example; try "
                "target.with_values({'embedding': vectors})."
            )
        given = self.embedding
        expected = own.shape if given.shape.rank == 2 else own.shape[1:]
        if own.shape.rank != 2 or not given.shape.is_compatible_with(expected):
            raise ArgumentError(
                f"embedding: got shape {tuple(given.shape)} for an output of shape "
                f"{tuple(own.shape)} of network {outputs.network!r}; expected embeddings "
                "[batch, size] and a vector of that size, or one for each example."
            )
        given = tf.stop_gradient(tf.cast(given, own.dtype))
        squares = tf.reduce_sum(tf.square(given), -1)
        fine = tf.reduce_all(tf.math.is_finite(given)) & tf.reduce_all(squares > 0)
        given = checked(given, fine, _NO_DIRECTION) * tf.math.rsqrt(squares)[..., None]
        # The derivative of a norm at 0 is NaN, also behind tf.where.
        length = tf.reduce_sum(tf.square(own), -1)
        exists = length > 0
        length = tf.where(exists, length, tf.ones_like(length))
        cosine = tf.reduce_sum(own * given, -1) * tf.math.rsqrt(length)
        return tf.where(exists, cosine, tf.zeros_like(cosine))

    def get_config(self) -> dict[str, Any]:
        """`embedding`, `output` and `name`."""
        own = {"embedding": listed(self.embedding), "output": self.output}
        return {**super().get_config(), **own}

    def __repr__(self) -> str:
        shape = None if self.embedding is None else list(self.embedding.shape)
        return f"Similarity({shape})"


def _vector(given: Any) -> Any:
    """An embedding as a tensor of floats, [size] or [batch, size]; or None."""
    if given is None:
        return None
    found, dtype = array(given)
    if dtype is None or dtype in (tf.bool, tf.string) or not 1 <= len(found.shape) <= 2:
        raise ArgumentError(
            f"embedding: got {found.dtype} of shape {tuple(found.shape)}; expected floats [size] "
            "or [batch, size]."
        )
    fine = tf.is_tensor(given) or (np.isfinite(found).all() and np.any(found != 0, -1).all())
    if not fine:
        raise ArgumentError(_NO_DIRECTION)
    return tf.cast(found, tf.float64 if dtype == tf.float64 else tf.float32)
