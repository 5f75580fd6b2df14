"""Pixel perturbation against models whose answer is known, and against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.removal_cases import ascending
from tfgrad import saliency
from tfgrad.errors import ArgumentError, DataError, NonFiniteError
from tfgrad.evaluation import pixel_perturbation
from tfgrad.evaluation.map_tests.pixel_removal import filling, ranks
from tfgrad.gradients import axes

SHAPE = (4, 5, 2)
PIXELS = 20
FRACTIONS = (0.0, 0.05, 0.3, 0.5, 0.974, 1.0)
COUNTS = (0, 1, 6, 10, 19, 20)


def linear(weights, others=(0.0,)):
    """Logits [Σ w x, constants…]."""
    weights = np.asarray(weights, np.float32)
    x = keras.Input(weights.shape)
    logits = keras.layers.Dense(1 + len(others), name="logits")
    network = keras.Model(x, logits(keras.layers.Flatten()(x)))
    kernel = np.zeros((weights.size, 1 + len(others)), np.float32)
    kernel[:, 0] = weights.ravel()
    logits.set_weights([kernel, np.array([0.0, *others], np.float32)])
    return network


def random_network(seed=0):
    keras.utils.set_random_seed(seed)
    x = keras.Input(SHAPE)
    hidden = keras.layers.Conv2D(4, 3, activation="softplus")(x)
    return keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))


def images(n=7, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(0.1, 1, (n, *shape)).astype(np.float32)


def batched(x, y=None, size=3):
    y = np.zeros(len(x), np.int32) if y is None else y
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def expected_images(x, maps, count, fill, remove="least"):
    """Replace `count` pixels of each image by `fill` [n, C], by NumPy's sort."""
    out = x.copy()
    for i, one in enumerate(maps.reshape(len(x), -1)):
        order = ascending(one)
        for pixel in (order if remove == "least" else order[::-1])[:count]:
            out[i, pixel // SHAPE[1], pixel % SHAPE[1]] = fill[i]
    return out


@pytest.mark.long
@pytest.mark.parametrize(
    "maps",
    [
        np.random.default_rng(1).normal(size=(7, 4, 5)),
        np.random.default_rng(1).integers(0, 2, (7, 4, 5)),  # many ties
        "random",
    ],
    ids=["distinct", "tied", "random"],
)
def test_exactly_k_pixels_are_replaced(maps):
    # The logit of an image of ones is what is left of its 20 × 2 entries.
    ones = np.ones((7, *SHAPE), np.float32)
    result = pixel_perturbation(
        linear(np.ones(SHAPE)), batched(ones), maps, FRACTIONS, fill=0, score="log density ratio"
    )
    np.testing.assert_allclose(result.values, [-2.0 * k for k in COUNTS], atol=1e-5)
    assert result.columns["constant maps"] == (0.0,) * len(FRACTIONS)
    assert result.points == FRACTIONS
    assert result.examples == 7


@pytest.mark.long
@pytest.mark.diagonal
@pytest.mark.parametrize("remove", ["least", "most"])
@pytest.mark.parametrize("fill", ["image_mean", 0.25, (0.1, 0.9)])
def test_all_scores_against_numpy(remove, fill):
    network, x = random_network(), images()
    y = np.arange(7) % 3
    maps = np.random.default_rng(2).integers(0, 6, (7, 4, 5)).astype(np.float32)
    result = pixel_perturbation(
        network, batched(x, y), maps, FRACTIONS, remove=remove, fill=fill, score="accuracy"
    )
    if fill == "image_mean":
        value = x.mean((1, 2))
    else:
        value = np.broadcast_to(np.asarray(fill, np.float32), (7, 2))

    def probabilities(logits):
        return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    rows, each = np.arange(7), []
    before = network(x).numpy().astype(np.float64)
    for count in COUNTS:
        now = network(expected_images(x, maps, count, value, remove)).numpy().astype(np.float64)
        p, q, top = probabilities(before), probabilities(now), before.argmax(-1)
        each.append(
            {
                "accuracy": now.argmax(-1) == y,
                "probability of the label": q[rows, y],
                "change of the top probability": abs(q[rows, top] / p[rows, top] - 1),
                "log density ratio": (now - before)[rows, y],
                "relative log density ratio": abs(now[rows, top] / before[rows, top] - 1),
            }
        )
    columns = {**result.columns, "accuracy": result.values}
    for name in each[0]:
        np.testing.assert_allclose(
            columns[name], [e[name].mean() for e in each], rtol=1e-5, atol=2e-6, err_msg=name
        )
    errors = [e["accuracy"].std(ddof=1) / 7**0.5 for e in each]
    np.testing.assert_allclose(result.deviations, errors, atol=1e-7)
    assert result.direction == ("higher" if remove == "least" else "lower")


def test_nothing_replaced_changes_nothing():
    result = pixel_perturbation(
        random_network(), batched(images()), "random", (0.0,), score="change of the top probability"
    )
    assert result.values == (0.0,)
    assert result.direction == "lower"


def test_the_true_map_of_a_linear_model_wins_and_its_opposite_loses():
    # f = Σ w x with w, x ≥ 0 under removal to black: x ⊙ w is what each pixel is worth.
    weights = np.random.default_rng(3).exponential(size=SHAPE).astype(np.float32)
    network, x = linear(weights), images(40)
    truth = (x * weights).sum(-1)

    def lost(maps):
        result = pixel_perturbation(
            network, batched(x), maps, (0.25, 0.5, 0.75), fill=0, score="log density ratio"
        )
        return -np.array(result.values)

    assert (lost(truth) < 0.9 * lost("random")).all()
    assert (lost("random") < 0.9 * lost(-truth)).all()
    by_method = lost(saliency.InputTimesGradient(network))
    np.testing.assert_allclose(by_method, lost(truth), rtol=1e-5)


@pytest.mark.long
def test_a_model_that_looks_at_one_patch():
    weights = np.zeros(SHAPE)
    weights[:2, :2] = 10
    network, x = linear(weights, others=[1.0]), images(30)
    patch = np.broadcast_to((weights[..., 0] > 0).astype(np.float32), (30, 4, 5))
    right, wrong, chance = (
        pixel_perturbation(network, batched(x), maps, (0.5, 0.8), fill=0.0).values
        for maps in (patch, -patch, "random")
    )
    assert right == (1.0, 1.0)
    assert wrong == (0.0, 0.0)
    assert 0 < chance[1] < 1


@pytest.mark.long
def test_another_networks_maps_judge_this_one():
    judged, other, x = random_network(0), random_network(1), images()
    maps = saliency.InputGradient(other)
    y = np.arange(7) % 3
    by_function = pixel_perturbation(judged, batched(x, y), maps, FRACTIONS)
    by_array = pixel_perturbation(judged, batched(x, y), maps(x, y).numpy(), FRACTIONS)
    assert by_function == by_array
    own = pixel_perturbation(judged, batched(x, y), saliency.InputGradient(judged), FRACTIONS)
    assert own.columns != by_function.columns


@pytest.mark.long
def test_batches_make_no_difference_and_seeds_do():
    network, x = random_network(), images(11)
    rows = [
        pixel_perturbation(
            network, batched(x, size=size), "random", (0.5,), score="log density ratio", seed=seed
        ).values[0]
        for size, seed in ((11, 0), (4, 0), (4, 1))
    ]
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)
    assert abs(rows[2] - rows[1]) > 1e-4


