"""Which layers of a network are re-initialised, with which weights, and what is restored."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.reinitialise_cases import (
    SHAPE,
    L,
    Scaled,
    assert_equal,
    functional,
    images,
    sequential,
    subclassed,
    trained,
    weights,
)
from tfgrad import saliency
from tfgrad.errors import ModelError
from tfgrad.evaluation import randomisation
from tfgrad.evaluation.map_tests.reinitialise import (
    layers_with_weights,
    reinitialise_layer,
    restored,
)

GRADIENT = saliency.get("input_gradient")


def test_layers_stand_in_the_order_of_their_reads_once_and_by_path():
    assert list(layers_with_weights(functional(), images(1))) == [
        "first",
        "shared",
        "block/norm",
        "block/conv",
        "logits",
    ]
    found = list(layers_with_weights(subclassed(), images(1)))
    attention = [f"attention/{n}" for n in ("query", "key", "value", "attention_output")]
    assert found[0] == "scaled" and found[1].startswith("each/dense")
    assert set(found[2:6]) == set(attention) and found[5] == attention[3]
    assert found[6].startswith("subclassed")  # its own token
    assert [p.startswith("both/") for p in found[7:9]] == [True, True]
    assert found[9:] == ["head"]
    x = keras.Input((2,))
    twice, once = L.Dense(2, name="twice"), L.Dense(2, name="once")
    network = keras.Model(x, twice(once(twice(x))))
    assert list(layers_with_weights(network, tf.zeros((1, 2)))) == ["once", "twice"]


@pytest.mark.long
@pytest.mark.parametrize("make", [functional, subclassed])
def test_every_layer_is_reinitialised_and_restored(make):
    network = make()
    before = weights(network)
    layers = layers_with_weights(network, images(1))
    drawn = []
    with restored(network) as restore:
        for seed in (3, 3, 4):
            restore()
            for path, layer in layers.items():
                assert reinitialise_layer(layer, path, seed) > 0.05, path
            drawn.append(np.concatenate([w.ravel() for w in weights(network)]))
    assert_equal(network, before)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_initialisers_of_the_layer_draw():
    network = trained(
        keras.Sequential(
            [
                keras.Input(SHAPE),
                L.Conv2D(64, 3, kernel_initializer=keras.initializers.HeNormal(seed=1), name="he"),
                L.BatchNormalization(name="norm"),
                L.Flatten(),
                L.Dense(50, bias_initializer="ones", name="logits"),
            ]
        )
    )
    he, norm, logits = layers_with_weights(network, images(1)).values()
    drawn = []
    for seed in (0, 1):
        reinitialise_layer(he, "he", seed)
        drawn.append(he.kernel.numpy())
    assert np.std(drawn[0]) == pytest.approx(np.sqrt(2 / 18), rel=0.1)  # fan-in 3·3·2
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 0.2  # seed=1 is replaced
    assert not he.bias.numpy().any()
    reinitialise_layer(norm, "norm", 0)
    assert [np.unique(w.numpy()).tolist() for w in norm.weights] == [[1], [0], [0], [1]]
    reinitialise_layer(logits, "logits", 0)
    limit = np.sqrt(6 / (16 * 64 + 50))
    assert 0.95 * limit < np.abs(logits.kernel.numpy()).max() <= limit
    assert (logits.bias.numpy() == 1).all()


def test_what_a_configuration_does_not_bring_back_is_shuffled():
    layer = subclassed().scaled
    before = layer.gain.numpy()
    change = reinitialise_layer(layer, "scaled", 0)
    after = layer.gain.numpy()
    np.testing.assert_array_equal(np.sort(after.ravel()), np.sort(before.ravel()))
    assert change == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))


class Cosine(keras.Model):
    """Takes the kernel out of its head, never calls the projection, and freezes its first layer."""

    def __init__(self):
        super().__init__()
        self.head = L.Dense(3, use_bias=False, name="head")
        self.projection = L.Dense(5, name="projection")
        self.conv = L.Conv2D(4, 3, name="conv", trainable=False)
        self.unused = L.Dense(3, name="unused")
        for layer, width in ((self.projection, 64), (self.head, 5), (self.unused, 5)):
            layer.build((None, width))

    def call(self, x):
        hidden = self.projection.call(tf.reshape(self.conv(x), [-1, 64]))
        return tf.nn.l2_normalize(hidden, 1) @ tf.nn.l2_normalize(self.head.kernel, 0)


@pytest.mark.long
def test_layers_that_are_read_and_not_called_count_and_so_do_frozen_ones():
    network = Cosine()
    network(images(1))
    trained(network)
    assert list(layers_with_weights(network, images(1))) == ["conv", "projection", "head"]
    before = weights(network)
    result = randomisation(network, images(), GRADIENT, order="independent")
    assert_equal(network, before)
    assert result.labels == ("none", "head", "projection", "conv")
    assert max(result.values[1:]) < 0.9 and min(result.columns["weights changed"][1:]) > 0.3


def test_reads_inside_functions_and_of_replicas_are_seen():
    inner = L.Dense(3, name="inner")
    network = keras.Sequential([keras.Input(SHAPE), L.Flatten(), inner])
    compiled = tf.function(inner.call, autograph=False)
    inner.call = lambda x, training=None: compiled(x)
    assert list(layers_with_weights(network, images(1))) == ["inner"]
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        replicated = sequential()
    assert list(layers_with_weights(replicated, images(1))) == ["conv", "logits"]


class Raw(L.Layer):
    """Keeps variables that Keras does not know, and reads one of them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.raw = tf.Variable([1.0, 2.0], name="secret", trainable=False)
        self.calls = tf.Variable(0.0)
        self.dropout = L.Dropout(0.5)  # its seed is a state, no weight

    def call(self, x):
        self.calls.assign_add(1.0)
        return self.dropout(self.raw * x, training=True)


