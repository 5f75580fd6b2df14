"""The probe: right gradients, each computed once, of one input or several."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.probe_cases import Function, X, Y
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws

L = keras.layers


@keras.saving.register_keras_serializable("tests")
class Counter(L.Layer):
    """Counts how often Python runs it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = 0

    def call(self, x):
        self.count += 1
        return x


def linear():
    """Two inputs, two classes: f_0 = x_0 + 2 x_1, f_1 = 3 x_0 − x_1."""
    network = keras.Sequential([keras.Input((2,)), L.Dense(2, use_bias=False, name="dense")])
    network.set_weights([np.array([[1.0, 3.0], [2.0, -1.0]])])
    return network


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
    with pytest.raises(ArgumentError, match="of: got 'loss'; expected one of 'logit', 'prob"):
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
    by_name = probe.input_gradient("label")
    assert set(by_name) == {"u", "x"}
    np.testing.assert_allclose(by_name["x"], np.tile(w, (4, 1)), rtol=1e-12)
    np.testing.assert_allclose(by_name["u"], gate[:, None] * v, rtol=1e-12)
    np.testing.assert_array_equal(probe.hessian_trace("label"), np.zeros(4))


def test_noise_of_several_inputs_is_independent_and_shifts_only_floats(float64):
    probe = Probe(two_inputs(), inputs(), draws=Draws(step=3))
    first, second = probe.noise(2, seed=0, scale=0.1)
    assert {name: t.shape.as_list() for name, t in first.items()} == {"u": [4, 3], "x": [4, 2]}
    assert not np.intersect1d(first["u"], first["x"]).size
    assert not np.intersect1d(first["u"], second["u"]).size
    moved = probe.shifted(first)
    np.testing.assert_array_equal(moved["token"], inputs()["token"])
    np.testing.assert_allclose(moved["u"] - inputs()["u"], first["u"], rtol=1e-9)
    np.testing.assert_allclose(moved["x"] - inputs()["x"], first["x"], rtol=1e-9)
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