def test_ties_are_broken_by_one_order_that_takes_no_blocks():
    maps = np.zeros((2, 20, 20), np.float32)
    maps[:, 3, 4] = -1
    first, second = ranks(tf.constant(maps)).numpy()
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first, axis=None), np.arange(400))
    assert first[3, 4] == 0
    half = first < 200  # In 20 of 400 draws without replacement, 10 ± 2.2.
    assert all(2 <= count <= 18 for axis in (0, 1) for count in half.sum(axis))


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_maps_are_ranked_in_their_own_precision(dtype):
    """Equal in float32, in descending order: the last pixel is the least salient."""
    weights = np.zeros(SHAPE)
    weights[3, 4] = 1
    maps = (2.0**40 - np.arange(PIXELS)).reshape(1, 4, 5).astype(dtype)
    ones = np.ones((1, *SHAPE), np.float32)
    for given in (maps, lambda x, y: maps):
        result = pixel_perturbation(
            linear(weights), batched(ones), given, (0.05,), fill=0, score="log density ratio"
        )
        assert result.values == (-2.0,)
        assert result.columns["constant maps"] == (0.0,)


@pytest.mark.long
@pytest.mark.diagonal
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("maps", ["random", "array"])
@pytest.mark.parametrize("fill", ["image_mean", (0.1, 0.9)])
def test_channels_first(monkeypatch, maps, fill):
    """The same network and images with their axes moved: the same numbers."""
    last, x = random_network(), images()
    turned = keras.Sequential([keras.Input((2, 4, 5)), keras.layers.Permute((2, 3, 1)), last])
    maps = maps if maps == "random" else np.random.default_rng(2).normal(size=(7, 4, 5))

    def found(network, x):
        return pixel_perturbation(network, batched(x), maps, (0.3, 0.7), fill=fill)

    expected = found(last, x)
    with monkeypatch.context() as patch:
        patch.setattr(keras.config, "image_data_format", lambda: "channels_first")
        result = found(turned, np.moveaxis(x, -1, 1))
    for name, values in expected.columns.items():
        np.testing.assert_allclose(result.columns[name], values, rtol=1e-5, atol=1e-6)
    assert result.values == expected.values


