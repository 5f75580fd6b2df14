"""What a model that is written in Python may take, which Keras does not keep."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.internal.keras_private import flatten_layers

# Combinations of types that are tried.
_TRIED = 16


def candidates(model: keras.layers.Layer, batch: int | None = None) -> Iterator[Any]:
    """Inputs that a subclassed model may take, the likeliest first; none if it does not tell any.

    The shapes are those of the first call. Inputs of at most two axes may be floats or token ids:
    of a model with an embedding ids are tried first, of another one floats.

    Args:
        model: A built model.
        batch: The number of examples; None leaves it open.

    Returns:
        Nests of `tf.TensorSpec`. A call with the wrong types raises TypeError, ValueError or an
        error of TensorFlow.
    """
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        return
    if isinstance(shapes, Mapping):  # one of Keras's own kind, which is not what it takes
        shapes = dict(shapes)
    floats = keras.tree.map_shape_structure(
        lambda shape: tf.TensorSpec((batch, *shape[1:]), model.input_dtype), shapes
    )
    embeds = any(isinstance(one, keras.layers.Embedding) for one in flatten_layers(model))
    kinds = (tf.int32, None) if embeds else (None, tf.int32)
    flat = tf.nest.flatten(floats)
    each = [kinds if len(spec.shape) <= 2 else (None,) for spec in flat]
    for types in itertools.islice(itertools.product(*each), _TRIED):
        specs = [
            tf.TensorSpec(spec.shape, kind or spec.dtype)
            for spec, kind in zip(flat, types, strict=True)
        ]
        yield tf.nest.pack_sequence_as(floats, specs)
