"""Checks of a legacy HDF5 model file (`.h5`, of Keras 2 or 3), before Keras opens it.

The config stands in the attribute `model_config`. Classes have names without modules there, and
Keras looks them up among everything that its namespaces hold, functions included; only names of
classes that belong into a model pass.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import h5py
import keras

from tfgrad.errors import ModelError
from tfgrad.internal import keras_private
from tfgrad.loading.config_checks import VALUES, check_config, objects
from tfgrad.loading.h5_checks import Held, check_groups
from tfgrad.loading.rejection import DAMAGED, WHOLE, brief, read_json, rejection, shown

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".h5", ".hdf5")
_CONFIG, _TRAINING, _WEIGHTS = "model_config", "training_config", "model_weights"
_KINDS = (
    (keras.layers, keras.layers.Layer),
    (keras.models, keras.Model),
    (keras.initializers, keras.initializers.Initializer),
    (keras.regularizers, keras.regularizers.Regularizer),
    (keras.constraints, keras.constraints.Constraint),
    (keras.losses, keras.losses.Loss),
    (keras.metrics, keras.metrics.Metric),
    (keras.optimizers, keras.optimizers.Optimizer),
    (keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule),
    (keras.dtype_policies, keras.dtype_policies.DTypePolicy),
    (keras.quantizers, keras.quantizers.Quantizer),
    (keras.quantizers, keras.quantizers.QuantizationConfig),
)
# Keras 2's name of a functional model, and names that no namespace exports.
_OTHERS = {"Functional", "Policy", "function"}


def check_h5(path: str, file: h5py.File, size: int, compile: bool) -> tuple[Held, Any]:
    """Check everything in a legacy HDF5 file that Keras would read.

    Args:
        path: The file's path, for the error.
        file: The open file.
        size: Its size in bytes.
        compile: Whether the optimizer, loss and metrics will be restored, too.

    Returns:
        (what its arrays hold, the arguments of `compile` that it holds).

    Raises:
        ModelError: The file is damaged, holds weights alone, points outside itself, names a class
            that is neither Keras's, nor tfgrad's, nor registered in this process, or one that can
            run code or read a file.
    """
    try:
        held = check_groups(path, file, os.path.basename(path), size)
        config, training = (_json(path, file, name) for name in (_CONFIG, _TRAINING))
        if config is None or _WEIGHTS not in file:
            raise rejection(
                path,
                "an HDF5 file of weights alone",
                "a whole model, as model.save writes it",
                "build the model in Python, call model.load_weights and save it as .keras",
            )
        if "class_name" not in config:
            got = f"the attribute {_CONFIG} without a model"
            raise rejection(path, got, "the class of the model", DAMAGED)
        whole = {**config, "compile_config": training if compile else None}
        check_config(path, whole)
        for entry in objects(whole):
            _check_name(path, entry)
    except ModelError:
        raise
    except Exception as error:
        raise damaged(path, error) from error
    return held, training


def check_order(path: str, file: h5py.File, model: keras.Model) -> None:
    """Check that the layers stand in the file in the model's order, by which Keras loads them.

    Raises:
        ModelError: They have the same names in another order.
    """
    group = file[_WEIGHTS]
    stored = [
        name
        for name in keras_private.h5_names(group, "layer_names")
        if keras_private.h5_names(group[name], "weight_names")
    ]
    own = [layer.name for layer in getattr(model, "layers", ()) if layer.weights]
    if stored != own and sorted(stored) == sorted(own):
        first = next(pair for pair in zip(stored, own, strict=True) if pair[0] != pair[1])
        raise rejection(
            path,
            f"the weights of {shown(first[0])} in the place of those of {shown(first[1])}",
            "layer_names in the order of the model's layers",
            "build the model in Python, load each layer's weights by its name and save it as "
            ".keras",
        )


def damaged(path: str, error: Exception) -> ModelError:
    """The error that rejects a file which the HDF5 library cannot read."""
    return rejection(path, f"a damaged HDF5 file ({brief(error)})", WHOLE, DAMAGED)


def _check_name(path: str, entry: Mapping[str, Any]) -> None:
    # The module is not looked at, as Keras does not look at it either in such a file.
    name, registered = entry["class_name"], entry.get("registered_name")
    if name in VALUES or any(map(keras.saving.get_registered_object, (name, registered))):
        return
    if name in _OTHERS or any(
        isinstance(found := getattr(namespace, name, None), type) and issubclass(found, base)
        for namespace, base in _KINDS
    ):
        return
    raise rejection(
        path,
        f"the class {shown(name)}, which is no layer or other part of a model in Keras 3",
        "classes of Keras, or registered in this process",
        "import the module that registers it with keras.saving.register_keras_serializable, or "
        "build the model in Python, call model.load_weights and save it as .keras",
    )


def _json(path: str, file: h5py.File, name: str) -> dict[str, Any] | None:
    """The JSON object of an attribute of the file; None if there is no such attribute."""
    if name not in file.attrs:
        return None
    text = file.attrs[name]
    return read_json(path, name, text if isinstance(text, bytes) else str(text).encode())
