"""The one door through which models come in.

A model file is a program written by somebody else: a `.keras` file names the classes to build and
a SavedModel carries a graph that runs. So both are read as data first, and handed to Keras and
TensorFlow only when nothing in them names code from elsewhere, a file outside, or an absurd size.
Whatever is wrong, the caller sees one `ModelError` that names the path, what came, what was
expected and what to try; the exception of Keras or TensorFlow is its `__cause__`.

What this cannot do: TensorFlow's kernels run in this process, and a config may ask for an honest
but enormous layer. Files from strangers still belong into a sandbox.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import keras
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfgrad import layers, losses, penalties, training  # noqa: F401  (registers their classes)
from tfgrad.errors import ModelError

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
GRAPH, VARIABLES = "saved_model.pb", os.path.join("variables", "variables")
SERVING_METADATA = os.path.join("assets.extra", "tfgrad.json")

MAX_BYTES = 8 << 30  # all members of one file, unpacked
MAX_JSON_BYTES = 64 << 20
MAX_RATIO = 100  # Keras stores its members uncompressed; real weights hardly compress at all
MAX_MEMBERS = 10_000

# The Keras namespaces that hold parts of a model. `keras.utils`, `keras.saving`, `keras.config`
# and the rest hold functions with side effects, and no saved model refers to them.
_NAMESPACE = re.compile(
    r"keras(\.src)?(\.(activations|constraints|distillation|dtype_policies|initializers|layers"
    r"|losses|metrics|models|ops|optimizers|quantizers|random|regularizers)(\.\w+)*)?"
)
_UNSAFE_CLASSES = {
    "Lambda": "a Lambda layer, which carries Python code",
    "__lambda__": "a Python lambda, which is code",
    "__typespec__": "a type specification, which names a class to build",
    "TFSMLayer": "a TFSMLayer, which runs another SavedModel",
    "TorchModuleWrapper": "a TorchModuleWrapper, which carries a pickle",
    "JaxLayer": "a JaxLayer, which belongs to another backend",
    "FlaxLayer": "a FlaxLayer, which belongs to another backend",
}
_VALUES = frozenset(
    {"__tensor__", "__keras_tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
)

# Operations that reach outside the graph: files, Python, other processes, input pipelines.
_UNSAFE_OPS = re.compile(
    r"File(?!name|spec)|Dataset|Iterator|Reader|LMDB|PyFunc|Remote|Rpc|TPU|Nccl|Collective|Summary|ImportEvent"
    r"|RecordInput|Remap|LookupTable(Export|Import)|DistributedSave"
    r"|Xla(CallModule|CustomCall|Host|Send|Recv)|^_?(Host)?(Send|Recv)$|^_?Print|^Debug|^Write"
)
# These too, but every SavedModel saves and restores its own variables with them.
_SAVER_OPS = re.compile(r"^(Save|Restore)|^MergeV2Checkpoints$")


def load(path: str | os.PathLike[str], *, compile: bool = True) -> keras.Model:
    """Load a Keras 3 `.keras` file without running any code from it.

    Classes come from Keras, from tfgrad, or from `keras.saving.register_keras_serializable` in
    this process; nothing is imported because the file says so.

    Args:
        path: a local file whose name ends in `.keras`.
        compile: whether to restore the optimizer, loss and metrics of `compile` as well.

    Returns:
        The model, with finite weights.

    Raises:
        ModelError: if the file is missing, damaged, foreign or unsafe, or if a weight is NaN or
            infinite.
    """
    path = os.fspath(path)
    _check_backend(path)
    _check_kind(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            config = _read_json(path, CONFIG, archive.read(CONFIG))
            metadata = _read_json(path, METADATA, archive.read(METADATA))
            _check_version(path, metadata)
            _check_config(path, config if compile else {**config, "compile_config": None})
            _check_weights(path, archive.read(WEIGHTS))
    except ModelError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise _refusal(path, f"a damaged zip archive ({error})", _DAMAGED) from error
    except Exception as error:  # zlib.error, struct.error, UnicodeDecodeError, …
        raise _refusal(path, f"a damaged archive ({_brief(error)})", _DAMAGED) from error

    try:
        model = keras.saving.load_model(path, compile=compile, safe_mode=True)
    except Exception as error:
        raise _refusal(
            path,
            f"a model that Keras {keras.__version__} cannot build: {_brief(error)}",
            "the file was written by another version, or its weights belong to another model: "
            "build the model in Python and compare, or save it again",
        ) from error
    if not isinstance(model, keras.Model):
        raise _refusal(path, f"a saved {type(model).__name__}", "save a keras.Model")
    for variable in model.weights:
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            raise _refusal(path, f"NaN or infinite values in the weight {variable.path}", _DIVERGED)
    return model


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
        raise _refusal(
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
        raise _refusal(path, f"a damaged SavedModel ({_brief(error)})", _DAMAGED) from error
    return ServedModel(path, signatures, metadata, loaded)


_DAMAGED = "copy or export it again, and compare the sizes"
_DIVERGED = "its training diverged: load an earlier checkpoint, or train with a lower learning rate"
_FOREIGN = (
    "rebuild the model with Keras layers, or import the module that registers the class "
    "with keras.saving.register_keras_serializable before loading"
)


def _refusal(path: str, came: str, advice: str) -> ModelError:
    return ModelError(f"path: {path!r} cannot be loaded: found {came}. Try: {advice}.")


def _brief(error: Exception) -> str:
    """The first lines of an error: Keras appends the whole config."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'…' if len(text) > 300 else ''}"


