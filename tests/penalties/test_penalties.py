"""Every penalty and option: its value and its weight gradient against finite differences."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tfgrad import layers
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties import ESTIMATORS, AntiScoreMatching, GradientNorm, ScoreMatching
from tfgrad.penalties.score_matching import trace

L = keras.layers
SIGMA, SAMPLES, SEED, STEP = 0.1, 2, 3, 11
LABELS = np.array([2, 0, 1])

ESTIMATOR = {"sigma": SIGMA, "samples": SAMPLES, "seed": SEED}
PENALTIES = {
    "norm_label": lambda: GradientNorm(),
    "norm_predicted": lambda: GradientNorm(target="predicted"),
    "norm_all": lambda: GradientNorm(target="all"),
    "norm_int": lambda: GradientNorm(target=1),
    "norm_ints": lambda: GradientNorm(target=[0, -1, 2]),
    "norm_cross_entropy_label": lambda: GradientNorm(loss="cross_entropy"),
    "norm_cross_entropy_predicted": lambda: GradientNorm(target="predicted", loss="cross_entropy"),
    **{
        f"score_{e}": lambda e=e: ScoreMatching(estimator=e, stability=0.3, **ESTIMATOR)
        for e in ESTIMATORS
    },
    # The traces of this network are below 10: far enough from τ, or the difference quotient of
    # a kink would be judged.
    "anti_taylor": lambda: AntiScoreMatching(threshold=10.0, **ESTIMATOR),
    "anti_exact": lambda: AntiScoreMatching(threshold=10.0, estimator="exact"),
}


def network(batch_norm=False, activation="softplus"):
    """3×3×1 images, three classes, 37 weights (41 with batch norm)."""
    norm = [layers.BatchNormalization(name="norm")] if batch_norm else []
    net = keras.Sequential(
        [
            keras.Input((3, 3, 1)),
            L.Conv2D(2, 2, name="conv"),
            *norm,
            L.Activation(activation),
            L.Flatten(),
            L.Dense(3, name="head"),
        ]
    )
    rng = np.random.default_rng(1)
    for v in net.weights:
        positive = "gamma" in v.path or "variance" in v.path
        v.assign(rng.uniform(0.5, 1.5, v.shape) if positive else rng.normal(size=v.shape))
    return net


def images():
    return np.random.default_rng(2).normal(size=(3, 3, 3, 1))


# The oracle: numbers from the logits alone, by differences in x


@functools.lru_cache(maxsize=1)
def compiled(net):
    return tf.function(lambda x: net(x, training=False), autograph=False)


def logits_at(net, x):
    return compiled(net)(tf.constant(x)).numpy()


def along(net, x, v, step=1e-2):
    """First and second derivative of every logit along v, [B, K]: five-point differences."""
    f = {n: logits_at(net, x + n * step * v) for n in (-2, -1, 0, 1, 2)}
    first = (f[-2] - 8 * f[-1] + 8 * f[1] - f[2]) / (12 * step)
    second = (-f[-2] + 16 * f[-1] - 30 * f[0] + 16 * f[1] - f[2]) / (12 * step**2)
    return first, second


def unit_vectors(x):
    for index in np.ndindex(x.shape[1:]):
        v = np.zeros_like(x)
        v[(slice(None), *index)] = 1.0
        yield v


def oracle(penalty, net, x, y):
    """The penalty's value, [B], in numpy."""
    f = logits_at(net, x)
    each = np.arange(len(x))
    slopes, curvatures = zip(*(along(net, x, v) for v in unit_vectors(x)), strict=True)
    gradient, diagonal = np.stack(slopes, -1), np.stack(curvatures, -1)  # [B, K, D]
    predicted = f.argmax(1)
    if not isinstance(penalty.target, str):
        chosen = np.broadcast_to(penalty.target, len(x))
        chosen = np.where(chosen < 0, predicted, chosen)
    else:
        chosen = {"label": y, "predicted": predicted, "all": None}[penalty.target]
    if isinstance(penalty, GradientNorm):
        if chosen is None:
            return np.sum(gradient**2, (1, 2))
        g = gradient[each, chosen]
        if penalty.loss == "cross_entropy":
            s = np.exp(f) / np.exp(f).sum(1, keepdims=True)
            g = g - np.einsum("bk,bkd->bd", s, gradient)
        return np.sum(g**2, 1)
    assert isinstance(penalty, ScoreMatching | AntiScoreMatching), "add the formula of this penalty"
    if penalty.estimator == "exact":
        h = diagonal[each, chosen].sum(-1)
    else:
        noise = np.stack(Draws(STEP).normal(tf.constant(x), SAMPLES, SEED))
        if penalty.estimator in ("taylor", "antithetic"):
            noise = SIGMA * noise
            plus, minus = (
                np.stack([logits_at(net, x + sign * v)[each, chosen] for v in noise])
                for sign in (1, -1)
            )
            clean = f[each, chosen]
            if penalty.estimator == "taylor":
                h = np.mean(2 * (plus - clean), 0) / SIGMA**2
            else:
                h = np.mean(plus + minus - 2 * clean, 0) / SIGMA**2
        else:
            if penalty.estimator == "hutchinson_rademacher":
                noise = np.where(noise < 0, -1.0, 1.0)
            h = np.mean([along(net, x, v, step=3e-3)[1][each, chosen] for v in noise], 0)
    if isinstance(penalty, AntiScoreMatching):
        return -np.minimum(h, penalty.threshold)
    norm = np.sum(gradient[each, chosen] ** 2, 1)
    return h + norm / 2 + penalty.stability * h**2


