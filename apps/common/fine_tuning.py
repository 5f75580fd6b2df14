"""Networks of keras.applications with a new last layer, as the flags of train name them."""

import collections
from collections.abc import Sequence

import keras
from absl import flags

from tfgrad import data, loading, penalties, second_order
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.internal.keras_private import flatten_layers
from tfgrad.loading import applications
from tfgrad.loading.applications import APPLICATIONS

from . import shared_flags

FLAGS = flags.FLAGS
IMAGENET, RANDOM = "imagenet", "random"
# What describes the small networks, which are built here.
_OF_SMALL = ("width", "activation", "beta", "batch_norm")
_RELU = ("relu", "relu6", "ReLU")


def define_flags() -> None:
    """Define where a network of keras.applications starts."""
    flags.DEFINE_string(
        "weights",
        None,
        "First weights of a network of keras.applications: imagenet (downloaded once), random (to "
        "try it out; few images teach it little), or a file (.weights.h5, .h5, .keras); default: "
        "imagenet.",
    )
    flags.DEFINE_bool(
        "frozen", False, "Train only the new last layer of a network of keras.applications."
    )


def is_chosen() -> bool:
    """Whether --network is one of keras.applications."""
    return FLAGS.network in APPLICATIONS


def check_flags() -> None:
    """Check that the flags belong to the network.

    Raises:
        ArgumentError: One of them does not.
    """
    if not is_chosen():
        for name in ("weights", "frozen"):
            if getattr(FLAGS, name):
                raise ArgumentError(
                    f"--{name}: got with --network={FLAGS.network}, which is trained from scratch; "
                    "expected only with a network of keras.applications; try MobileNetV2."
                )
        return
    for name in _OF_SMALL:
        if FLAGS[name].present:
            raise ArgumentError(
                f"--{name}: got with --network={FLAGS.network}, which has its own; expected only "
                "with a vgg or resnet."
            )
    if FLAGS.normalize:
        raise ArgumentError(
            f"--normalize: got with --network={FLAGS.network}, which scales pixels by itself; "
            "expected none."
        )


def image_size() -> shared_flags.Size:
    """(height, width) that --network was trained on."""
    return applications.image_size(FLAGS.network)


def network(train: data.Dataset) -> keras.Model:
    """The network on pixels in [0, 1], with a last layer for the classes of a data set.

    Raises:
        DataError: Its images are not coloured.
        ModelError: The weights cannot be had.
    """
    name, height_width = FLAGS.network, train.image_shape[:2]
    if train.image_shape[-1] != 3:
        raise DataError(
            f"--dataset: got {train.name!r} of images with {train.image_shape[-1]} channel(s) for "
            f"--network={name}; expected 3; try a vgg or resnet."
        )
    given = FLAGS.weights or IMAGENET
    weights = None if given == RANDOM else given
    try:
        found = loading.pretrained(
            name, weights, height_width, classes=train.classes, image_range=(0, 1)
        )
    except ModelError as error:
        if given != IMAGENET:
            raise
        raise ModelError(
            f"{error} Without a connection, --weights=random starts from random weights, and "
            "--weights=FILE from those of a file."
        ) from error
    made = found.network
    features = made.layers[-2]
    kept = "" if weights is None else ", whose batch normalisation is not trained"
    if FLAGS.frozen:
        features.trainable, kept = False, ", which is not trained"
    print(f"{name} with {given} weights{kept}; a new layer for {len(train.classes)} classes")
    return made


def made_safe(
    network: keras.Model, chosen: Sequence[penalties.Penalty], jit_compile: bool
) -> keras.Model:
    """The network, with correct second derivatives where penalties need them.

    Raises:
        ArgumentError: A penalty needs a smooth network.
    """
    if not chosen:
        return network
    smooth = (penalties.ScoreMatching, penalties.AntiScoreMatching)
    if any(isinstance(one, smooth) for one in chosen) and _has_relu(network):
        raise ArgumentError(
            f"--network: got {network.name} with score matching; expected one without ReLU, whose "
            "Hessian is zero wherever it exists; try --network=EfficientNetV2B0."
        )
    report = second_order.make_safe(network, xla=jit_compile)
    if report.changed:
        kinds = collections.Counter(one.layer_class for one in report.changed)
        print(
            f"{network.name}: the penalties need second derivatives, which "
            "tfgrad.second_order.make_safe corrected in layers of "
            f"{', '.join(f'{kind} ({count})' for kind, count in sorted(kinds.items()))}"
        )
    return network


def _has_relu(network: keras.Model) -> bool:
    for layer in flatten_layers(network):
        activation = getattr(layer, "activation", None)
        if type(layer).__name__ in _RELU or getattr(activation, "__name__", None) in _RELU:
            return True
    return False
