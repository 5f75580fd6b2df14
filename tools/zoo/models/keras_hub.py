"""keras-hub: image backbones and tasks, detectors and segmenters, encoders of text and sound."""

from __future__ import annotations

import functools
from typing import Any

import keras

from ..entries import INPUT_MAPS, STEPS, model
from ..heads import CLASSES, classifier, normal

hub = functools.partial(model, package="keras-hub")
SHAPE = (32, 32, 3)
# TensorFlow resizes to float32 whatever the input: float64 keeps the digits of float32 there.
RESIZED = {"float64": 1e-6}


def _models() -> Any:
    import keras_hub

    return keras_hub.models


def _resnet(pre_activation: bool, **options: Any) -> Any:
    settings = {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 64],
        "stackwise_num_blocks": [1, 1],
        "stackwise_num_strides": [1, 2],
        "block_type": "basic_block",
        "image_shape": SHAPE,
    }
    return _models().ResNetBackbone(use_pre_activation=pre_activation, **(settings | options))


def _task(name: str, backbone: Any) -> keras.Model:
    return getattr(_models(), name)(backbone=backbone, num_classes=CLASSES, activation=None)


@hub("hub ResNet")
def _resnet_v1() -> keras.Model:
    return _task("ResNetImageClassifier", _resnet(False))


@hub("hub ResNetV2", remark="pads with −∞ before pooling")
def _resnet_v2() -> keras.Model:
    return _task("ResNetImageClassifier", _resnet(True))


@hub("hub ViT")
def _vit() -> keras.Model:
    return _task("ViTImageClassifier", _vit_backbone())


def _vit_backbone() -> Any:
    return _models().ViTBackbone(
        image_shape=SHAPE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )


@hub("hub ViT int8", skipped={"difference": STEPS}, remark="quantised to int8")
def _vit_int8() -> keras.Model:
    network = _task("ViTImageClassifier", _vit_backbone())
    network.quantize("int8")
    return network


@hub("hub DeiT")
def _deit() -> keras.Model:
    backbone = _models().DeiTBackbone(
        image_shape=SHAPE,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
    )
    return _task("DeiTImageClassifier", backbone)


@hub("hub Swin", remark="keeps windows on the batch axis")
def _swin() -> keras.Model:
    backbone = _models().SwinTransformerBackbone(
        image_shape=SHAPE,
        embed_dim=8,
        depths=(1, 2),
        num_heads=(1, 2),
        window_size=4,
        patch_size=2,
    )
    return _task("SwinTransformerImageClassifier", backbone)


def _mit_backbone() -> Any:
    return _models().MiTBackbone(
        image_shape=SHAPE,
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        hidden_dims=[8, 16],
    )


@hub("hub MiT")
def _mit() -> keras.Model:
    return _task("MiTImageClassifier", _mit_backbone())


@hub("hub SegFormer", bounds=RESIZED, remark="resizes inside its layers, in float32")
def _segformer() -> keras.Model:
    encoder = _models().MiTBackbone(
        image_shape=SHAPE,
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        hidden_dims=[8, 16],
    )
    backbone = _models().SegFormerBackbone(image_encoder=encoder, projection_filters=8)
    segmenter = _models().SegFormerImageSegmenter(backbone=backbone, num_classes=4)
    return classifier(SHAPE, segmenter)


@hub(
    "hub DeepLabV3",
    bounds=RESIZED,
    remark="resizes inside its layers, in float32, one of them made anew in each call",
)
def _deeplab() -> keras.Model:
    encoder = _resnet(
        False,
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        image_shape=(64, 64, 3),
    )
    backbone = _models().DeepLabV3Backbone(
        image_encoder=encoder,
        projection_filters=8,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
        image_shape=(64, 64, 3),
    )
    segmenter = _models().DeepLabV3ImageSegmenter(backbone=backbone, num_classes=4)
    return classifier((64, 64, 3), segmenter)


@hub(
    "hub MobileNetV5",
    bounds=RESIZED | {"float32": 1e-4},
    skipped={
        "difference": "the package normalises in float32, and differences see the rounding of it"
    },
    remark="resizes inside its layers; terms cancel: condition 2,000",
)
def _mobilenet_v5() -> keras.Model:
    backbone = _models().MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", "uir"]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[8], [16, 16]],
        stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=[["relu"], ["relu", "relu"]],
        stackwise_exp_ratios=[[4.0], [6.0, 6.0]],
        stackwise_se_ratios=[[0.0], [0.0, 0.0]],
        stackwise_dw_kernel_sizes=[[0], [5, 5]],
        stackwise_dw_start_kernel_sizes=[[0], [0, 0]],
        stackwise_dw_end_kernel_sizes=[[0], [0, 0]],
        stackwise_exp_kernel_sizes=[[3], [0, 0]],
        stackwise_pw_kernel_sizes=[[1], [0, 0]],
        stackwise_num_heads=[[0], [0, 0]],
        stackwise_key_dims=[[0], [0, 0]],
        stackwise_value_dims=[[0], [0, 0]],
        stackwise_kv_strides=[[0], [0, 0]],
        stackwise_use_cpe=[[False], [False, False]],
        num_features=32,
        use_msfa=True,
        msfa_output_resolution=8,
        image_shape=(32, 32, 3),
    )
    return classifier(SHAPE, backbone)


