"""ResNet-9, 18 and 34 for small images: basic blocks behind a 3×3 stem."""

from collections.abc import Sequence

import keras

from tfgrad.models import _blocks

_BLOCK_COUNTS = {9: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_STAGE_CHANNELS = (64, 128, 256, 512)
DEPTHS = tuple(_BLOCK_COUNTS)


def resnet(
    depth: int,
    input_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
    activation: str = "relu",
    beta: float = 10.0,
    name: str | None = None,
) -> keras.Model:
    """Build a residual network as a plain functional Keras model.

    A 3×3 stem, four stages of basic blocks with 64, 128, 256 and 512 channels, global average
    pooling and one dense layer. A basic block is conv, norm, activation, conv, norm, plus the
    shortcut, then activation (He et al., 2016). Convolutions have no bias. Stages 2 to 4 start with
    stride 2; if the shape changes, the shortcut is a 1×1 convolution with batch normalisation.
    Layers are named `stem_conv`, `stem_bn`, `stem_act`, `stage1_block1_conv1`, `…_bn1`, `…_act1`,
    `…_conv2`, `…_bn2`, `…_shortcut_conv`, `…_shortcut_bn`, `…_add`, `…_act2`, …, `global_pool`,
    `logits`. Weights are initialised He-normal.

    Args:
        depth: 9, 18 or 34.
        input_shape: (height, width, channels), any size.
        classes: Number of logits.
        width: Multiplier of the channels of every stage; the product is rounded to the nearest
            integer and is at least 4.
        activation: "relu", or "softplus" for softplus(βz)/β as in Chapter 5.
        beta: β of the softplus; unused with "relu".
        name: Name of the model, by default "resnet9", "resnet18", ….

    Returns:
        A model from images [batch, height, width, channels] to logits [batch, classes], without a
        softmax.

    Raises:
        ArgumentError: The depth or activation is unknown, the input shape is malformed, or a
            number is out of range.

    Example:
        >>> resnet(9, (8, 8, 1), classes=10, width=0.25).output_shape
        (None, 10)
    """
    _blocks.check_arguments(depth, DEPTHS, input_shape, classes, width, activation, beta)
    x = inputs = keras.Input(tuple(input_shape), name="image")
    x = _blocks.convolution(_blocks.scaled(64, width), "stem_conv", use_bias=False)(x)
    x = _blocks.normalization("stem_bn")(x)
    x = _blocks.activation_layer(activation, beta, "stem_act")(x)
    stages = zip(_STAGE_CHANNELS, _BLOCK_COUNTS[depth], strict=True)
    for stage, (channels, blocks) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            prefix = f"stage{stage}_block{block}"
            x = _basic_block(x, _blocks.scaled(channels, width), strides, prefix, activation, beta)
    return keras.Model(inputs, _blocks.head(classes)(x), name=name or f"resnet{depth}")


def _basic_block(
    x: keras.KerasTensor,
    channels: int,
    strides: int,
    prefix: str,
    activation: str,
    beta: float,
) -> keras.KerasTensor:
    shortcut = x
    x = _blocks.convolution(channels, f"{prefix}_conv1", strides=strides, use_bias=False)(x)
    x = _blocks.normalization(f"{prefix}_bn1")(x)
    x = _blocks.activation_layer(activation, beta, f"{prefix}_act1")(x)
    x = _blocks.convolution(channels, f"{prefix}_conv2", use_bias=False)(x)
    x = _blocks.normalization(f"{prefix}_bn2")(x)
    if strides > 1 or shortcut.shape[-1] != channels:
        shortcut = _blocks.convolution(
            channels, f"{prefix}_shortcut_conv", size=1, strides=strides, use_bias=False
        )(shortcut)
        shortcut = _blocks.normalization(f"{prefix}_shortcut_bn")(shortcut)
    x = keras.layers.Add(name=f"{prefix}_add")([x, shortcut])
    return _blocks.activation_layer(activation, beta, f"{prefix}_act2")(x)
