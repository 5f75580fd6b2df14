"""Checks of a `.keras` file's config: it names the classes to build, and only safe ones pass."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from tfgrad.loading.archive_checks import CONFIG
from tfgrad.loading.config_values import check_calls, check_values
from tfgrad.loading.rejection import DAMAGED, rejection, shown

# The Keras namespaces that hold parts of a model. `keras.utils`, `keras.saving`, `keras.config`
# and the rest hold functions with side effects, and no saved model refers to them.
_NAMESPACE = re.compile(
    r"keras(\.src)?(\.(activations|applications|constraints|distillation|dtype_policies"
    r"|initializers|layers|losses|metrics|models|ops|optimizers|quantizers|random|regularizers)"
    r"(\.\w+)*)?"
)
# Those of which a model refers to functions: the rest of their functions build or read objects.
_FUNCTIONS = re.compile(
    r"keras(\.src)?\.(activations|losses|metrics|ops|quantizers|random)(\.\w+)*"
)
_BUILDERS = ("deserialize", "serialize", "get")
# Where Keras looks for a function of the module "builtins".
_BUILTINS = ("activations", "losses", "metrics", "initializers", "regularizers", "constraints")
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


# What the value of an argument has to be, by the end of its name.
_EXPECTED = {
    "initializer": (keras.initializers.Initializer, "an initializer"),
    "regularizer": (keras.regularizers.Regularizer, "a regularizer"),
    "constraint": (keras.constraints.Constraint, "a constraint"),
    "activation": (keras.layers.Layer, "a function or layer"),
    "loss": (keras.losses.Loss, "a loss"),
    "optimizer": (keras.optimizers.Optimizer, "an optimizer"),
}
_CLASS = "a class or function of Keras, of tfgrad or registered in this process"


def check_version(path: str, metadata: Mapping[str, Any]) -> None:
    """Check that Keras 3 wrote the file.

    Raises:
        ModelError: It was another version.
    """
    version = metadata.get("keras_version")
    if not isinstance(version, str) or not version.startswith("3."):
        raise rejection(
            path,
            f"a model of Keras {_text(version)}",
            "Keras 3",
            "build the model again with Keras 3, copy the weights over and save it",
        )


def check_config(path: str, config: dict[str, Any]) -> None:
    """Check every serialised object in a config.

    Raises:
        ModelError: The config names a class or function that is neither Keras's, nor tfgrad's, nor
            registered in this process, or one that can run code or read a file; it names a class
            where a function is expected, or a function where a class is; or it holds values whose
            size only the file would bound.
    """
    if "class_name" not in config:
        raise rejection(path, f"a {CONFIG} without a model", "the class of the model", DAMAGED)
    for entry in objects(config):
        _check_object(path, entry)
        check_values(path, entry)
    for holder in _mappings(config):
        for key, value in holder.items():
            _check_argument(path, key, value)
    check_calls(path, config)


def _check_object(path: str, entry: dict[str, Any]) -> None:
    name, module = entry["class_name"], entry.get("module")
    registered = entry.get("registered_name")
    if not isinstance(name, str) or not all(
        isinstance(n, str | None) for n in (module, registered)
    ):
        raise rejection(
            path,
            f"a config whose class is {shown(name)} from {shown(module)}, {shown(registered)}",
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
            f"a {_text(name)} that reads its vocabulary from the file {shown(inner['vocabulary'])}",
            "a vocabulary in the config",
            "give the layer its vocabulary as a list and save the model again",
        )
    if name in VALUES:
        return
    function = name == "function"
    found = _found(entry, function)
    if found is None and not (module is None or module == "builtins" or _is_keras(module)):
        raise rejection(
            path,
            f"{_text(module)}.{_text(name)}, which belongs neither to Keras nor tfgrad",
            "classes of Keras, of tfgrad or registered in this process",
            "rebuild the model with Keras layers, or import the module that registers the class "
            "with keras.saving.register_keras_serializable before loading",
        )
    elsewhere = module not in (None, "builtins") and not _FUNCTIONS.fullmatch(str(module))
    if function and not _registered(inner) and (elsewhere or inner in _BUILDERS):
        got = f"{_text(module)}.function {shown(inner)}, which belongs into no model"
        raise rejection(path, got, _CLASS, "save the model again with Keras")
    if found is not None and isinstance(found, type) == function:
        what = ("class", "function") if function else ("function", "class")
        raise rejection(
            path,
            f"the {what[0]} {shown(inner if function else name)} where a {what[1]} is expected",
            f"a {what[1]}",
            "save the model again with Keras",
        )


def _check_argument(path: str, key: str, value: Any) -> None:
    """Check one argument in a config by its name: it tells what its value has to be."""
    role = key.rpartition("_")[2]
    if role == "activation" and isinstance(value, str) and isinstance(_registered(value), type):
        got = f"the class {shown(value)} as {shown(key)}, where a function is expected"
        raise rejection(path, got, "a function, or an object of a class", DAMAGED)
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        return
    kind, words = _EXPECTED.get(role, (None, ""))
    if kind is None or value["class_name"] == "function" or value["class_name"] in VALUES:
        return
    found = _found(value, False)
    of_keras = isinstance(found, type) and found.__module__.startswith("keras.")
    if of_keras and not issubclass(found, kind):
        got = f"the class {shown(value['class_name'])} as {shown(key)}"
        raise rejection(path, got, words, "save the model again with Keras")


def _found(entry: Mapping[str, Any], function: bool) -> Any:
    """The class or function that an entry names, as far as it can be told without importing."""
    name = entry.get("config") if function else entry["class_name"]
    target = name if function else entry.get("registered_name")
    if (registered := _registered(target)) is not None:
        return registered
    module = entry.get("module")
    if not isinstance(name, str):
        return None
    if module == "builtins" and function:
        owners = [getattr(keras, owner) for owner in _BUILTINS]
        found = [getattr(owner, name, None) for owner in owners]
        kept = [one for one in found if one is not None and not isinstance(one, type)] + found
        return next((one for one in kept if one is not None), None)
    return _attribute(module, name) if isinstance(module, str) and _is_keras(module) else None


def _attribute(module: str, name: str) -> Any:
    """`keras.layers` and `Dense` to the class; None for what is not there."""
    owner = functools.reduce(
        lambda found, part: getattr(found, part, None), module.split(".")[1:], keras
    )
    return None if owner is None else getattr(owner, name, None)


def _registered(name: Any) -> Any:
    return keras.saving.get_registered_object(name) if isinstance(name, str) else None


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a config."""
    stack = [value]
    while stack:  # no recursion: the file chooses the depth
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every serialised object in a config, wherever Keras might deserialise it."""
    return (mapping for mapping in _mappings(value) if "class_name" in mapping)


def _is_keras(module: str) -> bool:
    return bool(_NAMESPACE.fullmatch(module))


def _text(name: Any) -> str:
    plain = isinstance(name, str) and len(name) <= 120 and name.isprintable()
    return str(name) if plain or name is None else shown(name)
