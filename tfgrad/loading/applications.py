"""The architectures of `keras.applications`, on pixels and with logits."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.model_checks import nonfinite_weight
from tfgrad.internal.arguments import one_of
from tfgrad.loading.keras_file import load

IMAGENET = "imagenet"
IMAGENET_CLASSES = 1000
# Of the images of an architecture that takes any size.
SIDE = 224
# Every builder of keras.applications, those of MobileNetV3 included.
APPLICATIONS = tuple(
    sorted(
        name
        for name, value in vars(keras.applications).items()
        if inspect.isfunction(value) and name[0].isupper()
    )
)


@keras.saving.register_keras_serializable(package="tfgrad")
class Preprocess(keras.layers.Layer):
    """The `preprocess_input` of an architecture of `keras.applications`, on pixels 0 to 255.

    Args:
        application: Name of the architecture, such as "ResNet50V2".
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ArgumentError: There is no such architecture.
    """

    def __init__(self, application: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.application = application
        self._function = sys.modules[builder(application).__module__].preprocess_input

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Pixels as the architecture takes them."""
        return self._function(x)

    def get_config(self) -> dict[str, Any]:
        """The name of the architecture, and the config of a layer."""
        return {**super().get_config(), "application": self.application}


def builder(name: str, argument: str = "name") -> Callable[..., keras.Model]:
    """The function of `keras.applications` that builds an architecture.

    Args:
        name: Name of the architecture.
        argument: Name of the argument that it came in, for the error.

    Raises:
        ArgumentError: There is no such architecture; the message names similar ones.
    """
    return getattr(keras.applications, one_of(argument, name, APPLICATIONS))


def application(
    name: str, weights: str | os.PathLike[str] | None, image_size: tuple[int, int] | None
) -> keras.Model:
    """An architecture that takes pixels 0 to 255 and returns logits.

    Args:
        name: Name of the architecture.
        weights: "imagenet", a file of weights for 1000 classes, or None for random ones.
        image_size: (height, width) of its images; None: the architecture's own.

    Raises:
        ArgumentError: There is no such architecture, or not for images of this size.
        ModelError: The weights cannot be had or loaded.
    """
    build = builder(name)
    asked = None if weights is None or weights == IMAGENET else os.fspath(weights)
    try:
        with warnings.catch_warnings():
            # MobileNetV3 takes images of any size, and warns that its weights are those of 224².
            warnings.filterwarnings("ignore", "`input_shape` is undefined")
            network = build(
                weights=IMAGENET if weights == IMAGENET else None,
                classifier_activation=None,
                input_shape=None if image_size is None else (*image_size, 3),
            )
    except Exception as error:
        missing = unfetched(error, "weights", f"the weights of {name}")
        if missing is not None:
            raise missing from error
        reason = " ".join(str(error).split())[:300]
        if image_size is None:
            raise ModelError(
                f"weights: those that Keras keeps for {name} cannot be loaded ({reason}); expected "
                "the file as it was downloaded; try to remove it from ~/.keras/models, or from "
                "models in KERAS_HOME."
            ) from error
        raise ArgumentError(
            f"image_size: got {image_size}, which {name} rejects ({reason}); expected a size that "
            "it takes; try None."
        ) from error
    if asked is not None:
        _load_weights(network, asked)
    height, width, channels = network.input_shape[1:]
    pixels = keras.Input((height or SIDE, width or SIDE, channels), name="pixels")
    scaled = Preprocess(name, name="preprocess")(pixels)
    return keras.Model(pixels, network(scaled), name=name)


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, from the file that Keras downloads once.

    Raises:
        ModelError: The file cannot be had.
    """
    try:
        decoded = keras.applications.imagenet_utils.decode_predictions(
            np.eye(IMAGENET_CLASSES, dtype="float32"), top=1
        )
    except Exception as error:
        missing = unfetched(error, "class_names", "the names of ImageNet's classes")
        if missing is None:
            raise
        raise missing from error
    return tuple(name.replace("_", " ") for ((_, name, _),) in decoded)


def unfetched(error: Exception, argument: str, what: str) -> ModelError | None:
    """The error of a download by `keras.utils.get_file` that failed, or None for other errors.

    The arguments of `get_file`, which tell where Keras looks for the file, are those of its frame.

    Args:
        error: What building a model raised.
        argument: Name of the argument that asks for the file.
        what: What was to be downloaded.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name != "get_file":
            continue
        given = frame.f_locals
        home = os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras"))
        looked_for = given.get("download_target") or os.path.join(
            given.get("cache_dir") or home, given.get("cache_subdir", ""), str(given.get("fname"))
        )
        origin = str(given.get("origin"))
        reason = " ".join(str(error).split()).replace(f"URL fetch failure on {origin}: ", "")
        return ModelError(
            f"{argument}: {what} cannot be downloaded ({reason}); expected a connection, or "
            f"the file {looked_for}; try to download {origin} on another machine and "
            "copy it there. KERAS_HOME names another directory than ~/.keras."
        )
    return None


def _load_weights(network: keras.Model, path: str) -> None:
    advice = f"expected a file of weights of this architecture with {IMAGENET_CLASSES} classes"
    if not os.path.isfile(path) or not path.endswith((".h5", ".keras")):
        exists = "" if os.path.isfile(path) else ", which does not exist"
        raise ModelError(
            f"weights: got {path!r}{exists}; expected a .weights.h5, .h5 or .keras file; try "
            f"{IMAGENET!r} for Keras's own."
        )
    try:
        if path.endswith(".keras"):
            network.set_weights(load(path, compile=False).get_weights())
        else:
            network.load_weights(path)
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"weights: {path!r} does not fit ({reason}); {advice}.") from error
    if nonfinite_weight(network.weights) is not None:
        raise ModelError(f"weights: {path!r} holds NaN or infinite values; {advice}.")
