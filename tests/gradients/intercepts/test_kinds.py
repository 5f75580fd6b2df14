"""What an entry says it is: a bias by its own, an activation, or arithmetic of a layer's code."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.gradients.intercepts.cases import LINE, VECTOR, Block
from tests.gradients.intercepts.kind_cases import NETWORKS, Gated, Residual, randomised
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe

L = keras.layers
QUICK = ["arithmetic before a dense layer", "residual sums", "arithmetic before everything"]
QUICK += ["shared and nested", "attention", "subclassed"]
TRACED = [False, pytest.param(True, marks=pytest.mark.slow)]


def by_autodiff(model, x, layer):
    """Σ b ∂f/∂b over the batch, for a batch norm β ∂f/∂β + μ ∂f/∂μ; f is the first logit."""
    if isinstance(layer, L.BatchNormalization):
        variables = [layer.moving_mean] + ([layer.beta] if layer.center else [])
    else:
        variables = [layer.bias]
    variables = [v.value for v in variables]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        f = tf.reduce_sum(model(x, training=False)[:, 0])
    gradients = tape.gradient(f, variables, unconnected_gradients="zero")
    return sum(float(tf.reduce_sum(g * v)) for g, v in zip(gradients, variables, strict=True))


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_every_entry_is_what_its_kind_says(name, float64):
    """Over all calls of a layer the entries of its bias add up to b · ∂f/∂b, and nothing more."""
    model, x = randomised(NETWORKS[name])
    full = tfgrad.full_gradients(model, x, 0)
    assert np.max(full.completeness_error()) < 1e-10
    sums, layers = {}, {}
    for term, value in zip(full.intercepts, full.bias_gradients.values(), strict=True):
        if term.kind in ("affine", "batch_norm"):
            key = id(term.operation)
            sums[key] = sums.get(key, 0.0) + float(tf.reduce_sum(value))
            layers[key] = term.operation
        if term.kind == "activation":
            check_activation(term)
    assert max(map(abs, sums.values())) > 1e-3
    for key, layer in layers.items():
        expected = by_autodiff(model, x, layer)
        np.testing.assert_allclose(sums[key], expected, rtol=1e-9, atol=1e-12, err_msg=layer.name)


def check_activation(term):
    """The term is ∇_y f ⊙ (φ(z) − φ′(z) z) for any ∇_y f, of which ∇_z f is φ′(z) ∇_y f."""
    z, fused = term.before, term.name.endswith("/activation")
    function = term.operation.activation if fused else term.operation
    with tf.GradientTape() as tape:
        tape.watch(z)
        y = function(z)
    slope = tape.gradient(y, z)
    upper = tf.cast(tf.range(1, tf.size(y) + 1), y.dtype) / 7
    upper = tf.reshape(upper, tf.shape(y))
    np.testing.assert_allclose(
        term.term([upper, upper * slope]), upper * (y - slope * z), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("traced", TRACED)
def test_arithmetic_before_a_layer_has_an_entry_of_its_own(traced, float64):
    model, x = randomised(NETWORKS["arithmetic before a dense layer"])
    gated = model.get_layer("gated")
    if traced:
        values = tf.function(
            lambda x: tfgrad.full_gradients(model, x, 0).bias_gradients, autograph=False
        )(x)
    else:
        values = tfgrad.full_gradients(model, x, 0).bias_gradients
    assert set(values) == {"first", "gated/arithmetic", "second", "head"}
    with tf.GradientTape(persistent=True) as tape:
        h = gated.first(x)
        tape.watch(h)
        product = h * keras.ops.sigmoid(h)
        tape.watch(product)
        f = model.get_layer("head")(gated.second(product))[:, 0]
    slope = tape.gradient(product, h)  # elementwise
    expected = tape.gradient(f, product) * (product - slope * h)
    np.testing.assert_allclose(values["gated/arithmetic"], expected, rtol=1e-10)
    own = tf.reduce_sum(values["second"])
    np.testing.assert_allclose(own, by_autodiff(model, x, gated.second), rtol=1e-10)


@pytest.mark.parametrize("traced", TRACED)
def test_arithmetic_without_an_intercept_has_no_entry(traced, float64):
    model, x = randomised(NETWORKS["residual sums"])
    run = lambda x: tfgrad.full_gradients(model, x, 0).bias_gradients  # noqa: E731
    values = (tf.function(run, autograph=False) if traced else run)(x)
    assert set(values) == {"first", "norm", "second", "last", "head", "residual"}
    np.testing.assert_allclose(values["residual"], 0, atol=1e-12)


def test_one_entry_for_arithmetic_that_several_layers_read(float64):
    class Branches(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.one, self.two = L.Dense(3, name="one"), L.Dense(3, name="two")

        def call(self, x):
            h = x * x + 1.0
            return self.one(h) + self.two(h) + self.one(h * h)

    model = keras.Sequential([keras.Input(VECTOR), Branches(name="mine"), L.Dense(2)])
    model, x = randomised(lambda: model)
    full = tfgrad.full_gradients(model, x, 0)
    names = [n for n in full.bias_gradients if "arithmetic" in n]
    assert names == ["mine/arithmetic", "mine/arithmetic:1"]
    assert np.max(full.completeness_error()) < 1e-12


def test_the_arithmetic_of_each_call_of_a_layer_bears_its_name(float64):
    gated, inputs = Gated(name="gated"), keras.Input(VECTOR)
    model, x = randomised(lambda: keras.Model(inputs, L.Dense(2)(gated(gated(inputs)))))
    names = [t.name for t in tfgrad.full_gradients(model, x, 0).intercepts]
    assert names[:6] == [
        *("first", "gated/arithmetic", "second"),
        *("first:1", "gated:1/arithmetic", "second:1"),
    ]


def test_arithmetic_says_where_it_is_and_which_layer_takes_it(float64):
    model, x = randomised(NETWORKS["arithmetic before a dense layer"])
    probe = Probe(model, x, needs=Needs(intercepts=True))
    (term,) = [t for t in probe.intercepts if t.kind == "arithmetic"]
    assert term.inside is model.get_layer("gated") and term.operation.name == "second"
    (second,) = [t for t in probe.intercepts if t.name == "second"]
    assert probe.intercepts[second.source] is term


def test_bias_gradients_of_penalties_are_the_entries(float64):
    model, x = randomised(NETWORKS["arithmetic before a dense layer"])
    probe = Probe(model, x, needs=Needs(biases=("first", "second", "head")))
    entries = tfgrad.full_gradients(model, x, 0).bias_gradients
    for name, value in probe.bias_gradients(0).items():
        np.testing.assert_allclose(value, entries[name], rtol=1e-10, err_msg=name)


def test_maps_contain_arithmetic_with_positions():
    class Tokens(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.one, self.two = L.Conv2D(3, 1, name="one"), L.Conv2D(3, 1, name="two")

        def call(self, x):
            return self.two(keras.ops.silu(self.one(x)))

    model = keras.Sequential([keras.Input((6, 6, 2)), Tokens(name="mine"), L.Flatten(), L.Dense(2)])
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")
    method = tfgrad.saliency.FullGrad(model)
    probe = method.probe(tf.constant(x))
    laid_out = method.attribute(probe, probe.classes("predicted"))
    assert laid_out["mine/arithmetic"].shape == (2, 6, 6, 3)
    simple = tfgrad.saliency.SimpleFullGrad(model)
    probe = simple.probe(tf.constant(x))
    assert "mine/arithmetic" not in simple.attribute(probe, probe.classes("predicted"))


def test_homogeneous_arithmetic_is_told_from_other():
    """By the operations of a graph since the known tensors, here x and h."""
    from tfgrad.gradients.intercepts.arithmetic import Arithmetic

    w = tf.Variable([1.0, 2.0, 3.0])
    homogeneous = {
        "sum": lambda x, h: x + h * 0.5 - tf.reshape(h, [-1, 3]),
        "scale": lambda x, h: x * w / 3.0,
        "relu": lambda x, h: tf.nn.relu(tf.maximum(x, 0.0)),
        "mean": lambda x, h: tf.concat([x, tf.reduce_mean(h, -1, keepdims=True)], -1),
        "where": lambda x, h: tf.where(x > h, x, 0.0),
        "matmul": lambda x, h: tf.matmul(x, tf.ones([3, 2])),
        "einsum": lambda x, h: tf.einsum("bi,i->bi", x, w),
        "sign": lambda x, h: tf.stop_gradient(h) * x,
    }
    other = {
        "plus one": lambda x, h: x + 1.0,
        "bias": lambda x, h: tf.nn.bias_add(x, w),
        "product": lambda x, h: x * h,
        "denominator": lambda x, h: x / h,
        "reciprocal": lambda x, h: 1.0 / x,
        "maximum": lambda x, h: tf.maximum(x, 0.1),
        "sigmoid": lambda x, h: tf.sigmoid(x),
        "padding": lambda x, h: tf.pad(x, [[0, 0], [1, 1]], constant_values=1.0),
        "where": lambda x, h: tf.where(x > h, x, 1.0),
        "function": lambda x, h: tf.function(lambda t: t * t)(x),
    }

    @tf.function(autograph=False)
    def run(x, h):
        arithmetic = Arithmetic(lambda t: t is x or t is h)
        for expected, cases in ((True, homogeneous), (False, other)):
            for name, make in cases.items():
                assert arithmetic.is_homogeneous(make(x, h)) is expected, name
        assert not arithmetic.is_homogeneous(tf.constant(0.0))
        return x

    run(tf.ones([2, 3]), tf.ones([2, 3]))


def test_the_plan_of_an_eager_network_is_made_once(monkeypatch):
    from tfgrad.gradients.intercepts import arithmetic

    traces = []
    trace = arithmetic.traced_aside
    monkeypatch.setattr(
        arithmetic, "traced_aside", lambda *a, **k: traces.append(1) or trace(*a, **k)
    )
    inputs = keras.Input(LINE)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(Residual(2, name="residual")(inputs))))
    x = np.ones((2, *LINE), "float32")
    for _ in range(2):
        tfgrad.full_gradients(model, x)
    assert len(traces) == 1
    plain = keras.Sequential([keras.Input(VECTOR), L.Dense(3, "gelu"), L.Dense(2)])
    tfgrad.full_gradients(plain, np.ones((1, 3), "float32"))
    block = keras.Sequential([keras.Input(VECTOR), Block(), L.Dense(2)])
    assert len(traces) == 1
    tfgrad.full_gradients(block, np.ones((1, 3), "float32"))
    assert len(traces) == 2


@pytest.mark.parametrize("kind", ["layer", "activation", "fused", "operation"])
def test_the_intercept_of_relu6_is_6_where_it_is_clipped(kind):
    """Exactly 0 elsewhere: the difference of two products is 0 up to rounding alone."""
    inputs = keras.Input((5,))
    x = L.Dense(40, activation="relu6" if kind == "fused" else None)(inputs)
    if kind == "layer":
        x = L.ReLU(6)(x)
    elif kind == "activation":
        x = L.Activation("relu6")(x)
    elif kind == "operation":
        x = keras.ops.relu6(x)
    model = keras.Model(inputs, L.Dense(1)(x))
    model.layers[1].set_weights([w * 12 for w in model.layers[1].get_weights()])
    points = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    hidden = keras.Model(inputs, x)(points).numpy()
    full = tfgrad.full_gradients(model, points, 1, outputs="binary")
    (term,) = (
        full.bias_gradients[term.name] for term in full.intercepts if term.kind == "activation"
    )
    expected = np.where(hidden >= 6, 6 * model.layers[-1].kernel.numpy()[:, 0], 0)
    assert np.any(hidden >= 6) and np.any((hidden > 0) & (hidden < 6))
    np.testing.assert_array_equal(term, expected.astype("float32"))
    assert np.max(full.completeness_error()) < 1e-5
