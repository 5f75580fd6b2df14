"""Matching logits and their input-gradients: values, weight gradients, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.transfer_cases import (
    LABELS,
    check_value_and_gradient,
    derivative,
    images,
    linear,
    student,
    teacher,
)
from tests.helpers.variants import with_slow
from tfgrad.errors import ArgumentError, ModelError, SecondOrderError
from tfgrad.penalties import ActivationMatching, JacobianMatching, full_gradient_matching

L = keras.layers

PENALTIES = {
    "activation": lambda: ActivationMatching(),
    "jacobian_label": lambda: JacobianMatching(),
    "jacobian_predicted": lambda: JacobianMatching(target="predicted"),
    "jacobian_all": lambda: JacobianMatching(target="all"),
    "jacobian_int": lambda: JacobianMatching(target=1),
    "jacobian_ints": lambda: JacobianMatching(target=[0, -1, 2]),
    "cross_entropy_label": lambda: JacobianMatching(loss="cross_entropy", temperature=2.0),
    "cross_entropy_predicted": lambda: JacobianMatching(target="predicted", loss="cross_entropy"),
    "cross_entropy_all": lambda: JacobianMatching(
        target="all", loss="cross_entropy", temperature=3.0
    ),
}


def softmax(logits):
    e = np.exp(logits)
    return e / e.sum(-1, keepdims=True)


def oracle(penalty, net, taught, x, y):
    """The penalty's value [B] in numpy, from logits and their differences alone."""
    s, t = np.asarray(net(x)), np.asarray(taught(x))
    if isinstance(penalty, ActivationMatching):
        return np.sum((t - s) ** 2, 1)
    temperature = penalty.temperature
    if penalty.loss == "squared_error":
        gradients = [derivative(f, x) for f in (taught, net)]
        terms = np.sum((gradients[0] - gradients[1]) ** 2, (2, 3, 4))
    else:
        p = derivative(lambda x: softmax(np.asarray(taught(x)) / temperature), x)
        log = derivative(lambda x: np.log(softmax(np.asarray(net(x)) / temperature)), x)
        terms = -np.sum(p * log, (2, 3, 4))
    predicted = t.argmax(1)
    if not isinstance(penalty.target, str):
        chosen = np.broadcast_to(penalty.target, len(x))
        chosen = np.where(chosen < 0, predicted, chosen)
    elif penalty.target == "all":
        return terms.sum(1)
    else:
        chosen = {"label": y, "predicted": predicted}[penalty.target]
    return terms[np.arange(len(x)), chosen]


# Each loss, the rows of the Jacobian that are taken in two ways, and a batch norm.
QUICK = [
    ("activation", False),
    ("jacobian_all", False),
    ("jacobian_label", True),
    ("cross_entropy_predicted", False),
]


@pytest.mark.parametrize(
    ("case", "batch_norm"),
    with_slow(
        QUICK,
        [(case, norm) for case in PENALTIES for norm in (False, True) if (case, norm) not in QUICK],
    ),
)
def test_value_and_weight_gradient(float64, case, batch_norm):
    net, taught, penalty, x = student(batch_norm), teacher(), PENALTIES[case](), images()

    def values():
        return penalty.per_example(net, x, LABELS, teacher=taught)

    check_value_and_gradient(values, net, oracle(penalty, net, taught, x, LABELS), case)


@pytest.mark.long
@pytest.mark.sample(3, start=2)
@pytest.mark.parametrize("case", ["activation", "jacobian_label", "cross_entropy_all"])
def test_weight_gradient_through_batch_statistics(float64, case):
    net, taught, penalty, x = student(batch_norm=True), teacher(), PENALTIES[case](), images()

    def values():
        return penalty.per_example(net, x, LABELS, teacher=taught, training=True)

    check_value_and_gradient(values, net, None, f"{case} in training")
    inference = penalty.per_example(net, x, LABELS, teacher=taught)
    assert np.abs(values() - inference).max() > 1e-3  # the statistics are others


def test_the_targets_differ(float64):
    """Else the cases above could not tell them, nor the two networks, apart."""
    own = np.asarray(student()(images())).argmax(1)
    said = np.asarray(teacher()(images())).argmax(1)
    assert (own != said).any() and (said != LABELS).any() and (said != 1).any()
    assert own[1] != said[1]  # where the ints say −1


# Closed forms. S = (2x₁ + x₂, −3x₁) and T = (x₁, x₂).


def pair():
    return linear([[2.0, 1.0], [-3.0, 0.0]], "s"), linear([[1.0, 0.0], [0.0, 1.0]], "t")


