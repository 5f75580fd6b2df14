"""Trained classifiers of photographs by their names, ready to be explained or fine-tuned."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad import images
from tfgrad.errors import ArgumentError, ClassNamesWarning, ModelError
from tfgrad.internal.arguments import is_integer, suggestion
from tfgrad.loading import applications, hub_presets, new_heads
from tfgrad.loading.applications import APPLICATIONS, IMAGENET, IMAGENET_CLASSES, WHITE


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A classifier of photographs, and what is known of it.

    Attributes:
        name: Name of the architecture or preset.
        network: Keras model from pixels [batch, height, width, 3] to logits [batch, classes]; the
            preprocessing is inside.
        class_names: Names of the classes; None where they are not known.
        image_size: (height, width) of its images; None where it takes any.
        image_range: The values of black and white, (0, 255) or (0, 1).
    """

    name: str
    network: keras.Model
    class_names: tuple[str, ...] | None
    image_size: tuple[int, int] | None
    image_range: tuple[float, float] = (0.0, 255.0)

    def read(self, *paths: str | os.PathLike[str]) -> tf.Tensor:
        """Photographs as the network takes them: pixels [files, height, width, 3].

        Args:
            *paths: JPEG and PNG files, resized to `image_size`; they are read as
                `tfgrad.images.read` does.

        Raises:
            ArgumentError: There are none, or the network takes images of any size.
            DataError: A file is no image.
        """
        if not paths:
            raise ArgumentError("paths: got none; expected JPEG or PNG files; try read('cat.jpg').")
        if self.image_size is None:
            raise ArgumentError(
                f"image_size: got none for {self.name}, which takes images of any size; expected "
                "(height, width); try pretrained(name, image_size=(224, 224))."
            )
        return self.image_range[1] * tf.stack(
            [images.read(path, self.image_size) for path in paths]
        )


def pretrained(
    name: str,
    weights: str | os.PathLike[str] | None = IMAGENET,
    image_size: tuple[int, int] | None = None,
    *,
    classes: int | Sequence[str] | None = None,
    image_range: tuple[float, float] = (0.0, WHITE),
) -> Pretrained:
    """A classifier by its name in `keras.applications` or KerasHub, with its trained weights.

    The network takes pixels 0 to 255, as a photograph has them, and returns logits; its own
    preprocessing is its first layer. Keras downloads weights and class names once and keeps them in
    `~/.keras/models`, or in `models` of the directory that `KERAS_HOME` names; KerasHub has a cache
    of its own. Where there is no connection, the error names the file, its address and its place.

    With `classes` it is a start for fine-tuning: the last layers are replaced by one new dense
    layer on the averaged features, `network.layers[-1]`, with random weights. The features are
    `network.layers[-2]`; with `network.layers[-2].trainable = False` the new layer alone is
    trained. Trained features keep their batch normalisation as it is: these layers are not
    trainable, and use their moving statistics in training, too, as Keras's guide on fine-tuning
    advises. (An argument `training=False` of the features' call would not do: `fit` overrides it.)
    Those of random features are trained, with a momentum of 0.5 at most.

    Args:
        name: One of `keras.applications`, such as "EfficientNetV2B0", or a preset of KerasHub's
            image classifiers, such as "resnet_50_imagenet", "hf://…" or the directory of one.
        weights: "imagenet" for the trained ones, or a file of weights (`.weights.h5`, `.h5`,
            `.keras`) of an architecture of `keras.applications` with 1000 classes; None for Keras's
            random ones, whose biases are 0: what comes out has the right shapes and no meaning.
            With `classes`, the file may also be one without the last layers.
        image_size: (height, width); None: the network's own. Trained weights of
            `keras.applications` fit the network's own only, with `classes` any.
        classes: The names of other classes, or their number, for fine-tuning an architecture of
            `keras.applications`; None for the classes that it was trained on.
        image_range: The values of black and white that the network takes, (0, 255) or, of an
            architecture of `keras.applications`, (0, 1). The weights of penalties and the levels of
            noise mean the same as for other networks of pixels in [0, 1] only with the latter.

    Returns:
        The network with its class names; these are None where their file cannot be had, which a
        warning says, or where only their number is known.

    Warns:
        ClassNamesWarning: The file of class names cannot be had.

    Raises:
        ArgumentError: There is no such architecture or preset, or not for images of this size, with
            other classes or in this range.
        ModelError: The weights cannot be had or loaded.

    Example:

    ```python
    trained = tfgrad.loading.pretrained("EfficientNetV2B0")
    x = trained.read("cat.jpg")
    maps = tfgrad.saliency.FullGrad(trained.network)(x)

    start = tfgrad.loading.pretrained(
        "EfficientNetV2B0", classes=("cat", "dog"), image_range=(0, 1)
    )
    model = tfgrad.PenalizedModel(start.network, [tfgrad.penalties.GradientNorm(0.01)])
    ```
    """
    _check(name, image_size)
    white = _checked_white(name, image_range)
    names, count = _checked_classes(name, classes)
    if count is not None:
        network = new_heads.with_new_head(name, weights, image_size, count, white)
    elif name in APPLICATIONS:
        network = applications.application(name, weights, image_size, white)
    else:
        if weights not in (IMAGENET, None):
            raise ArgumentError(
                f"weights: got {os.fspath(weights)!r} for {name}, a preset of KerasHub; expected "
                "'imagenet' for its own, or None; try the directory of a preset as its name."
            )
        network = hub_presets.preset(name, weights is not None, image_size)
    height, width = network.input_shape[1:3]
    if count is None and weights is not None:
        names = _class_names(network)
    return Pretrained(
        name,
        network,
        names,
        None if height is None or width is None else (height, width),
        (0.0, white),
    )


