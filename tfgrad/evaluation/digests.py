"""Digests: short names for what results that are kept on disk depend on."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal.keras_private import flatten_layers
from tfgrad.saliency import Method

_ROWS = 1024


def plain(content: Any) -> Any:
    """Content as JSON holds it: arrays by their digests, saliency methods by their options.

    Raises:
        ArgumentError: something cannot be told from others of its kind.
    """
    return json.loads(json.dumps(content, default=_described))


def _described(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | tf.Tensor | tf.Variable | keras.Variable):
        array = np.asarray(value)
        return [array.dtype.name, list(array.shape), array_digest(np.atleast_1d(array))]
    if isinstance(value, Method):
        return [type(value).__name__, value.options()]
    raise ArgumentError(
        f"options: got a {type(value).__name__}, {value!r}, which cannot be written down, so that "
        "kept results could be taken for those of another; expected numbers, strings, arrays, or "
        "lists and mappings of these. saved_maps also takes name=."
    )


def nameless(content: Any) -> Any:
    """Content without what is called "name", since Keras numbers its objects as they are built."""
    if isinstance(content, Mapping):
        return {key: nameless(value) for key, value in content.items() if key != "name"}
    return [nameless(value) for value in content] if isinstance(content, list) else content


def digest(content: Any) -> str:
    """A short name for what JSON can hold."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def array_digest(array: Any) -> str:
    """A short name for numbers [n, …], of which a thousand rows at a time are in memory."""
    found = hashlib.sha256(f"{tuple(array.shape)}".encode())
    for start in range(0, len(array), _ROWS):
        rows = np.ascontiguousarray(array[start : start + _ROWS])
        found.update(rows.dtype.str.encode())
        found.update(rows.data)
    return found.hexdigest()[:16]


def dataset_digest(dataset: Dataset) -> str:
    """A short name for images with their labels."""
    return digest([array_digest(dataset.images), array_digest(dataset.labels)])


def layers_digest(network: keras.Model) -> str:
    """A short name for a network's layers and their options, without names and weights.

    Raises:
        ModelError: a layer cannot say its options, so that results of others would pass for its.
    """
    layers = flatten_layers(network)
    # Keras numbers names as layers are built; their places tell which is connected with which.
    places = {layer.name: f"#{place}" for place, layer in enumerate(layers)}
    # From the inside out, so that what is refused is the layer at fault and not one around it.
    configs = [[type(layer).__name__, plain(_config(layer))] for layer in reversed(layers)]
    return digest(_placed(configs, places))


def weights_digest(network: keras.Model) -> str:
    """A short name for a network's weights, in their order."""
    found = hashlib.sha256()
    for weight in network.weights:
        values = np.ascontiguousarray(weight)
        found.update(f"{values.dtype} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()[:16]


def _placed(config: Any, places: Mapping[str, str]) -> Any:
    """A configuration with places instead of layers' names."""
    if isinstance(config, Mapping):
        return {key: _placed(value, places) for key, value in config.items()}
    if isinstance(config, list):
        return [_placed(value, places) for value in config]
    return places.get(config, config) if isinstance(config, str) else config


def _config(layer: keras.layers.Layer) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of lambdas, which nobody here will load.
            return {**layer.get_config(), "closures": _closures(layer)}
    except NotImplementedError as error:  # What Keras raises where it cannot tell the arguments.
        raise ModelError(
            f"layer {layer.name!r} ({type(layer).__name__}): it has no get_config and was built "
            "with arguments that Keras cannot write down, so results kept on disk could be taken "
            "for those of other arguments. Write its get_config; saved_maps also takes name=."
        ) from error


def _closures(layer: keras.layers.Layer) -> list[Any]:
    """What activation functions close over, of which a configuration has the name alone."""
    functions = [getattr(layer, name, None) for name in ("activation", "recurrent_activation")]
    cells = [getattr(function, "__closure__", None) or () for function in functions]
    return [[cell.cell_contents for cell in of_one] for of_one in cells]
