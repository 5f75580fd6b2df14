"""The SavedModel half of the loading room, and what both halves say of a file at fault.

The graph is read as data, operation by operation and function by function, before TensorFlow runs
any of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfgrad.errors import ModelError

GRAPH, VARIABLES = "saved_model.pb", os.path.join("variables", "variables")
SERVING_METADATA = os.path.join("assets.extra", "tfgrad.json")

MAX_JSON_BYTES = 64 << 20

DAMAGED = "copy or export it again, and compare the sizes"
DIVERGED = "its training diverged: load an earlier checkpoint, or train with a lower learning rate"

# Operations that reach outside the graph: files, Python, other processes, input pipelines.
_UNSAFE_OPS = re.compile(
    r"File(?!name|spec)|Dataset|Iterator|Reader|LMDB|PyFunc|Remote|Rpc|TPU|Nccl|Collective|Summary|ImportEvent"
    r"|RecordInput|Remap|LookupTable(Export|Import)|DistributedSave"
    r"|Xla(CallModule|CustomCall|Host|Send|Recv)|^_?(Host)?(Send|Recv)$|^_?Print|^Debug|^Write"
    # These read a file that an attribute names, or end the process.
    r"|^ImmutableConst$|UnigramCandidateSampler|^(Decode|Encode)Proto|^Skipgram$|^Abort$"
)
# These too, but every SavedModel saves and restores its own variables with them.
_SAVER_OPS = re.compile(r"^(Save|Restore)|^MergeV2Checkpoints$")


def refusal(path: str, came: str, advice: str) -> ModelError:
    """The one form of every error of this room."""
    return ModelError(f"path: {path!r} cannot be loaded: found {came}. Try: {advice}.")


def brief(error: Exception) -> str:
    """The first lines of an error: Keras appends the whole config."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'…' if len(text) > 300 else ''}"


def read_json(path: str, name: str, text: bytes) -> dict[str, Any]:
    """A JSON object, or a refusal that names the file it should have been in."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refusal(path, f"a {name} that is not JSON ({brief(error)})", DAMAGED) from error
    if not isinstance(value, dict):
        raise refusal(path, f"a {name} that holds a {type(value).__name__}", DAMAGED)
    return value


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
        path: the version's directory.
        signatures: name to function; a function takes tensors by keyword and returns a dict.
        metadata: what `tfgrad.export.save` wrote about the model (name, classes, input shape,
            versions), or an empty dict for a SavedModel from elsewhere.
    """

    path: str
    signatures: Mapping[str, Any]
    metadata: Mapping[str, Any]
    # The signatures hold their variables weakly: without this reference they would die.
    _owner: Any = field(repr=False, compare=False)


def load_served(path: str | os.PathLike[str]) -> ServedModel:
    """Load a SavedModel: one version's directory, or a directory of versions (the highest).

    The graph is read as data before TensorFlow sees it, and refused if an operation in it reaches
    outside (files, Python functions, input pipelines, other processes). Saving and restoring the
    model's own variables is the one exception, and only in the functions meant for it.

    Args:
        path: `directory/<version>` or `directory`, as returned by and given to
            `tfgrad.export.save`.

    Returns:
        A `ServedModel`.

    Raises:
        ModelError: if the directory is missing, damaged, foreign or unsafe.
    """
    path = _version_directory(os.fspath(path))
    for meta_graph in (graphs := _read_graphs(path)):
        _check_graph(path, meta_graph)
    if not any("serving_default" in g.signature_def for g in graphs):
        names = sorted(
            {name for g in graphs for name in g.signature_def} - {"__saved_model_init_op"}
        )
        raise refusal(
            path,
            f"no signature serving_default (it has: {', '.join(names) or 'none'})",
            "write it with tfgrad.export.save",
        )
    _check_variables(path)
    metadata = _serving_metadata(path)
    try:
        loaded = tf.saved_model.load(path, tags=["serve"])
        signatures = dict(loaded.signatures)
    except Exception as error:
        raise refusal(path, f"a damaged SavedModel ({brief(error)})", DAMAGED) from error
    return ServedModel(path, signatures, metadata, loaded)


def _version_directory(path: str) -> str:
    if os.path.isfile(path):
        raise refusal(
            path, "a file, expected a SavedModel directory", "load .keras files with loading.load"
        )
    if not os.path.isdir(path):
        raise refusal(path, "no such directory", "check the path and the working directory")
    if os.path.exists(os.path.join(path, GRAPH)):
        return path
    if numbers := versions(path):
        return _version_directory(os.path.join(path, numbers[-1]))
    raise refusal(
        path,
        f"neither {GRAPH} nor a numbered version in the directory",
        "write it with tfgrad.export.save, or copy it again",
    )


