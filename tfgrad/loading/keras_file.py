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
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import keras
import tensorflow as tf

from tfgrad import (
    training,  # noqa: F401  (registers their classes)
)
from tfgrad.errors import ModelError
from tfgrad.loading.saved_model import (
    DAMAGED,
    DIVERGED,
    GRAPH,
    MAX_JSON_BYTES,
    ServedModel,
    brief,
    load_served,
    read_json,
    refusal,
    versions,
)

__all__ = ["ServedModel", "load", "load_served"]

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

MAX_BYTES = 8 << 30  # all members of one file, unpacked
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
            config = read_json(path, CONFIG, archive.read(CONFIG))
            metadata = read_json(path, METADATA, archive.read(METADATA))
            _check_version(path, metadata)
            _check_config(path, config if compile else {**config, "compile_config": None})
            _check_weights(path, archive.read(WEIGHTS))
    except ModelError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise refusal(path, f"a damaged zip archive ({error})", DAMAGED) from error
    except Exception as error:  # zlib.error, struct.error, UnicodeDecodeError, …
        raise refusal(path, f"a damaged archive ({brief(error)})", DAMAGED) from error

    try:
        model = keras.saving.load_model(path, compile=compile, safe_mode=True)
    except Exception as error:
        raise refusal(
            path,
            f"a model that Keras {keras.__version__} cannot build: {brief(error)}",
            "the file was written by another version, its classes are not imported here, or its "
            "weights belong to another model: "
            "build the model in Python and compare, or save it again",
        ) from error
    if not isinstance(model, keras.Model):
        raise refusal(path, f"a saved {type(model).__name__}", "save a keras.Model")
    for variable in model.weights:
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            raise refusal(path, f"NaN or infinite values in the weight {variable.path}", DIVERGED)
    return model


_FOREIGN = (
    "rebuild the model with Keras layers, or import the module that registers the class "
    "with keras.saving.register_keras_serializable before loading"
)


def _check_backend(path: str) -> None:
    if keras.backend.backend() != "tensorflow":
        raise refusal(
            path,
            f"Keras running on {keras.backend.backend()}, expected tensorflow",
            'set the environment variable KERAS_BACKEND to "tensorflow" before importing keras',
        )


def _check_kind(path: str) -> None:
    """Tell a missing, foreign or empty file from a `.keras` one by its first bytes."""
    if os.path.isdir(path):
        advice = "give a .keras file"
        if os.path.exists(os.path.join(path, GRAPH)) or versions(path):
            advice = "read a SavedModel with tfgrad.loading.load_served"
        raise refusal(path, "a directory, expected a .keras file", advice)
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise refusal(path, "no such file", "check the path and the working directory") from error
    except (OSError, ValueError) as error:
        raise refusal(path, f"a file that cannot be read ({error})", "check the path") from error
    if not head:
        raise refusal(path, "an empty file", "its writing was interrupted: save the model again")
    if head == b"\x89HDF\r\n\x1a\n":
        raise refusal(
            path,
            "an HDF5 file (weights alone, or the legacy format of Keras 2), expected a .keras file",
            "build the model in Python, call model.load_weights and save it as .keras",
        )
    if not head.startswith(b"PK"):
        raise refusal(path, "a file that is not a zip archive", "give a file that Keras saved")
    if not path.endswith(".keras"):
        raise refusal(path, "a name that does not end in .keras", "rename the file")


def _check_members(path: str, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    count = Counter(member.filename for member in members)
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES or len(members) > MAX_MEMBERS:
        raise refusal(
            path,
            f"{len(members)} members of {total / 2**30:.1f} GiB unpacked, expected at most "
            f"{MAX_BYTES >> 30} GiB",
            "do not open it: no model of this size is stored in one file",
        )
    if sum(member.compress_size for member in members) > os.path.getsize(path):
        raise refusal(path, "a zip archive whose members overlap", DAMAGED)  # or a bomb
    for member in members:
        name = member.filename
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or ":" in name:
            raise refusal(path, f"a member that leaves the archive, {name!r}", "do not open it")
        if count[name] > 1:
            raise refusal(path, f"the member {name!r} twice", "save the model again")
        if member.file_size > max(1 << 20, MAX_RATIO * member.compress_size) or (
            name.endswith(".json") and member.file_size > MAX_JSON_BYTES
        ):
            raise refusal(
                path,
                f"the member {name!r} that unpacks from {member.compress_size} to "
                f"{member.file_size} bytes",
                "do not open it: this is a decompression bomb",
            )
    for name in (CONFIG, METADATA, WEIGHTS):
        if name not in count:
            raise refusal(
                path, f"an archive without {name}", "save the whole model with model.save"
            )


def _check_version(path: str, metadata: Mapping[str, Any]) -> None:
    version = metadata.get("keras_version")
    if not str(version).startswith("3."):
        raise refusal(
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
        raise refusal(path, f"a {CONFIG} without a model", DAMAGED)
    for entry in _objects(config):
        name, module = entry["class_name"], entry.get("module")
        if not isinstance(name, str) or not isinstance(module, str | None):
            raise refusal(path, f"a config whose class is {name!r} from {module!r}", DAMAGED)
        if name in _UNSAFE_CLASSES:
            raise refusal(
                path,
                f"{_UNSAFE_CLASSES[name]} and is never loaded",
                "write it as a layer of its own, registered with "
                "keras.saving.register_keras_serializable, and save the model again",
            )
        inner = entry.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
            raise refusal(
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
        raise refusal(path, f"{module}.{name}, which belongs neither to Keras nor tfgrad", _FOREIGN)


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
                raise refusal(path, f"a link to elsewhere in {WEIGHTS}, {name!r}", "do not open it")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise refusal(path, f"data outside {WEIGHTS}, {name!r}", "do not open it")
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
        raise refusal(path, f"a damaged {WEIGHTS} ({brief(error)})", DAMAGED) from error
    if total > max(1 << 20, MAX_RATIO * len(data)):
        raise refusal(
            path, f"{WEIGHTS} of {len(data)} bytes declaring {total} bytes", "do not open it"
        )