# --- .keras files -----------------------------------------------------------------------------


def _check_backend(path: str) -> None:
    if keras.backend.backend() != "tensorflow":
        raise _refusal(
            path,
            f"Keras running on {keras.backend.backend()}, expected tensorflow",
            'set the environment variable KERAS_BACKEND to "tensorflow" before importing keras',
        )


def _check_kind(path: str) -> None:
    """Tell a missing, foreign or empty file from a `.keras` one by its first bytes."""
    if os.path.isdir(path):
        advice = "give a .keras file"
        if os.path.exists(os.path.join(path, GRAPH)) or _versions(path):
            advice = "read a SavedModel with tfgrad.loading.load_served"
        raise _refusal(path, "a directory, expected a .keras file", advice)
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise _refusal(path, "no such file", "check the path and the working directory") from error
    except (OSError, ValueError) as error:
        raise _refusal(path, f"a file that cannot be read ({error})", "check the path") from error
    if not head:
        raise _refusal(path, "an empty file", "its writing was interrupted: save the model again")
    if head == b"\x89HDF\r\n\x1a\n":
        raise _refusal(
            path,
            "an HDF5 file (weights alone, or the legacy format of Keras 2), expected a .keras file",
            "build the model in Python, call model.load_weights and save it as .keras",
        )
    if not head.startswith(b"PK"):
        raise _refusal(path, "a file that is not a zip archive", "give a file that Keras saved")
    if not path.endswith(".keras"):
        raise _refusal(path, "a name that does not end in .keras", "rename the file")