@pytest.mark.diagonal
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch_norm"])
@pytest.mark.parametrize("case", PENALTIES)
def test_value_and_weight_gradient(float64, case, batch_norm):
    net, penalty, x = network(batch_norm), PENALTIES[case](), images()
    importance = tf.constant([1.0, -0.7, 2.0], tf.float64)  # so that no example can hide

    @tf.function(autograph=False)
    def values():
        return penalty.per_example(net, x, LABELS, seed=STEP)

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(importance * penalty.per_example(net, x, LABELS, seed=STEP))
        return tape.gradient(
            total, [v.value for v in net.trainable_variables], unconnected_gradients="zero"
        )

    value = values()
    assert value.dtype == tf.float64
    expected = oracle(penalty, net, x, LABELS)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-7 * scale)

    numerical = [
        numerical_gradient(lambda: tf.reduce_sum(importance * values()), v)
        for v in net.trainable_variables
    ]
    error = worst_relative_error(gradients(), numerical)
    print(f"{case} {'batch norm' if batch_norm else 'plain'}: {error:.1e}")
    assert error <= 1e-7


def test_the_labels_are_not_the_predictions(float64):
    """Else the cases above could not tell the targets apart."""
    for batch_norm in (False, True):
        predicted = logits_at(network(batch_norm), images()).argmax(1)
        assert (predicted != LABELS).any() and (predicted != 1).any()


# Closed forms


