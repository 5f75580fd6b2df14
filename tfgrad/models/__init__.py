"""The networks of the papers, as plain functional Keras models that end in logits."""

from collections.abc import Callable, Sequence

import keras

from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import one_of
from tfgrad.models.heads import one_head, two_heads
from tfgrad.models.last_activation import LogitsOf, logits
from tfgrad.models.pixel_range import image_range
from tfgrad.models.resnet_networks import DEPTHS as _RESNET_DEPTHS
from tfgrad.models.resnet_networks import resnet
from tfgrad.models.vgg_networks import DEPTHS as _VGG_DEPTHS
from tfgrad.models.vgg_networks import vgg

_BUILDERS: dict[str, tuple[Callable[..., keras.Model], int]] = {
    f"vgg{depth}": (vgg, depth) for depth in _VGG_DEPTHS
} | {f"resnet{depth}": (resnet, depth) for depth in _RESNET_DEPTHS}
NAMES = tuple(_BUILDERS)

__all__ = [
    "NAMES",
    "LogitsOf",
    "get",
    "image_range",
    "logits",
    "one_head",
    "resnet",
    "two_heads",
    "vgg",
]


def get(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
    activation: str = "relu",
    beta: float = 10.0,
    batch_norm: bool = True,
) -> keras.Model:
    """Build one of the networks in `NAMES`, for instance "vgg9" or "resnet18".

    Args:
        name: One of `NAMES`; also the name of the model.
        input_shape: (height, width, channels).
        classes: Number of logits.
        width: Multiplier of the channels.
        activation: "relu", or "softplus" for softplus(βz)/β.
        beta: β of the softplus.
        batch_norm: Whether convolutions are followed by batch normalisation; a ResNet needs it.

    Returns:
        A model from images [batch, height, width, channels] to logits [batch, classes].

    Raises:
        ArgumentError: The name is unknown, or an argument is one that `vgg` or `resnet` rejects.
    """
    one_of("name", name, NAMES)
    builder, depth = _BUILDERS[name]
    options = {"width": width, "activation": activation, "beta": beta, "name": name}
    if not batch_norm:
        if builder is not vgg:
            raise ArgumentError(
                f"batch_norm: got False; expected True for {name!r}, which does not train without "
                "batch normalisation; try a VGG."
            )
        options["batch_norm"] = False
    return builder(depth, input_shape, classes, **options)
