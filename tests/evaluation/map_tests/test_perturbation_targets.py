"""Pixel perturbation of any target, against closed forms and NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.removal_cases import ascending
from tfgrad import saliency, targets
from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation import pixel_perturbation

L = keras.layers
SHAPE, PIXELS = (4, 5, 2), 20
FRACTIONS = (0.0, 0.25, 0.5, 1.0)
COUNTS = (0, 5, 10, 20)
FILL = 0.25


def images(n=12):
    return np.random.default_rng(0).uniform(-1, 1, (n, *SHAPE))


def batches(x, size=5):
    return [x[i : i + size] for i in range(0, len(x), size)]


def linear(outputs=1, seed=0):
    """w·x + b in float64, and w as images."""
    keras.utils.set_random_seed(seed)
    x = keras.Input(SHAPE, dtype="float64")
    dense = L.Dense(outputs, dtype="float64", bias_initializer="normal")
    network = keras.Model(x, dense(L.Flatten(dtype="float64")(x)))
    return network, np.moveaxis(dense.kernel.numpy().reshape(*SHAPE, outputs), -1, 0)


def without(x, maps, count, remove="least"):
    """`count` pixels of each image replaced, by NumPy's sort."""
    out = x.copy()
    for i, one in enumerate(maps.reshape(len(x), -1)):
        order = ascending(one)
        for pixel in (order if remove == "least" else order[::-1])[:count]:
            out[i, pixel // SHAPE[1], pixel % SHAPE[1]] = FILL
    return out


def test_the_worth_of_pixels_of_a_linear_model_is_the_best_map():
    # f(x′) − f(x) is −Σ w (x − fill) over what is removed, so the k largest terms lower f the most.
    (network, weights), x = linear(), images()
    worth = (weights[0] * (x - FILL)).sum(-1)

    def measured(maps):
        return pixel_perturbation(
            *(network, batches(x), maps, FRACTIONS),
            fill=FILL,
            remove="most",
            score="change of the score",
            target=targets.Output(),
        )

    found = measured(worth)
    ordered = -np.sort(-worth.reshape(12, -1), 1)
    expected = [-ordered[:, :count].sum(1).mean() for count in COUNTS]
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    errors = [ordered[:, :count].sum(1).std(ddof=1) / 12**0.5 for count in COUNTS]
    np.testing.assert_allclose(found.deviations, errors, atol=1e-12)
    assert found.direction == "lower"
    assert found.name == "change of the score of output_0 without the most salient pixels"
    noise, opposite = measured("random"), measured(-worth)
    for k in (1, 2):
        assert found.values[k] < noise.values[k] - 0.3
        assert noise.values[k] < opposite.values[k] - 0.3


@pytest.mark.parametrize("remove", ["least", pytest.param("most", marks=pytest.mark.slow)])
def test_scores_of_sizes_rank_absolute_values(remove):
    (network, weights), x = linear(), images()
    worth = (weights[0] * (x - FILL)).sum(-1)
    before = network(x).numpy()[:, 0]
    changes = [
        network(without(x, abs(worth), count, remove)).numpy()[:, 0] - before for count in COUNTS
    ]
    for maps in (worth, abs(worth)):
        found = pixel_perturbation(
            *(network, batches(x), maps, FRACTIONS),
            fill=FILL,
            remove=remove,
            target=targets.Output(),
        )
        assert found.score == "size of the change"
        assert found.direction == ("lower" if remove == "least" else "higher")
        columns = {**found.columns, found.score: found.values}
        for name, expected in {
            "size of the change": np.abs(changes).mean(1),
            "change of the score": np.mean(changes, 1),
            "relative change of the score": np.abs(changes / before).mean(1),
        }.items():
            np.testing.assert_allclose(columns[name], expected, atol=1e-12, err_msg=name)
    if remove == "least":
        noise = pixel_perturbation(
            network, batches(x), "random", FRACTIONS, fill=FILL, target=targets.Output()
        )
        assert all(a < b for a, b in zip(found.values[1:3], noise.values[1:3], strict=True))


def two_heads():
    keras.utils.set_random_seed(1)
    x = keras.Input(SHAPE)
    hidden = L.Flatten()(L.Conv2D(3, 3, activation="gelu")(x))
    heads = {"price": L.Dense(1, bias_initializer="normal")(hidden), "rent": L.Dense(2)(hidden)}
    return keras.Model(x, heads)


@pytest.mark.long
def test_a_target_comes_with_the_method_or_the_test_and_needs_no_labels():
    network, x = two_heads(), images().astype("float32")
    price = targets.Output("price")
    maps = saliency.InputTimesGradient(network, target=price)
    found = pixel_perturbation(network, batches(x), maps, FRACTIONS)
    raw = maps(x).numpy()
    before = network(x)["price"].numpy()[:, 0]
    for k, count in enumerate(COUNTS):
        after = x.copy()
        for i, one in enumerate(abs(raw).reshape(12, -1)):
            for pixel in ascending(one)[:count]:
                after[i, pixel // 5, pixel % 5] = x[i].mean((0, 1))
        change = abs(network(after)["price"].numpy()[:, 0] - before).mean()
        assert found.values[k] == pytest.approx(change, abs=1e-5)

    def of_price(outputs):
        return outputs["price"][:, 0]

    forms = [
        ([(b, None) for b in batches(x)], raw, price),
        (tf.data.Dataset.from_tensor_slices(x).batch(5), maps, targets.Output("price")),
        ([(b,) for b in batches(x)], lambda x, target: maps(x, target), price),
        ([(b, np.full(len(b), np.nan)) for b in batches(x)], raw, of_price),
    ]
    for data, given, target in forms:
        other = pixel_perturbation(network, data, given, FRACTIONS, target=target)
        np.testing.assert_allclose(other.values, found.values, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_choices_are_made_once_and_values_follow_the_data():
    network, _ = linear(3)
    x = images()
    logits = network(x).numpy()
    order = np.argsort(-logits, 1)
    maps = np.random.default_rng(1).normal(size=(12, 4, 5))
    a, rows = np.arange(12) % 3, np.arange(12)
    b = np.where(order[:, 0] == a, order[:, 1], order[:, 0])  # the strongest other class
    found = pixel_perturbation(
        *(network, batches(x), maps, FRACTIONS),
        fill=FILL,
        score="change of the score",
        target=targets.Contrast(a),
        outputs="exclusive",
    )
    for value, count in zip(found.values, COUNTS, strict=True):
        now = network(without(x, maps, count)).numpy() - logits
        assert value == pytest.approx((now[rows, a] - now[rows, b]).mean(), abs=1e-12)
    for count, words in ((7, "7 values 'a' .* for 10 examples or more"), (15, "15 .* 12 examples")):
        short = targets.Contrast(np.zeros(count, int), np.ones(count, int))
        with pytest.raises(ArgumentError, match=f"target: got {words}; expected one for each"):
            pixel_perturbation(network, batches(x), maps, (0.5,), target=short)


def test_outputs_are_those_that_the_model_returns():
    keras.utils.set_random_seed(2)
    network = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="softmax")])
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    maps = saliency.InputGradient(network, target=targets.Output(1))
    found = pixel_perturbation(network, [x], maps, (1.0,), fill=0.0, score="change of the score")
    expected = (network(0 * x) - network(x)).numpy()[:, 1].mean()
    assert found.value == pytest.approx(expected, rel=1e-5)


