"""Volumes and video."""

from __future__ import annotations

import keras

from ..entries import NOT_BUILT, WITHOUT_CAM, model
from ..heads import CLASSES, classifier

SHAPE = (16, 16, 16, 1)


@model("k3im ViT 3-D", "k3im")
def _vit_3d() -> keras.Model:
    from k3im.vit_3d import ViT3DModel

    return ViT3DModel(
        image_size=16, image_patch_size=8, frames=8, frame_patch_size=4, num_classes=CLASSES,
        dim=8, depth=2, heads=2, mlp_dim=16, pool="mean", channels=1, dim_head=4,
    )  # fmt: skip


@model("k3im CCT 3-D", "k3im", maps=WITHOUT_CAM, refused=NOT_BUILT)
def _cct_3d() -> keras.Model:
    from k3im.cct_3d import CCT3DModel

    return CCT3DModel(
        input_shape=(8, 16, 16, 1), num_heads=2, projection_dim=8, kernel_size=3, stride=1,
        padding=1, transformer_units=[16, 8], stochastic_depth_rate=0.0, transformer_layers=1,
        num_classes=CLASSES,
    )  # fmt: skip


@model("medicai U-Net 3-D", "medicai", refused=NOT_BUILT, remark="segmenter")
def _unet_3d() -> keras.Model:
    from medicai.models import UNet

    network = UNet(
        input_shape=(32, 32, 32, 1), encoder_name="densenet121", encoder_depth=3,
        decoder_filters=(8, 8, 8), num_classes=2, classifier_activation=None,
    )  # fmt: skip
    return classifier((32, 32, 32, 1), network)


@model("medicai Swin 3-D", "medicai", refused=NOT_BUILT, remark="windows, counted in int32")
def _swin_3d() -> keras.Model:
    from medicai.models import SwinBackbone

    backbone = SwinBackbone(
        input_shape=(16, 16, 16, 1),
        embed_dim=6,
        patch_size=2,
        window_size=4,
        depths=[1, 2],
        num_heads=[1, 2],
        drop_path_rate=0.0,
    )
    return classifier((16, 16, 16, 1), backbone)


@model("medicai UNETR", "medicai", remark="segmenter of volumes")
def _unetr() -> keras.Model:
    from medicai.models import UNETR, ViTBackbone

    encoder = ViTBackbone(
        input_shape=(32, 32, 32, 1), patch_size=16, num_layers=4, num_heads=2, hidden_dim=12,
        mlp_dim=24,
        use_class_token=False,
    )  # fmt: skip
    return classifier((32, 32, 32, 1), UNETR(encoder=encoder, num_classes=2, feature_size=4))


@model("segmentation-models-3D U-Net", "segmentation-models-3D", remark="segmenter of volumes")
def _sm3d() -> keras.Model:
    import segmentation_models_3D

    network = segmentation_models_3D.Unet(
        "resnet18", input_shape=(32, 32, 32, 1), classes=2, activation="linear",
        encoder_weights=None, decoder_filters=(16, 8, 8, 8, 8),
    )  # fmt: skip
    return classifier((32, 32, 32, 1), network)
