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
from tfgrad.internal.arguments import one_of
from tfgrad.loading import weight_files

IMAGENET = "imagenet"
IMAGENET_CLASSES = 1000
# Of the images of an architecture that takes any size.
SIDE = 224
WHITE = 255.0
# Every builder of keras.applications, those of MobileNetV3 included.
APPLICATIONS = tuple(
    sorted(
        name
        for name, value in vars(keras.applications).items()
        if inspect.isfunction(value) and name[0].isupper()
    )
)


# Where it is not SIDE.
_SIDES = {
    "InceptionV3": 299,
    "InceptionResNetV2": 299,
    "Xception": 299,
    "NASNetLarge": 331,
    **{f"EfficientNetB{i + 1}": side for i, side in enumerate((240, 260, 300, 380, 456, 528, 600))},
    **{f"EfficientNetV2B{i + 1}": side for i, side in enumerate((240, 260, 300))},
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
}


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


def image_size(name: str) -> tuple[int, int]:
    """(height, width) of the images that an architecture was trained on.

    Args:
        name: Name of the architecture.
    """
    side = _SIDES.get(name, SIDE)
    return side, side


def application(
    name: str,
    weights: str | os.PathLike[str] | None,
    image_size: tuple[int, int] | None,
    white: float = 255.0,
) -> keras.Model:
    """An architecture that takes pixels and returns logits.

    Args:
        name: Name of the architecture.
        weights: "imagenet", a file of weights for 1000 classes, or None for random ones.
        image_size: (height, width) of its images; None: the architecture's own.
        white: The value of a white pixel.

    Raises:
        ArgumentError: There is no such architecture, or not for images of this size.
        ModelError: The weights cannot be had or loaded.
    """
    network = built(name, weights, image_size)
    if weights is not None and weights != IMAGENET:
        weight_files.load_whole(network, os.fspath(weights))
    return on_pixels(name, network, white)


def built(
    name: str,
    weights: str | os.PathLike[str] | None,
    image_size: tuple[int, int] | None,
    **options: Any,
) -> keras.Model:
    """What the builder of `keras.applications` returns, on preprocessed images.

    Args:
        name: Name of the architecture.
        weights: "imagenet" for Keras's own weights; anything else for random ones.
        image_size: (height, width) of its images; None: the architecture's own.
        options: Options of the builder.

    Raises:
        ArgumentError: There is no such architecture, or not for images of this size.
        ModelError: The weights cannot be had.
    """
    build = builder(name)
    try:
        with warnings.catch_warnings():
            # MobileNets take images of any size, and warn that their weights are those of 224².
            warnings.filterwarnings("ignore", "`input_shape` is undefined")
            return build(
                weights=IMAGENET if weights == IMAGENET else None,
                input_shape=None if image_size is None else (*image_size, 3),
                **{"classifier_activation": None, **options},
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


def on_pixels(
    name: str, network: keras.Model, white: float, head: keras.layers.Layer | None = None
) -> keras.Model:
    """A network with the preprocessing of its architecture in front.

    Args:
        name: Name of the architecture.
        network: Network of preprocessed images.
        white: The value of a white pixel, 255 or 1.
        head: Layer that follows the network, or None.
    """
    height, width, channels = network.input_shape[1:]
    x = pixels = keras.Input((height or SIDE, width or SIDE, channels), name="pixels")
    if white != WHITE:
        x = keras.layers.Rescaling(WHITE / white, name="rescale")(x)
    x = network(Preprocess(name, name="preprocess")(x))
    return keras.Model(pixels, x if head is None else head(x), name=name)


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
