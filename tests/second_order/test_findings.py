"""What the guard finds: every known fault, named by its layer, and nothing else."""

import warnings

import keras
import pytest
import tensorflow as tf

from tests.helpers.guard_cases import BILINEAR, SHAPE, STOPPED, Lambda, found, network_with
from tests.helpers.variants import with_slow
from tfgrad import layers, second_order
from tfgrad.errors import SecondOrderError, SecondOrderWarning

L = keras.layers


FAULTS = {
    "layer_norm": (lambda n: L.LayerNormalization(name=n), STOPPED),
    "group_norm": (lambda n: L.GroupNormalization(2, name=n), STOPPED),
    "bilinear": (lambda n: L.Resizing(5, 5, name=n), BILINEAR),
    "up_sampling": (lambda n: L.UpSampling2D(2, interpolation="bilinear", name=n), BILINEAR),
    "bicubic": (lambda n: L.Resizing(5, 5, "bicubic", name=n), "ResizeBicubicGrad"),
    "lanczos": (lambda n: L.Resizing(5, 5, "lanczos3", name=n), "ScaleAndTranslateGrad"),
    "antialias": (lambda n: L.Resizing(5, 5, antialias=True, name=n), "ScaleAndTranslateGrad"),
    "nearest": (lambda n: L.Resizing(5, 5, "nearest", name=n), "ResizeNearestNeighborGrad"),
    "area": (lambda n: Lambda(lambda x: tf.image.resize(x, (4, 4), "area"), name=n), "ResizeArea"),
    "softsign": (lambda n: L.Activation("softsign", name=n), "SoftsignGrad"),
    "lrn": (lambda n: Lambda(tf.nn.lrn, name=n), "LRNGrad"),
    "moments": (
        lambda n: Lambda(lambda x: x - tf.nn.moments(x, 3, name="s", keepdims=True)[1], name=n),
        STOPPED,
    ),
    "argmax_pool": (
        lambda n: Lambda(lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")[0], name=n),
        "MaxPoolGradWithArgmax",
    ),
    "fake_quantisation": (
        lambda n: Lambda(tf.quantization.fake_quant_with_min_max_args, name=n),
        "FakeQuantWithMinMaxArgsGradient",
    ),
    "crop_and_resize": (
        lambda n: Lambda(
            lambda x: tf.image.crop_and_resize(x, [[0.1, 0.1, 0.9, 0.9]], [0], (3, 3)), name=n
        ),
        "CropAndResizeGradImage",
    ),
}

SILENT = {
    "convolutions": lambda: [
        L.Conv2D(4, 3, groups=2, padding="same", activation="relu"),
        L.DepthwiseConv2D(3, activation="leaky_relu"),
        L.SeparableConv2D(4, 3, activation="relu6"),
        L.Conv2DTranspose(4, 3, strides=2, activation="silu"),
        L.ZeroPadding2D(1),
        L.Cropping2D(1),
    ],
    "activations": lambda: [
        *(L.Activation(a) for a in ("softplus", "gelu", "silu", "elu", "selu", "softmax", "tanh")),
        *(L.Activation(a) for a in ("sigmoid", "mish", "hard_silu", "log_softmax", "celu")),
        L.PReLU(),
        L.LeakyReLU(),
        L.ReLU(6.0),
    ],
    "pooling": lambda: [
        L.MaxPooling2D(),
        L.AveragePooling2D(2),
        L.UpSampling2D(4),
        Lambda(lambda x: x + keras.ops.max(x, [1, 2], keepdims=True)),
        L.GlobalAveragePooling2D(keepdims=True),
    ],
    "noise": lambda: [L.Dropout(0.5), L.SpatialDropout2D(0.5), L.GaussianNoise(1.0)],
    "norms": lambda: [
        L.RMSNormalization(),
        L.UnitNormalization(),
        L.SpectralNormalization(L.Dense(4)),
        Lambda(lambda x: x / keras.ops.std(x, axis=-1, keepdims=True)),
    ],
    "lstm": lambda: [L.Reshape((16, 16)), L.LSTM(3, return_sequences=True), L.GRU(3)],
    "stop_gradient": lambda: [
        Lambda(lambda x: x * keras.ops.stop_gradient(keras.ops.mean(x)), name="moments")
    ],
    "weight_standardisation": lambda: [WeightStandardised()],
    "ours": lambda: [
        layers.LayerNormalization(),
        layers.GroupNormalization(2),
        layers.BatchNormalization(),
        layers.Resizing(5, 5),
        layers.UpSampling2D(interpolation="bilinear"),
        layers.Softplus(10.0),
    ],
}


class WeightStandardised(L.Layer):
    """Moments of a weight: the penalty differentiates them once, and once is right."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        mean, variance = tf.nn.moments(tf.convert_to_tensor(self.kernel), [0])
        return tf.tensordot(x, (self.kernel - mean) * tf.math.rsqrt(variance + 1e-3), 1)


@pytest.mark.parametrize("fault", FAULTS)
def test_finds_each_fault_and_names_its_layer(fault):
    make, operation = FAULTS[fault]
    # A layer whose name differs by a number is the trap of TensorFlow's name scopes.
    after = L.Activation("tanh", name="at_2")
    network = network_with(L.Conv2D(4, 3, name="at"), make("at_1"), after)
    assert ("at_1", operation, "error") in found(network)
    assert {layer for layer, _, _ in found(network)} == {"at_1"}
    with pytest.raises(SecondOrderError, match=rf"layer 'at_1' \(\w+\): .*{operation}.*; \w+"):
        second_order.check(network)


@pytest.mark.diagonal
@pytest.mark.parametrize("case", SILENT)
@pytest.mark.parametrize("training", [True, False])
def test_silent_on_what_is_right(case, training):
    network = network_with(*SILENT[case]())
    assert second_order.check(network, training=training).findings == ()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_nothing_to_say_of_resized_weights(interpolation):
    # Position embeddings resized to the input's grid: linear in the weights, differentiated once.
    class Positions(L.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(1, 4, 4, shape[-1]))

        def call(self, x):
            return x * tf.image.resize(self.table, (8, 8), interpolation)

    assert found(network_with(Positions())) == []


def test_gradients_of_ones_own_are_silent():
    @tf.custom_gradient
    def square(x):
        @tf.custom_gradient
        def gradient(dy):
            return 2 * x * dy, lambda ddx: 2 * x * ddx

        return x * x, gradient

    assert found(network_with(Lambda(square))) == []


def test_attention_and_branches_are_silent():
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    image = keras.Input((6, 8), name="image")
    x = L.Embedding(10, 8)(tokens) + image
    x = L.Concatenate()([L.MultiHeadAttention(2, 4)(x, x), x])
    network = keras.Model({"tokens": tokens, "image": image}, L.Dense(1)(x))
    assert second_order.check(network).findings == ()


@pytest.mark.long
@pytest.mark.parametrize(
    ("application", "batch_norms"),
    with_slow([("MobileNet", 27)], [("MobileNetV3Small", 34), ("EfficientNetV2B0", 59)]),
)
def test_applications_only_warn(application, batch_norms):
    network = getattr(keras.applications, application)(weights=None, input_shape=(64, 64, 3))
    faults = found(network)
    assert len(faults) == batch_norms
    assert {(operation, severity) for _, operation, severity in faults} == {(STOPPED, "warning")}
    owners = [network.get_layer(layer) for layer, _, _ in faults]
    assert all(isinstance(owner, L.BatchNormalization) for owner in owners)
    assert second_order.inspect(network, training=False).findings == ()


def test_batch_norm_warns_once():
    network = network_with(L.BatchNormalization(name="bn"))
    with pytest.warns(SecondOrderWarning, match=r"'bn'.*use tfgrad.layers.BatchNormalization"):
        second_order.check(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second_order.check(network)


def test_one_error_lists_every_layer():
    stack = [L.LayerNormalization(name="a"), L.Conv2D(4, 3), L.Resizing(4, 4, name="b")]
    network = network_with(*stack)
    with pytest.raises(SecondOrderError) as error:
        second_order.check(network)
    message = str(error.value)
    assert "use tfgrad.layers.LayerNormalization" in message
    assert "use tfgrad.layers.Resizing" in message
    assert message.index("layer 'a' (LayerNormalization)") < message.index("layer 'b' (Resizing)")


def test_bare_operations_and_nested_models():
    inner_input = keras.Input(SHAPE)
    inner = keras.Model(inner_input, L.LayerNormalization(name="norm")(inner_input), name="inner")
    x = image = keras.Input(SHAPE)
    x = inner(inner(x)) + keras.ops.image.resize(x, (8, 8))
    network = keras.Model(image, L.LayerNormalization(name="norm")(x), name="outer")
    faults = second_order.inspect(network).findings
    assert [(f.layer, f.operation) for f in faults] == [
        ("norm", STOPPED),
        ("norm", STOPPED),  # the inner and the outer one: two layers, one name; two calls, one line
        ("outer", BILINEAR),
    ]
    assert "outside every layer" in str(faults[2])
