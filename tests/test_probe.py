"""The probe: right gradients, each computed once, and no trace left behind."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import calls, layers
from tfgrad.draws import Draws
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.probe import Needs, Probe

L = keras.layers
ORDINARY_CALL = L.Layer.__call__


@keras.saving.register_keras_serializable("tests")
class Counter(L.Layer):
    """Counts how often Python runs it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = 0

    def call(self, x):
        self.count += 1
        return x


class Function(L.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def linear():
    """Two inputs, two classes: f_0 = x_0 + 2 x_1, f_1 = 3 x_0 − x_1."""
    network = keras.Sequential([keras.Input((2,)), L.Dense(2, use_bias=False, name="dense")])
    network.set_weights([np.array([[1.0, 3.0], [2.0, -1.0]])])
    return network


# f_0 − f_1 = −2 x_0 + 3 x_1 = ± ln 3, so that the softmax is (¾, ¼) and (¼, ¾).
X = np.array([[0.0, np.log(3) / 3], [np.log(3) / 2, 0.0]])
Y = np.array([0, 0])


@pytest.mark.parametrize(
    ("target", "of", "expected"),
    [
        ("label", "logit", [[1, 2], [1, 2]]),
        ("predicted", "logit", [[1, 2], [3, -1]]),
        (1, "logit", [[3, -1], [3, -1]]),
        (tf.constant([1, -1]), "logit", [[3, -1], [3, -1]]),
        # ∇ log s_y = (1 − s_y)(w_y − w_other), w_0 − w_1 = (−2, 3).
        ("label", "log_probability", [[-0.5, 0.75], [-1.5, 2.25]]),
        ("predicted", "log_probability", [[-0.5, 0.75], [0.5, -0.75]]),
    ],
)
@pytest.mark.parametrize("jacobian", [False, True])
def test_gradients_of_a_linear_network(float64, target, of, expected, jacobian):
    probe = Probe(linear(), X, Y, needs=Needs(jacobian=jacobian))
    gradient = probe.input_gradient(target, of)
    assert gradient.dtype == tf.float64
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_jacobian_of_a_linear_network(float64):
    rows = Probe(linear(), X, needs=Needs(jacobian=True)).input_jacobian()
    np.testing.assert_array_equal(rows, [[[1, 2], [1, 2]], [[3, -1], [3, -1]]])


def softplus_network(features=3, hidden=4, classes=2):
    network = keras.Sequential(
        [
            keras.Input((features,)),
            L.Dense(hidden, activation="softplus"),
            L.Dense(classes),
        ]
    )
    rng = np.random.default_rng(1)
    network.set_weights([rng.normal(size=w.shape) for w in network.get_weights()])
    return network


def closed_form(network, x):
    """Logits, Jacobian [B, K, D] and Hessian [B, K, D, D] of W₂ᵀ softplus(W₁ᵀ x + b₁) + b₂."""
    w1, b1, w2, b2 = network.get_weights()
    z = x @ w1 + b1
    s = 1 / (1 + np.exp(-z))
    logits = np.log1p(np.exp(z)) @ w2 + b2
    jacobian = np.einsum("dh,bh,hk->bkd", w1, s, w2)
    hessian = np.einsum("dh,eh,bh,hk->bkde", w1, w1, s * (1 - s), w2)
    return logits, jacobian, hessian


@pytest.mark.parametrize("classes", [2, 17])  # 17: the vectorised Jacobian
def test_a_softplus_network_against_its_closed_form(float64, classes):
    network = softplus_network(classes=classes)
    rng = np.random.default_rng(2)
    x, v = rng.normal(size=(2, 5, 3))
    logits, jacobian, hessian = closed_form(network, x)
    probe = Probe(network, x, np.arange(5) % 2, needs=Needs(jacobian=True, order=2))
    np.testing.assert_allclose(probe.logits, logits, rtol=1e-12)
    np.testing.assert_allclose(np.stack(probe.input_jacobian(), 1), jacobian, rtol=1e-10)
    for target, k in (("label", np.arange(5) % 2), ("predicted", logits.argmax(1)), (1, [1] * 5)):
        each = np.arange(5), k
        gradient = probe.input_gradient(target)
        np.testing.assert_allclose(gradient, jacobian[each], rtol=1e-10)
        product = probe.hessian_vector(target, v)
        np.testing.assert_allclose(product, np.einsum("bde,be->bd", hessian[each], v), rtol=1e-10)
        trace = np.trace(hessian[each], axis1=1, axis2=2)
        np.testing.assert_allclose(probe.hessian_trace(target), trace, rtol=1e-10)


def test_the_hessian_of_a_linear_network_is_zero(float64):
    probe = Probe(linear(), X, Y, needs=Needs(order=2))
    np.testing.assert_array_equal(probe.hessian_trace("label"), [0, 0])
    np.testing.assert_array_equal(probe.hessian_vector("label", tf.ones_like(X)), np.zeros((2, 2)))


def test_second_derivatives_must_be_announced(float64):
    with pytest.raises(ArgumentError, match=r"needs: got order 1, .*use Needs\(order=2\)"):
        Probe(linear(), X, Y).hessian_trace("label")


def test_an_unknown_scalar(float64):
    with pytest.raises(ArgumentError, match="of: got 'loss'; expected 'logit', 'probability' or"):
        Probe(linear(), X, Y).input_gradient("label", of="loss")


def test_needs_add_up():
    joined = Needs(layers=("a", "b"), order=2) | Needs(layers=("b", "c"), jacobian=True)
    assert joined == Needs(layers=("a", "b", "c"), jacobian=True, order=2)


# Each gradient once


@pytest.fixture
def passes(monkeypatch):
    """The scalars that were differentiated, one entry per backward pass."""
    made, backward = [], Probe._backward
    monkeypatch.setattr(Probe, "_backward", lambda s, f: (made.append(f), backward(s, f))[1])
    return made


def test_each_distinct_gradient_takes_one_pass(passes):
    counter = Counter()
    network = keras.Sequential([keras.Input((2,)), counter, L.Dense(2)])
    counter.count = 0
    probe = Probe(network, X, Y)
    per_example = tf.constant([0, 1])
    for _ in range(3):
        probe.input_gradient("label")
        probe.layer_gradients("label")
        probe.input_gradient("predicted")
        probe.input_gradient(0)
        probe.input_gradient(per_example)
        probe.input_gradient("label", of="log_probability")
    assert len(passes) == 5
    assert counter.count == 1


def test_single_targets_are_rows_of_a_jacobian_that_is_wanted_anyway(passes):
    counter = Counter()
    network = keras.Sequential([keras.Input((2,)), counter, L.Dense(3)])
    counter.count = 0
    probe = Probe(network, X, Y, needs=Needs(jacobian=True))
    for _ in range(2):
        rows = probe.input_jacobian()
        np.testing.assert_array_equal(probe.input_gradient(2), rows[2])
        probe.input_gradient("label")
        probe.input_gradient("predicted")
    assert len(passes) == 3  # one per class, none for the targets
    probe.input_gradient("label", of="log_probability")
    assert len(passes) == 4
    assert counter.count == 1


def test_the_trace_shares_the_gradient(passes):
    probe = Probe(softplus_network(), tf.ones((2, 3)), Y, needs=Needs(order=2))
    probe.input_gradient("label")
    probe.hessian_vector("label", tf.ones((2, 3)))
    probe.hessian_trace("label")
    assert len(passes) == 1


# Taps


def convolution(channels, name):
    return L.Conv2D(channels, 3, padding="same", activation="softplus", name=name)


def functional_with_a_shared_layer():
    image = keras.Input((4, 4, 2))
    shared = convolution(2, "shared")
    x = shared(image)
    x = shared(x) + x
    return keras.Model(image, L.Dense(2)(L.Flatten()(x)))


def nested():
    inner = keras.Sequential([keras.Input((4, 4, 2)), convolution(2, "shared")], name="inner")
    image = keras.Input((4, 4, 2))
    return keras.Model(image, L.Dense(2)(L.Flatten()(inner(inner(image)))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.shared, self.head = convolution(2, "shared"), L.Dense(2)

    def call(self, x):
        x = self.shared(x)
        x = self.shared(x) * 2.0
        return self.head(keras.ops.reshape(x, (-1, 32)))


@pytest.mark.parametrize("make", [functional_with_a_shared_layer, nested, Subclassed])
def test_a_layer_called_twice_appears_twice(make):
    network = make()
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    network(x)
    probe = Probe(network, x, needs=Needs(layers=("shared",)))
    assert list(probe.layer_outputs) == ["shared", "shared:1"]
    shared = next(i for i in calls.flatten(network) if i.name == "shared")
    first, second = probe.layer_outputs.values()
    np.testing.assert_allclose(first, shared(x), rtol=1e-6)
    np.testing.assert_allclose(second, shared(shared(x)), rtol=1e-5)
    # The gradient of the later call against the head's arithmetic, by a second way.
    gradients = probe.layer_gradients(0)
    assert list(gradients) == ["shared", "shared:1"]
    with tf.GradientTape() as tape:
        tape.watch(x := tf.constant(x))
        y = shared(x)
    through_the_first = tape.gradient(y, x, output_gradients=gradients["shared"])
    np.testing.assert_allclose(through_the_first, probe.input_gradient(0), rtol=1e-4, atol=1e-6)
    assert np.abs(gradients["shared"] - gradients["shared:1"]).max() > 1e-3
    assert L.Layer.__call__ is ORDINARY_CALL


def test_the_gradient_of_a_tap_is_the_weights_of_the_head():
    network = keras.Sequential(
        [keras.Input((2,)), L.Dense(3, name="hidden"), L.Dense(2, name="head")]
    )
    probe = Probe(network, X, needs=Needs(layers=("hidden",)))
    column = network.get_layer("head").kernel.numpy()[:, 1]
    np.testing.assert_allclose(probe.layer_gradients(1)["hidden"], [column, column], rtol=1e-6)


def test_a_layer_that_hands_its_input_through_is_a_call_of_its_own():
    """x enters both the identity layer and a skip: the tap sees the layer's path alone."""
    x = keras.Input((2,))
    y = L.Identity(name="through")(x) * 3.0 + x
    probe = Probe(keras.Model(x, y), tf.ones((1, 2)), needs=Needs(layers=("through",)))
    np.testing.assert_array_equal(probe.layer_gradients(0)["through"], [[3, 0]])
    np.testing.assert_array_equal(probe.input_gradient(0), [[4, 0]])


def test_a_call_without_influence_has_no_gradient():
    x = keras.Input((2,))
    off = L.Dense(1, name="off")(keras.ops.stop_gradient(x))
    network = keras.Model(x, L.Dense(2)(x) + keras.ops.stop_gradient(off))
    probe = Probe(network, tf.ones((1, 2)), needs=Needs(layers=("off",)))
    assert probe.layer_gradients(0) == {"off": None}


def test_an_unknown_layer_gets_a_suggestion():
    network = functional_with_a_shared_layer()
    with pytest.raises(ArgumentError, match="no layer named 'shard'; did you mean 'shared'"):
        Probe(network, tf.ones((1, 4, 4, 2)), needs=Needs(layers=("shard",)))
    with pytest.raises(ArgumentError, match=r"no layer named 'zzz'; it has \[.*'shared'"):
        Probe(network, tf.ones((1, 4, 4, 2)), needs=Needs(layers=("shared", "zzz")))


def test_the_hook_goes_away_after_an_error_too():
    def fails(x):
        if not keras.backend.is_keras_tensor(x) and x.shape[0] is not None:
            raise RuntimeError("on purpose")
        return x

    network = keras.Sequential([keras.Input((2,)), Function(fails, name="bad"), L.Dense(2)])
    with pytest.raises(RuntimeError, match="on purpose"):
        Probe(network, X, needs=Needs(layers=("bad",)))
    assert L.Layer.__call__ is ORDINARY_CALL


def test_two_threads_at_once_do_not_mix():
    meeting, probes, errors = threading.Barrier(2, timeout=30), {}, []

    def wait(x):
        if not keras.backend.is_keras_tensor(x) and x.shape[0] is not None:
            meeting.wait()  # both threads are inside their forward pass now
        return x

    def network(offset):
        return keras.Sequential(
            [
                keras.Input((2,)),
                Function(wait),
                Function(lambda x: x + offset, name="tap"),
                Function(wait),
                Function(lambda x: x * 2.0, name="tap_after"),
                L.Dense(2),
            ]
        )

    networks = {offset: network(float(offset)) for offset in (1, 10)}

    def run(offset):
        try:
            needs = Needs(layers=("tap",) if offset == 1 else ("tap", "tap_after"))
            probes[offset] = Probe(networks[offset], np.zeros((1, 2), "float32"), needs=needs)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(o,)) for o in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(probes[1].layer_outputs) == ["tap"]
    assert list(probes[10].layer_outputs) == ["tap", "tap_after"]
    np.testing.assert_array_equal(probes[1].layer_outputs["tap"], [[1, 1]])
    np.testing.assert_array_equal(probes[10].layer_outputs["tap_after"], [[20, 20]])
    assert L.Layer.__call__ is ORDINARY_CALL


# Further forward passes


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
    logits, twice, moved, after = (tf.function(run) if graph else run)(tf.constant(images()))
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


# Several inputs


def two_inputs():
    """f_k = (W x)_k + e[t]_k · (V u)_k with integer tokens t."""
    x, u = keras.Input((2,), name="x"), keras.Input((3,), name="u")
    token = keras.Input((), dtype="int32", name="token")
    gate = L.Embedding(5, 2, name="gate")(token)
    y = L.Dense(2, name="w")(x) + gate * L.Dense(2, name="v")(u)
    return keras.Model({"x": x, "u": u, "token": token}, y)


def inputs():
    rng = np.random.default_rng(6)
    return {
        "x": rng.normal(size=(4, 2)),
        "u": rng.normal(size=(4, 3)),
        "token": np.array([0, 1, 2, 3], "int32"),
    }


def test_float_inputs_are_differentiated_and_integers_left_out(float64):
    network = two_inputs()
    probe = Probe(network, inputs(), Y[[0, 0, 0, 0]], needs=Needs(order=2))
    gate = network.get_layer("gate").get_weights()[0][:4, 0]  # class 0
    w, v = (network.get_layer(n).get_weights()[0][:, 0] for n in "wv")
    by_name = dict(zip(["u", "x"], probe.input_gradient("label"), strict=True))
    np.testing.assert_allclose(by_name["x"], np.tile(w, (4, 1)), rtol=1e-12)
    np.testing.assert_allclose(by_name["u"], gate[:, None] * v, rtol=1e-12)
    np.testing.assert_array_equal(probe.hessian_trace("label"), np.zeros(4))


def test_noise_of_several_inputs_is_independent_and_shifts_only_floats(float64):
    probe = Probe(two_inputs(), inputs(), draws=Draws(step=3))
    first, second = probe.noise(2, seed=0, scale=0.1)
    assert [t.shape.as_list() for t in first] == [[4, 3], [4, 2]]
    assert not np.intersect1d(first[0], first[1]).size
    assert not np.intersect1d(first[0], second[0]).size
    moved = probe.shifted(first)
    np.testing.assert_array_equal(moved["token"], inputs()["token"])
    np.testing.assert_allclose(moved["u"] - inputs()["u"], first[0], rtol=1e-9)
    np.testing.assert_allclose(moved["x"] - inputs()["x"], first[1], rtol=1e-9)
    np.testing.assert_allclose(
        probe.forward(moved), probe.network(moved, training=False), rtol=1e-12
    )


def test_gradients_keep_the_structure_of_float_inputs():
    network = keras.Sequential([keras.Input((2,)), L.Dense(2)])
    inner_x, inner_u = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    network = keras.Model({"a": inner_x, "b": inner_u}, network(inner_x) - inner_u)
    x = {"a": tf.ones((3, 2)), "b": tf.ones((3, 2))}
    probe = Probe(network, x, needs=Needs(jacobian=True))
    assert set(probe.input_gradient(0)) == {"a", "b"}
    np.testing.assert_array_equal(probe.input_jacobian()[1]["b"], [[0, -1]] * 3)


def test_an_input_without_influence_has_a_zero_gradient():
    a, b = keras.Input((2,)), keras.Input((3,))
    probe = Probe(keras.Model([a, b], L.Dense(2)(a)), [tf.ones((1, 2)), tf.ones((1, 3))])
    np.testing.assert_array_equal(probe.input_gradient(0)[1], [[0, 0, 0]])


# What cannot be probed


def test_integer_images():
    with pytest.raises(ArgumentError, match=r"x: got uint8; .*tf.cast\(x, tf.float32\) / 255"):
        Probe(linear(), np.zeros((2, 2), "uint8"))


def test_two_outputs():
    x = keras.Input((2,))
    network = keras.Model(x, [L.Dense(2)(x), L.Dense(2)(x)], name="two")
    with pytest.raises(
        ModelError, match=r"network 'two': got 2 outputs, heads 0, 1; .*one tensor of logits"
    ):
        _ = Probe(network, X).logits


def test_outputs_of_rank_three():
    network = keras.Sequential([keras.Input((2, 2)), L.Dense(2)], name="rank3")
    with pytest.raises(
        ModelError, match=r"'rank3': got outputs of shape \(1, 2, 2\); .*\[batch, c"
    ):
        Probe(network, np.zeros((1, 2, 2), "float32"))


def test_a_network_that_does_not_depend_on_its_input():
    network = keras.Sequential([keras.Input((2,)), Function(tf.stop_gradient), L.Dense(2)])
    with pytest.raises(ModelError, match="does not depend differentiably on its input"):
        Probe(network, X).input_gradient(0)


def test_an_unknown_number_of_classes():
    def call(x):
        return tf.reshape(x, tf.shape(x))

    network = keras.Sequential([keras.Input((2,)), Function(call)])
    traced = tf.function(
        lambda x: Probe(network, x, needs=Needs(jacobian=True)).input_jacobian(),
        input_signature=[tf.TensorSpec([None, None])],
        autograph=False,
    )
    with pytest.raises(ModelError, match="number of logits is unknown; target 'all' needs it"):
        traced(X.astype("float32"))