def test_a_variable_that_no_layer_owns_is_refused():
    network = keras.Sequential([keras.Input(SHAPE), Raw(), L.Flatten(), L.Dense(3, name="logits")])
    with pytest.raises(ModelError, match="reads the variable 'secret:0', which belongs to none of"):
        layers_with_weights(network, images(1))
    network.layers[0].raw = tf.constant(1.0)
    assert list(layers_with_weights(network, images(1))) == ["logits"]


def test_statistics_of_the_data_stay():
    norm = L.Normalization(mean=[0.5, 0.5], variance=[0.1, 0.2])
    adapted = L.Normalization()
    adapted.adapt(images())
    network = keras.Sequential([keras.Input(SHAPE), norm, adapted, L.Flatten(), L.Dense(3)])
    assert len(layers_with_weights(network, images(1))) == 1


class Tempered(Scaled):
    """A single number, which no permutation changes."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")


def test_a_single_number_is_drawn_from_a_normal_of_its_size():
    layer = Tempered(object())
    layer.build((None, 3))
    drawn = []
    for seed in range(400):
        layer.gain.assign(4.0)
        reinitialise_layer(layer, "tempered", seed)
        drawn.append(float(layer.gain))
    assert np.std(drawn) == pytest.approx(4, rel=0.1) and abs(np.mean(drawn)) < 0.6
    layer.gain.assign(4.0)
    reinitialise_layer(layer, "tempered", 0)
    assert float(layer.gain) == drawn[0]


def test_drawing_leaves_the_users_own_random_numbers_alone():
    layer = sequential().layers[0]
    random.seed(5)
    expected = random.random()
    random.seed(5)
    reinitialise_layer(layer, "conv", 0)
    assert random.random() == expected


def test_a_norm_over_several_axes_has_no_kernel():
    layer = L.LayerNormalization(axis=(1, 2))
    layer.build((None, 6, 2))
    assert reinitialise_layer(layer, "norm", 0) == 0
    layer.gamma.assign(layer.gamma * 1.01)
    assert reinitialise_layer(layer, "norm", 0) == pytest.approx(0.01, rel=0.02)