def linear():
    """f_0 = x_0 + 2 x_1, f_1 = 3 x_0 − x_1."""
    net = keras.Sequential([keras.Input((2,)), L.Dense(2, use_bias=False)])
    net.set_weights([np.array([[1.0, 3.0], [2.0, -1.0]])])
    return net


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # ‖w_0‖² = 1 + 4 = 5, ‖w_1‖² = 9 + 1 = 10.
        ({}, [5, 10]),
        ({"target": "all"}, [15, 15]),
        ({"target": 0}, [5, 5]),
        ({"target": "predicted"}, [5, 5]),
        # f_0 − f_1 = 3 x_1 − 2 x_0 = ln 3 at x = (0, ln 3 / 3): the softmax is (¾, ¼), and
        # ∇ log s_y = (1 − s_y)(w_y − w_other) with ‖w_0 − w_1‖² = 4 + 9 = 13:
        # 13/16 for y = 0 and 9 · 13/16 for y = 1.
        ({"loss": "cross_entropy"}, [13 / 16, 117 / 16]),
        ({"loss": "cross_entropy", "target": "predicted"}, [13 / 16, 13 / 16]),
    ],
)
def test_gradient_norm_of_a_linear_network(float64, options, expected):
    x = np.array([[0.0, np.log(3) / 3]] * 2)
    value = GradientNorm(**options).per_example(linear(), x, np.array([0, 1]))
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_score_matching_of_a_linear_network(float64):
    """No curvature: only ½‖w_y‖² is left, ½·5 and ½·10, and nothing to raise."""
    x, y = np.array([[0.5, 0.2]] * 2), np.array([0, 1])
    for estimator in ("exact", "hutchinson", "antithetic"):
        value = ScoreMatching(estimator=estimator).per_example(linear(), x, y)
        np.testing.assert_allclose(value, [2.5, 5.0], rtol=1e-9)
        value = AntiScoreMatching(estimator=estimator).per_example(linear(), x, y)
        np.testing.assert_allclose(value, [0.0, 0.0], atol=1e-9)


# Properties


def weight_gradients(penalty, net, x, y=LABELS):
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(penalty.per_example(net, x, y))
    variables = {v.path.split("/", 1)[-1]: v.value for v in net.trainable_variables}
    return tape.gradient(total, variables, unconnected_gradients="zero")


def test_past_the_threshold_anti_score_matching_has_no_gradient(float64):
    net, x = network(), images()
    h = trace(Probe(net, x, LABELS, needs=Needs(order=2)), "label", "exact").numpy()
    order = np.argsort(h)
    assert h[order[-1]] > 0  # there is a threshold to be past
    x, y, top = x[order], LABELS[order], h[order[-1]]
    penalty = AntiScoreMatching(estimator="exact", threshold=0.9 * top)
    np.testing.assert_array_equal(penalty.per_example(net, x[-1:], y[-1:]), [-0.9 * top])
    for name, g in weight_gradients(penalty, net, x[-1:], y[-1:]).items():
        np.testing.assert_array_equal(g, np.zeros(g.shape), err_msg=name)
    penalty = AntiScoreMatching(estimator="exact", threshold=1.1 * top)
    gradients = weight_gradients(penalty, net, x[-1:], y[-1:])
    assert all(np.abs(g).max() > 0 for n, g in gradients.items() if n != "head/bias")


@pytest.mark.parametrize("target", ["label", "all"])
def test_biases_of_a_relu_network_do_not_enter_its_gradient_norm(target):
    """∇x f is constant in every region of a ReLU network."""
    penalty = GradientNorm(target=target)
    gradients = weight_gradients(penalty, network(activation="relu"), images().astype("float32"))
    assert [n for n, g in gradients.items() if np.abs(g).max() > 0] == [
        n for n in gradients if "kernel" in n
    ]
    smooth = weight_gradients(penalty, network(), images().astype("float32"))
    (bias,) = (g for n, g in smooth.items() if "conv" in n and "bias" in n)
    assert np.abs(bias).max() > 1e-3


def test_relu_networks_have_no_curvature():
    probe = Probe(network(activation="relu"), images().astype("float32"), needs=Needs(order=2))
    np.testing.assert_array_equal(trace(probe, 0, "exact"), [0, 0, 0])


@pytest.mark.parametrize("classes", [3, 17])
def test_one_jacobian_serves_every_penalty(float64, classes):
    """The Jacobian of one penalty, computed first, feeds the second derivatives of another."""
    net = keras.Sequential([keras.Input((3,)), L.Dense(4, activation="softplus"), L.Dense(classes)])
    x = np.random.default_rng(3).normal(size=(3, 3))
    alone = ScoreMatching(estimator="exact"), GradientNorm(target="all")
    needs = alone[0].needs() | alone[1].needs()
    probe = Probe(net, x, LABELS, needs=needs)
    together = alone[1].compute(probe), alone[0].compute(probe)
    np.testing.assert_allclose(together[0], alone[1].per_example(net, x), rtol=1e-12)
    np.testing.assert_allclose(together[1], alone[0].per_example(net, x, LABELS), rtol=1e-12)
    single = [GradientNorm(target=k).per_example(net, x) for k in range(classes)]
    np.testing.assert_allclose(together[0], np.sum(single, 0), rtol=1e-10)


