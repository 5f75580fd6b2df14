"""Preprocessors that a model runs in its own `fit` and `predict`, outside of its call.

The tasks of KerasHub are such models: `task.predict(x)` computes `task(task.preprocessor(x))`.
"""

from __future__ import annotations

from typing import Any

import keras


def own_preprocessor(model: Any) -> keras.Layer | None:
    """The preprocessor that a model runs outside of its call, or None.

    It is recognised by KerasHub's protocol: an attribute `preprocessor` that is a layer, and a
    method `preprocess_samples(x, y, sample_weight)` or a `predict` of the model's own. A model that
    calls a layer of that name inside of `call` has neither.
    """
    preprocessor = getattr(model, "preprocessor", None)
    if not isinstance(model, keras.Model) or not isinstance(preprocessor, keras.Layer):
        return None
    own_methods = callable(getattr(model, "preprocess_samples", None)) or (
        type(model).predict is not keras.Model.predict
    )
    return preprocessor if own_methods else None


def preprocessed(model: Any, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """(x, y, sample_weight) as the model's call takes them; unchanged without a preprocessor.

    Args:
        model: A Keras model.
        x: Inputs of its own `predict`, such as images of any size and range.
        y: Labels, or None.
        sample_weight: Sample weights, or None.
    """
    preprocessor = own_preprocessor(model)
    if preprocessor is None:
        return x, y, sample_weight
    if callable(getattr(model, "preprocess_samples", None)):
        samples = model.preprocess_samples(x, y, sample_weight)
        return keras.utils.unpack_x_y_sample_weight(samples)
    return preprocessor(x), y, sample_weight