@hub("hub DenseNet")
def _densenet() -> keras.Model:
    backbone = _models().DenseNetBackbone(
        stackwise_num_repeats=[1, 2], image_shape=SHAPE, growth_rate=8
    )
    return _task("DenseNetImageClassifier", backbone)


@hub("hub EfficientNet")
def _efficientnet() -> keras.Model:
    backbone = _models().EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 5],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[16, 16],
        stackwise_output_filters=[16, 24],
        stackwise_expansion_ratios=[1, 4],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["unfused", "fused"],
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False],
        num_features=32,
        dropout=0.0,
        input_shape=SHAPE,
    )
    return _task("EfficientNetImageClassifier", backbone)


@hub("hub CSPNet")
def _cspnet() -> keras.Model:
    backbone = _models().CSPNetBackbone(
        stem_filters=[8, 16],
        stem_kernel_size=3,
        stem_strides=4,
        stem_pooling="max",
        stem_padding="same",
        stackwise_num_filters=[16, 32],
        stackwise_strides=[1, 2],
        stackwise_depth=[1, 2],
        block_type="dark_block",
        stage_type="csp",
        bottle_ratio=[0.5],
        block_ratio=[0.5],
        expand_ratio=[1.0],
        image_shape=SHAPE,
    )
    return _task("CSPNetImageClassifier", backbone)


@hub("hub DINOv2")
def _dinov2() -> keras.Model:
    backbone = _models().DINOV2Backbone(
        patch_size=8,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        image_shape=SHAPE,
        position_embedding_shape=SHAPE,
        use_swiglu_ffn=True,
        num_register_tokens=2,
    )
    image = keras.Input(SHAPE)
    tokens = keras.Model(backbone.input, backbone.output)(_inputs_of(backbone, image))
    return keras.Model(image, keras.layers.Dense(CLASSES)(tokens[:, 0]))


def _inputs_of(backbone: Any, image: Any) -> Any:
    """The image in the structure that a backbone takes."""
    if isinstance(backbone.input, dict):
        return dict.fromkeys(backbone.input, image)
    return image


@hub("hub RetinaNet", remark="detector")
def _retinanet() -> keras.Model:
    models = _models()
    encoder = _resnet(
        False,
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        image_shape=(64, 64, 3),
    )
    backbone = models.RetinaNetBackbone(
        image_encoder=encoder, min_level=3, max_level=4, use_p5=False, image_shape=(64, 64, 3)
    )
    return classifier((64, 64, 3), backbone)


@hub("hub SAM's ViTDet", remark="windows, relative positions")
def _vitdet() -> keras.Model:
    backbone = _models().ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=32,
        num_heads=2,
        global_attention_layer_indices=[1],
        image_shape=(32, 32, 3),
        patch_size=8,
        num_output_channels=8,
        window_size=2,
    )
    return classifier(SHAPE, backbone)


@hub("hub DistilBERT", maps=INPUT_MAPS, remark="from embeddings")
def _distilbert() -> keras.Model:
    encoder = _models().DistilBertBackbone(
        vocabulary_size=50,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        dropout=0.0,
        max_sequence_length=12,
    )
    tokens = keras.Input((12, 16))
    x = tokens
    for layer in encoder.transformer_layers:
        x = layer(x)
    return keras.Model(tokens, keras.layers.Dense(CLASSES)(x[:, 0]))


@hub(
    "hub BERT",
    maps=INPUT_MAPS,
    inputs=lambda: {"embeddings": normal((12, 16)), "mask": _mask()},
    remark="from embeddings, with a mask of int32",
)
def _bert() -> keras.Model:
    encoder = _models().BertBackbone(
        vocabulary_size=50,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        dropout=0.0,
        max_sequence_length=12,
    )
    inputs = {
        "embeddings": keras.Input((12, 16), name="embeddings"),
        "mask": keras.Input((12,), dtype="int32", name="mask"),
    }
    x = inputs["embeddings"]
    for layer in encoder.transformer_layers:
        x = layer(x, padding_mask=inputs["mask"])
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x[:, 0]))


def _mask() -> Any:
    import numpy as np

    return np.array([[1] * 12, [1] * 8 + [0] * 4], "int32")


@hub("hub Whisper's encoder", maps=INPUT_MAPS, remark="mel spectrogram")
def _whisper() -> keras.Model:
    network = _models().WhisperBackbone(
        vocabulary_size=20,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        num_mels=8,
        dropout=0.0,
        max_encoder_sequence_length=32,
        max_decoder_sequence_length=8,
    )
    features = keras.Input((32, 8))
    x = keras.activations.gelu(network.encoder_conv_layer_1(features), approximate=False)
    x = network.encoder_padder(x)
    x = keras.activations.gelu(network.encoder_conv_layer_2(x), approximate=False)
    x = x + network.encoder_position_embedding(x)
    for layer in network.encoder_transformer_layers:
        x = layer(x)
    x = network.encoder_layer_norm(x)
    return keras.Model(features, keras.layers.Dense(CLASSES)(keras.ops.mean(x, axis=1)))
