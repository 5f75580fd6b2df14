"""Verdicts on networks of Keras's plainest layers equal those of a trace."""

import keras
import pytest

from tfgrad.second_order import guard, known_layers
from tfgrad.second_order.tracing import trace

layers = keras.layers
IMAGE, SERIES, TABLE = (8, 8, 3), (8, 3), (5,)


def _chain(shape, *chain):
    return keras.Sequential([keras.Input(shape), *chain])


def _branches(merge):
    x = keras.Input(IMAGE)
    a = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    b = layers.Conv2D(4, 3, padding="same")(x)
    y = layers.GlobalAveragePooling2D()(merge([a, b]))
    return keras.Model(x, layers.Dense(3)(y))


def _nested():
    inner = _chain(IMAGE, layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU())
    x = keras.Input(IMAGE)
    y = layers.GlobalAveragePooling2D()(inner(x))
    return keras.Model(x, layers.Dense(3)(y))


def _shared():
    x = keras.Input(IMAGE)
    conv, pool = layers.Conv2D(3, 3, padding="same"), layers.MaxPooling2D(2, padding="same")
    y = layers.GlobalAveragePooling2D()(pool(conv(pool(conv(x)))))
    return keras.Model(x, layers.Dense(3)(y))


def _two_outputs():
    x = keras.Input(TABLE)
    return keras.Model(x, [layers.Dense(3)(x), layers.Dense(1, activation="tanh")(x)])


KNOWN = {
    "dense": lambda: _chain(TABLE, layers.Dense(4, activation="relu"), layers.Dense(3)),
    **{
        f"dense of {name}": lambda name=name: _chain(
            TABLE, layers.Dense(4, activation=name), layers.Dense(3)
        )
        for name in ("relu6", "silu", "gelu", "sigmoid", "tanh", "linear")
    },
    "activation": lambda: _chain(
        TABLE, layers.Dense(4), layers.Activation("silu"), layers.Dense(3)
    ),
    "relu at 6": lambda: _chain(TABLE, layers.Dense(4), layers.ReLU(6), layers.Dense(3)),
    "image": lambda: _chain(
        IMAGE,
        layers.Rescaling(1 / 255),
        layers.Normalization(mean=[0.4] * 3, variance=[0.2] * 3),
        layers.ZeroPadding2D(1),
        layers.Conv2D(4, 3, strides=2),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, dilation_rate=1, padding="same"),
        layers.BatchNormalization(scale=False),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(3),
    ),
    "frozen normalisation": lambda: _chain(
        IMAGE,
        layers.Conv2D(4, 3),
        layers.BatchNormalization(trainable=False),
        layers.Flatten(),
        layers.Dense(3),
    ),
    "channels normalised": lambda: _chain(
        IMAGE, layers.BatchNormalization(axis=1), layers.Flatten(), layers.Dense(3)
    ),
    "pooling": lambda: _chain(
        IMAGE,
        layers.Conv2D(4, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Reshape((-1,)),
        layers.Dense(3),
    ),
    "series": lambda: _chain(
        SERIES,
        layers.ZeroPadding1D(1),
        layers.Conv1D(4, 3, activation="relu"),
        layers.MaxPooling1D(2),
        layers.AveragePooling1D(2),
        layers.GlobalAveragePooling1D(),
        layers.Dense(3),
    ),
    "sum": lambda: _branches(layers.Add()),
    "mean": lambda: _branches(layers.Average()),
    "product": lambda: _branches(layers.Multiply()),
    "side by side": lambda: _branches(layers.Concatenate()),
    "nested": _nested,
    "shared": _shared,
    "two outputs": _two_outputs,
}


class _Double(layers.Dense):
    """A layer whose class is not Keras's."""

    def call(self, inputs):
        return 2 * super().call(inputs)


class _Scaled:
    """A callable with an equality of its own, and so without a hash."""

    def __eq__(self, other):
        return isinstance(other, _Scaled)

    def __call__(self, x):
        return 2 * x


