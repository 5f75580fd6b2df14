"""Digests: short names of the networks, data and options that results kept on disk depend on."""

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
    """The content as JSON returns it, with arrays as digests and saliency methods as options.

    Raises:
        ArgumentError: A value has no form that distinguishes it from others of its type.
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
        f"options: got a {type(value).__name__}, {value!r}, which has no JSON form, so that kept "
        "results could be mistaken for those of other options; expected numbers, strings, arrays, "
        "or lists and mappings of these. Try name= of saved_maps."
    )


def nameless(content: Any) -> Any:
    """The content without keys "name", because Keras numbers objects in the order of building."""
    if isinstance(content, Mapping):
        return {key: nameless(value) for key, value in content.items() if key != "name"}
    return [nameless(value) for value in content] if isinstance(content, list) else content


def digest(content: Any) -> str:
    """A short name of content that JSON can hold."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def array_digest(array: Any) -> str:
    """A short name of numbers [n, …]; a thousand rows at a time are in memory."""
    found = hashlib.sha256(f"{tuple(array.shape)}".encode())
    for start in range(0, len(array), _ROWS):
        rows = np.ascontiguousarray(array[start : start + _ROWS])
        found.update(rows.dtype.str.encode())
        found.update(rows.data)
    return found.hexdigest()[:16]


def dataset_digest(dataset: Dataset) -> str:
    """A short name of images with their labels."""
    return digest([array_digest(dataset.images), array_digest(dataset.labels)])


def layers_digest(network: keras.Model) -> str:
    """A short name of a network's layers and their options, without names and weights.

    Raises:
        ModelError: A layer has no configuration, so networks that differ in it cannot be told
            apart.
    """
    layers = flatten_layers(network)
    # Keras numbers names in the order of building; positions show which layers are connected.
    places = {layer.name: f"#{place}" for place, layer in enumerate(layers)}
    # From the inside out, so that the error names the layer at fault and not one that holds it.
    configs = [[type(layer).__name__, plain(_config(layer))] for layer in reversed(layers)]
    return digest(_placed(configs, places))


def weights_digest(network: keras.Model) -> str:
    """A short name of a network's weights, in their order."""
    found = hashlib.sha256()
    for weight in network.weights:
        values = np.ascontiguousarray(weight)
        found.update(f"{values.dtype} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()[:16]


def _placed(config: Any, places: Mapping[str, str]) -> Any:
    """A configuration with positions instead of layers' names."""
    if isinstance(config, Mapping):
        return {key: _placed(value, places) for key, value in config.items()}
    if isinstance(config, list):
        return [_placed(value, places) for value in config]
    return places.get(config, config) if isinstance(config, str) else config


def _config(layer: keras.layers.Layer) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns about lambdas, which are not loaded here.
            return {**layer.get_config(), "closures": _closures(layer)}
    except NotImplementedError as error:  # Keras cannot serialise the arguments.
        raise ModelError(
            f"layer {layer.name!r} ({type(layer).__name__}): got no get_config, and arguments that "
            "Keras cannot serialise, so results kept on disk could be mistaken for those of other "
            "arguments; expected a layer with a configuration. Write its get_config, or try name= "
            "of saved_maps."
        ) from error


def _closures(layer: keras.layers.Layer) -> list[Any]:
    """The closures of activation functions; a configuration contains only the functions' names."""
    functions = [getattr(layer, name, None) for name in ("activation", "recurrent_activation")]
    cells = [getattr(function, "__closure__", None) or () for function in functions]
    return [[cell.cell_contents for cell in closure] for closure in cells]
