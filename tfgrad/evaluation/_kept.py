"""Results kept on disk: what they depend on, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfgrad.data import Dataset
from tfgrad.errors import ArgumentError, ModelError, ResumeError

_ROWS = 1024


def plain(content: Any) -> Any:
    """Content as JSON holds it; what JSON cannot hold is told by its type."""
    return json.loads(json.dumps(content, default=lambda value: type(value).__name__))


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
    described = []
    for layer in network._flatten_layers():
        inside = list(layer._flatten_layers(include_self=False))
        options = {} if inside else {**_config(layer), "name": None}
        described.append([type(layer).__name__, options])
    return digest(plain(described))


def weights_digest(network: keras.Model) -> str:
    """A short name for a network's weights, in their order."""
    found = hashlib.sha256()
    for weight in network.weights:
        values = np.ascontiguousarray(weight)
        found.update(f"{values.dtype} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()[:16]


def make_directory(path: str | os.PathLike[str]) -> str:
    """The directory, made if need be.

    Raises:
        ArgumentError: it cannot be made.
    """
    path = os.fspath(path)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            f"directory: {path!r} cannot be written ({error.strerror}); choose another."
        ) from error
    return path


def write_json(path: str, content: Any) -> None:
    """Write aside and rename."""
    aside = f"{path}.tmp-{os.getpid()}"
    with open(aside, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
    os.replace(aside, path)


def read_record(path: str) -> dict[str, Any] | None:
    """The JSON object in a file, None if there is no file.

    Raises:
        ResumeError: the file holds something else.
    """
    try:
        with open(path) as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ResumeError(
            f"directory: {path!r} is damaged or not ours; remove it, or choose another directory."
        )
    return content


def check_same(path: str, earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with what was made under other settings.

    Raises:
        ResumeError: settings differ; it names those that do.
    """
    different = list(_differences(earlier, plain(wanted)))
    if different:
        raise ResumeError(
            f"directory: {path!r} was made under other settings: {'; '.join(different)}. Choose "
            "another directory, or remove this one."
        )


def _differences(earlier: Any, wanted: Any, at: str = "") -> Iterator[str]:
    if isinstance(earlier, Mapping) and isinstance(wanted, Mapping):
        for name in sorted({*earlier, *wanted}):
            inside = f"{at}.{name}" if at else name
            yield from _differences(earlier.get(name), wanted.get(name), inside)
    elif earlier != wanted:
        yield f"{at} was {earlier!r}, now {wanted!r}"


def _config(layer: keras.layers.Layer) -> dict[str, Any]:
    try:
        return layer.get_config()
    except NotImplementedError as error:  # What Keras raises where it cannot tell the arguments.
        raise ModelError(
            f"layer {layer.name!r} ({type(layer).__name__}): it has no get_config and was built "
            "with arguments that Keras cannot write down, so results kept on disk could be taken "
            "for those of other arguments. Write its get_config; saved_maps also takes name=."
        ) from error