@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
def test_per_example_moves_nothing():
    net = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(8),
            layers.BatchNormalization(),
            L.Activation("softplus"),
            L.Dropout(0.5),
            L.Dense(3),
        ]
    )
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    before = [np.array(v.numpy()) for v in net.variables]
    penalty = ScoreMatching(sigma=0.1)
    first = penalty.per_example(net, x, np.zeros(6, int), training=True)
    second = penalty.per_example(net, x, np.zeros(6, int), training=True)
    np.testing.assert_array_equal(first, second)
    for v, value in zip(net.variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), value)
    assert np.abs(first - penalty.per_example(net, x, np.zeros(6, int))).max() > 1e-3


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientNorm(loss="mse"), "loss: got 'mse'; expected one of 'squared_error', 'c"),
        (lambda: GradientNorm(target="all", loss="cross_entropy"), "target: got 'all' with loss="),
        (lambda: GradientNorm(target="true"), "target: got 'true'; expected one of 'label'"),
        (lambda: GradientNorm(-1.0), "weight: got -1.0; expected a finite number from 0 up"),
        (lambda: GradientNorm(float("nan")), "weight: got nan"),
        (lambda: GradientNorm("0.1"), "weight: got '0.1'"),
        (lambda: ScoreMatching(target="all"), "target: got 'all'; expected one of 'label', 'pre"),
        (lambda: ScoreMatching(sigma=0), "sigma: got 0; expected a finite number above 0"),
        (lambda: ScoreMatching(samples=0), "samples: got 0; expected an integer ≥ 1"),
        (lambda: ScoreMatching(samples=1.5), "samples: got 1.5; expected an integer ≥ 1"),
        (lambda: ScoreMatching(stability=-1e-4), "stability: got -0.0001; expected"),
        (lambda: ScoreMatching(estimator="tayler"), "estimator: got 'tayler'; did you mean 'tay"),
        (lambda: AntiScoreMatching(threshold=0), "threshold: got 0; expected a finite number"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_class_the_network_does_not_have():
    with pytest.raises(ArgumentError, match="class 3; the model has 3 logits"):
        GradientNorm(target=3).per_example(network(), images().astype("float32"))


def test_labels_are_asked_for():
    with pytest.raises(ArgumentError, match=r"y: got None; .*target='predicted'"):
        GradientNorm().per_example(network(), images().astype("float32"))


def test_probabilities_are_refused():
    net = keras.Sequential([keras.Input((2,)), L.Dense(2, activation="softmax", name="p")])
    with pytest.raises(ModelError, match=r"'p' returns probabilities.*from_logits=True"):
        GradientNorm(target=0).per_example(net, np.ones((1, 2), "float32"))


def test_a_weight_on_a_schedule_cannot_be_set():
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    penalty = GradientNorm(schedule, name="norm")
    assert penalty.weight is schedule
    np.testing.assert_allclose(penalty.weight_at(10, "float64"), 0.5, rtol=1e-6)
    with pytest.raises(ArgumentError, match=r"weight: got 0\.1, but 'norm' follows a schedule"):
        penalty.weight = 0.1


def test_a_float_weight_keeps_float64(float64):
    penalty = GradientNorm(0.1)
    penalty.weight = 1e-5
    assert penalty.weight == 1e-5
    assert float(penalty.weight_at(0, "float64")) == 1e-5


def test_repr_names_the_arguments():
    assert repr(GradientNorm(0.1)) == (
        "GradientNorm(weight=0.1, name='gradient_norm', target='label', loss='squared_error', "
        "head=None)"
    )
