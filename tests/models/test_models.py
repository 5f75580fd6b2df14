"""The networks: their layers in order, their sizes counted by hand, their refusals."""

import keras
import numpy as np
import pytest

from tfgrad import models
from tfgrad.errors import ArgumentError

SHAPE = (32, 32, 3)


def layers_of(model):
    return [layer.name for layer in model.layers[1:]]  # Without the input.


def channels_of(model):
    return [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


# Counted by hand for three channels, ten classes, full width. A 3×3 convolution from a to b
# channels has 9ab + b, its normalisation 2b trainable: in all 9ab + 3b. The head has
# 10 · 512 + 10 = 5,130. The moving statistics, 2b per normalisation, come on top in `count_params`.
#   VGG-4   9(3·64 + 64·128 + 128·512) + 3(64 + 128 + 512) = 665,280 + 2,112, + head = 672,522
#   VGG-6   9(3·64 + 64·128 + 128·256 + 256·512 + 512·512) + 3(64 + 128 + 256 + 512 + 512)
#           = 3,909,312 + 4,416, + head = 3,918,858
#   VGG-9   9(3·64 + 64·128 + 128·256 + 256² + 256·512 + 3·512²) + 3(64 + 128 + 2·256 + 4·512)
#           = 9(192 + 8,192 + 32,768 + 65,536 + 131,072 + 786,432) + 3·2,752
#           = 9,217,728 + 8,256, + head = 9,231,114
#   VGG-11  9(3·64 + 64² + 64·128 + 128² + 128·256 + 256² + 256·512 + 3·512²)
#           + 3(2·64 + 2·128 + 2·256 + 4·512)
#           = 9(192 + 4,096 + 8,192 + 16,384 + 32,768 + 65,536 + 131,072 + 786,432) + 3·2,944
#           = 9,402,048 + 8,832, + head = 9,416,010
VGG = {
    4: (672_522, [64, 128, 512], "C M C M C M"),
    6: (3_918_858, [64, 128, 256, 512, 512], "C M C M C M C M C M"),
    9: (9_231_114, [64, 128, 256, 256, 512, 512, 512, 512], "C M C M C C M C C M C C M"),
    11: (
        9_416_010,
        [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
        "C C M C C M C C M C C M C C M",
    ),
}


@pytest.mark.parametrize("depth", VGG)
def test_vgg_is_the_papers(depth):
    parameters, channels, plan = VGG[depth]
    model = models.vgg(depth, SHAPE, 10)
    assert model.name == f"vgg{depth}"
    assert model.output_shape == (None, 10)
    assert trainable(model) == parameters
    assert model.count_params() == parameters + 2 * sum(channels)
    assert channels_of(model) == channels
    assert len(channels) + 1 == depth  # The convolutions and the dense layer.
    expected, blocks, pools = [], 0, 0
    for item in plan.split():
        if item == "C":
            blocks += 1
            expected += [f"conv{blocks}", f"bn{blocks}", f"act{blocks}"]
        else:
            pools += 1
            expected.append(f"pool{pools}")
    assert layers_of(model) == [*expected, "global_pool", "logits"]


# Without bias: 9ab per convolution, 2b per normalisation, ab per projection.
#   stem                       9·3·64 + 2·64                     =     1,856
#   a block that keeps b       18b² + 4b:  64 →    73,984   128 →   295,424
#                                         256 → 1,180,672   512 → 4,720,640
#   a block that doubles a→b   9ab + 9b² + ab + 6b:
#                              64→128: 73,728 + 147,456 + 8,192 + 768           =   230,144
#                              128→256: 294,912 + 589,824 + 32,768 + 1,536      =   919,040
#                              256→512: 1,179,648 + 2,359,296 + 131,072 + 3,072 = 3,673,088
#   ResNet-9   stem + 73,984 + 230,144 + 919,040 + 3,673,088 + head 5,130       = 4,903,242
#   ResNet-18  + 73,984 + 295,424 + 1,180,672 + 4,720,640                       = 11,173,962
#   ResNet-34  + 73,984 + 2·295,424 + 4·1,180,672 + 4,720,640                   = 21,282,122
# 11,173,962 is also the number known for the CIFAR ResNet-18.
RESNET = {
    9: (4_903_242, (1, 1, 1, 1)),
    18: (11_173_962, (2, 2, 2, 2)),
    34: (21_282_122, (3, 4, 6, 3)),
}


@pytest.mark.long
@pytest.mark.parametrize("depth", RESNET)
def test_resnet_is_the_papers(depth):
    parameters, blocks = RESNET[depth]
    model = models.resnet(depth, SHAPE, 10)
    assert model.name == f"resnet{depth}"
    assert model.output_shape == (None, 10)
    assert trainable(model) == parameters
    names = layers_of(model)
    assert names[:3] == ["stem_conv", "stem_bn", "stem_act"]
    assert names[-2:] == ["global_pool", "logits"]
    assert [n for n in names if n.endswith("_add")] == [
        f"stage{s}_block{b}_add" for s, count in enumerate(blocks, 1) for b in range(1, count + 1)
    ]
    assert [n for n in names if n.endswith("_shortcut_conv")] == [
        f"stage{s}_block1_shortcut_conv" for s in (2, 3, 4)
    ]
    for stage, (side, channels) in enumerate(((32, 64), (16, 128), (8, 256), (4, 512)), 1):
        out = model.get_layer(f"stage{stage}_block1_act2").output
        assert out.shape == (None, side, side, channels)


def test_a_residual_block_adds_its_input():
    model = models.resnet(9, (8, 8, 1), 3, width=0.1)
    add = model.get_layer("stage1_block1_add")
    assert {t._keras_history.operation.name for t in add.input} == {
        "stage1_block1_bn2",
        "stem_act",
    }
    add = model.get_layer("stage2_block1_add")
    assert {t._keras_history.operation.name for t in add.input} == {
        "stage2_block1_bn2",
        "stage2_block1_shortcut_bn",
    }


def test_biases_and_first_weights():
    vgg, resnet = models.vgg(4, (8, 8, 1), 10), models.resnet(9, (8, 8, 1), 10)
    assert all(la.use_bias for la in vgg.layers if isinstance(la, keras.layers.Conv2D))
    assert not any(la.use_bias for la in resnet.layers if isinstance(la, keras.layers.Conv2D))
    # He-normal: variance 2 / fan-in, here 2 / (9 · 128). 589,824 samples: the deviation of the
    # standard deviation is 1e-3 of it.
    kernel = np.asarray(vgg.get_layer("conv3").kernel)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=1e-2)


def test_without_batch_norm():
    model = models.vgg(4, (8, 8, 1), 10, width=0.25, batch_norm=False)
    assert layers_of(model)[:3] == ["conv1", "act1", "pool1"]
    assert not any("bn" in name for name in layers_of(model))


@pytest.mark.parametrize(
    ("width", "channels"), [(0.25, [16, 32, 128]), (0.01, [4, 4, 5]), (1.5, [96, 192, 768])]
)
def test_width_scales_channels_and_keeps_four(width, channels):
    assert channels_of(models.vgg(4, (8, 8, 1), 10, width=width)) == channels


def test_logits_are_no_probabilities():
    model = models.get("resnet9", (8, 8, 1), 3, width=0.1)
    assert model.get_layer("logits").activation is keras.activations.linear
    logits = model(np.random.default_rng(0).random((5, 8, 8, 1), np.float32))
    assert not np.allclose(np.asarray(logits).sum(axis=-1), 1.0)


@pytest.mark.long
@pytest.mark.parametrize("name", models.NAMES)
def test_get_builds_what_it_names(name):
    model = models.get(name, input_shape=SHAPE, classes=7, width=0.1)
    assert model.name == name
    assert model.output_shape == (None, 7)


def test_names():
    assert models.NAMES == ("vgg4", "vgg6", "vgg9", "vgg11", "resnet9", "resnet18", "resnet34")
    assert models.vgg(4, (8, 8, 1), 2, width=0.1, name="student").name == "student"


def test_softplus_is_smooth_relu():
    options = {"input_shape": (8, 8, 1), "classes": 3, "width": 0.1}
    relu = models.get("vgg4", **options)
    smooth = models.get("vgg4", activation="softplus", beta=1e4, **options)
    assert smooth.get_layer("act1").beta == 1e4
    smooth.set_weights(relu.get_weights())
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    # softplus(βz)/β exceeds ReLU by at most log 2 / β.
    np.testing.assert_allclose(smooth(x), relu(x), atol=1e-3)


# Keras hands its variables to np.array, which NumPy 2 deprecates without a `copy` argument.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("name", "activation"), [("vgg4", "relu"), ("resnet9", "softplus")])
def test_a_saved_network_comes_back(tmp_path, name, activation):
    model = models.get(name, (8, 8, 1), 3, width=0.1, activation=activation)
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.name == name
    assert layers_of(again) == layers_of(model)
    np.testing.assert_array_equal(again(x), model(x))


def test_half_precision_ends_in_float32_logits():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.get("vgg4", (8, 8, 1), 3, width=0.1)
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.get_layer("conv1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_double_precision_throughout(float64):
    assert models.get("resnet9", (8, 8, 1), 3, width=0.1).output.dtype == "float64"


GOOD = {"input_shape": (32, 32, 3), "classes": 10}


@pytest.mark.parametrize(
    ("build", "wrong", "message"),
    [
        (models.vgg, {"depth": 16}, r"depth: got 16; expected one of \[4, 6, 9, 11\]"),
        (models.vgg, {"depth": True}, "depth: got True; expected one of"),
        (models.resnet, {"depth": 50}, r"depth: got 50; expected one of \[9, 18, 34\]"),
        (
            models.vgg,
            {"input_shape": (32, 32)},
            r"input_shape: got \(32, 32\); expected three integers ≥ 1",
        ),
        (
            models.vgg,
            {"input_shape": (None, 32, 3)},
            r"input_shape: got .*; expected three integers ≥ 1",
        ),
        (models.vgg, {"input_shape": 32}, "input_shape: got 32; expected three integers ≥ 1"),
        (models.vgg, {"classes": 0}, "classes: got 0; expected an integer ≥ 1"),
        (models.resnet, {"classes": 2.0}, "classes: got 2.0; expected an integer ≥ 1"),
        (models.vgg, {"width": 0}, "width: got 0; expected a finite number above 0"),
        (models.vgg, {"width": float("nan")}, "width: got nan; expected a finite number above 0"),
        (models.vgg, {"beta": -1.0}, "beta: got -1.0; expected a finite number above 0"),
        (
            models.vgg,
            {"activation": "tanh"},
            "activation: got 'tanh'; expected one of 'relu', 'softplus'",
        ),
        (
            models.vgg,
            {"input_shape": (28, 28, 1)},
            r"input_shape: got \(28, 28, 1\); expected .* at least 32 for depth=9, .* 5 times; try",
        ),
        (
            models.vgg,
            {"depth": 4, "input_shape": (8, 7, 1)},
            "at least 8 .* halves the image 3 times",
        ),
    ],
)
def test_refusals_say_what_is_allowed(build, wrong, message):
    with pytest.raises(ArgumentError, match=message):
        build(**{"depth": 9, **GOOD, **wrong})


@pytest.mark.parametrize("name", ["vgg16", "VGG9", None, ["vgg9"]])
def test_unknown_names(name):
    with pytest.raises(ArgumentError, match=r"name: got .* one of .*'resnet34'"):
        models.get(name, **GOOD)
