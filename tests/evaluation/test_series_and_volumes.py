"""Every test on series and volumes, beside the same test on equal networks of images."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.series_cases import inputs, pair
from tests.helpers.variants import with_slow
from tfgrad import evaluation
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.map_tests.map_similarity import structural_similarity

L = keras.layers
LABELS = np.array([0, 1, 2, 0, 1, 2])
FRACTIONS = (0.3, 0.6)
# Structural similarity has a window along every axis, of which an image of height 1 has one more.
APART = "structural similarity"


def method(model):
    """Input × gradient, summed over the last axis."""

    @functools.partial(tf.function, autograph=False)
    def maps(x, classes):
        x = tf.cast(x, "float32")
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = model(x)
            score = tf.reduce_sum(logits * tf.one_hot(classes, 3))
        return tf.reduce_sum(tape.gradient(score, x) * x, -1)

    return maps


def batched(x):
    return tf.data.Dataset.from_tensor_slices((x, LABELS)).batch(4)


TESTS = {
    "pixels": lambda net, x: evaluation.pixel_perturbation(
        net, batched(x), method(net), FRACTIONS, score="relative log density ratio"
    ),
    "random": lambda net, x: evaluation.pixel_perturbation(
        net, batched(x), "random", FRACTIONS, remove="most", fill=0.5
    ),
    "class flip": lambda net, x: evaluation.class_flip(net, batched(x), method(net), 0, 1),
    "randomisation": lambda net, x: evaluation.randomisation(net, x, method),
    "completeness": lambda net, x: evaluation.completeness(net, x, method),
    "biases": lambda net, x: evaluation.bias_sensitivity(net, x, method, draws=1),
    "regions": lambda net, x: evaluation.weak_dependence(net, x, method, 1e-4),
    "shift": lambda net, x: evaluation.shift_agreement(net, x, method, 0.3),
    "energy": lambda net, x: evaluation.energy_share(
        net, batched(x), np.arange(x[0].size).reshape(x.shape[1:-1]) < 3
    ),
    "noise": lambda net, x: evaluation.noise_robustness(net, batched(x), (0.0, 0.5)),
    "density": lambda net, x: evaluation.density_ratios(net, batched(x), (0.1,)),
}


# Of a data set, of a network and a method, and of a network alone.
QUICK = ["pixels", "regions", "density"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "names"),
    with_slow([("series", QUICK)], [("series", [*TESTS]), ("volumes", [*TESTS])]),
    ids=["series, some tests", "series", "volumes"],
)
def test_every_test_measures_what_it_measures_of_images(kind, names):
    net, twin = pair(kind, 2, 2, activation="relu")
    x, image = (part.astype("float32") for part in inputs(kind, len(LABELS)))
    for name in names:
        found, expected = TESTS[name](net, x), TESTS[name](twin, image)
        assert list(found.columns) == list(expected.columns), name
        columns = {c: v for c, v in found.columns.items() if c != APART}
        for got, wanted in (
            (found.values, expected.values),
            (found.deviations, expected.deviations),
            (list(columns.values()), [expected.columns[c] for c in columns]),
        ):
            np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.long
def test_series_without_channels_volumes_without_them_and_tables():
    x = np.random.default_rng(0).normal(size=(6, 12)).astype("float32")
    table = keras.Sequential([keras.Input((12,)), L.Dense(3)])
    gradient = table.layers[0].kernel.numpy().T[LABELS]
    maps = np.abs(x * gradient)
    for shape in [(12,), (2, 3, 2), (3, 4)]:
        net = keras.Sequential([keras.Input(shape), L.Flatten(), *table.layers])
        if len(shape) == 3:  # a volume, of which the first layer makes one with channels
            first = [L.Reshape((*shape, 1)), L.MaxPooling3D(1), L.Flatten()]
            net = keras.Sequential([keras.Input(shape), *first, *table.layers])
        inside = x.reshape(6, *shape)
        measured = evaluation.pixel_perturbation(
            net, batched(inside), maps.reshape(inside.shape), (0.5,), score="log density ratio"
        )
        order = np.argsort(maps, axis=1)[:, :6]
        moved = np.take_along_axis((x.mean(1, keepdims=True) - x) * gradient, order, 1).sum(1)
        assert measured.value == pytest.approx(moved.mean(), rel=1e-4)
    with pytest.raises(ArgumentError, match=r"maps: got shape \(4, 5\) for images \(4, 12\); exp"):
        evaluation.pixel_perturbation(table, batched(x), maps[:, :5], (0.5,))


def test_images_that_the_model_does_not_take():
    table = keras.Sequential([keras.Input((12,)), L.Dense(3)])
    with pytest.raises(
        ArgumentError, match=r"images: got float32 of shape \(12,\); expected float"
    ):
        evaluation.completeness(table, np.zeros(12, "float32"), method)


def test_similarity_of_one_window_and_of_images():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 2, 5, 5, 5))
    weights = np.exp(-0.5 * ((np.arange(5) - 2) / (1.5 * 5 / 11)) ** 2)
    weights = np.einsum("i,j,k->ijk", *[weights / weights.sum()] * 3)
    x, y = (m / m.max((1, 2, 3), keepdims=True) for m in (a, b))

    def mean(values):
        return (values * weights).sum((1, 2, 3))

    means, spreads = mean(x) * mean(y), mean(x) ** 2 + mean(y) ** 2
    covariance, variances = mean(x * y) - means, mean(x**2 + y**2) - spreads
    expected = (2 * means + 1e-4) / (spreads + 1e-4)
    expected *= (2 * covariance + 9e-4) / (variances + 9e-4)
    np.testing.assert_allclose(structural_similarity(a, b), expected, rtol=1e-12)
    a, b = rng.random((2, 3, 13, 20)).astype("float32")
    images = [tf.constant((m / m.max((1, 2), keepdims=True))[..., None]) for m in (a, b)]
    expected = tf.image.ssim(*images, max_val=1.0)
    np.testing.assert_allclose(structural_similarity(a, b), expected, rtol=1e-4)
    series = structural_similarity(a[:, 0], b[:, 0])
    assert series.shape == (3,) and (np.abs(series) < 1).all()
    np.testing.assert_allclose(structural_similarity(a[:, 0], a[:, 0]), 1, rtol=1e-12)
