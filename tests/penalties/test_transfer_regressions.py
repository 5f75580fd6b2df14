"""Uses of teachers that once failed."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfgrad
from tfgrad.errors import ArgumentError
from tfgrad.penalties import ActivationMatching, AttentionMatching, matching_layers


def functional(name="conv", stride=1, before=()):
    x = inputs = keras.Input((8, 8, 3))
    for layer in before:
        x = layer(x)
    x = L.Conv2D(4, 3, strides=stride, padding="same", name=name)(x)
    x = L.ReLU(name=f"{name}_act")(x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def unbuilt():
    layers = [L.Conv2D(4, 3, padding="same", name="first"), L.ReLU(name="relu")]
    return keras.Sequential([*layers, L.GlobalAveragePooling2D(), L.Dense(3)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = L.Flatten(), L.Dense(3)

    def call(self, x):
        return self.dense(self.flatten(x))


def images():
    return np.random.default_rng(0).uniform(size=(6, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("built", [True, False])
def test_a_subclassed_teacher(built):
    teacher, x = Subclassed(), images()
    if built:
        teacher(x)
    model = tfgrad.PenalizedModel(functional(), [ActivationMatching()], teacher=teacher)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(x, np.arange(6) % 3, verbose=0).history
    assert np.isfinite(history["activation_matching"]).all()


def test_images_without_labels():
    """The loss is then the penalties and the network's own regularisers."""
    network, teacher, x = functional(), functional("other"), images()
    network.get_layer("conv").kernel.regularizer = keras.regularizers.L2(0.1)
    decay = 0.1 * np.sum(np.square(network.get_layer("conv").kernel.numpy()))
    model = tfgrad.PenalizedModel(network, [ActivationMatching(2.0)], teacher=teacher)
    model.compile(keras.optimizers.SGD(0.0))
    expected = np.mean(np.sum(np.square(network(x) - teacher(x)), axis=-1))
    for data in (x, model.lessons(x)):
        history = model.fit(data, batch_size=6, verbose=0).history
        np.testing.assert_allclose(history["activation_matching"], [expected], rtol=1e-5)
        np.testing.assert_allclose(history["loss"], [2 * expected + decay], rtol=1e-5)


def test_pairs_of_a_model_that_is_built_by_the_question():
    pairs = matching_layers(unbuilt(), functional(), input_shape=(8, 8, 3), verbose=False)
    assert pairs == [("relu", "conv_act")]


def test_pairs_leave_out_what_prepares_the_image():
    teacher = functional("deep", stride=2, before=[L.Rescaling(2.0), L.ZeroPadding2D(0)])
    student = keras.Sequential([functional().get_layer("conv"), L.MaxPooling2D(), L.Flatten()])
    student = keras.Sequential([keras.Input((8, 8, 3)), *student.layers, L.Dense(3)])
    chosen = matching_layers(student, teacher, verbose=False)
    assert [taught for _, taught in chosen] == ["deep_act"]


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_count_of_pairs(count):
    with pytest.raises(ArgumentError, match="count"):
        matching_layers(functional(), functional(), count=count)


def test_lessons_for_a_student_that_is_not_built():
    x, y = images(), np.arange(6) % 3
    penalty = AttentionMatching(layers=[("relu", "conv_act")])
    model = tfgrad.PenalizedModel(unbuilt(), [penalty], teacher=functional())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(model.lessons(x, y), y, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_lessons_of_something_else():
    model = tfgrad.PenalizedModel(functional(), [ActivationMatching()], teacher=functional())
    with pytest.raises(ArgumentError, match="x, y: got 6, 5 examples"):
        model.lessons(images(), np.arange(5))
    with pytest.raises(ArgumentError, match="x, y: got int; expected arrays"):
        model.lessons(images(), [0, 1, 2, 0, 1, 2])


def test_two_heads_where_the_last_layer_has_an_earlier_call():
    inputs = keras.Input((4,))
    hidden, last = L.Dense(5, activation="relu", name="hidden")(inputs), L.Dense(3)
    keras.Model(inputs, last(L.Dense(5, name="elsewhere")(inputs)))
    two = tfgrad.models.two_heads(keras.Model(inputs, last(hidden)), 7)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    layer = two.get_layer("source_logits")
    features = keras.Model(inputs, hidden)(x)
    np.testing.assert_allclose(two(x)["source"], features @ layer.kernel + layer.bias, rtol=1e-5)