def _replaced():
    network = _chain(TABLE, layers.Dense(3))
    own = network.layers[0].call
    network.layers[0].call = lambda inputs, training=None: own(inputs)
    return network


def _of_operations():
    x = keras.Input(TABLE)
    return keras.Model(x, layers.Dense(3)(keras.ops.square(x)))


def _recomputed():
    with keras.RematScope(mode="full"):
        return _chain(TABLE, layers.Dense(4, activation="relu"), layers.Dense(3))


def _adapted():
    network = _chain(TABLE, layers.Dense(4))
    network.layers[0].enable_lora(1)
    return network


TRACED = {
    "subclass": lambda: _chain(TABLE, _Double(3)),
    "replaced call": _replaced,
    "operation": _of_operations,
    "recomputed": _recomputed,
    "adapted": _adapted,
    "softmax": lambda: _chain(TABLE, layers.Dense(3, activation="softmax")),
    "sigmoid": lambda: _chain(TABLE, layers.Dense(1, activation="sigmoid")),
    "softmax layer": lambda: _chain(TABLE, layers.Dense(3), layers.Activation("softmax")),
    "own activation": lambda: _chain(TABLE, layers.Dense(3, activation=keras.ops.square)),
    "unhashable activation": lambda: _chain(
        TABLE, layers.Dense(4, activation=_Scaled()), layers.Dense(3)
    ),
    "activation of another kind": lambda: _chain(
        TABLE, layers.Dense(4, activation="softsign"), layers.Dense(3)
    ),
    "groups": lambda: _chain((8, 8, 4), layers.Conv2D(4, 3, groups=2), layers.Flatten()),
    "causal": lambda: _chain(
        SERIES, layers.Conv1D(4, 3, padding="causal"), layers.GlobalAveragePooling1D()
    ),
    "leaky": lambda: _chain(TABLE, layers.ReLU(negative_slope=0.1), layers.Dense(3)),
    "half precision": lambda: _chain(TABLE, layers.Dense(3, dtype="mixed_float16")),
    "regularised activity": lambda: _chain(
        TABLE, layers.Dense(3, activity_regularizer="l2"), layers.Dense(3)
    ),
    "synchronised": lambda: _chain(
        TABLE, layers.BatchNormalization(synchronized=True), layers.Dense(3)
    ),
    "another layer": lambda: _chain(TABLE, layers.LayerNormalization(), layers.Dense(3)),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_a_known_network_has_the_verdict_of_its_trace(name, training):
    network = KNOWN[name]()
    known = known_layers.verdict(network, training)
    assert known is not None
    inspection, faults = guard._known(network, known)
    specs = guard.specs_of(network, None)
    traced, faults_of_trace = guard._judged(network, trace(network, specs, training))
    assert inspection == traced
    assert faults == faults_of_trace


@pytest.mark.sample(2)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", TRACED)
def test_any_other_network_is_traced(name, training):
    assert known_layers.verdict(TRACED[name](), training) is None


def test_a_known_network_is_not_traced(monkeypatch):
    monkeypatch.setattr(guard, "trace", None)
    network = KNOWN["image"]()
    assert len(guard.inspect(network).findings) == 2


def test_a_known_network_of_integers_is_traced(monkeypatch):
    def traced(*args, **kwargs):
        raise LookupError

    monkeypatch.setattr(guard, "trace", traced)
    network = _chain(TABLE, layers.Dense(3))
    with pytest.raises(LookupError):
        guard.inspect(network, keras.KerasTensor((None, 5), "int32"))
    with pytest.raises(LookupError):
        guard.inspect(network, embeddings=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["MobileNetV2", "ResNet50V2", "EfficientNetV2B0", "DenseNet121", "VGG16"]
)
def test_networks_of_applications_have_the_verdict_of_their_trace(name):
    network = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classifier_activation=None, classes=10
    )
    for training in (False, True):
        inspection, _ = guard._known(network, known_layers.verdict(network, training))
        specs = guard.specs_of(network, None)
        assert inspection == guard._judged(network, trace(network, specs, training))[0]