@pytest.mark.long
def test_constant_maps_are_counted_and_refused_if_all_are():
    maps = np.random.default_rng(0).normal(size=(7, 4, 5))
    maps[2] = 0
    result = pixel_perturbation(random_network(), batched(images()), maps, (0.0, 0.5))
    assert result.columns["constant maps"] == (1.0, 1.0)
    with pytest.raises(DataError, match=r"maps: all 7 are constant"):
        pixel_perturbation(random_network(), batched(images()), np.zeros((7, 4, 5)), (0.5,))


def test_the_image_itself_may_be_of_any_float_type():
    x = images().astype(np.float64)
    result = pixel_perturbation(linear(np.ones(SHAPE)), batched(x), "random", (1.0,), fill=0)
    assert result.values == (1.0,)  # both logits are 0: the first wins


@pytest.mark.diagonal
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("function", [True, False], ids=["function", "array"])
def test_an_image_whose_map_is_not_finite_is_left_out_and_reported(value, function):
    """The others' numbers are those of a data set without these two images."""
    network, x, y = random_network(), images(), np.arange(7) % 3
    good = np.random.default_rng(0).normal(size=(7, 4, 5))
    good[5] = 1
    maps, others = good.copy(), [0, 1, 3, 4, 5]
    maps[2, 1, 1], maps[6] = value, value

    def of(x, labels):
        return maps[[np.argmax((images() == one).all((1, 2, 3))) for one in np.asarray(x)]]

    with pytest.warns(UserWarning, match=r"maps: that of image 2 .* as 2 of 7 do; .*left out"):
        found = pixel_perturbation(network, batched(x, y), of if function else maps, FRACTIONS)
    expected = pixel_perturbation(
        network, batched(x[others], y[others], size=5), good[others], FRACTIONS
    )
    assert found.columns["maps left out"] == (2.0,) * len(FRACTIONS)
    assert expected.columns["maps left out"] == (0.0,) * len(FRACTIONS)
    assert found.columns["constant maps"] == (1.0,) * len(FRACTIONS)
    assert found.examples == expected.examples == 5
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)
    np.testing.assert_allclose(found.deviations, expected.deviations, atol=1e-6)
    for name in ("log density ratio", "probability of the label"):
        np.testing.assert_allclose(found.columns[name], expected.columns[name], atol=1e-6)


@pytest.mark.filterwarnings("ignore:maps")
def test_nothing_is_measured_where_no_map_ranks_anything():
    network, batches = random_network(), batched(images())
    with pytest.raises(DataError, match=r"maps: all 7 hold NaN or infinite values"):
        pixel_perturbation(network, batches, np.full((7, 4, 5), np.nan), (0.5,))
    maps = np.zeros((7, 4, 5))
    maps[3] = np.nan
    with pytest.raises(DataError, match=r"maps: all 6 are constant"):
        pixel_perturbation(network, batches, maps, (0.5,))


@pytest.mark.slow
def test_the_sum_of_all_pixels():
    """f = Σ x to black: what is left is the sum of the brightest, which no other order exceeds."""
    network, x, fractions = linear(np.ones(SHAPE)), images(40), (0.1, 0.3, 0.6)
    product = saliency.InputTimesGradient(network)

    def kept(maps, remove="least"):
        result = pixel_perturbation(
            network, batched(x), maps, fractions, fill=0, score="log density ratio", remove=remove
        )
        return np.array(result.values)

    ascending = np.sort(x.sum(-1).reshape(40, -1), axis=1)
    darkest = [-ascending[:, : round(f * PIXELS)].sum(1).mean() for f in fractions]
    np.testing.assert_allclose(kept(product), darkest, rtol=1e-5)

    def reverse(x, y):
        return -product(x)

    assert (kept(product) > kept("random") + 0.1).all()
    assert (kept("random") > kept(reverse) + 0.1).all()
    np.testing.assert_allclose(kept(reverse), kept(product, "most"), rtol=1e-5)


