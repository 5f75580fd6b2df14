"""Validates and loads SavedModels.

A SavedModel carries a graph that runs. It is read as data first, operation by operation and
function by function (`tfgrad.loading.graph_checks`), and passed to TensorFlow only if nothing in it
reaches outside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfgrad.errors import ModelError
from tfgrad.internal.served_files import METADATA
from tfgrad.loading.graph_checks import check_graph
from tfgrad.loading.rejection import (
    DAMAGED,
    DIVERGED,
    FINITE,
    MAX_JSON_BYTES,
    WHOLE,
    brief,
    read_json,
    rejection,
)

GRAPH, VARIABLES = "saved_model.pb", os.path.join("variables", "variables")

_SAVED_MODEL = "the directory of a SavedModel"


def versions(directory: str) -> list[str]:
    """The numbered entries of a directory, in the order of their numbers."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted((n for n in names if n.isascii() and n.isdigit()), key=int)


@dataclass(frozen=True)
class ServedModel:
    """A SavedModel in this process, as TensorFlow Serving would hold it.

    Attributes:
        path: The version's directory.
        signatures: Mapping from name to function; a function takes tensors by keyword and returns
            a dict.
        metadata: What `tfgrad.export.save` wrote about the model (name, classes, input shape,
            versions), or an empty dict for a SavedModel written by other software.
    """

    path: str
    signatures: Mapping[str, Any]
    metadata: Mapping[str, Any]
    # The signatures hold their variables weakly: without this reference they would be deleted.
    _owner: Any = field(repr=False, compare=False)


def load_served(path: str | os.PathLike[str]) -> ServedModel:
    """Load a SavedModel: one version's directory, or a directory of versions (the highest).

    The graph is read as data before TensorFlow runs it, and rejected if an operation in it reaches
    outside (files, Python functions, input pipelines, other processes). Saving and restoring the
    model's own variables is the one exception, and only in the functions meant for it.

    Args:
        path: `directory/<version>` or `directory`, as returned by and given to
            `tfgrad.export.save`.

    Returns:
        A `ServedModel`.

    Raises:
        ModelError: The directory is missing, damaged, foreign or unsafe.
    """
    path = _version_directory(os.fspath(path))
    for meta_graph in (graphs := _read_graphs(path)):
        check_graph(path, meta_graph)
    if not any("serving_default" in g.signature_def for g in graphs):
        names = {name for g in graphs for name in g.signature_def} - {"__saved_model_init_op"}
        raise rejection(
            path,
            f"no signature serving_default (it has: {', '.join(sorted(names)) or 'none'})",
            "a SavedModel with this signature",
            "write it with tfgrad.export.save",
        )
    _check_variables(path)
    metadata = _serving_metadata(path)
    try:
        loaded = tf.saved_model.load(path, tags=["serve"])
        signatures = dict(loaded.signatures)
    except Exception as error:
        raise rejection(path, f"a damaged SavedModel ({brief(error)})", WHOLE, DAMAGED) from error
    return ServedModel(path, signatures, metadata, loaded)


def _version_directory(path: str) -> str:
    if os.path.isfile(path):
        advice = "load .keras files with tfgrad.loading.load"
        raise rejection(path, "a file", _SAVED_MODEL, advice)
    if not os.path.isdir(path):
        advice = "check the path and the working directory"
        raise rejection(path, "no such directory", _SAVED_MODEL, advice)
    if os.path.exists(os.path.join(path, GRAPH)):
        return path
    if numbers := versions(path):
        return _version_directory(os.path.join(path, numbers[-1]))
    raise rejection(
        path,
        f"neither {GRAPH} nor a numbered version in the directory",
        _SAVED_MODEL,
        "write it with tfgrad.export.save, or copy it again",
    )


def _read_graphs(path: str) -> list[meta_graph_pb2.MetaGraphDef]:
    name = os.path.join(path, GRAPH)
    try:
        with open(name, "rb") as file:
            data = file.read()
        graphs = list(saved_model_pb2.SavedModel.FromString(data).meta_graphs)
    except (OSError, DecodeError, ValueError) as error:
        raise rejection(path, f"a damaged {GRAPH} ({brief(error)})", WHOLE, DAMAGED) from error
    if not graphs:
        raise rejection(path, f"a {GRAPH} without a graph ({len(data)} bytes)", WHOLE, DAMAGED)
    if not all(g.HasField("object_graph_def") for g in graphs):
        raise rejection(
            path,
            "a SavedModel of TensorFlow 1",
            "one of TensorFlow 2",
            "export the model again with TensorFlow 2",
        )
    return graphs


def _check_variables(path: str) -> None:
    prefix = os.path.join(path, VARIABLES)
    if not os.path.exists(f"{prefix}.index"):
        raise rejection(path, f"no {VARIABLES}.index", "the variables of the model", DAMAGED)
    try:
        reader = tf.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        for name in reader.get_variable_to_shape_map():
            if types[name] == tf.string:  # the object graph, and what assets refer to
                continue
            value = reader.get_tensor(name)  # checks the stored checksum
            if types[name].is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                got = f"NaN or infinite values in the weight {name}"
                raise rejection(path, got, FINITE, DIVERGED)
    except ModelError:
        raise
    except Exception as error:
        raise rejection(path, f"damaged variables ({brief(error)})", WHOLE, DAMAGED) from error


def _serving_metadata(path: str) -> dict[str, Any]:
    name = os.path.join(path, METADATA)
    if not os.path.exists(name):
        return {}
    try:
        with open(name, "rb") as file:
            text = file.read(MAX_JSON_BYTES)
    except OSError as error:
        got = f"an unreadable {METADATA} ({error})"
        raise rejection(path, got, "a readable one", DAMAGED) from error
    return read_json(path, METADATA, text)
