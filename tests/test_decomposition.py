"""The full-gradient decomposition: complete on everything, and right to second order."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps.common import architectures
from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tests.helpers.variants import with_slow
from tfgrad import decomposition
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe

L = keras.layers
IMAGE = (8, 8, 2)

# All of keras.applications is `python -m apps.completeness`; these are small and unlike.
APPLICATIONS = with_slow(["MobileNetV2"], ["MobileNetV3Small", "EfficientNetB0"])


def network(activation="softplus", classes=3):
    net = keras.Sequential(
        [
            keras.Input(IMAGE),
            L.Conv2D(3, 3, activation=activation, name="conv"),
            tfgrad.layers.BatchNormalization(name="norm"),
            L.Activation(activation, name="act"),
            tfgrad.layers.LayerNormalization(epsilon=0.1, name="layer_norm"),
            L.Flatten(),
            L.Dense(classes, name="head"),
        ]
    )
    return architectures.randomised(net)


def images(n=4):
    return np.random.default_rng(5).normal(size=(n, *IMAGE))


@pytest.mark.long
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", architectures.KINDS)
def test_complete_on_one_of_each_kind(name):
    model = architectures.randomised(architectures.KINDS[name]())
    full = tfgrad.full_gradients(model, architectures.random_inputs(model, batch=4))
    assert np.max(full.completeness_error()) < 1e-5
    assert all(t.shape[0] == 4 for t in full.bias_gradients.values())


@pytest.mark.parametrize("name", APPLICATIONS)
def test_complete_on_applications(name):
    model = architectures.randomised(architectures.application(name, 64, classes=10))
    full = tfgrad.full_gradients(model, architectures.random_inputs(model))
    assert np.max(full.completeness_error()) < 1e-5
    inputs = np.sum(full.input_term, axis=(1, 2, 3)) / full.score
    assert np.min(np.abs(inputs - 1)) > 1e-2  # the biases matter, or the test would show nothing


@pytest.mark.long
@pytest.mark.parametrize("target", [None, "predicted", 0, 2, -1, [0, 1, 2, -1], (2, 2, 2, 2)])
def test_the_target_says_which_logit(target, float64):
    net, x = network(), images()
    logits = net(x).numpy()
    full = tfgrad.full_gradients(net, x, target)
    expected = -1 if target in (None, "predicted") else target
    expected = np.broadcast_to(expected, 4)
    expected = np.where(expected < 0, logits.argmax(-1), expected)
    np.testing.assert_array_equal(full.classes, expected)
    np.testing.assert_allclose(full.score, logits[np.arange(4), expected], rtol=1e-12)
    np.testing.assert_allclose(full.total(), full.score, rtol=1e-11)
    assert np.max(full.completeness_error()) < 1e-11


def test_a_batch_is_its_examples(float64):
    net, x = network(), images()
    whole = tfgrad.full_gradients(net, x)
    for i in range(4):
        one = tfgrad.full_gradients(net, x[i : i + 1])
        for name, value in whole.bias_gradients.items():
            np.testing.assert_allclose(
                one.bias_gradients[name][0], value[i], rtol=1e-10, atol=1e-13
            )


def test_a_frozen_network_decomposes_alike():
    net, x = network(), images().astype("float32")
    before = tfgrad.full_gradients(net, x)
    net.trainable = False
    after = tfgrad.full_gradients(net, x)
    assert list(before.bias_gradients) == list(after.bias_gradients)
    for name, value in before.bias_gradients.items():
        np.testing.assert_array_equal(after.bias_gradients[name], value)


def test_inside_a_tf_function_and_of_a_penalized_model():
    net, x = network(), images().astype("float32")
    model = tfgrad.PenalizedModel(net, [tfgrad.penalties.GradientNorm(0.1)])
    eager = tfgrad.full_gradients(model, x)
    traced = tf.function(lambda x: tfgrad.full_gradients(net, x).bias_gradients, autograph=False)(x)
    assert list(eager.bias_gradients) == [
        *("conv", "conv/activation", "norm", "act", "layer_norm", "head")
    ]
    for name, value in eager.bias_gradients.items():
        np.testing.assert_allclose(traced[name], value, rtol=1e-4, atol=1e-6)


def test_weights_of_now_and_not_of_then():
    net, x = network(), images().astype("float32")
    explain = tf.function(lambda x: tfgrad.full_gradients(net, x).bias_gradients["head"])
    before = explain(x).numpy()
    net.get_layer("head").bias.assign(net.get_layer("head").bias + 1.0)
    picked = np.zeros_like(before)
    picked[np.arange(4), np.argmax(net(x), -1)] = 1.0
    np.testing.assert_allclose(explain(x).numpy() - before, picked, atol=1e-6)


@pytest.mark.long
def test_second_order_of_every_term_against_differences(float64):
    """Σ (f^b)² of each call: what a penalty on bias-gradients differentiates."""
    net, x = network(), tf.constant(images(2))
    variables = [
        net.get_layer("conv").bias,
        net.get_layer("norm").gamma,
        net.get_layer("layer_norm").beta,
        net.get_layer("head").bias,
    ]

    def value():
        full = tfgrad.full_gradients(net, x, 1)
        terms = [full.input_term, *full.bias_gradients.values()]
        return tf.add_n([tf.reduce_sum(t**2) for t in terms])

    with tf.GradientTape() as tape:
        loss = value()
    exact = tape.gradient(loss, [v.value for v in variables])
    numerical = [numerical_gradient(value, v) for v in variables]
    assert worst_relative_error(exact, numerical) < 1e-8


def test_the_gradient_of_the_terms_with_respect_to_the_input(float64):
    net = keras.Sequential(
        [keras.Input((3,)), L.Dense(4, "tanh"), L.UnitNormalization(), L.Dense(2)]
    )
    architectures.randomised(net)
    x = tf.Variable(np.random.default_rng(0).normal(size=(2, 3)))

    def value():
        terms = tfgrad.full_gradients(net, x.value(), 0).bias_gradients.values()
        return tf.add_n([tf.reduce_sum(t**2) for t in terms])

    with tf.GradientTape() as tape:
        loss = value()
    assert worst_relative_error([tape.gradient(loss, x)], [numerical_gradient(value, x)]) < 1e-8


def test_it_prints_shapes_and_not_pixels():
    text = repr(tfgrad.full_gradients(network(), images().astype("float32")))
    assert "input_gradient: [4, 8, 8, 2], conv: [4, 6, 6, 3]" in text and len(text) < 500


def test_a_trace_leaves_no_tensor_of_its_graph_in_the_losses():
    """Keras drops a model's losses at every call; what must not be is that ours stay instead."""
    net = keras.Sequential([keras.Input((3,)), L.Dense(2, activity_regularizer="l2"), L.Dense(2)])
    tfgrad.full_gradients(net, x := np.ones((1, 3), "float32"))  # what is inspected is so once
    net(x)
    assert len(net.losses) == 1
    tf.function(lambda x: tfgrad.full_gradients(net, x).score, autograph=False)(x)
    assert all(np.isfinite(float(loss)) for loss in net.losses)