def is_pretrained(name: str) -> bool:
    """Whether there is an architecture or preset of this name."""
    return name in APPLICATIONS or hub_presets.is_preset(name)


def _check(name: Any, image_size: Any) -> None:
    if not isinstance(name, str) or not is_pretrained(name):
        more = (*APPLICATIONS, *hub_presets.names())
        hub = "" if hub_presets.hub() else ", or a preset of KerasHub (pip install keras-hub)"
        raise ArgumentError(
            f"name: got {name!r}; {suggestion(name, more)}{', '.join(APPLICATIONS)}{hub}."
        )
    if image_size is not None and (
        not isinstance(image_size, tuple | list)
        or len(image_size) != 2
        or not all(is_integer(n) and n >= 1 for n in image_size)
    ):
        raise ArgumentError(
            f"image_size: got {image_size!r}; expected (height, width), integers ≥ 1."
        )


def _checked_white(name: str, image_range: Any) -> float:
    """The value of a white pixel."""
    if isinstance(image_range, tuple | list) and tuple(image_range) in ((0, WHITE), (0, 1)):
        if image_range[1] == WHITE or name in APPLICATIONS:
            return float(image_range[1])
        raise ArgumentError(
            f"image_range: got {image_range!r} for {name}, a preset of KerasHub; expected (0, 255)."
        )
    raise ArgumentError(f"image_range: got {image_range!r}; expected (0, 255) or (0, 1).")


def _checked_classes(name: str, classes: Any) -> tuple[tuple[str, ...] | None, int | None]:
    """(names, number) of the classes of a new head; None for what is not known."""
    if classes is None:
        return None, None
    if name not in APPLICATIONS:
        raise ArgumentError(
            f"classes: got {classes!r} for {name}, a preset of KerasHub; expected None; try "
            "keras_hub.models.ImageClassifier.from_preset(..., num_classes=...)."
        )
    if is_integer(classes) and classes >= 1:
        return None, int(classes)
    if isinstance(classes, list | tuple) and len({*map(str, classes)}) == len(classes) >= 2:
        return tuple(map(str, classes)), len(classes)
    raise ArgumentError(
        f"classes: got {classes!r}; expected an integer ≥ 1, or two or more different names; try "
        "('cat', 'dog')."
    )


def _class_names(network: keras.Model) -> tuple[str, ...] | None:
    if network.output_shape[-1] != IMAGENET_CLASSES:
        return None
    try:
        return applications.imagenet_classes()
    except ModelError as error:
        warnings.warn(f"{error} Until then classes have numbers.", ClassNamesWarning, stacklevel=4)
        return None
