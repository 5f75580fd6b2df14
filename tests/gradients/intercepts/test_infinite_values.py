"""Networks that set what they ignore to −∞ or −1e9: padding before a maximum, masked scores."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.gradients.intercepts.kind_cases import Masked
from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tfgrad.errors import ModelError

L, ops = keras.layers, keras.ops
INFINITY = float("inf")
IMAGE, LINE = (6, 6, 2), (5, 4)


def padded(x):
    return ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-INFINITY)


class Pool(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pool, self.conv = L.MaxPooling2D(3, 2), L.Conv2D(3, 1, name="conv")

    def call(self, x):
        return self.conv(self.pool(padded(ops.silu(x))))


def attention(value, hidden, softmax, add=False):
    """Attention of a functional graph, whose first row has `hidden` entries left."""

    def apply(x):
        query, key = L.Dense(4)(x), L.Dense(4)(x)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
        mask = np.tril(np.ones((5, 5), keras.config.floatx()), hidden - 1)
        scores = scores + (1 - mask) * value if add else ops.where(mask > 0, scores, value)
        return L.Dense(3, name="out")(ops.matmul(softmax(scores), x))

    return apply


NETWORKS = {
    "padding before a pooling": (IMAGE, lambda x: L.MaxPooling2D(3, 2)(padded(x))),
    "padding in a call": (IMAGE, lambda x: Pool(name="pool")(x)),
    "reshaped before the maximum": (
        IMAGE,
        lambda x: ops.max(ops.reshape(padded(x), (-1, 64, 2)), 1),
    ),
    "an activation of −∞": (LINE, lambda x: L.Activation("sigmoid")(masked(x))),
    "an exponential of −∞": (LINE, lambda x: L.Activation("exponential")(masked(x))),
    "a minimum with +∞": (
        LINE,
        lambda x: ops.min(ops.concatenate([x, ops.where(x > 0, x, INFINITY)], 1), 1),
    ),
    "scores of −∞": (LINE, attention(-INFINITY, 1, lambda s: L.Softmax()(s))),
    "scores of −∞, bare softmax": (LINE, attention(-INFINITY, 1, ops.softmax)),
    "scores of −∞ in a call": (LINE, lambda x: Masked(name="masked")(x)),
    "scores of −1e9 in a call": (LINE, lambda x: Masked(-1e9, name="masked")(x)),
    "a whole row of −1e9": (LINE, attention(-1e9, 0, lambda s: L.Softmax()(s))),
    "−1e9 added to a whole row": (LINE, attention(-1e9, 0, ops.softmax, add=True)),
    "the smallest number": (LINE, attention(float(np.finfo("float32").min), 0, ops.softmax)),
    "−1e4 added to a whole row": (LINE, attention(-1e4, 0, ops.softmax, add=True)),
}


QUICK = ["padding before a pooling", "scores of −∞ in a call", "a whole row of −1e9"]
EVERY = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]


def masked(x):
    return ops.where(x > 0, x, -INFINITY)


def built(name, seed=1):
    shape, make = NETWORKS[name]
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, L.Dense(2, name="head")(L.Flatten()(make(inputs))))
    for v in model.weights:
        if v.path.endswith("bias"):
            v.assign(np.random.default_rng(2).normal(size=v.shape))
    return model, np.random.default_rng(0).normal(size=(2, *shape)).astype(keras.config.floatx())


@pytest.mark.parametrize("name", EVERY)
def test_terms_are_finite_and_add_up(name, float64):
    model, x = built(name)
    full = tfgrad.full_gradients(model, x, 0)
    assert np.max(full.completeness_error()) < 1e-10
    assert all(np.isfinite(t).all() for t in full.bias_gradients.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_terms_in_a_graph_are_the_eager_ones(name, float64):
    model, x = built(name)
    traced = tf.function(
        lambda x: tfgrad.full_gradients(model, x, 0).bias_gradients, autograph=False
    )(x)
    eager = tfgrad.full_gradients(model, x, 0).bias_gradients
    assert set(traced) == set(eager)
    for name, value in eager.items():
        np.testing.assert_allclose(traced[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        "fullgrad",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("bias_map", "simple_fullgrad")),
    ],
)
def test_maps_are_finite(method):
    model, x = built("padding before a pooling")
    assert np.isfinite(tfgrad.saliency.METHODS[method](model)(x)).all()


@pytest.mark.slow
def test_a_served_map_is_the_live_one(tmp_path):
    model, x = built("padding before a pooling")
    directory = tfgrad.export.save(model, tmp_path / "m", ["fullgrad"], warmup=False)
    served = tf.saved_model.load(directory).signatures["fullgrad"]
    maps = served(image=tf.constant(x), target=tf.constant([0, 1]))["saliency"]
    live = tfgrad.saliency.FullGrad(model)(x, [0, 1])
    np.testing.assert_allclose(maps, live, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["padding in a call", "scores of −∞", "scores of −∞ in a call"])
def test_a_function_of_the_terms_has_the_right_gradient(name, float64):
    """To second order, too: infinite values leave no 0 · ∞ in the derivative of a term."""
    model, x = built(name)
    variables = [w for w in model.trainable_weights if "kernel" in w.path][:2]

    def value():
        full = tfgrad.full_gradients(model, tf.constant(x), 0)
        return tf.add_n([tf.reduce_sum(t**2 + t) for t in full.bias_gradients.values()])

    with tf.GradientTape() as tape:
        loss = value()
    exact = tape.gradient(loss, [v.value for v in variables])
    numerical = [numerical_gradient(value, v) for v in variables]
    assert worst_relative_error(exact, numerical) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["padding before a pooling", "scores of −∞ in a call", "a whole row of −1e9"]
)
def test_a_gradient_penalty_has_the_right_gradient(name, float64):
    model, x = built(name)
    penalty = tfgrad.penalties.GradientNorm(1.0, target=0)
    variables = [w for w in model.trainable_weights if "kernel" in w.path][:2]

    def value():
        return tf.reduce_sum(penalty.per_example(model, x, np.zeros(2, int)))

    with tf.GradientTape() as tape:
        loss = value()
    exact = tape.gradient(loss, [v.value for v in variables])
    numerical = [numerical_gradient(value, v) for v in variables]
    assert worst_relative_error(exact, numerical) < 1e-7


@pytest.mark.parametrize(
    ("shape", "make", "message"),
    [
        (IMAGE, lambda x: L.Conv2D(2, 3)(padded(x)), "got the logit .*finite"),
        (LINE, lambda x: ops.log(ops.relu(x)), "got the logit .* for example 0"),
        (LINE, attention(-INFINITY, 0, ops.softmax), "got the logit nan"),
        (LINE, lambda x: ops.sqrt(ops.relu(x)), "term of 'sqrt.*' is NaN or infinite"),
    ],
)
def test_what_is_infinite_or_has_no_derivative_is_refused(shape, make, message):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(make(inputs))))
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    with pytest.raises(ModelError, match=message):
        tfgrad.full_gradients(model, x, 0)


def test_terms_that_are_nan_in_a_graph_are_refused():
    model = keras.Sequential([keras.Input((3,)), L.Lambda(lambda x: ops.sqrt(x)), L.Dense(2)])
    run = tf.function(lambda x: tfgrad.full_gradients(model, x, 0).score, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinite at these inputs"):
        run(np.zeros((1, 3), "float32"))


def test_an_image_with_a_nan_does_not_fail_the_others_of_its_batch():
    model, x = built("padding before a pooling")
    x[0, 0, 0] = np.nan
    scores = tf.function(lambda x: tfgrad.full_gradients(model, x, 0).total(), autograph=False)(x)
    assert np.isnan(scores[0]) and np.isfinite(scores[1])


def test_terms_that_leave_nothing_but_rounding_are_refused():
    """A layer of the user's own between the constant and the softmax hides where it comes from."""
    hidden = np.tril(np.ones((5, 5), bool), -1)

    def apply(x):
        scores = ops.matmul(L.Dense(4)(x), ops.transpose(x, (0, 2, 1)))
        scores = L.Lambda(lambda s: tf.where(hidden, s, -1e9))(scores)
        return ops.matmul(L.Softmax()(scores), x)

    keras.utils.set_random_seed(3)
    inputs = keras.Input(LINE)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(apply(inputs))))
    x = np.random.default_rng(0).normal(size=(2, *LINE)).astype("float32")
    with pytest.raises(ModelError, match="constants such as -1e9"):
        tfgrad.full_gradients(model, x, 0)