def test_the_only_output_of_a_regression_is_the_target():
    (network, _), x = linear(), images()
    maps = np.random.default_rng(1).normal(size=(12, 4, 5))
    expected = pixel_perturbation(network, [x], maps, (0.5,), target=targets.Output())
    told = pixel_perturbation(network, [(x, x[:, 0, 0, 0])], maps, (0.5,), outputs="regression")
    network.compile("sgd", "mse")
    learned = pixel_perturbation(network, [x], maps, (0.5,))
    assert told == learned == expected
    two, _ = linear(2)
    two.compile("sgd", "mse")
    with pytest.raises(ArgumentError, match=r"got None for a regression of 2 outputs; .*Output\(0"):
        pixel_perturbation(two, [x], maps, (0.5,))


def test_what_a_target_does_not_take():
    (network, _), x = linear(2), images()
    price, rent = targets.Output(0), targets.Output(1)
    own = saliency.InputGradient(network, target=price)
    for arguments, words in (
        ({"target": rent}, r"target: got Output\(1\) for maps of a method built with .*Output\(0"),
        ({"target": 1}, r"target: got 1; expected a tfgrad.targets.Target, or a function"),
        ({"score": "accuracy"}, "score: got 'accuracy', which is one of classes, .*'size of the"),
        ({"score": "log density ratio"}, "which is one of classes, .*; try 'change of the score'"),
    ):
        with pytest.raises(ArgumentError, match=words):
            pixel_perturbation(network, [x], own, (0.5,), **arguments)
    with pytest.raises(ArgumentError, match="'size of the change', which is one of targets"):
        pixel_perturbation(
            network, [(x, np.zeros(12, int))], "random", (0.5,), score="size of the change"
        )
    broken = keras.Model(network.input, keras.ops.log(network.output))
    with pytest.raises(NonFiniteError, match=r"network: the values of Output\(0\) of image"):
        pixel_perturbation(broken, [x], "random", (0.5,), target=price)
