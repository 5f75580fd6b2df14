"""`target="projected"`: random projections of the logits, which estimate sums over all classes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tfgrad import PenalizedModel
from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties import GradientNorm, JacobianMatching
from tfgrad.penalties.projections import signs
from tfgrad.penalties.teacher import Teacher

L = keras.layers
X = np.random.default_rng(1).normal(size=(4, 5))


def network(units=6, seed=1, classes=3):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((5,), dtype="float64"),
            L.Dense(units, "tanh", dtype="float64"),
            L.Dense(classes, dtype="float64"),
        ]
    )


class Given(Draws):
    """Draws that are the same vector for every example."""

    vector = (1.0,)

    def normal(self, like, samples, seed, stream=0):
        return [tf.zeros_like(like) + tf.constant(self.vector, like.dtype)] * samples


def values(penalty, net, draws, teacher=None):
    said = None if teacher is None else Teacher(teacher, X)
    return penalty.compute(Probe(net, X, draws=draws, teacher=said, needs=penalty.needs()))


@pytest.mark.parametrize("penalty", [GradientNorm, JacobianMatching])
def test_mean_over_all_sign_vectors_is_the_sum_over_classes(penalty):
    """Values and weight gradients, exactly."""
    net = network()
    teacher = network(7, seed=2) if penalty is JacobianMatching else None
    variables = [v.value for v in net.trainable_variables]

    def value_and_gradient(compute):
        with tf.GradientTape() as tape:
            value = compute()
        gradient = tape.gradient(value, variables, unconnected_gradients="zero")
        return [value, *gradient]

    sampled = []
    for vector in itertools.product([-1.0, 1.0], repeat=3):
        draws = Given()
        object.__setattr__(draws, "vector", vector)
        one = penalty(target="projected")
        sampled.append(
            value_and_gradient(lambda one=one, draws=draws: values(one, net, draws, teacher))
        )
    exact = value_and_gradient(lambda: penalty(target="all").per_example(net, X, teacher=teacher))
    for parts, whole in zip(zip(*sampled, strict=True), exact, strict=True):
        np.testing.assert_allclose(np.mean(parts, 0), whole, rtol=1e-12, atol=1e-12)
    assert np.std([v[0] for v in sampled], axis=0).min() > 1e-3


def test_gradient_is_that_of_a_network_whose_output_is_the_projection():
    net = network()
    probe = Probe(net, X, draws=Draws(step=3))
    (vector,) = signs(probe, 1, seed=5)
    penalty = GradientNorm(target="projected", seed=5)
    projected = penalty.per_example(net, X, seed=3)
    for i, v in enumerate(vector.numpy()):
        last = L.Dense(1, use_bias=False, dtype="float64")
        one = keras.Sequential([keras.Input((5,), dtype="float64"), net, last])
        last.kernel.assign(v[:, None])
        expected = GradientNorm(target=0).per_example(one, X[i : i + 1], outputs="regression")
        np.testing.assert_allclose(projected[i], expected[0], rtol=1e-12)


def test_weight_gradient_against_central_differences():
    net, penalty = network(2), GradientNorm(target="projected", projections=2)

    def value():
        return tf.reduce_sum(penalty.per_example(net, X, seed=1))

    with tf.GradientTape() as tape:
        total = value()
    variables = net.trainable_variables[:-1]  # A norm of gradients ignores the last bias.
    exact = tape.gradient(total, [v.value for v in variables])
    numerical = [numerical_gradient(value, v) for v in variables]
    assert worst_relative_error(exact, numerical) < 1e-8


def test_more_projections_are_a_mean():
    net = network()
    probe = Probe(net, X, draws=Draws(step=2))
    gradients = np.stack([GradientNorm().per_example(net, X, np.full(4, k)) for k in range(3)])
    jacobian = np.stack([r.numpy() for r in Probe(net, X).input_jacobian()], 1)
    np.testing.assert_allclose(np.sum(jacobian**2, -1).T, gradients, rtol=1e-12)
    vectors = np.stack(signs(probe, 5, seed=0))
    expected = np.mean(np.sum(np.einsum("nbk,bkd->nbd", vectors, jacobian) ** 2, -1), 0)
    got = GradientNorm(target="projected", projections=5).per_example(net, X, seed=2)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_signs_belong_to_step_seed_and_place_in_the_global_batch():
    net = network(classes=20)

    def drawn(x, step=0, offset=0, seed=0):
        return signs(Probe(net, x, draws=Draws(step, offset)), 2, seed)[1].numpy()

    whole = drawn(X)
    assert set(np.unique(whole)) == {-1.0, 1.0}
    np.testing.assert_array_equal(whole[2:], drawn(X[2:], offset=2))
    for other in (drawn(X, step=1), drawn(X, seed=1), np.roll(whole, 1, 0)):
        assert 0.2 < np.mean(other != whole) < 0.8


def test_one_output_needs_no_estimate():
    net = network(classes=1)
    got = GradientNorm(target="projected").per_example(net, X, outputs="binary")
    exact = GradientNorm(target="all").per_example(net, X, outputs="binary")
    np.testing.assert_allclose(got, exact, rtol=1e-12)


def test_two_heads_and_teacher_s_projections():
    net, teacher = network(), network(7, seed=2)
    x = keras.Input((5,), dtype="float64")
    both = keras.Model(x, {"a": net(x), "b": network(seed=3)(x)})
    taught = keras.Model(x, {"a": teacher(x), "b": network(seed=4)(x)})
    for penalty in (GradientNorm, JacobianMatching):
        said = {} if penalty is GradientNorm else {"teacher": taught}
        alone = {} if penalty is GradientNorm else {"teacher": teacher}
        of_head = penalty(target="projected", head="a").per_example(both, X, **said)
        expected = penalty(target="projected").per_example(net, X, **alone)
        np.testing.assert_allclose(of_head, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("penalty", "options", "message"),
    [
        (GradientNorm, {"loss": "cross_entropy"}, "target: got 'projected' with loss='cross_ent"),
        (JacobianMatching, {"loss": "cross_entropy"}, "target: got 'projected' with loss='cross"),
        (GradientNorm, {"projections": 0}, "projections: got 0; expected an integer ≥ 1"),
    ],
)
def test_arguments(penalty, options, message):
    with pytest.raises(ArgumentError, match=message):
        penalty(target="projected", **options)


def test_answers_to_projections_are_not_recorded():
    net, teacher = network(), network(7, seed=2)
    model = PenalizedModel(net, [JacobianMatching(target="projected")], teacher=teacher)
    with pytest.raises(ArgumentError, match="penalties: got 'jacobian_matching', which asks"):
        model.lessons(X)
