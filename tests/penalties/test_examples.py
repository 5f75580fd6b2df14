"""DerivativeMatching and GradientMask: values by hand, and what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.transfer_cases import check_value_and_gradient, filled, linear
from tfgrad.errors import ArgumentError
from tfgrad.penalties import DerivativeMatching, Examples, GradientMask
from tfgrad.penalties.examples import with_inputs
from tfgrad.targets import Output

L = keras.layers
X = np.random.default_rng(3).normal(size=(3, 4))


def dense(outputs, seed=1):
    layers = [keras.Input((4,)), L.Dense(3, "tanh"), L.Dense(outputs)]
    return filled(keras.Sequential(layers), seed)


def jacobian(network, x, function=lambda y: y):
    """[batch, outputs, …x] by a tape."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(network(x))
    return tape.batch_jacobian(y, x).numpy()


def test_what_is_given_stays_beside_other_inputs():
    x = Examples(np.ones((2, 2)), {"mask": np.ones(2)})
    found = with_inputs(x, np.zeros((2, 2)))
    assert not found.x.any() and found.given is x.given


# Known derivatives


def test_derivatives_by_hand(float64):
    x = Examples(np.ones((2, 2)), {"derivatives": np.array([[1.0, np.nan], [3.0, 1.0]])})
    value = DerivativeMatching().per_example(linear([[3.0, -1.0]]), x)
    np.testing.assert_allclose(value, [4.0, 4.0], rtol=1e-12)


def test_derivatives_of_every_output(float64):
    network = dense(3)
    given = np.random.default_rng(0).normal(size=(3, 3, 4))
    given[0, 1] = np.nan
    rows = jacobian(network, X)
    expected = np.nansum((rows - given) ** 2, (1, 2))
    for outputs in ("regression", "exclusive"):
        value = DerivativeMatching(target="all").per_example(
            network, Examples(X, {"derivatives": given}), outputs=outputs
        )
        np.testing.assert_allclose(value, expected, rtol=1e-12)
    one = DerivativeMatching(target=Output(2), key="d")
    value = one.per_example(network, Examples(X, {"d": given[:, 2]}))
    np.testing.assert_allclose(value, np.sum((rows[:, 2] - given[:, 2]) ** 2, 1), rtol=1e-12)


def test_unknown_derivatives_have_no_gradient(float64):
    network, penalty = dense(1), DerivativeMatching()
    given = np.where(X > 0, np.nan, np.sin(X))
    examples = Examples(X, {"derivatives": given})
    expected = np.nansum((jacobian(network, X)[:, 0] - given) ** 2, 1)
    check_value_and_gradient(
        lambda: penalty.per_example(network, examples), network, expected, "derivatives"
    )


def test_derivatives_of_some_of_several_inputs(float64):
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    network = keras.Model({"a": a, "b": b}, L.Dense(1)(L.Concatenate()([a, b])))
    weights = network.get_weights()[0][:, 0]
    x, given = {"a": X, "b": X[:, :2]}, np.ones((3, 2))
    value = DerivativeMatching().per_example(network, Examples(x, {"derivatives": {"b": given}}))
    np.testing.assert_allclose(value, [np.sum((weights[4:] - 1) ** 2)] * 3, rtol=1e-12)
    both = {"derivatives": {"a": np.zeros((3, 4)), "b": given}}
    value = DerivativeMatching().per_example(network, Examples(x, both))
    expected = np.sum(weights[:4] ** 2) + np.sum((weights[4:] - 1) ** 2)
    np.testing.assert_allclose(value, [expected] * 3, rtol=1e-12)
    for wrong in ({"c": given}, given):
        with pytest.raises(ArgumentError, match=r"x: got 'derivatives' as .*'a', 'b'\], as the"):
            DerivativeMatching().per_example(network, Examples(x, {"derivatives": wrong}))


def test_derivatives_are_checked():
    network, x = dense(2), X.astype("float32")
    with pytest.raises(ArgumentError, match=r"inputs alone; penalty 'derivative_matching' needs"):
        DerivativeMatching(target=0).per_example(network, x)
    with pytest.raises(ArgumentError, match=r"got Examples with \['mask'\]; .*'derivatives'"):
        DerivativeMatching(target=0).per_example(network, Examples(x, {"mask": x}))
    for target, shape in ((0, (3, 1)), ("all", (3, 4)), ("all", (3, 2, 1))):
        given = Examples(x, {"derivatives": np.zeros(shape)})
        with pytest.raises(ArgumentError, match=r"x: got 'derivatives' of shape .*; expected"):
            DerivativeMatching(target=target).per_example(network, given, outputs="regression")