def test_maps_may_be_anything_that_is_sliced_like_an_array():
    class Kept:
        shape = (7, 4, 5)

        def __len__(self):
            return 7

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return maps[rows]

    maps = np.random.default_rng(0).normal(size=(7, 4, 5))
    network, batches = random_network(), batched(images())
    found, expected = (pixel_perturbation(network, batches, m, FRACTIONS) for m in (Kept(), maps))
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fractions": (-0.1,)}, ArgumentError, r"fractions: got \[-0.1\]"),
        ({"fractions": (1.1,)}, ArgumentError, r"expected numbers in \[0, 1\]"),
        ({"fractions": ()}, ArgumentError, r"fractions: got \[\]"),
        ({"fractions": (float("nan"),)}, ArgumentError, r"fractions: got \[nan\]"),
        ({"remove": "some"}, ArgumentError, "remove: got 'some'"),
        ({"score": "logit"}, ArgumentError, "score: got 'logit'"),
        ({"fill": "mean"}, ArgumentError, "fill: got 'mean'"),
        ({"fill": float("nan")}, ArgumentError, "fill: got nan"),
        ({"fill": (1, 2, 3)}, ArgumentError, r"fill: got shape \(3,\).*2 channels"),
        ({"maps": "fullgrad"}, ArgumentError, "maps: got 'fullgrad'"),
        ({"maps": np.zeros((7, 4, 4))}, ArgumentError, r"maps: got shape \(3, 4, 4\)"),
        ({"maps": lambda x, y: x}, ArgumentError, r"maps: got shape .*sum a gradient"),
        ({"maps": np.eye(20).reshape(20, 4, 5)}, ArgumentError, "maps: got 20 for 7 images"),
    ],
)
def test_bad_arguments(arguments, error, message):
    arguments = {"maps": "random", "fractions": (0.5,), **arguments}
    with pytest.raises(error, match=message):
        pixel_perturbation(random_network(), batched(images()), **arguments)


def test_several_inputs_and_absent_classes_are_refused():
    parts = [keras.Input((20,), name="a"), keras.Input((20,), name="b")]
    joined = keras.layers.Concatenate()(parts)
    several = keras.Model(parts, keras.layers.Dense(3)(joined))
    x = images().reshape(7, 40)
    batches = [((x[:, :20], x[:, 20:]), np.zeros(7, "int32"))]
    with pytest.raises(ArgumentError, match=r"inputs: got None, and maps of .* \[0, 1\]"):
        pixel_perturbation(several, batches, "random", (0.5,))
    with pytest.raises(DataError, match="labels from 3 to 3; the network has 3 logits"):
        pixel_perturbation(random_network(), batched(images(), np.full(7, 3)), "random", (0.5,))


def test_the_mean_of_a_large_image_in_half_precision():
    x = np.full((1, 300, 300, 1), 0.9, np.float16)
    mean = filling(tf.constant(x), "image_mean", axes.InputAxes(4, 3))
    np.testing.assert_array_equal(mean[0, 0, 0], x[0, 0, 0])


def test_labels_in_a_column_are_labels():
    network, x, y = random_network(), images(), np.arange(7) % 3
    plain, column = (
        pixel_perturbation(network, batched(x, labels), "random", (0.5,)).columns
        for labels in (y, y[:, np.newaxis])
    )
    assert plain == column


def test_logits_that_are_not_finite_are_refused():
    network = linear(np.full(SHAPE, np.inf))
    with pytest.raises(NonFiniteError, match="network: the logits of image 0 are NaN or infinite"):
        pixel_perturbation(network, batched(images()), "random", (0.5,))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("fractions", 0.5, "fractions: got 0.5; expected several numbers"),
        ("fractions", "0.5", "fractions: got '0.5'; expected several numbers"),
        ("maps", {"a": "random"}, r"maps: got a mapping of \['a'\]; expected those of one method"),
    ],
)
def test_one_number_and_several_methods_are_refused(argument, value, message):
    options = {"maps": "random", "fractions": (0.5,)} | {argument: value}
    with pytest.raises(ArgumentError, match=message):
        pixel_perturbation(random_network(), batched(images()), **options)