def test_activations_of_a_toy(float64):
    # At (1, 2): S = (4, −3), T = (1, 2): 9 + 25. At (0, 1): S = (1, 0), T = (0, 1): 1 + 1.
    net, taught = pair()
    x = np.array([[1.0, 2.0], [0.0, 1.0]])
    np.testing.assert_allclose(ActivationMatching().per_example(net, x, teacher=taught), [34, 2])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # Class 0: (1−2)² + (0−1)² = 2; class 1: (0+3)² + (1−0)² = 10.
        ("label", [2, 10]),
        ("all", [12, 12]),
        (0, [2, 2]),
        # At (0, 1) the teacher says class 1, the student 0; at (3, 0) the teacher says 0 too.
        ("predicted", [10, 2]),
        (-1, [10, 2]),
        ([-1, 1], [10, 10]),
    ],
)
def test_jacobians_of_a_toy(float64, target, expected):
    net, taught = pair()
    x, y = np.array([[0.0, 1.0], [3.0, 0.0]]), np.array([0, 1])
    value = JacobianMatching(target=target).per_example(net, x, y, teacher=taught)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize(("target", "expected"), [("label", -3 / 8), ("all", -3 / 4)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_cross_entropy_of_a_toy(float64, target, expected, temperature):
    """−Σ ∇T_s · ∇log S_s where the student says (½, ½) and the teacher (¾, ¼).

    The student's logits are equal where x₂ = −5x₁, and x₁ − x₂ = 6x₁ = ln 3 for the teacher.
    ∇log S_s⁰ = ½((2, 1) − (−3, 0)) = ½(5, 1), ∇T_s⁰ = 3/16 (1, −1), their product 3/32 · 4; both
    change sign for class 1. At temperature 2 the same softmaxes stand at 2x, and either gradient
    is halved. So −3/8 for a label, −3/4 for both, over the temperature squared.
    """
    net, taught = pair()
    x = temperature * np.log(3) / 6 * np.array([[1.0, -5.0]] * 2)
    penalty = JacobianMatching(target=target, loss="cross_entropy", temperature=temperature)
    value = penalty.per_example(net, x, np.array([0, 1]), teacher=taught)
    np.testing.assert_allclose(value, [expected / temperature**2] * 2, rtol=1e-12)


def test_noise_on_inputs_is_activation_matching_and_jacobian_matching(float64):
    """Prop. 1 on affine networks: v = ±σ√D e_i, all 2D of them, has covariance σ²I exactly."""
    net, taught = pair()
    x, sigma = np.array([[0.3, -0.8]]), 0.7
    moves = sigma * np.sqrt(2) * np.concatenate([np.eye(2), -np.eye(2)])
    noisy = np.mean(ActivationMatching().per_example(net, x + moves, teacher=taught))
    terms = [
        penalty.per_example(net, x, teacher=taught)[0]
        for penalty in (ActivationMatching(), JacobianMatching(target="all"))
    ]
    np.testing.assert_allclose(noisy, terms[0] + sigma**2 * terms[1], rtol=1e-12)


def test_a_student_that_is_the_teacher_has_nothing_to_learn(float64):
    net, x = student(), images()
    for penalty in (ActivationMatching(), JacobianMatching(), JacobianMatching(target="all")):
        np.testing.assert_array_equal(penalty.per_example(net, x, LABELS, teacher=net), [0, 0, 0])


# The teacher is a constant


@pytest.mark.sample(3)
@pytest.mark.parametrize("case", PENALTIES)
def test_no_gradient_flows_into_the_teacher(case):
    net, taught, x = student(True), teacher(), images().astype("float32")
    taught.trainable = True
    before = [v.numpy() for v in taught.variables]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(PENALTIES[case]().per_example(net, x, LABELS, teacher=taught))
    sources = [v.value for v in taught.trainable_variables], net.trainable_variables[0].value
    gradients, own = tape.gradient(total, sources)
    assert gradients == [None] * len(taught.trainable_variables)
    assert np.abs(own).max() > 0
    for v, value in zip(taught.variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), value)


def test_several_inputs(float64):
    """Gradients of all float inputs, squared and added; an integer input has none."""

    def network(seed):
        a, b, c = (
            keras.Input((2,), name="a"),
            keras.Input((3,), name="b"),
            keras.Input((1,), name="c", dtype="int32"),
        )
        e = L.Flatten()(L.Embedding(4, 2)(c))
        h = L.Dense(4, activation="softplus")(L.Concatenate()([a, b, e]))
        net = keras.Model({"a": a, "b": b, "c": c}, L.Dense(3)(h))
        rng = np.random.default_rng(seed)
        for v in net.weights:
            v.assign(rng.normal(size=v.shape))
        return net

    net, taught = network(1), network(2)
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=(3, 3))}
    integers = np.array([[0], [1], [3]], "int32")
    for target in ("label", "all"):
        value = JacobianMatching(target=target).per_example(
            net, {**x, "c": integers}, LABELS, teacher=taught
        )
        squares = 0
        for name in x:

            def logits(part, model, name=name):
                return np.asarray(model({**x, name: part, "c": integers}))

            s, t = (
                derivative(lambda part, m=m, f=logits: f(part, m), x[name]) for m in (net, taught)
            )
            squares = squares + np.sum((s - t) ** 2, 2)
        expected = squares.sum(1) if target == "all" else squares[np.arange(3), LABELS]
        np.testing.assert_allclose(value, expected, rtol=1e-8)