def _check_members(path: str, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    count = Counter(member.filename for member in members)
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES or len(members) > MAX_MEMBERS:
        raise _refusal(
            path,
            f"{len(members)} members of {total / 2**30:.1f} GiB unpacked, expected at most "
            f"{MAX_BYTES >> 30} GiB",
            "do not open it: no model of this size is stored in one file",
        )
    if sum(member.compress_size for member in members) > os.path.getsize(path):
        raise _refusal(path, "a zip archive whose members overlap", _DAMAGED)  # or a bomb
    for member in members:
        name = member.filename
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or ":" in name:
            raise _refusal(path, f"a member that leaves the archive, {name!r}", "do not open it")
        if count[name] > 1:
            raise _refusal(path, f"the member {name!r} twice", "save the model again")
        if member.file_size > max(1 << 20, MAX_RATIO * member.compress_size) or (
            name.endswith(".json") and member.file_size > MAX_JSON_BYTES
        ):
            raise _refusal(
                path,
                f"the member {name!r} that unpacks from {member.compress_size} to "
                f"{member.file_size} bytes",
                "do not open it: this is a decompression bomb",
            )
    for name in (CONFIG, METADATA, WEIGHTS):
        if name not in count:
            raise _refusal(
                path, f"an archive without {name}", "save the whole model with model.save"
            )


def _read_json(path: str, name: str, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"a {name} that is not JSON ({_brief(error)})", _DAMAGED) from error
    if not isinstance(value, dict):
        raise _refusal(path, f"a {name} that holds a {type(value).__name__}", _DAMAGED)
    return value


def _check_version(path: str, metadata: Mapping[str, Any]) -> None:
    version = metadata.get("keras_version")
    if not str(version).startswith("3."):
        raise _refusal(
            path,
            f"a model of Keras {version}, expected Keras 3",
            "build the model again with Keras 3, copy the weights over and save it",
        )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every serialised object in a config, wherever Keras might deserialise it."""
    stack = [value]
    while stack:  # no recursion: the nesting is the file's choice
        value = stack.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _check_config(path: str, config: dict[str, Any]) -> None:
    if "class_name" not in config:
        raise _refusal(path, f"a {CONFIG} without a model", _DAMAGED)
    for entry in _objects(config):
        name, module = entry["class_name"], entry.get("module")
        if not isinstance(name, str) or not isinstance(module, str | None):
            raise _refusal(path, f"a config whose class is {name!r} from {module!r}", _DAMAGED)
        if name in _UNSAFE_CLASSES:
            raise _refusal(
                path,
                f"{_UNSAFE_CLASSES[name]} and is never loaded",
                "write it as a layer of its own, registered with "
                "keras.saving.register_keras_serializable, and save the model again",
            )
        inner = entry.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
            raise _refusal(
                path,
                f"a {name} that reads its vocabulary from the file {inner['vocabulary']!r}",
                "give the layer its vocabulary as a list and save the model again",
            )
        target = inner if name == "function" else entry.get("registered_name")
        registered = isinstance(target, str) and keras.saving.get_registered_object(target)
        if name in _VALUES or registered:
            continue
        if module is None or module == "builtins" or _is_keras(module, name == "function"):
            continue  # a bare name is looked up in Keras, and nowhere else
        raise _refusal(
            path, f"{module}.{name}, which belongs neither to Keras nor tfgrad", _FOREIGN
        )


def _is_keras(module: str, function: bool) -> bool:
    # `keras.models` has classes to build, and functions that load files.
    return bool(_NAMESPACE.fullmatch(module)) and not (function and ".models" in module)


def _check_weights(path: str, data: bytes) -> None:
    """Refuse HDF5 that points outside itself or declares more than it holds."""
    total = 0
    seen: set[int] = set()

    def walk(group: h5py.Group) -> None:
        nonlocal total
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _refusal(
                    path, f"a link to elsewhere in {WEIGHTS}, {name!r}", "do not open it"
                )
            item = group[name]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise _refusal(path, f"data outside {WEIGHTS}, {name!r}", "do not open it")
                total += item.nbytes
            elif (address := h5py.h5o.get_info(item.id).addr) not in seen:
                seen.add(address)  # hard links can form a ring
                walk(item)

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            walk(file)
    except ModelError:
        raise
    except Exception as error:
        raise _refusal(path, f"a damaged {WEIGHTS} ({_brief(error)})", _DAMAGED) from error
    if total > max(1 << 20, MAX_RATIO * len(data)):
        raise _refusal(
            path, f"{WEIGHTS} of {len(data)} bytes declaring {total} bytes", "do not open it"
        )


# --- SavedModels ------------------------------------------------------------------------------


def _versions(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted((n for n in names if n.isascii() and n.isdigit()), key=int)


def _version_directory(path: str) -> str:
    if os.path.isfile(path):
        raise _refusal(
            path, "a file, expected a SavedModel directory", "load .keras files with loading.load"
        )
    if not os.path.isdir(path):
        raise _refusal(path, "no such directory", "check the path and the working directory")
    if os.path.exists(os.path.join(path, GRAPH)):
        return path
    if versions := _versions(path):
        return _version_directory(os.path.join(path, versions[-1]))
    raise _refusal(
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
        raise _refusal(path, f"a damaged {GRAPH} ({_brief(error)})", _DAMAGED) from error
    if not graphs:
        raise _refusal(path, f"a {GRAPH} without a graph ({len(data)} bytes)", _DAMAGED)
    if not all(g.HasField("object_graph_def") for g in graphs):
        raise _refusal(
            path, "a SavedModel of TensorFlow 1", "export the model again with TensorFlow 2"
        )
    return graphs


def _check_graph(path: str, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    for asset in meta_graph.asset_file_def:
        if os.path.isabs(asset.filename) or ".." in re.split(r"[/\\]", asset.filename):
            raise _refusal(path, f"an asset outside it, {asset.filename!r}", "do not open it")
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
                raise _refusal(
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
        raise _refusal(path, f"no {VARIABLES}.index", _DAMAGED)
    try:
        reader = tf.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        for name in reader.get_variable_to_shape_map():
            if types[name] == tf.string:  # the object graph, and what assets refer to
                continue
            value = reader.get_tensor(name)  # checks the stored checksum
            if types[name].is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                raise _refusal(path, f"NaN or infinite values in the weight {name}", _DIVERGED)
    except ModelError:
        raise
    except Exception as error:
        raise _refusal(path, f"damaged variables ({_brief(error)})", _DAMAGED) from error


def _serving_metadata(path: str) -> dict[str, Any]:
    name = os.path.join(path, SERVING_METADATA)
    if not os.path.exists(name):
        return {}
    try:
        with open(name, "rb") as file:
            text = file.read(MAX_JSON_BYTES)
    except OSError as error:
        raise _refusal(path, f"an unreadable {SERVING_METADATA} ({error})", _DAMAGED) from error
    return _read_json(path, SERVING_METADATA, text)