def test_half_precision_images_of_a_float32_network():
    net, x = network(), tf.cast(images(), tf.bfloat16)
    assert np.max(tfgrad.full_gradients(net, x).completeness_error()) < 0.1


def test_one_pass_gives_both_kinds_of_gradient():
    probe = Probe(network(), images().astype("float32"), needs=Needs(intercepts=True))
    first = probe.intercept_gradients("predicted")
    assert probe.intercept_gradients("predicted")[0][0] is first[0][0]
    assert len(first) == len(probe.intercepts)
    full = decomposition.of_probe(probe, "predicted")
    assert full.input_gradient is probe.input_gradient("predicted")


class Lies(L.Layer):
    """A derivative that does not fit inside a composite, where forward mode cannot know."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3)

    def call(self, x):
        return _tripled(self.dense(x)) + 1.0


@tf.custom_gradient
def _tripled(x):
    return x * x, lambda upstream: 3.0 * upstream


@pytest.mark.parametrize("graph", [False, True])
def test_a_sum_that_misses_the_logit_is_never_returned(graph):
    net = keras.Sequential([keras.Input((3,)), Lies(), L.Dense(2)])
    x = tf.random.normal([2, 3])
    with pytest.raises((ModelError, tf.errors.InvalidArgumentError), match="miss the logit"):
        if graph:
            tf.function(lambda x: tfgrad.full_gradients(net, x).score, autograph=False)(x)
        else:
            tfgrad.full_gradients(net, x)


def test_a_sum_that_misses_the_logit_is_nan_under_xla():
    x = tf.random.normal([2, 3])
    for layer, is_right in ((Lies(), False), (L.Dense(3, "tanh"), True)):
        net = keras.Sequential([keras.Input((3,)), layer, L.Dense(2)])
        compiled = tf.function(
            lambda x, net=net: tfgrad.full_gradients(net, x).input_gradient,
            jit_compile=True,
            autograph=False,
        )
        assert np.isfinite(compiled(x)).all() == is_right


def test_a_map_of_terms_that_miss_the_logit_is_never_returned():
    net = keras.Sequential([keras.Input((4, 4, 1)), Lies(), L.Flatten(), L.Dense(2)])
    with pytest.raises(ModelError, match=r"^model .*miss the logit.*layer of its own\.$"):
        tfgrad.saliency.FullGrad(net)(np.ones((1, 4, 4, 1), "float32"))


@pytest.mark.parametrize(
    ("make", "x", "error", "message"),
    [
        (network, np.ones((2, *IMAGE), int), ArgumentError, "float inputs.*tf.cast"),
        (network, np.ones(IMAGE), ArgumentError, r"got shape \(8, 8, 2\).*try x\[None\]"),
        (network, np.ones((2, 8, 8, 3)), ArgumentError, r"got shape.*expected \(None, 8, 8, 2\)"),
        (network, np.full((2, *IMAGE), np.nan), DataError, "NaN"),
        (network, np.ones((0, *IMAGE)), ArgumentError, "at least one example"),
        (network, "photo.jpg", ArgumentError, "x: got a str that is no array of numbers"),
        (network, [[1.0], [1.0, 2.0]], ArgumentError, "x: got a list that is no array"),
        (lambda: keras.Sequential([keras.Input(IMAGE), L.Flatten(), L.ReLU(), L.Lambda(tf.sqrt)]),
         np.zeros((1, *IMAGE)), ModelError, "term of 'lambda.*' is NaN or infinite"),
        (lambda: "a model", None, ArgumentError, "model: got a str; expected a keras.Model"),
        (lambda: keras.Sequential([keras.Input(IMAGE), L.Flatten(), L.Lambda(tf.stop_gradient)]),
         None, ModelError, "does not depend differentiably"),
    ],
)  # fmt: skip
def test_bad_input(make, x, error, message):
    x = images().astype("float32") if x is None else x
    with pytest.raises(error, match=f"(?s){message}"):
        tfgrad.full_gradients(make(), x)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "got class 3.*0 to 2"),
        ("label", "no labels"),
        ("all", "got 'all'; expected 'predicted', a class"),
        ([0, 1], "got 2 classes for a batch of 4"),
        ([0.5] * 4, "integer"),
        ([0, 1, 2, 5], "classes from 0 to 5"),
    ],
)
def test_bad_target(target, message):
    with pytest.raises(ArgumentError, match=f"target: .*{message}"):
        tfgrad.full_gradients(network(), images().astype("float32"), target)


def test_a_model_with_an_attribute_called_network_is_itself():
    inner, x = network(), images()

    class Tenth(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = inner

        def call(self, x):
            return self.network(x) / 10

    model = Tenth()
    model(x)
    full = tfgrad.full_gradients(model, x)
    np.testing.assert_allclose(full.score, np.max(model(x), -1), rtol=1e-6)
