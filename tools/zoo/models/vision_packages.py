"""Packages with one family of image models each: ports of transformers, segmenters, detectors."""

from __future__ import annotations

import keras

from ..entries import NOT_BUILT, STEPS, WITHOUT_CAM, model
from ..heads import CLASSES, classifier

SIDE = 32
SHAPE = (SIDE, SIDE, 3)


@model("tfswin Swin", "tfswin", refused=NOT_BUILT, remark="windows counted in int32")
def _tfswin() -> keras.Model:
    from tfswin.model import SwinTransformer

    return SwinTransformer(
        pretrain_size=SIDE,
        window_size=4,
        embed_dim=8,
        depths=(1, 1),
        num_heads=(1, 2),
        path_drop=0.0,
        weights=None,
        input_shape=SHAPE,
        classes=CLASSES,
        classifier_activation="linear",
        include_preprocessing=False,
    )


@model(
    "tfvit ViT",
    "tfvit",
    bounds={"float64": 1e-5},
    remark="with registers, layer scale and SwiGLU; its logits are of float32",
)
def _tfvit() -> keras.Model:
    from tfvit.model import ViT

    return ViT(
        patch_size=8,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        num_reg=2,
        use_ls=True,
        use_swiglu=True,
        img_size=SIDE,
        input_shape=SHAPE,
        weights=None,
        classes=CLASSES,
        classifier_activation="linear",
        input_dtype=keras.config.floatx(),
    )


@model(
    "vit-keras ViT",
    "vit-keras",
    bounds={"difference": 1e-4},
    remark="class token and positions of float32, whose rounding differences see",
)
def _vit_keras() -> keras.Model:
    from vit_keras import vit

    return vit.build_model(
        image_size=SIDE,
        patch_size=8,
        num_layers=2,
        hidden_size=16,
        num_heads=2,
        name="vit",
        mlp_dim=32,
        classes=CLASSES,
        dropout=0.0,
        activation="linear",
    )


@model("keras-vision MobileViT", "keras-vision")
def _mobilevit() -> keras.Model:
    from keras_vision.MobileViT_v1 import build_MobileViT_v1

    return build_MobileViT_v1(
        "XXS",
        num_classes=CLASSES,
        classifier_head_activation="linear",
        input_shape=(64, 64, 3),
        linear_drop=0.0,
    )


@model(
    "kyolo YOLOv8",
    "kyolo",
    maps=WITHOUT_CAM,
    bounds={"float32": 1e-4},
    remark="detector; terms cancel: condition 2,000",
)
def _yolo() -> keras.Model:
    from kyolo.models import yolov8n

    return classifier((64, 64, 3), yolov8n(nc=2, input_shape=(64, 64, 3)))


@model("segmodels U-Net", "segmodels-keras", remark="segmenter")
def _segmodels_unet() -> keras.Model:
    import segmodels_keras

    network = segmodels_keras.Unet(
        "resnet18",
        input_shape=(64, 64, 3),
        classes=4,
        activation="linear",
        encoder_weights=None,
        decoder_filters=(16, 16, 8, 8, 8),
    )
    return classifier((64, 64, 3), network)


@model(
    "segmodels FPN",
    "segmodels-keras",
    bounds={"float64": 1e-6},
    remark="segmenter; resizes in float32",
)
def _segmodels_fpn() -> keras.Model:
    import segmodels_keras

    network = segmodels_keras.FPN(
        "mobilenetv2",
        input_shape=(64, 64, 3),
        classes=4,
        activation="linear",
        encoder_weights=None,
        pyramid_block_filters=16,
        pyramid_dropout=None,
    )
    return classifier((64, 64, 3), network)


@model("hexagdly network", "keras-hexagdly", remark="hexagonal convolutions")
def _hexagonal() -> keras.Model:
    from keras_hexagdly import AvgPool2d, Conv2d, MaxPool2d

    layers = [
        Conv2d(8, 1, activation="softplus"),
        MaxPool2d(1, 2),
        Conv2d(12, 1, activation="relu"),
        AvgPool2d(1, 1),
    ]
    return classifier((16, 16, 2), keras.Sequential([keras.Input((16, 16, 2)), *layers]))


@model(
    "hypercomplex network",
    "hypercomplexkeras",
    refused={
        "float64": "Input 'filter' of 'Conv2D' Op has type float32",
        "difference": "Input 'filter' of 'Conv2D' Op has type float32",
    },
    remark="quaternions",
)
def _hypercomplex() -> keras.Model:
    from HypercomplexKeras.Convolutional import HyperConv2D
    from HypercomplexKeras.Hyperdense import HyperDense

    image = keras.Input((12, 12, 4))
    x = HyperConv2D(2, (3, 3), activation="relu")(image)
    x = HyperConv2D(2, (3, 3), activation="tanh")(x)
    x = HyperDense(4, activation="tanh")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(CLASSES)(x))


@model("complexnn network", "keras-complex", remark="complex convolutions")
def _complex() -> keras.Model:
    from complexnn import ComplexBN, ComplexConv2D, ComplexDense

    image = keras.Input((12, 12, 4))
    x = ComplexConv2D(4, 3, activation="relu")(image)
    x = ComplexBN()(x)
    x = ComplexConv2D(4, 3, strides=2, activation="tanh")(x)
    x = ComplexDense(4, activation="tanh")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(CLASSES)(x))


@model("tfkan network", "tf-kan-latest", remark="Kolmogorov-Arnold, splines")
def _tfkan() -> keras.Model:
    from tfkan.layers import Conv2DKAN, DenseKAN

    image = keras.Input((8, 8, 2))
    x = Conv2DKAN(filters=3, kernel_size=3, strides=2)(image)
    return keras.Model(image, DenseKAN(CLASSES)(keras.layers.Flatten()(x)))


@model("HGQ network", "hgq2", skipped={"difference": STEPS}, remark="quantised in training")
def _hgq() -> keras.Model:
    from hgq.config import QuantizerConfigScope
    from hgq.layers import QConv2D, QDense

    with QuantizerConfigScope(default_q_type="kbi", place="all"):
        image = keras.Input((8, 8, 2))
        x = QConv2D(4, 3, activation="relu")(image)
        x = QConv2D(4, 3, activation="relu")(x)
        return keras.Model(image, QDense(CLASSES)(keras.layers.Flatten()(x)))


@model("keras-sciml FNO", "keras-sciml", remark="Fourier neural operator: complex weights")
def _fno() -> keras.Model:
    from keras_sciml.models.fno import FNO2D

    return classifier((16, 16, 2), FNO2D(modes=4, width=8, depth=2, projection_dim=8))


@model("keras-climate AFNO", "keras-climate", remark="mixes tokens by Fourier transform")
def _afno() -> keras.Model:
    from keras_climate.operators.afno import AFNOBlock

    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 4, strides=4)(image)
    x = AFNOBlock(8, num_blocks=2)(x)
    x = AFNOBlock(8, num_blocks=2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(CLASSES)(x))
