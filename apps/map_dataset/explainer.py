"""The signatures of a served model on batches of images: maps, scores, classes, completeness."""

import contextlib
import dataclasses
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad import loading
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.evaluation.map_tests import map_records

from . import storage
from .image_sources import Size

PREDICTED, LABEL = "predicted", "label"
_OWN = (map_records.MAPS, "score", "class")
_INPUTS = {"image", "target"}


@dataclasses.dataclass(frozen=True)
class Model:
    """Which model is run, and how; an object of its class is passed to workers.

    Attributes:
        path: Directory of a SavedModel, or of its versions.
        methods: Names of signatures.
        size: (height, width) of the images; None for that of the model.
        image_range: Values of black and white in its images; None for those of its metadata.
        threads: Threads of TensorFlow in a process; 0 for TensorFlow's own choice.
    """

    path: str
    methods: tuple[str, ...]
    size: Size | None = None
    image_range: tuple[float, float] | None = None
    threads: int = 0


class Explainer:
    """A served model in this process.

    Args:
        model: Which one.

    Attributes:
        shape: (height, width, channels) of its images.
        image_range: Values of black and white in its images.
        metadata: What `tfgrad.export.save` wrote about it.

    Raises:
        ModelError: The model cannot be loaded, or takes no images.
        ArgumentError: A method, the size or the range does not fit it.
    """

    def __init__(self, model: Model) -> None:
        with storage.local_copy(model.path) as path:
            served = loading.load_served(path)
            self._version = os.path.relpath(served.path, path)
        self._path = model.path
        self._served = served  # its signatures hold the variables weakly
        self.metadata = served.metadata
        self._functions = {name: _function(served, name) for name in model.methods}
        self.shape = _shape(model, next(iter(self._functions.values())))
        self.image_range = _range(model, served.metadata)

    def explain(self, images: np.ndarray, targets: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """{method: {column: array [B, …]}} of a batch.

        Args:
            images: float32 [B, H, W, C], in `image_range`.
            targets: int32 [B], classes; −1 for the predicted one.

        Raises:
            tf.errors.OpError: The graph rejects an image or a class.
        """
        x, y = tf.constant(images), tf.constant(targets, tf.int32)
        found = {}
        for name, function in self._functions.items():
            outputs = function(image=x, target=y)
            columns = {key: outputs[key] for key in _columns(function)}
            found[name] = {key: value.numpy() for key, value in columns.items()}
        return found

    def digest(self) -> str:
        """A short name of its graph and variables, whose files are read once more."""
        found = hashlib.sha256()
        version = os.path.normpath(self._version)
        with storage.local_copy(self._path) as path:
            directory = storage.join(path, version)
            for name in storage.walk(directory):
                if name == "saved_model.pb" or name.startswith("variables" + os.sep):
                    found.update(name.encode())
                    with storage.opened(storage.join(directory, name)) as file:
                        while block := file.read(1 << 20):
                            found.update(block)
        return found.hexdigest()[:16]

    def schemas(self) -> dict[str, dict[str, Any]]:
        """{method: {column: (type, shape of one image's entry)}}, by a run on one image of noise.

        Raises:
            ModelError: The run fails.
        """
        noise = np.random.default_rng(0).uniform(*self.image_range, size=(1, *self.shape))
        try:
            found = self.explain(noise.astype("float32"), np.zeros(1, "int32"))
        except tf.errors.OpError as error:
            raise ModelError(
                f"model: got one that fails on an image of noise {self.shape} ({error.message}); "
                "expected maps. Export it again with tfgrad.export.save."
            ) from error
        return {
            name: {key: (value.dtype.name, value.shape[1:]) for key, value in columns.items()}
            for name, columns in found.items()
        }


def _function(served: loading.ServedModel, name: str) -> Any:
    """The signature of a method."""
    able = [key for key, function in served.signatures.items() if _explains(function)]
    if name not in able:
        raise ArgumentError(
            f"methods: got {name!r} for {served.path!r}; expected signatures from image and target "
            f"to saliency, score and class, which are {', '.join(sorted(able)) or 'none'}. Export "
            f"the model with methods=[{name!r}]."
        )
    return served.signatures[name]


def _explains(function: Any) -> bool:
    inputs, outputs = set(function.structured_input_signature[1]), function.structured_outputs
    return inputs == _INPUTS and isinstance(outputs, Mapping) and set(_OWN) <= set(outputs)


def _columns(function: Any) -> list[str]:
    """The outputs that are kept: a map, and numbers of which every image has one."""
    outputs = function.structured_outputs
    return [*_OWN, *(key for key in sorted(outputs) if key not in _OWN and _is_flat(outputs[key]))]


def _is_flat(output: Any) -> bool:
    return output.shape.rank == 1 and output.dtype == tf.float32


def _shape(model: Model, function: Any) -> tuple[int, int, int]:
    """(height, width, channels) of the images."""
    shape = function.structured_input_signature[1]["image"].shape.as_list()
    if len(shape) != 4 or shape[-1] not in (1, 3):
        raise ModelError(
            f"model: got {model.path!r}, which takes {shape}; expected images [None, height, "
            "width, channels] with 1 or 3 channels."
        )
    height, width = model.size or shape[1:3]
    if None in (height, width):
        raise ArgumentError(
            "image_size: got none for a model that takes images of any size; expected "
            "HEIGHT,WIDTH, to which they are resized; try --image_size=224,224."
        )
    if any(own not in (None, n) for own, n in zip(shape[1:3], (height, width), strict=True)):
        raise ArgumentError(
            f"image_size: got {(height, width)}; expected {tuple(shape[1:3])}, which the model "
            "takes; try without it."
        )
    return int(height), int(width), shape[-1]


def _range(model: Model, metadata: Mapping[str, Any]) -> tuple[float, float]:
    """The values of black and white."""
    known, given = metadata.get("image_range"), model.image_range
    if known is None and given is None:
        raise ArgumentError(
            f"image_range: got none for {model.path!r}, which does not tell the range of its "
            "pixels; expected LOW,HIGH; try --image_range=0,1."
        )
    if known is not None and given is not None and tuple(known) != tuple(given):
        raise ArgumentError(
            f"image_range: got {tuple(given)}; expected {tuple(known)}, which the model was "
            "exported with; try without it."
        )
    low, high = known or given or (0.0, 1.0)
    return float(low), float(high)


_lock = threading.Lock()
_loaded: dict[Model, Explainer] = {}


def in_process(model: Model) -> Explainer:
    """The model of this process, loaded once however many threads ask for it."""
    with _lock:
        if model not in _loaded:
            if model.threads:
                with contextlib.suppress(RuntimeError):  # TensorFlow has started
                    tf.config.threading.set_intra_op_parallelism_threads(model.threads)
                    tf.config.threading.set_inter_op_parallelism_threads(1)
            _loaded.clear()
            _loaded[model] = Explainer(model)
        return _loaded[model]


def targets_of(target: str | int, labels: Sequence[int]) -> np.ndarray:
    """The classes that are explained, int32 [B]."""
    if target == LABEL:
        return np.asarray(labels, np.int32)
    return np.full(len(labels), -1 if target == PREDICTED else int(target), np.int32)
