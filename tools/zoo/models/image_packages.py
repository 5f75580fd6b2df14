"""kimm, zeromodels and k3im: classifiers of images."""

from __future__ import annotations

import functools

import keras

from ..entries import WITHOUT_CAM, model
from ..heads import CLASSES

kimm = functools.partial(model, package="kimm")
zero = functools.partial(model, package="zeromodels")
k3im = functools.partial(model, package="k3im")
SIDE = 32
PLAIN = {"input_shape": (SIDE, SIDE, 3), "include_preprocessing": False, "weights": None}
HEAD = {"classes": CLASSES, "classifier_activation": "linear"}


@kimm("kimm ConvMixer")
def _kimm_convmixer() -> keras.Model:
    from kimm._src.models.convmixer import ConvMixer

    return ConvMixer(depth=2, hidden_channels=16, patch_size=4, kernel_size=3, **PLAIN, **HEAD)


@kimm("kimm GhostNet")
def _kimm_ghostnet() -> keras.Model:
    from kimm._src.models.ghostnet import GhostNet

    # As InceptionNeXt below.
    return GhostNet(width=0.2, **PLAIN | HEAD | {"input_shape": (64, 64, 3)})


@kimm("kimm InceptionNeXt")
def _kimm_inception_next() -> keras.Model:
    from kimm._src.models.inception_next import InceptionNeXt

    # At 32 pixels the last features are one position, and Grad-CAM's map of it may be 0.
    options = PLAIN | HEAD | {"input_shape": (64, 64, 3)}
    return InceptionNeXt(depths=[1, 1, 1, 1], hidden_channels=[16, 16, 24, 24], **options)


@kimm("kimm MobileOne")
def _kimm_mobileone() -> keras.Model:
    from kimm._src.models.mobileone import MobileOne

    return MobileOne(
        num_blocks=[1, 1, 1, 1], num_channels=[8, 16, 16, 24], stem_channels=8, **PLAIN, **HEAD
    )


@kimm("kimm RepVGG")
def _kimm_repvgg() -> keras.Model:
    from kimm._src.models.repvgg import RepVGG

    return RepVGG(
        num_blocks=[1, 1, 1, 1], num_channels=[8, 16, 16, 24], stem_channels=8, **PLAIN, **HEAD
    )


@kimm("kimm ViT")
def _kimm_vit() -> keras.Model:
    from kimm._src.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        patch_size=8, embed_dim=16, depth=2, num_heads=2, dropout_rate=0.0, **PLAIN, **HEAD
    )


@zero("zeromodels ConvNeXtV2")
def _convnext_v2() -> keras.Model:
    from zeromodels.models.convnextv2.convnextv2_model import ConvNeXtV2ImageClassify

    return ConvNeXtV2ImageClassify(
        depths=(1, 1, 1, 1),
        projection_dim=(8, 16, 16, 24),
        image_size=SIDE,
        num_classes=CLASSES,
    )


@zero("zeromodels PoolFormer")
def _poolformer() -> keras.Model:
    from zeromodels.models.poolformer.poolformer_model import PoolFormerImageClassify

    return PoolFormerImageClassify(
        embed_dim=(8, 16, 16, 24),
        depths=(1, 1, 1, 1),
        init_scale=0.5,
        image_size=SIDE,
        num_classes=CLASSES,
    )


@zero("zeromodels MaxViT")
def _maxvit() -> keras.Model:
    from zeromodels.models.maxvit.maxvit_model import MaxViTImageClassify

    return MaxViTImageClassify(
        stem_width=8,
        depths=(1, 1),
        embed_dim=(8, 16),
        num_heads=(1, 2),
        window_size=4,
        image_size=SIDE,
        num_classes=CLASSES,
    )


@zero("zeromodels SwinV2")
def _swin_v2() -> keras.Model:
    from zeromodels.models.swinv2.swinv2_model import SwinV2ImageClassify

    return SwinV2ImageClassify(
        pretrain_size=SIDE,
        window_size=4,
        embed_dim=8,
        depths=(1, 1),
        num_heads=(1, 2),
        drop_path_rate=0.0,
        image_size=SIDE,
        num_classes=CLASSES,
    )


@zero("zeromodels LeViT")
def _levit() -> keras.Model:
    from zeromodels.models.levit.levit_model import LevitImageClassify

    return LevitImageClassify(
        image_size=128,
        hidden_sizes=(16, 24, 32),
        num_attention_heads=(1, 2, 2),
        depths=(1, 1, 1),
        key_dim=(8, 8, 8),
        num_classes=CLASSES,
    )


@zero("zeromodels Res2Net", maps=WITHOUT_CAM)
def _res2net() -> keras.Model:
    from zeromodels.models.res2net.res2net_model import Res2NetImageClassify

    return Res2NetImageClassify(
        depth=(1, 1, 1, 1), base_width=4, image_size=64, num_classes=CLASSES
    )


@zero(
    "zeromodels CaiT",
    bounds={"difference": 1e-5},
    remark="class attention with a softmax of float32",
)
def _cait() -> keras.Model:
    from zeromodels.models.cait.cait_model import CaiTImageClassify

    return CaiTImageClassify(
        patch_size=8, embed_dim=16, depth=2, num_heads=2, image_size=SIDE, num_classes=CLASSES
    )


@k3im(
    "k3im Swin",
    refused=dict.fromkeys(
        ("float64", "difference"), "has type float32 that does not match type float64"
    ),
    remark="its mask of windows is of float32",
)
def _k3im_swin() -> keras.Model:
    from k3im.swint import SwinTModel

    return SwinTModel(
        img_size=SIDE,
        patch_size=(2, 2),
        num_classes=CLASSES,
        embed_dim=8,
        num_heads=2,
        window_size=2,
        num_mlp=8,
        qkv_bias=True,
        dropout_rate=0.0,
        shift_size=1,
    )


@k3im("k3im TokenLearner")
def _token_learner() -> keras.Model:
    from k3im.token_learner import ViTokenLearner

    return ViTokenLearner(
        image_size=SIDE,
        patch_size=4,
        num_classes=CLASSES,
        dim=8,
        depth=4,
        heads=2,
        mlp_dim=8,
        token_learner_units=16,
    )


@k3im("k3im FocalNet")
def _focalnet() -> keras.Model:
    from k3im.focalnet import FocalNetModel

    return FocalNetModel(
        img_size=SIDE,
        patch_size=4,
        num_classes=CLASSES,
        embed_dim=8,
        depths=[1, 1],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
        drop_path_rate=0.0,
    )


@k3im("k3im CrossViT")
def _cross_vit() -> keras.Model:
    from k3im.cross_vit import CrossViT

    return CrossViT(
        image_size=48,
        num_classes=CLASSES,
        sm_dim=8,
        lg_dim=16,
        channels=3,
        sm_enc_heads=2,
        sm_enc_mlp_dim=16,
        sm_enc_dim_head=8,
        lg_enc_depth=1,
        lg_enc_heads=2,
        lg_enc_mlp_dim=16,
        lg_enc_dim_head=8,
        cross_attn_depth=1,
        cross_attn_heads=2,
        cross_attn_dim_head=8,
        depth=1,
        dropout=0.0,
        emb_dropout=0.0,
    )