# Masks


def log_probabilities(y):
    return tf.reduce_sum(tf.nn.log_softmax(y), -1, keepdims=True)


def test_a_mask_by_hand(float64):
    network = linear([[1.0, 0.0], [0.0, 0.0]])
    x = np.array([[0.0, 5.0], [np.log(3.0), 5.0]])
    examples = Examples(x, {"mask": np.array([[1.0, 0.0], [1.0, 0.0]])})
    value = GradientMask().per_example(network, examples, outputs="exclusive")
    np.testing.assert_allclose(value, [0.0, 0.25], atol=1e-15)


def test_every_class_counts(float64):
    network, mask = dense(3), np.random.default_rng(0).uniform(size=(3, 4))
    expected = np.sum((mask * jacobian(network, X, log_probabilities)[:, 0]) ** 2, 1)
    examples, penalty = Examples(X, {"mask": mask}), GradientMask()
    check_value_and_gradient(
        lambda: penalty.per_example(network, examples, outputs="exclusive"),
        *(network, expected, "mask"),
    )


@pytest.mark.parametrize(("outputs", "count"), [("binary", 1), ("independent", 3)])
def test_both_answers_of_a_sigmoid_count(float64, outputs, count):
    def sigmoids(y):
        both = tf.math.log_sigmoid(y) + tf.math.log_sigmoid(-y)
        return tf.reduce_sum(both, -1, keepdims=True)

    network, mask = dense(count), np.random.default_rng(0).uniform(size=(3, 4))
    expected = np.sum((mask * jacobian(network, X, sigmoids)[:, 0]) ** 2, 1)
    value = GradientMask().per_example(network, Examples(X, {"mask": mask}), outputs=outputs)
    np.testing.assert_allclose(value, expected, rtol=1e-10)


def test_one_logit_and_any_scalar(float64):
    network, mask, rows = dense(3), np.abs(X), jacobian(dense(3), X)
    examples = Examples(X, {"mask": mask})
    expected = np.sum((mask * rows[:, 1]) ** 2, 1)
    for penalty in (GradientMask(target=1, of="logit"), GradientMask(target=Output(1))):
        value = penalty.per_example(network, examples, outputs="exclusive")
        np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_mask_without_channels(float64, layout):
    """One number for a pixel stands for all its channels."""
    first = layout == "channels_first"
    inputs = keras.Input((2, 3, 4) if first else (3, 4, 2))
    y = L.Permute((2, 3, 1))(inputs) if first else inputs
    y = L.Conv2D(2, 2, activation="tanh")(y)
    network = filled(keras.Model(inputs, L.GlobalAveragePooling2D()(y)), 1)
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(3, *network.input_shape[1:])), rng.uniform(size=(3, 3, 4))
    whole = np.repeat(np.expand_dims(mask, 1 if first else -1), 2, 1 if first else -1)
    short, long = (
        GradientMask().per_example(network, Examples(x, {"mask": m}), outputs="exclusive")
        for m in (mask, whole)
    )
    np.testing.assert_allclose(short, long, rtol=1e-12)
    assert np.min(short) > 0


def test_masks_are_checked():
    network, x = dense(3), X.astype("float32")
    with pytest.raises(ArgumentError, match="penalty 'gradient_mask' needs 'mask' of each"):
        GradientMask().per_example(network, x)
    for shape in ((3,), (3, 2), (3, 4, 1)):
        with pytest.raises(ArgumentError, match=r"x: got 'mask' of shape .*; expected \(3, 4\)"):
            GradientMask().per_example(network, Examples(x, {"mask": np.ones(shape)}))
    with pytest.raises(ArgumentError, match="got 'regression', which has no classes"):
        GradientMask().per_example(network, Examples(x, {"mask": x}), outputs="regression")
    with pytest.raises(ArgumentError, match="of: got 'logit' without a target"):
        GradientMask(of="logit")
    with pytest.raises(ArgumentError, match=r"of: got 'logit' for Output\(0\), which is no class"):
        GradientMask(target=Output(0), of="logit")
