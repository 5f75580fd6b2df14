"""Penalties on any scalar of the outputs: the value of a network that has it as its output."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.transfer_cases import check_value_and_gradient, filled
from tests.helpers.variants import with_slow
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.penalties import (
    BiasGradientMatching,
    BiasGradientNorm,
    GradientNorm,
    JacobianMatching,
    SaliencyFooling,
    ScoreMatching,
)
from tfgrad.targets import Contrast, Output, Scalar

L = keras.layers
X = np.random.default_rng(3).normal(size=(3, 4))


@keras.saving.register_keras_serializable("tests")
def product(outputs):
    return outputs["a"][:, 0] ** 2 * outputs["b"][:, 1]


def two_heads(seed, combined=False):
    """A number and probabilities; or the one number that `product` makes of them."""
    inputs = keras.Input((4,))
    hidden = L.Dense(3, activation="softplus", name="hidden")(inputs)
    outputs = {"a": L.Dense(1)(hidden), "b": L.Dense(2, activation="softmax")(hidden)}
    if combined:
        a, b = outputs.values()
        outputs = keras.ops.square(a) * b[:, 1:]
    return filled(keras.Model(inputs, outputs), seed)


def classifier(seed, classes=3):
    layers = [keras.Input((4,)), L.Dense(3, activation="tanh", name="hidden"), L.Dense(classes)]
    return filled(keras.Sequential(layers), seed)


PENALTIES = {
    "norm": GradientNorm,
    "jacobian": JacobianMatching,
    "bias": lambda **options: BiasGradientNorm(layers=["hidden"], **options),
    "taylor": lambda **options: ScoreMatching(sigma=0.1, **options),
    "hutchinson": lambda **options: ScoreMatching(estimator="hutchinson", **options),
    "exact": lambda **options: ScoreMatching(estimator="exact", **options),
    "fooling": lambda **options: SaliencyFooling(1.0, [0, 0, 1, 2], **options),
}


def with_teacher(penalty, **options):
    return {} if penalty.teacher_needs() is None else {"teacher": two_heads(2, **options)}


@pytest.mark.parametrize(
    "name", with_slow(["norm", "jacobian", "bias"], ["taylor", "hutchinson", "exact", "fooling"])
)
def test_a_function_of_two_heads_is_a_network_with_one(float64, name):
    own, plain = PENALTIES[name](target=product), PENALTIES[name](target=0)
    network, other = two_heads(1), two_heads(1, combined=True)
    value = own.per_example(network, X, **with_teacher(own)).numpy()
    expected = plain.per_example(
        other, X, outputs="regression", **with_teacher(plain, combined=True)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-12)
    assert np.abs(value).min() > 1e-9


@pytest.mark.parametrize("name", with_slow(["jacobian"], ["norm", "taylor"]))
def test_weight_gradients_of_a_function(float64, name):
    penalty, network = PENALTIES[name](target=product), two_heads(1)
    options = with_teacher(penalty)
    check_value_and_gradient(
        lambda: penalty.per_example(network, X, **options), network, None, name
    )


def test_a_contrast_is_a_difference_of_gradients(float64):
    network, rows = classifier(1), []
    for k in range(3):
        with tf.GradientTape() as tape:
            x = tf.constant(X)
            tape.watch(x)
            logit = network(x)[:, k]
        rows.append(tape.gradient(logit, x).numpy())
    expected = np.sum((rows[2] - rows[0]) ** 2, 1)
    value = GradientNorm(target=Contrast(2, 0)).per_example(network, X, outputs="exclusive")
    np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("contrast", with_slow([Contrast()], [Contrast(1), Contrast(None, 1)]))
def test_the_teacher_chooses_the_classes(float64, contrast):
    """Live and recorded; its two strongest classes are not the student's."""
    network, teacher = classifier(1), classifier(5)
    logits = teacher(X).numpy()
    a, b = contrast.a, contrast.b
    pairs = []
    assert (logits.argmax(1) != network(X).numpy().argmax(1)).any()
    for row in logits:
        first = int(np.argmax(row)) if a is None else a
        others = np.where(np.arange(3) == first, -np.inf, row)
        pairs.append((first, int(np.argmax(others)) if b is None else b))
    pairs = np.array(pairs)
    penalty = JacobianMatching(target=contrast)
    fixed = JacobianMatching(target=Contrast(pairs[:, 0], pairs[:, 1]))
    value, expected = (p.per_example(network, X, teacher=teacher) for p in (penalty, fixed))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    model = tfgrad.PenalizedModel(network, penalty, teacher=teacher)
    model.compile(keras.optimizers.SGD(0.0), "categorical_hinge")
    y = np.eye(3)
    live = model.fit(X, y, verbose=0).history["jacobian_matching"]
    recorded = model.fit(model.lessons(X, y), y, verbose=0).history["jacobian_matching"]
    np.testing.assert_allclose([live, recorded], [[np.mean(expected)]] * 2, rtol=1e-12)


