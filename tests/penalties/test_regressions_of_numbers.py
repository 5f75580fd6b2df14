"""Networks of numbers, [batch], [batch, 1] and [batch, K]: Props. 1 and 2, and training.

Inside one linear region both are exact: the expected squared error under input noise of variance σ²
is the squared error plus σ² times the penalty. See `test_noise_identities` for the sigma points.
"""

import keras
import numpy as np
import pytest

import tfgrad
from tests.layers.test_bias_noise import randomised
from tests.penalties.test_noise_identities import SIGMA, assert_one_region, sigma_points
from tfgrad.penalties import (
    ActivationMatching,
    AttentionMatching,
    BiasGradientMatching,
    BiasGradientNorm,
    GradientNorm,
    JacobianMatching,
)
from tfgrad.targets import Output

L = keras.layers
SHAPES = {"[batch]": (), "[batch, 1]": (1,), "[batch, K]": (2,)}


def network(seed, shape):
    inputs = keras.Input((6,))
    hidden = L.Dense(7, activation="relu", name="first")(inputs)
    outputs = L.Dense(int(np.prod(shape)), name="last")(hidden)
    outputs = outputs if len(shape) else L.Reshape(())(outputs)
    return randomised(keras.Model(inputs, outputs), seed)


def squared(differences):
    return np.sum(np.reshape(differences, (len(differences), -1)) ** 2, -1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_propositions_1_and_2_hold_for_numbers(float64, shape):
    student, teacher = network(0, shape), network(1, shape)
    x = np.random.default_rng(2).normal(size=(1, 6))
    noisy = x + sigma_points(6, SIGMA)
    for one in (student, teacher):
        assert_one_region(one, noisy, x)
    options = {"outputs": "regression"}
    error = np.mean(squared(0.7 - student(noisy).numpy()))
    clean = squared(0.7 - student(x).numpy())[0]
    norm = GradientNorm(target="all").per_example(student, x, **options).numpy()[0]
    assert SIGMA**2 * norm > 1e-5 * clean
    assert clean + SIGMA**2 * norm == pytest.approx(error, rel=1e-12)
    distance = np.mean(squared(teacher(noisy).numpy() - student(noisy).numpy()))
    options["teacher"] = teacher
    activations, jacobians = (
        penalty.per_example(student, x, **options).numpy()[0]
        for penalty in (ActivationMatching(), JacobianMatching(target="all"))
    )
    assert SIGMA**2 * jacobians > 1e-5 * activations
    assert activations + SIGMA**2 * jacobians == pytest.approx(distance, rel=1e-12)


def test_one_number_is_the_only_target(float64):
    """By index, by `Output`, and all of it."""
    net, x = network(0, ()), np.random.default_rng(2).normal(size=(4, 6))
    values = [
        GradientNorm(target=target).per_example(net, x, outputs="regression")
        for target in (0, "all", Output(0), "predicted")
    ]
    for value in values[1:]:
        np.testing.assert_array_equal(value, values[0])


def maps(seed):
    inputs = keras.Input((3, 3, 1))
    features = L.Conv2D(2, 2, activation="softplus", name="conv")(inputs)
    outputs = L.Dense(1)(L.GlobalAveragePooling2D()(features))
    return randomised(keras.Model(inputs, L.Reshape(())(outputs)), seed)


@pytest.mark.long
@pytest.mark.sample(3)
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_every_penalty_trains_a_regression(loss):
    net, teacher = maps(0), maps(1)
    penalties = [
        GradientNorm(target="all"),
        ActivationMatching(),
        JacobianMatching(target=Output(0)),
        AttentionMatching(layers=["conv"]),
        BiasGradientNorm(layers=["conv"], target=0),
        BiasGradientMatching(layers=["conv"], target=0),
    ]
    model = tfgrad.PenalizedModel(net, penalties, teacher=teacher)
    model.compile(keras.optimizers.SGD(0.01), loss)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3, 3, 1)).astype("float32"), np.ones(4, "float32")
    taught = {"teacher": teacher}
    expected = {
        p.name: np.mean(p.per_example(net, x, **(taught if p.teacher_needs() else {})))
        for p in penalties
    }
    before = net.get_weights()
    history = model.fit(x, y, verbose=0).history
    for name, value in expected.items():
        assert history[name][0] == pytest.approx(value, rel=1e-4), name
    assert all(np.abs(a - b).max() > 0 for a, b in zip(net.get_weights(), before, strict=True))
