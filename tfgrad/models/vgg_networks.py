"""VGG-4, 6, 9 and 11: the plain convolutional networks of the papers."""

from collections.abc import Sequence

import keras

from tfgrad.errors import ArgumentError
from tfgrad.models import _blocks

# Numbers are channels of a 3×3 convolution, M is a 2×2 max-pool. VGG-4 and VGG-9: thesis §2.12.1
# (the authors' code drops VGG-9's last M and flattens); VGG-11: the authors' code, the text also
# calls it 13-layer; VGG-6 is not spelled out anywhere, this one is ours.
_PLANS = {
    4: "64 M 128 M 512 M",
    6: "64 M 128 M 256 M 512 M 512 M",
    9: "64 M 128 M 256 256 M 512 512 M 512 512 M",
    11: "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
}
DEPTHS = tuple(_PLANS)


def vgg(
    depth: int,
    input_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
    activation: str = "relu",
    beta: float = 10.0,
    batch_norm: bool = True,
    name: str | None = None,
) -> keras.Model:
    """Build a VGG network as a plain functional Keras model.

    Blocks of 3×3 convolution (with bias), batch normalisation and activation, 2×2 max-pools
    between them, then global average pooling and one dense layer. The depth counts the
    convolutions and the dense layer. Layers are named `conv1`, `bn1`, `act1`, …, `pool1`, …,
    `global_pool`, `logits`; weights start He-normal.

    Args:
        depth: 4, 6, 9 or 11.
        input_shape: (height, width, channels). Both sides must be at least 8 for VGG-4 (three
            pools) and 32 for the others (five pools).
        classes: the number of logits.
        width: multiplies the channels of every convolution; the product is rounded to the nearest
            integer and never falls below 4.
        activation: "relu", or "softplus" for softplus(βz)/β.
        beta: β of the softplus; ignored with "relu".
        batch_norm: whether each convolution is followed by batch normalisation.
        name: the model's name, by default "vgg4", "vgg6", ….

    Returns:
        A model from images [batch, height, width, channels] to logits [batch, classes]; no softmax.

    Raises:
        ArgumentError: for an unknown depth or activation, a malformed or too small input shape,
            or a number out of range.

    Example:
        >>> vgg(4, (8, 8, 1), classes=10, width=0.25).output_shape
        (None, 10)
    """
    _blocks.check_arguments(depth, DEPTHS, input_shape, classes, width, activation, beta)
    plan = _PLANS[depth].split()
    smallest = 2 ** plan.count("M")
    if min(input_shape[:2]) < smallest:
        raise ArgumentError(
            f"input_shape={tuple(input_shape)!r} is too small for depth={depth}, which halves the "
            f"image {plan.count('M')} times: height and width must be at least {smallest}. Enlarge "
            f"the images to ({smallest}, {smallest})"
            + ("." if depth == 4 else ", or take depth=4 (at least 8) or a ResNet (any size).")
        )
    x = inputs = keras.Input(tuple(input_shape), name="image")
    convolutions = pools = 0
    for item in plan:
        if item == "M":
            pools += 1
            x = keras.layers.MaxPooling2D(name=f"pool{pools}")(x)
            continue
        convolutions += 1
        x = _blocks.convolution(_blocks.scaled(int(item), width), f"conv{convolutions}")(x)
        if batch_norm:
            x = _blocks.normalization(f"bn{convolutions}")(x)
        x = _blocks.activation_layer(activation, beta, f"act{convolutions}")(x)
    return keras.Model(inputs, _blocks.head(classes)(x), name=name or f"vgg{depth}")
