"""The probe's additional forward passes: the same masks, no state changed, float32 if asked."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.probe_cases import Function
from tfgrad import layers
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.penalties import AntiScoreMatching, ScoreMatching

L = keras.layers


def with_state(policy=None):
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(16, dtype=policy),
            layers.BatchNormalization(dtype=policy),
            L.Activation("softplus", dtype=policy),
            L.Dropout(0.5, dtype=policy),
            L.Dense(3, dtype=policy),
        ]
    )
    rng = np.random.default_rng(4)
    for weight in network.non_trainable_weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return network


def state_of(network):
    return [np.array(v.numpy()) for v in network.variables]


def images(n=8):
    return np.random.default_rng(5).normal(size=(n, 4)).astype("float32")


@pytest.mark.parametrize("graph", [False, True])
def test_forward_repeats_masks_and_moves_nothing(graph):
    network = with_state()
    statistics = len(network.non_trainable_variables)

    def run(x):
        probe = Probe(network, x, training=True)
        moved = [tf.identity(v.value) for v in network.variables]
        twice = [probe.forward(x), probe.forward(x)]
        after = [tf.identity(v.value) for v in network.variables]
        return probe.logits, twice, moved, after

    before = state_of(network)
    traced = tf.function(run, autograph=False) if graph else run
    logits, twice, moved, after = traced(tf.constant(images()))
    for again in twice:
        np.testing.assert_array_equal(again, logits)
    for a, b in zip(moved, after, strict=True):
        np.testing.assert_array_equal(a, b)
    # The probe's own pass did move statistics and seed: there was something to keep still.
    changed = [not np.array_equal(a, b) for a, b in zip(before, moved, strict=True)]
    assert sum(changed) == statistics == 3
    # Half of 8 · 16 units are masked, so another mask would have shown.
    assert not np.array_equal(Probe(network, images(), training=True).logits, logits)


def test_forward_in_inference_mode_is_the_network():
    network = with_state()
    probe = Probe(network, images())
    np.testing.assert_array_equal(probe.forward(images() + 1), network(images() + 1))


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda x: x + tf.random.normal(tf.shape(x)), "draws from TensorFlow's stateful"),
        (lambda x: tf.nn.dropout(x, 0.5), "draws from TensorFlow's stateful"),
    ],
)
def test_masks_that_cannot_be_repeated_are_refused(function, what):
    network = keras.Sequential([keras.Input((4,)), Function(function, name="mine"), L.Dense(2)])
    probe = Probe(network, images(), training=True)
    with pytest.raises(ModelError, match=f"'mine' {what}.*keras.random with seed="):
        probe.forward(images())


def test_state_that_keras_does_not_know_of_is_refused():
    count = tf.Variable(0.0)

    def counting(x):
        count.assign_add(1.0)
        return x

    network = keras.Sequential([keras.Input((4,)), Function(counting, name="mine"), L.Dense(2)])
    probe = Probe(network, images(), training=True)
    with pytest.raises(ModelError, match="'mine' keeps state outside the network"):
        probe.forward(images())


# Half precision


@pytest.mark.long
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("training", [False, True])
def test_in_float32_is_the_float32_network(policy, training):
    half, single = with_state(policy), with_state()
    for network in (half, single):
        network.layers[3].rate = 0.0  # masks are drawn in the layer's own dtype
    policies = [item.dtype_policy for item in half.layers]
    probe = Probe(half, images(), training=training, needs=Needs(order=2))
    moved = state_of(half)
    wide = probe.in_float32()
    expected = Probe(single, images(), training=training, needs=Needs(order=2))
    assert wide is probe.in_float32() and wide is wide.in_float32()
    for target in (0, "predicted"):
        close = {"rtol": 1e-6, "atol": 1e-6}
        np.testing.assert_allclose(wide.score(target), expected.score(target), **close)
        gradient = expected.input_gradient(target)
        np.testing.assert_allclose(wide.input_gradient(target), gradient, **close)
        trace = expected.hessian_trace(target)
        np.testing.assert_allclose(wide.hessian_trace(target), trace, rtol=1e-5, atol=1e-6)
    shifted = images() + 0.01
    np.testing.assert_allclose(wide.forward(shifted), expected.forward(shifted), **close)
    # The comparison could have failed: half precision is further off than that.
    assert np.abs(probe.logits - expected.logits).max() > 1e-4
    assert [item.dtype_policy for item in half.layers] == policies
    assert all(a is b.dtype_policy for a, b in zip(policies, half.layers, strict=True))
    for a, b in zip(moved, state_of(half), strict=True):
        np.testing.assert_array_equal(a, b)


def test_in_float32_repeats_its_own_masks():
    network = with_state("mixed_bfloat16")
    wide = Probe(network, images(), training=True).in_float32()
    np.testing.assert_array_equal(wide.forward(images()), wide.logits)


def test_policies_come_back_after_an_error():
    network = with_state("mixed_float16")
    probe = Probe(network, images())
    network.layers[0].kernel_constraint = None
    wide = probe.in_float32()
    with pytest.raises(Exception, match=r"[Ii]ncompatible|shape"):
        wide.forward(np.zeros((2, 9), "float32"))
    assert {item.dtype_policy.name for item in network.layers} == {"mixed_float16"}


def test_float32_networks_are_their_own_float32():
    probe = Probe(with_state(), images())
    assert probe.in_float32() is probe


def test_logits_are_at_least_float32():
    assert Probe(with_state("mixed_float16"), images()).logits.dtype == tf.float32


# In inference mode, for what must be a function of one image


def test_in_inference_is_the_network_as_it_was_before_the_pass():
    network, x = with_state(), images()
    expected = network(x, training=False)
    probe = Probe(network, x, training=True)
    moved = state_of(network)
    twin = probe.in_inference()
    np.testing.assert_array_equal(twin.logits, expected)
    assert twin is probe.in_inference() and twin is twin.in_inference()
    assert not np.allclose(twin.logits, probe.logits)
    for a, b in zip(moved, state_of(network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_in_inference_repeats_the_pass_with_the_statistics_of_before():
    network, x = with_state(), images()
    twin = Probe(network, x, training=True).in_inference()
    np.testing.assert_array_equal(twin.forward(x), twin.logits)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("order", [("in_float32", "in_inference"), ("in_inference", "in_float32")])
def test_float32_and_inference_in_any_order(policy, order):
    half, single, x = with_state(policy), with_state(), images()
    expected = Probe(single, x, np.arange(8) % 3)  # before any statistic has moved
    probe = Probe(half, x, np.arange(8) % 3, training=True, teacher="the teacher")
    moved = state_of(half)
    twin = getattr(getattr(probe, order[0])(), order[1])()
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(twin.logits, expected.logits, **close)
    np.testing.assert_allclose(twin.forward(x + 0.1), expected.forward(x + 0.1), **close)
    gradient = expected.input_gradient("label")
    np.testing.assert_allclose(twin.input_gradient("label"), gradient, **close)
    assert not twin.training and twin.teacher == "the teacher"
    assert twin is twin.in_float32() and twin is twin.in_inference()
    for a, b in zip(moved, state_of(half), strict=True):
        np.testing.assert_array_equal(a, b)


def two_heads(policy):
    x = keras.Input((4,))
    h = L.Dense(8, "softplus", dtype=policy)(x)
    return keras.Model(x, {"a": L.Dense(3, dtype=policy)(h), "b": L.Dense(2, dtype=policy)(h)})


class Taught:
    """Stands for a teacher; remembers which head it was asked for."""

    def __init__(self, head=None):
        self.head = head

    def on(self, head):
        return Taught(head)


@pytest.mark.parametrize("order", [("in_float32", "in_inference"), ("in_inference", "in_float32")])
def test_views_keep_head_labels_and_teacher(order):
    network, x = two_heads("mixed_bfloat16"), images()
    y = {"a": np.arange(8) % 3}
    probe = Probe(network, x, y, training=True, teacher=Taught())
    for head, classes in (("a", 3), ("b", 2)):
        twin = getattr(getattr(probe.on(head), order[0])(), order[1])()
        assert twin.logits.shape == (8, classes) and twin.forward(x).shape == (8, classes)
        assert twin.teacher.head == head
    first, second = (probe.on(("a", taught)) for taught in ("s", "t"))
    assert (first.teacher.head, second.teacher.head) == ("s", "t")
    assert first.input_gradient(1) is second.input_gradient(1)  # it does not depend on a teacher
    np.testing.assert_array_equal(probe.on("a").in_float32().classes("label"), y["a"])
    with pytest.raises(ArgumentError, match="target: got 'label' on head 'b', to which no labels"):
        probe.on("b").in_inference().classes("label")


def test_the_labels_of_one_head_on_a_network_with_a_single_output():
    network, x = with_state("mixed_float16"), images()
    y = {"a": np.arange(8) % 3, "b": np.arange(8) % 2}
    probe = Probe(network, x, y, training=True).with_labels_of("b")
    for twin in (probe, probe.in_float32(), probe.in_inference()):
        np.testing.assert_array_equal(twin.classes("label"), y["b"])
        assert twin.forward(x).shape == twin.logits.shape == (8, 3)


@pytest.mark.diagonal
@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
@pytest.mark.parametrize("penalty", [ScoreMatching, AntiScoreMatching])
@pytest.mark.parametrize("estimator", ["taylor", "antithetic", "hutchinson"])
def test_with_running_statistics_a_penalty_is_one_image_s_own(penalty, estimator):
    network, x = with_state(), images()
    y = np.arange(len(x)) % 3

    def of(statistics, count):
        made = penalty(estimator=estimator, sigma=0.1, statistics=statistics)
        return made.per_example(network, x[:count], y[:count], training=True).numpy()

    np.testing.assert_allclose(of("running", 8)[:3], of("running", 3), rtol=1e-4, atol=1e-4)
    own = penalty(estimator=estimator, sigma=0.1).per_example(network, x, y).numpy()
    np.testing.assert_allclose(of("running", 8), own, rtol=1e-5, atol=1e-5)
    # Otherwise the batch's statistics, and with them the other images' noise, are in it.
    assert np.abs(of("batch", 8)[:3] - of("batch", 3)).max() > 0.1


@pytest.mark.usefixtures("one_output_is_a_number")
@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
@pytest.mark.parametrize("estimator", ["antithetic", "hutchinson"])
def test_noise_moves_batch_statistics_and_the_trace_sees_it(estimator):
    """A batch norm and a sum of squares: inference mode has trace 2d γ²/v, training mode none."""
    x = keras.Input((64,))
    norm = layers.BatchNormalization(center=False, scale=False, epsilon=0.0)
    squares = keras.ops.sum(keras.ops.square(norm(x)), -1, keepdims=True)
    network = keras.Model(x, squares)
    batch = np.random.default_rng(0).normal(size=(512, 64)).astype("float32")
    norm.moving_variance.assign(batch.var(0))
    norm.moving_mean.assign(batch.mean(0))
    options = {"estimator": estimator, "sigma": 0.1, "samples": 4, "target": 0}
    found = {}
    for name in ("running", "batch"):
        penalty = AntiScoreMatching(**options, threshold=1e9, statistics=name)
        found[name] = -np.mean(penalty.per_example(network, batch, training=True))
    assert found["running"] == pytest.approx(np.sum(2 / batch.var(0)), rel=0.02)
    # Normalised by its own statistics, the sum of squares over the batch cannot change.
    assert abs(found["batch"]) < 0.02 * found["running"]
