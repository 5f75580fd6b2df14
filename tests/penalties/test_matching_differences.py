"""`JacobianMatching(estimator="difference")`: both networks at x ± δ in place of Jacobians."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tfgrad import PenalizedModel, targets
from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties import JacobianMatching
from tfgrad.penalties.teacher import Teacher

L = keras.layers
X, LABELS = np.random.default_rng(1).normal(size=(4, 3)), np.array([0, 1, 1, 0])


def network(units, seed, activation="tanh"):
    keras.utils.set_random_seed(seed)
    layers = [L.Dense(units, activation, dtype="float64"), L.Dense(2, dtype="float64")]
    return keras.Sequential([keras.Input((3,), dtype="float64"), *layers])


class Given(Draws):
    """Draws that are the same vector for every example."""

    vector = (1.0,)

    def normal(self, like, samples, seed, stream=0):
        return [tf.zeros_like(like) + tf.constant(self.vector, like.dtype)] * samples


def value_and_gradient(net, compute):
    variables = [v.value for v in net.trainable_variables]
    with tf.GradientTape() as tape:
        value = compute()
    gradient = tape.gradient(value, variables, unconnected_gradients="zero")
    return np.concatenate([np.ravel(t) for t in (value, *gradient)])


def mean_over_signs(penalty, net, teacher):
    found = []
    for vector in itertools.product([-1.0, 1.0], repeat=3):
        draws = Given()
        object.__setattr__(draws, "vector", vector)

        def compute(draws=draws):
            said = Teacher(teacher, X, LABELS)
            probe = Probe(net, X, LABELS, draws=draws, teacher=said, needs=penalty.needs())
            return penalty.compute(probe)

        found.append(value_and_gradient(net, compute))
    assert np.std(found, axis=0).max() > 1e-2
    return np.mean(found, 0)


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize(
    "target", ["all", "label", targets.Contrast()], ids=["all", "label", "contrast"]
)
def test_mean_over_all_signs_is_exact_to_second_order(target):
    net, teacher = network(5, 1), network(6, 2)
    exact = value_and_gradient(
        net, lambda: JacobianMatching(target=target).per_example(net, X, LABELS, teacher)
    )
    errors = []
    for step in (0.02, 0.01):
        penalty = JacobianMatching(target=target, estimator="difference", step=step)
        errors.append(np.linalg.norm(mean_over_signs(penalty, net, teacher) - exact))
    assert errors[0] < 1e-2 * np.linalg.norm(exact)
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.02)


def test_affine_networks_have_no_error():
    net, teacher = network(5, 1, None), network(6, 2, None)
    penalty = JacobianMatching(target="all", estimator="difference", step=0.5)
    exact = value_and_gradient(
        net, lambda: JacobianMatching(target="all").per_example(net, X, teacher=teacher)
    )
    np.testing.assert_allclose(
        mean_over_signs(penalty, net, teacher), exact, rtol=1e-10, atol=1e-12
    )


def test_weight_gradient_against_central_differences():
    net, teacher = network(2, 1), network(6, 2)
    penalty = JacobianMatching(target="all", estimator="difference", step=0.3, projections=2)

    def value():
        return tf.reduce_sum(penalty.per_example(net, X, teacher=teacher, seed=1))

    with tf.GradientTape() as tape:
        total = value()
    variables = net.trainable_variables[:-1]  # Differences ignore the last bias.
    exact = tape.gradient(total, [v.value for v in variables])
    assert worst_relative_error(exact, [numerical_gradient(value, v) for v in variables]) < 1e-8


def test_students_without_second_derivatives():
    size = keras.Input((4, 4, 1))
    doubled = L.UpSampling2D(2, interpolation="bilinear")(size)
    net = keras.Model(size, L.Dense(2)(L.Flatten()(L.Conv2D(2, 3, activation="tanh")(doubled))))
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype("float32")
    penalty = JacobianMatching(target="all", estimator="difference")
    assert not penalty.differentiates_twice
    assert penalty.per_example(net, x, teacher=keras.models.clone_model(net)).shape == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "cross_entropy"}, "estimator: got 'difference' with loss='cross_entropy'"),
        ({"target": "projected"}, "target: got 'projected' with estimator='difference'"),
        ({"step": -1.0}, "step: got -1.0; expected a finite number above 0"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ArgumentError, match=message):
        JacobianMatching(estimator="difference", **options)


def test_answers_at_shifted_inputs_are_not_recorded():
    penalty = JacobianMatching(target=0, estimator="difference")
    model = PenalizedModel(network(5, 1), [penalty], teacher=network(6, 2))
    with pytest.raises(ArgumentError, match="penalties: got 'jacobian_matching', which asks"):
        model.lessons(X)
