"""Checks of a `.keras` file's config: it names the classes to build, and only safe ones pass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from tfgrad.loading.archive_checks import CONFIG
from tfgrad.loading.rejection import DAMAGED, rejection

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
VALUES = frozenset(
    {"__tensor__", "__keras_tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
)


def check_version(path: str, metadata: Mapping[str, Any]) -> None:
    """Check that Keras 3 wrote the file.

    Raises:
        ModelError: It was another version.
    """
    version = metadata.get("keras_version")
    if not str(version).startswith("3."):
        raise rejection(
            path,
            f"a model of Keras {version}",
            "Keras 3",
            "build the model again with Keras 3, copy the weights over and save it",
        )


def check_config(path: str, config: dict[str, Any]) -> None:
    """Check every serialised object in a config.

    Raises:
        ModelError: The config names a class or function that is neither Keras's, nor tfgrad's, nor
            registered in this process, or one that can run code or read a file.
    """
    if "class_name" not in config:
        raise rejection(path, f"a {CONFIG} without a model", "the class of the model", DAMAGED)
    for entry in objects(config):
        name, module = entry["class_name"], entry.get("module")
        if not isinstance(name, str) or not isinstance(module, str | None):
            raise rejection(
                path,
                f"a config whose class is {name!r} from {module!r}",
                "the names of a class and of its module",
                DAMAGED,
            )
        if name in _UNSAFE_CLASSES:
            raise rejection(
                path,
                f"{_UNSAFE_CLASSES[name]} and is never loaded",
                "layers without code of their own",
                "write it as a layer of its own, registered with "
                "keras.saving.register_keras_serializable, and save the model again",
            )
        inner = entry.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
            raise rejection(
                path,
                f"a {name} that reads its vocabulary from the file {inner['vocabulary']!r}",
                "a vocabulary in the config",
                "give the layer its vocabulary as a list and save the model again",
            )
        target = inner if name == "function" else entry.get("registered_name")
        registered = isinstance(target, str) and keras.saving.get_registered_object(target)
        if name in VALUES or registered:
            continue
        if module is None or module == "builtins" or _is_keras(module, name == "function"):
            continue  # a bare name is looked up in Keras, and nowhere else
        raise rejection(
            path,
            f"{module}.{name}, which belongs neither to Keras nor tfgrad",
            "classes of Keras, of tfgrad or registered in this process",
            "rebuild the model with Keras layers, or import the module that registers the class "
            "with keras.saving.register_keras_serializable before loading",
        )


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every serialised object in a config, wherever Keras might deserialise it."""
    stack = [value]
    while stack:  # no recursion: the file chooses the depth
        value = stack.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _is_keras(module: str, function: bool) -> bool:
    # `keras.models` has classes to build, and functions that load files.
    return bool(_NAMESPACE.fullmatch(module)) and not (function and ".models" in module)
