"""VGG-4, 6, 9 and 11: the plain convolutional networks of the papers."""

from collections.abc import Sequence

import keras

from tfgrad.errors import ArgumentError
from tfgrad.models import _blocks

# Numbers are channels of a 3×3 convolution, M is a 2×2 max-pool. VGG-4 and VGG-9: thesis §2.12.1
# (the authors' code omits the last M of VGG-9 and flattens); VGG-11: the authors' code, the text
# also calls it 13-layer; VGG-6 is not specified in any source, so its plan is our own.
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

    Blocks of 3×3 convolution (with bias), batch normalisation and activation with 2×2 max-pools
    between them, followed by global average pooling and one dense layer. The depth counts the
    convolutions and the dense layer. Layers are named `conv1`, `bn1`, `act1`, …, `pool1`, …,
    `global_pool`, `logits`. Weights are initialised He-normal.

    Args:
        depth: 4, 6, 9 or 11.
        input_shape: (height, width, channels). Both sides must be at least 8 for VGG-4 (three
            pools) and 32 for the others (five pools).
        classes: Number of logits.
        width: Multiplier of the channels of every convolution; the product is rounded to the
            nearest integer and is at least 4.
        activation: "relu", or "softplus" for softplus(βz)/β.
        beta: β of the softplus; unused with "relu".
        batch_norm: Whether each convolution is followed by batch normalisation.
        name: Name of the model, by default "vgg4", "vgg6", ….

    Returns:
        A model from images [batch, height, width, channels] to logits [batch, classes], without a
        softmax.

    Raises:
        ArgumentError: The depth or activation is unknown, the input shape is malformed or too
            small, or a number is out of range.

    Example:
        >>> vgg(4, (8, 8, 1), classes=10, width=0.25).output_shape
        (None, 10)
    """
    _blocks.check_arguments(depth, DEPTHS, input_shape, classes, width, activation, beta)
    plan = _PLANS[depth].split()
    smallest = 2 ** plan.count("M")
    if min(input_shape[:2]) < smallest:
        other = "" if depth == 4 else ", depth=4 (at least 8) or a ResNet (any size)"
        raise ArgumentError(
            f"input_shape: got {tuple(input_shape)!r}; expected height and width of at least "
            f"{smallest} for depth={depth}, which halves the image {plan.count('M')} times; try "
            f"larger images{other}."
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