def test_bias_gradients_of_a_function_are_matched(float64):
    def segmenter(seed):
        inputs = keras.Input((3, 3, 1))
        z = L.Conv2D(2, 2, activation="tanh", name="conv")(inputs)
        return filled(keras.Model(inputs, z), seed)

    x, networks = np.random.default_rng(0).normal(size=(3, 3, 3, 1)), [segmenter(1), segmenter(2)]
    penalty = BiasGradientMatching(layers=["conv"], target=lambda z: tf.reduce_sum(z**2, (1, 2, 3)))
    heads = [keras.Model(n.inputs, keras.ops.sum(n.output**2, (1, 2, 3))) for n in networks]
    expected = BiasGradientMatching(layers=["conv"], target=0).per_example(
        heads[0], x, teacher=heads[1], outputs="regression"
    )
    value = penalty.per_example(networks[0], x, teacher=networks[1])
    np.testing.assert_allclose(value, expected, rtol=1e-10)


def test_a_network_of_numbers_and_probabilities_trains():
    """No penalty reads logits, so that no loss must take them."""
    network, teacher = two_heads(1), two_heads(2)
    penalties = [JacobianMatching(0.5, target=product), GradientNorm(target=Output("a"), name="n")]
    model = tfgrad.PenalizedModel(network, penalties, teacher=teacher)
    model.compile("sgd", {"a": "huber", "b": keras.losses.SparseCategoricalCrossentropy()})
    x = X.astype("float32")
    y = {"a": np.ones((3, 1)), "b": np.array([0, 1, 1])}
    expected = np.mean(penalties[0].per_example(network, x, teacher=teacher))
    history = model.fit(x, y, verbose=0).history
    assert history["jacobian_matching"][0] == pytest.approx(expected, rel=1e-5)


def test_penalties_with_a_registered_function_are_saved(tmp_path):
    model = tfgrad.PenalizedModel(two_heads(1), GradientNorm(0.5, target=product))
    model.compile("sgd", {"a": "mse"})
    model.save(tmp_path / "model.keras")
    (loaded,) = keras.models.load_model(tmp_path / "model.keras").penalties
    x = X.astype("float32")
    np.testing.assert_array_equal(
        loaded.per_example(two_heads(1), x), model.penalties[0].per_example(two_heads(1), x)
    )
    assert repr(loaded) == repr(model.penalties[0])


def test_a_lambda_has_a_text_and_no_file():
    penalty = GradientNorm(target=lambda outputs: outputs["a"][:, 0])
    assert "target=Scalar('scalar')" in repr(penalty) and "at=" not in repr(penalty)
    with pytest.raises(ArgumentError, match=r"got a lambda in .*; try a named one"):
        penalty.get_config()


@pytest.mark.parametrize("penalty", [GradientNorm, JacobianMatching])
def test_a_scalar_has_no_cross_entropy(penalty):
    with pytest.raises(ArgumentError, match=r"target: got Output.* which is that of .*class"):
        penalty(target=Output(0), loss="cross_entropy")


def test_only_targets_that_read_logits_need_them():
    network = filled(keras.Sequential([keras.Input((4,)), L.Dense(3, "softmax")]), 1)
    assert np.isfinite(GradientNorm(target=Output(1)).per_example(network, X)).all()
    with pytest.raises(ModelError, match="returns probabilities; expected logits"):
        GradientNorm(target=Contrast()).per_example(network, X)
    with pytest.raises(ArgumentError, match=r"expected floats .batch., one number for each"):
        GradientNorm(target=Scalar(lambda y: y)).per_example(network, X)