def _read_graphs(path: str) -> list[meta_graph_pb2.MetaGraphDef]:
    name = os.path.join(path, GRAPH)
    try:
        with open(name, "rb") as file:
            data = file.read()
        graphs = list(saved_model_pb2.SavedModel.FromString(data).meta_graphs)
    except (OSError, DecodeError, ValueError) as error:
        raise refusal(path, f"a damaged {GRAPH} ({brief(error)})", DAMAGED) from error
    if not graphs:
        raise refusal(path, f"a {GRAPH} without a graph ({len(data)} bytes)", DAMAGED)
    if not all(g.HasField("object_graph_def") for g in graphs):
        raise refusal(
            path, "a SavedModel of TensorFlow 1", "export the model again with TensorFlow 2"
        )
    return graphs


def _check_graph(path: str, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    for asset in meta_graph.asset_file_def:
        if os.path.isabs(asset.filename) or ".." in re.split(r"[/\\]", asset.filename):
            raise refusal(path, f"an asset outside it, {asset.filename!r}", "do not open it")
    graph = meta_graph.graph_def
    functions = {f.signature.name: list(f.node_def) for f in graph.library.function}
    calls = {name: _called(nodes) & set(functions) for name, nodes in functions.items()}

    # The saver's functions start at two nodes of the main graph; whatever else calls a function
    # with SaveV2 in it (a signature, say) would write files on request.
    saver = {
        tensor.split(":")[0]
        for tensor in (meta_graph.saver_def.save_tensor_name, meta_graph.saver_def.restore_op_name)
    }
    main = [node for node in graph.node if node.name not in saver]
    own = [node for node in graph.node if node.name in saver]
    roots = _called(main) | set(meta_graph.object_graph_def.concrete_functions)
    open_functions = _reach(roots & set(functions), calls)
    hidden = set(functions) - open_functions
    saving = _reach(_called(own) & hidden, calls) & hidden

    for nodes, may_save in [(main, False), (own, True)] + [
        (nodes, name in saving) for name, nodes in functions.items()
    ]:
        for node in nodes:
            unsafe = _UNSAFE_OPS.search(node.op) or (not may_save and _SAVER_OPS.search(node.op))
            if unsafe and node.op not in functions:
                raise refusal(
                    path,
                    f"the operation {node.op} ({node.name!r}), which reaches outside the model",
                    "export the model without it; tfgrad.export.save never writes such operations",
                )


def _called(nodes: list[graph_pb2.NodeDef] | Any) -> set[str]:
    """Names of functions that nodes may call: as their operation or through an attribute."""
    names = set()
    for node in nodes:
        names.add(node.op)
        for value in node.attr.values():
            names.add(value.func.name)
            names.update(f.name for f in value.list.func)
    return names


def _reach(roots: set[str], calls: Mapping[str, set[str]]) -> set[str]:
    found, stack = set(roots), list(roots)
    while stack:
        new = calls[stack.pop()] - found
        found |= new
        stack.extend(new)
    return found


def _check_variables(path: str) -> None:
    prefix = os.path.join(path, VARIABLES)
    if not os.path.exists(f"{prefix}.index"):
        raise refusal(path, f"no {VARIABLES}.index", DAMAGED)
    try:
        reader = tf.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        for name in reader.get_variable_to_shape_map():
            if types[name] == tf.string:  # the object graph, and what assets refer to
                continue
            value = reader.get_tensor(name)  # checks the stored checksum
            if types[name].is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                raise refusal(path, f"NaN or infinite values in the weight {name}", DIVERGED)
    except ModelError:
        raise
    except Exception as error:
        raise refusal(path, f"damaged variables ({brief(error)})", DAMAGED) from error


def _serving_metadata(path: str) -> dict[str, Any]:
    name = os.path.join(path, SERVING_METADATA)
    if not os.path.exists(name):
        return {}
    try:
        with open(name, "rb") as file:
            text = file.read(MAX_JSON_BYTES)
    except OSError as error:
        raise refusal(path, f"an unreadable {SERVING_METADATA} ({error})", DAMAGED) from error
    return read_json(path, SERVING_METADATA, text)
