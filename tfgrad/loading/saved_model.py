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

from tfgrad.loading import saved_files, served_metadata
from tfgrad.loading.graph_checks import check_graph
from tfgrad.loading.rejection import (
    DAMAGED,
    LIMIT_BYTES,
    WHOLE,
    brief,
    limit,
    path_argument,
    rejection,
    shown,
)
from tfgrad.loading.saved_files import GRAPH

_SAVED_MODEL = "the directory of a SavedModel"
_NESTED = 8  # directories of versions in one another


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


def load_served(path: str | os.PathLike[str], *, limit_bytes: int = LIMIT_BYTES) -> ServedModel:
    """Load a SavedModel: one version's directory, or a directory of versions (the highest).

    The graph is read as data before TensorFlow runs it, and rejected if an operation in it reaches
    outside (files, Python functions, input pipelines, other processes). Saving and restoring the
    model's own variables is the one exception, and only in the functions meant for it.

    Args:
        path: `directory/<version>` or `directory`, as returned by and given to
            `tfgrad.export.save`. Only regular files are read in it.
        limit_bytes: The most bytes that its files may have, ≥ 1; the graph, which is read whole,
            may have a sixteenth of it.

    Returns:
        A `ServedModel`.

    Raises:
        ModelError: The directory is missing, damaged, foreign, unsafe or too large; or what
            `tfgrad.export.save` wrote about the model is of other types than it writes.
        ArgumentError: `limit_bytes` is no integer ≥ 1.
    """
    most = limit(limit_bytes)
    path = _version_directory(path_argument(path))
    files = saved_files.check_files(path, most)
    for meta_graph in (graphs := _read_graphs(path, most)):
        check_graph(path, meta_graph)
    if not any("serving_default" in g.signature_def for g in graphs):
        names = {name for g in graphs for name in g.signature_def} - {"__saved_model_init_op"}
        raise rejection(
            path,
            f"no signature serving_default (it has: {_listed(names)})",
            "a SavedModel with this signature",
            "write it with tfgrad.export.save",
        )
    saved_files.check_variables(path, files)
    metadata = served_metadata.read(path)
    try:
        loaded = tf.saved_model.load(path, tags=["serve"])
        signatures = dict(loaded.signatures)
    except Exception as error:
        raise rejection(path, f"a damaged SavedModel ({brief(error)})", WHOLE, DAMAGED) from error
    saved_files.check_unchanged(path, files, most)
    served_metadata.check_consistent(path, metadata, signatures)
    return ServedModel(path, signatures, metadata, loaded)


def _listed(names: set[str]) -> str:
    """Names that a file chose, in one line."""
    text = ", ".join(sorted(names)) or "none"
    return text if len(text) <= 200 and text.isprintable() else shown(text)


def _version_directory(path: str) -> str:
    try:
        for _ in range(_NESTED):
            here = not os.path.isdir(path) or os.path.exists(os.path.join(path, GRAPH))
            if here or not (numbers := versions(path)):
                break
            path = os.path.join(path, numbers[-1])
        exists, directory = os.path.exists(path), os.path.isdir(path)
    except ValueError:  # a null character in the name
        exists = directory = False
    if exists and not directory:
        advice = "load .keras files with tfgrad.loading.load"
        raise rejection(path, "a file", _SAVED_MODEL, advice)
    if not directory:
        advice = "check the path and the working directory"
        raise rejection(path, "no such directory", _SAVED_MODEL, advice)
    if os.path.lexists(os.path.join(path, GRAPH)):
        return path
    raise rejection(
        path,
        f"neither {GRAPH} nor a numbered version in the directory",
        _SAVED_MODEL,
        "write it with tfgrad.export.save, or copy it again",
    )


def _read_graphs(path: str, limit_bytes: int) -> list[meta_graph_pb2.MetaGraphDef]:
    data = saved_files.read_graph(path, limit_bytes)
    try:
        graphs = list(saved_model_pb2.SavedModel.FromString(data).meta_graphs)
    except (DecodeError, ValueError) as error:
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
