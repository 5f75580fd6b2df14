"""Reads what `tfgrad.export.save` wrote beside a SavedModel, and checks the type of each entry."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from tfgrad.errors import ModelError
from tfgrad.internal import regular_files
from tfgrad.internal.arguments import is_integer
from tfgrad.internal.served_files import METADATA
from tfgrad.loading.rejection import DAMAGED, brief, read_json, rejection, shown
from tfgrad.models import output_meaning


def read(path: str) -> dict[str, Any]:
    """The metadata of a SavedModel's directory; empty if other software wrote it.

    Raises:
        ModelError: It cannot be read, is no JSON object, or an entry is of another type than
            `tfgrad.export.save` writes.
    """
    name = os.path.join(path, METADATA)
    if not os.path.lexists(name):
        return {}
    try:
        text = regular_files.read(name, regular_files.MAX_JSON_BYTES)
    except (OSError, ValueError) as error:
        got = f"an unreadable {METADATA} ({brief(error)})"
        raise rejection(path, got, "a readable one", DAMAGED) from error
    metadata = read_json(path, METADATA, text)
    for key, (is_right, words) in _ENTRIES.items():
        if key in metadata and not is_right(metadata[key]):
            got = f"{key}={shown(metadata[key])} in {METADATA}"
            raise rejection(path, got, words, "export the model again with tfgrad.export.save")
    return metadata


def check_consistent(path: str, metadata: Mapping[str, Any], signatures: Mapping[str, Any]) -> None:
    """Check that the metadata belongs to the graph beside it.

    Args:
        path: The SavedModel's directory, for the error.
        metadata: What `read` returned.
        signatures: {name: function} of the graph.

    Raises:
        ModelError: It names a signature, a number of outputs or of classes that the graph lacks.
    """
    for name in metadata.get("signatures", ()):
        if name not in signatures:
            raise _contradiction(path, f"the signature {shown(name)}", "those of the graph")
    logits = signatures["serving_default"].structured_outputs
    logits = logits.get("logits") if isinstance(logits, Mapping) else None
    shape = getattr(logits, "shape", None)
    width = shape[-1] if shape is not None and shape.rank == 2 else None
    outputs = metadata.get("outputs", width)
    if width is not None and outputs != width:
        raise _contradiction(path, f"outputs={outputs}", f"the {width} of the graph")
    names = metadata.get("classes")
    if names is not None and outputs is not None and "meaning" in metadata:
        count = output_meaning.class_count(metadata["meaning"], outputs) or outputs
        if len(names) != count:
            raise _contradiction(path, f"classes of {len(names)} names", f"{count} names")


def _contradiction(path: str, got: str, expected: str) -> ModelError:
    advice = "export the model again with tfgrad.export.save"
    return rejection(path, f"{got} in {METADATA}", expected, advice)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _shape(value: Any) -> bool:
    free = isinstance(value, list) and [v for v in value if v is not None]
    return isinstance(free, list) and all(is_integer(v) and v >= 0 for v in free)


def _range(value: Any) -> bool:
    """Two finite numbers, the lower one first."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    return numbers and all(abs(v) < 1e30 for v in value) and value[0] < value[1]


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_text, "a string"),
    "classes": (_or_none(_texts), "a list of names, or null"),
    "input_shape": (_shape, "a list of sizes, null where one is free"),
    "image_range": (_or_none(_range), "the values of black and white, or null"),
    "preprocess": (_or_none(_text), "a string, or null"),
    "outputs": (lambda v: is_integer(v) and v >= 1, "an integer >= 1"),
    "meaning": (lambda v: _text(v) and v in output_meaning.MEANINGS, "a meaning of outputs"),
    "signatures": (_texts, "a list of names"),
    "inputs": (lambda v: _table(v) and all(map(_table, v.values())), "{input: shape and dtype}"),
    "targets": (lambda v: _table(v) and all(map(_text, v.values())), "{signature: target}"),
    "methods": (lambda v: _table(v) and all(map(_table, v.values())), "{method: its options}"),
    "left_out": (lambda v: _table(v) and all(map(_text, v.values())), "{name: the reason}"),
    "training": (_table, "{name: value}"),
    "tfgrad": (_text, "a version"),
    "keras": (_text, "a version"),
    "tensorflow": (_text, "a version"),
}