def test_a_subclassed_student_and_teacher():
    class Wrapped(keras.Model):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def call(self, x):
            return self.net(x)

    x = images().astype("float32")
    for case in ("activation", "jacobian_all"):
        penalty = PENALTIES[case]()
        expected = penalty.per_example(student(), x, teacher=teacher())
        got = penalty.per_example(Wrapped(student()), x, teacher=Wrapped(teacher()))
        np.testing.assert_allclose(got, expected, rtol=1e-6)


# What is refused


def test_layer_norm_is_refused_for_jacobians_and_not_for_activations():
    net = keras.Sequential([keras.Input((5,)), L.Dense(4), L.LayerNormalization(), L.Dense(3)])
    taught = keras.Sequential([keras.Input((5,)), L.Dense(3)])
    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    with pytest.raises(SecondOrderError, match=r"use tfgrad\.layers\.LayerNormalization"):
        JacobianMatching().per_example(net, x, LABELS, teacher=taught)
    assert np.isfinite(ActivationMatching().per_example(net, x, teacher=taught)).all()
    # The teacher is differentiated once.
    assert np.isfinite(JacobianMatching().per_example(taught, x, LABELS, teacher=net)).all()


@pytest.mark.parametrize("case", ["activation", "jacobian_label", "cross_entropy_all"])
def test_other_classes(case):
    x = images().astype("float32")
    with pytest.raises(
        ArgumentError, match=r"teacher: got 5 logits; expected 3, as many as .*'student'"
    ):
        PENALTIES[case]().per_example(student(), x, LABELS, teacher=teacher(classes=5))


def test_other_inputs():
    message = r"teacher: got a model of inputs \(None, 6, 6, 1\); expected \(None, 4, 4, 1\)"
    with pytest.raises(ArgumentError, match=message):
        ActivationMatching().per_example(
            student(), images().astype("float32"), teacher=teacher(shape=(6, 6, 1))
        )


def test_a_teacher_that_ends_in_softmax():
    taught = keras.Sequential([teacher(), L.Softmax(name="probabilities")], name="t")
    for penalty in (ActivationMatching(), JacobianMatching()):
        with pytest.raises(
            ModelError, match=r"teacher 't': .*returns probabilities; expected logits"
        ):
            penalty.per_example(student(), images().astype("float32"), LABELS, teacher=taught)


@pytest.mark.parametrize("taught", [None, "vgg", L.Dense(3)])
def test_no_teacher(taught):
    with pytest.raises(
        ArgumentError, match=r"teacher: got .*; expected .*, which 'activation_matching' matches"
    ):
        ActivationMatching().per_example(student(), images().astype("float32"), teacher=taught)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JacobianMatching(target="true"), "target: got 'true'; expected one of 'label'"),
        (lambda: JacobianMatching(target=-2), "target: got class -2"),
        (lambda: JacobianMatching(loss="kl"), "loss: got 'kl'; expected one of 'squared_error'"),
        (
            lambda: JacobianMatching(loss="cross_entropy", temperature=0),
            "temperature: got 0; expected a finite number above 0",
        ),
        (
            lambda: JacobianMatching(temperature=2.0),
            "temperature: got 2.0 with loss='squared_error'",
        ),
        (lambda: ActivationMatching(-1.0), "weight: got -1.0"),
        (lambda: ActivationMatching(head=1.5), "head: got 1.5; expected the key or index"),
        (lambda: ActivationMatching(head=("a", "b", "c")), "head: got .*pair"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_full_gradient_matching_is_both():
    both = full_gradient_matching(10.0, ["conv"], target="predicted", head="source")
    assert [p.get_config() for p in both] == [
        {
            "weight": 10.0,
            "name": "jacobian_matching",
            "target": "predicted",
            "loss": "squared_error",
            "temperature": 1.0,
            "head": "source",
            "every": 1,
            "at": None,
            "projections": 1,
            "seed": 0,
            "estimator": "exact",
            "step": None,
        },
        {
            "weight": 10.0,
            "name": "bias_gradient_matching",
            "layers": [["conv", "conv"]],
            "target": "predicted",
            "head": "source",
            "every": 1,
        },
    ]
