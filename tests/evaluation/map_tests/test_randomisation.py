"""Maps of networks whose layers are re-initialised: how they are compared, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.helpers.reinitialise_cases import (
    SHAPE,
    L,
    assert_equal,
    functional,
    images,
    sequential,
    subclassed,
    trained,
    weights,
)
from tfgrad import data, saliency
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.evaluation import label_randomisation, permuted_labels, randomisation
from tfgrad.evaluation.map_tests.map_similarity import rank_correlation, structural_similarity
from tfgrad.evaluation.map_tests.reinitialise import (
    layers_with_weights,
    reinitialise_layer,
    restored,
)

GRADIENT = saliency.get("input_gradient")


# What is measured


def spearman(a, b):
    return [stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_the_curve_against_stages_made_by_hand(order):
    network, x = functional(), images()
    before = weights(network)
    result = randomisation(network, x, GRADIENT, order=order, seed=4, target=1, batch_size=2)
    assert_equal(network, before)
    paths = ["logits", "block/conv", "block/norm", "shared", "first"]
    assert result.labels == ("none", *paths)
    assert result.points == (0, 1, 2, 3, 4, 5)
    layers = layers_with_weights(network, x[:1])
    method = GRADIENT(network)
    trained_maps = method(x, 1).numpy()
    with restored(network) as restore:
        for i, path in enumerate(paths):
            if order == "independent":
                restore()
            seed = int(np.random.SeedSequence([4, 0, i]).generate_state(1)[0])
            change = reinitialise_layer(layers[path], path, seed)
            signed = np.array(spearman(trained_maps, method(x, 1).numpy()))
            each = np.abs(signed)
            assert result.values[i + 1] == pytest.approx(each.mean(), abs=1e-6)
            columns = {name: row[i + 1] for name, row in result.columns.items()}
            assert columns["signed rank correlation"] == pytest.approx(signed.mean(), abs=1e-6)
            assert result.deviations[i + 1] == pytest.approx(
                each.std(ddof=1) / np.sqrt(5), abs=1e-6
            )
            assert result.columns["weights changed"][i + 1] == pytest.approx(change)
    assert (result.values[0], result.deviations[0]) == (1, 0)
    alike = ("signed rank correlation", "rank correlation of sizes", "structural similarity")
    for name in alike:
        assert result.columns[name][0] == pytest.approx(1, abs=1e-6)
    assert result.columns["weights changed"][0] == 0
    assert result.columns["maps unchanged"] == result.columns["maps left out"] == (0,) * 6
    assert (result.direction, result.score) == ("lower", "rank correlation, absolute")
    assert result.over == "5 images (standard error), 1 draw of the weights"
    assert result.examples == 5


@pytest.mark.long
def test_draws_are_averaged_image_by_image():
    network, x = trained(sequential()), images()
    layers, method = layers_with_weights(network, x[:1]), GRADIENT(network)
    before = method(x, 1).numpy()
    sizes, changes = np.zeros((3, 2, 5)), np.zeros((3, 2))  # [draws, stages, images]
    with restored(network) as restore:
        for draw in range(3):
            restore()
            for i, path in enumerate(("logits", "conv")):
                seed = int(np.random.SeedSequence([1, draw, i]).generate_state(1)[0])
                changes[draw, i] = reinitialise_layer(layers[path], path, seed)
                sizes[draw, i] = np.abs(spearman(before, method(x, 1).numpy()))
    result = randomisation(network, x, GRADIENT, seed=1, target=1, draws=3)
    assert result.labels == ("none", "logits", "conv")
    each = sizes.mean(0)
    np.testing.assert_allclose(result.values, [1, *each.mean(1)], atol=1e-6)
    errors = np.hypot(each.std(1, ddof=1) / np.sqrt(5), sizes.mean(2).std(0, ddof=1) / np.sqrt(3))
    np.testing.assert_allclose(result.deviations, [0, *errors], atol=1e-6)
    changed = result.columns["weights changed"]
    np.testing.assert_allclose(changed, [0, *changes.mean(0)], rtol=1e-6)
    assert result.over == "5 images and 3 draws of the weights (standard error)"
    assert randomisation(network, x, GRADIENT, seed=1, target=1, draws=3) == result
    single = randomisation(network, x[:1], GRADIENT)
    assert single.over == "1 image (standard error), 1 draw of the weights"


def by_the_head(change):
    """Of each image its pixels, as long as the head is what it was; then what `change` makes."""

    def method(network):
        kernel = tf.identity(network.layers[-1].kernel.value)

        def maps(x, classes):
            same = tf.reduce_all(network.layers[-1].kernel.value == kernel)
            plain = x[..., 0] - 0.5
            return plain if same else change(plain)

        return maps

    return method


def after_the_head(change):
    """Value, signed, of sizes and left out, at the stage at which the head is drawn."""
    network = trained(sequential())
    result = randomisation(network, images(), by_the_head(change), order="independent")
    assert result.values[0] == 1
    names = ("signed rank correlation", "rank correlation of sizes", "maps left out")
    return (result.values[1], *(result.columns[name][1] for name in names))


def test_a_flipped_sign_forgets_nothing_and_a_constant_everything():
    assert after_the_head(lambda maps: -maps) == pytest.approx((1, -1, 1, 0))
    assert after_the_head(lambda maps: maps * 0 + 3) == (0, 0, 0, 0)
    sizes = after_the_head(lambda maps: tf.sign(maps))
    assert 0.5 < sizes[0] < 1 and sizes[2:] == (0, 0)
    one = tf.one_hot(0, 5)[:, None, None]
    value, *rest = after_the_head(lambda maps: tf.where(one == 1, 0.0, maps))
    assert (value, *rest) == pytest.approx((0.8, 0.8, 0.8, 0))
    value, *rest = after_the_head(lambda maps: tf.where(one == 1, np.inf, maps))
    assert (value, *rest) == pytest.approx((1, 1, 1, 1))


def test_the_control_does_not_change_and_is_found_out():
    result = randomisation(trained(sequential()), images(), saliency.get("random"))
    assert result.values == (1, 1, 1)
    assert result.columns["maps unchanged"] == (0, 5, 5)


@pytest.mark.slow
def test_a_subclassed_model_is_measured_too():
    def method(network):
        def maps(x, classes):
            with tf.GradientTape() as tape:
                tape.watch(x)
                score = tf.gather(network(x), classes, batch_dims=1)
            return tf.reduce_sum(tape.gradient(score, x), -1)

        return maps

    network = subclassed()
    before = weights(network)
    result = randomisation(network, images(3), method)
    assert_equal(network, before)
    assert len(result.values) == 11 and all(c > 0 for c in result.columns["weights changed"][1:])
    assert max(result.values[3:]) < 0.999


@pytest.mark.long
def test_maps_that_say_nothing_are_left_out():
    def method(network):
        gradient = GRADIENT(network)

        def maps(x, classes):
            found = gradient(x, classes)
            flat = tf.reduce_all(x == images()[3], [1, 2, 3])
            bad = tf.reduce_all(x == images()[1], [1, 2, 3])[:, None, None]
            return tf.where(flat[:, None, None], 2.0, tf.where(bad, np.nan, found))

        return maps

    network, rest = trained(sequential()), images()[[0, 2, 4]]
    result = randomisation(network, images(), method)
    expected = randomisation(network, rest, GRADIENT)
    assert result.columns["maps left out"] == (2, 2, 2)
    np.testing.assert_allclose(result.values, expected.values, atol=1e-6)
    np.testing.assert_allclose(result.deviations, expected.deviations, atol=1e-6)
    with pytest.raises(DataError, match="the maps of all 5 images are constant, NaN or infinite"):
        randomisation(network, images(), lambda m: lambda x, y: tf.zeros(x.shape[:3]))


def test_an_untrained_batch_norm_has_nothing_to_draw_and_that_is_reported():
    network = keras.Sequential(
        [keras.Input(SHAPE), L.BatchNormalization(name="norm"), L.Flatten(), L.Dense(3)]
    )
    trained(network.layers[-1])
    assert randomisation(network, images(), GRADIENT).columns["weights changed"][-1] == 0


def test_similarities_against_scipy_and_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 70, 5, 7)).astype("float64")
    np.testing.assert_allclose(rank_correlation(a, b), spearman(a, b), atol=1e-12)
    np.testing.assert_allclose(rank_correlation(a, -3 * a), -1, atol=1e-12)
    a[3], b[66, 0, 0] = 2, np.inf
    missing = np.flatnonzero(np.isnan(rank_correlation(a, b)))
    assert missing.tolist() == [3, 66]
    assert np.flatnonzero(np.isnan(structural_similarity(a, b))).tolist() == [66]
    np.testing.assert_allclose(structural_similarity(a, -5 * a), 1, atol=1e-6)
    # 3×3 maps, one window of side 3: the formula of Wang et al. (2004) for a single place.
    a, b = rng.uniform(size=(2, 1, 3, 3))
    line = np.exp(-(np.arange(-1, 2) ** 2) / (2 * (1.5 * 3 / 11) ** 2))
    window = np.outer(line, line) / line.sum() ** 2
    p, q = a[0] / a.max(), b[0] / b.max()
    mean_p, mean_q = (window * p).sum(), (window * q).sum()
    variances = (window * p**2).sum() - mean_p**2 + (window * q**2).sum() - mean_q**2
    covariance = (window * p * q).sum() - mean_p * mean_q
    expected = (2 * mean_p * mean_q + 1e-4) / (mean_p**2 + mean_q**2 + 1e-4)
    expected *= (2 * covariance + 9e-4) / (variances + 9e-4)
    np.testing.assert_allclose(structural_similarity(a, b), expected, rtol=1e-4)


# What is refused


def test_stale_traces_and_noise_are_refused():
    network = trained(sequential())

    def stale(m):
        kept = keras.models.clone_model(m)  # what a trace with constants amounts to
        kept.set_weights(m.get_weights())
        return GRADIENT(kept)

    before = weights(network)
    with pytest.raises(ModelError, match="a map function built before the weights changed is stal"):
        randomisation(network, images(), stale)
    assert_equal(network, before)
    rng = np.random.default_rng(0)
    with pytest.raises(ModelError, match="maps of one network differ from call to call"):
        randomisation(network, images(), lambda m: lambda x, y: rng.normal(size=x.shape[:3]))


def test_layers_that_come_back_as_they_were_are_refused():
    with pytest.raises(
        ModelError, match=r"layer 'logits' \(Dense\): re-initialised, its weights are"
    ):
        randomisation(sequential(kernel_initializer="ones"), images(), GRADIENT)


@pytest.mark.long
def test_a_layer_whose_initialiser_holds_its_numbers_is_refused():
    kernel = np.random.default_rng(0).normal(size=(48, 3)).astype("float32")

    def tuned(share):
        network = sequential(kernel_initializer=keras.initializers.Constant(kernel))
        moved = np.random.default_rng(1).normal(size=kernel.shape)
        moved *= share * np.linalg.norm(kernel) / np.linalg.norm(moved)
        network.layers[-1].set_weights([kernel + moved, np.ones(3)])  # a bias is no kernel
        return network

    message = r"layer 'logits' \(Dense\): re-initialised.*'kernel' moved by 0.46; expected 1.1 or"
    with pytest.raises(ModelError, match=message):
        randomisation(tuned(0.04), images(), GRADIENT)
    assert randomisation(tuned(0.2), images(), GRADIENT).columns["weights changed"][1] > 0.1


def test_the_model_is_as_before_also_after_an_exception():
    network, calls = trained(sequential()), []

    def method(m):
        def maps(x, classes):
            calls.append(1)
            if len(calls) == 4:
                raise RuntimeError("out of memory")
            return GRADIENT(m)(x, classes)

        return maps

    before = weights(network)
    with pytest.raises(RuntimeError, match="out of memory"):
        randomisation(network, images(), method)
    assert_equal(network, before)


def test_bad_arguments():
    network, x = trained(sequential()), images()
    refused = [
        ({"order": "random"}, r"order: got 'random'; expected one of 'cascading', 'independent'"),
        ({"draws": 0}, r"draws: got 0; expected an integer ≥ 1"),
        ({"seed": -1}, r"seed: got -1; expected an integer ≥ 0"),
        ({"batch_size": 0}, r"batch_size: got 0; expected an integer ≥ 1"),
        ({"target": 3}, r"target: got class 3; the model has 3 logits"),
        ({"target": "label"}, r"target: got 'label', but there are no labels here"),
        ({"target": [0, 1]}, r"target: got 2 classes for a batch of 5"),
        ({"method": "fullgrad"}, r"method: got 'fullgrad'; expected a function from a model to"),
        (
            {"method": GRADIENT(network)},
            r"method: got InputGradient\('seq.*\); expected a function",
        ),
        (
            {"method": lambda m: 3},
            r"method: got one that returns a int for a model; expected a funct",
        ),
        ({"method": lambda m: lambda x, y: x}, r"method: got maps of shape \(5, 6, 6, 2\) for im"),
        ({"images": x[0]}, r"images: got float32 of shape \(6, 6, 2\); expected float images"),
        ({"images": x[:0]}, r"images: got float32 of shape \(0, 6, 6, 2\); .* at least one"),
        ({"images": x.astype("uint8")}, r"images: got uint8 of shape .* expected float images"),
        ({"images": x[:, :5]}, r"images: got shape \(None, 5, 6, 2\); the model takes"),
        ({"images": "cat"}, r"images: got (a )?str"),
        ({"model": "cat"}, r"model: got a str; expected a keras.Model"),
    ]
    for more, message in refused:
        with pytest.raises(ArgumentError, match=message):
            randomisation(**{"model": network, "images": x, "method": GRADIENT, **more})
    x[2, 1, 1, 0] = np.nan
    with pytest.raises(DataError, match=r"images: number 2 of 5 holds NaN or infinite pixels"):
        randomisation(network, x, GRADIENT)
    with pytest.raises(ModelError, match="it reads no weights of its layers"):
        bare = keras.Sequential([keras.Input(SHAPE), L.Flatten()])
        randomisation(bare, images(), GRADIENT)


# Permuted labels


@pytest.mark.long
def test_label_randomisation_compares_two_networks():
    x = images()
    network, other = (trained(functional(), seed) for seed in (1, 2))
    result = label_randomisation(network, other, x, GRADIENT)
    classes = network.predict(x, verbose=0).argmax(1)
    each = spearman(GRADIENT(network)(x, classes).numpy(), GRADIENT(other)(x, classes).numpy())
    assert result.value == pytest.approx(np.mean(np.abs(each)), abs=1e-6)
    assert result.deviations[0] == pytest.approx(
        np.std(np.abs(each), ddof=1) / np.sqrt(5), abs=1e-6
    )
    assert result.columns["signed rank correlation"] == pytest.approx((np.mean(each),), abs=1e-6)
    before, after = (GRADIENT(m)(x, classes).numpy() for m in (network, other))
    others = np.abs(spearman(before[[3, 4, 0, 1, 2]], after)).mean()
    assert result.columns["rank correlation of other images"] == pytest.approx((others,), abs=1e-6)
    assert result.over == "5 images (standard error)"
    assert set(result.columns) == {
        "signed rank correlation",
        "rank correlation of sizes",
        "structural similarity",
        "rank correlation of other images",
        "maps unchanged",
        "maps left out",
    }
    (alone,) = label_randomisation(network, other, x[:1], GRADIENT).columns[
        "rank correlation of other images"
    ]
    assert np.isnan(alone)
    control = label_randomisation(network, other, x, saliency.get("random"))
    assert (control.value, control.columns["maps unchanged"]) == (1, (5,))
    with pytest.raises(ArgumentError, match="other: got a network with the logits of the model"):
        label_randomisation(network, network, x, GRADIENT)
    five = keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(5)])
    with pytest.raises(ArgumentError, match="other: got a network of 5 classes for a model of 3"):
        label_randomisation(network, five, x, GRADIENT)


def test_permuted_labels_keep_images_and_sizes_of_classes():
    original = data.from_arrays(np.zeros((40, 2, 2, 1)), np.arange(40) % 4)
    permuted = permuted_labels(original, seed=3)
    assert permuted.images is original.images and permuted.classes == original.classes
    assert np.bincount(permuted.labels).tolist() == [10] * 4
    assert np.mean(permuted.labels == original.labels) < 0.6
    np.testing.assert_array_equal(permuted.labels, permuted_labels(original, 3).labels)
    assert (permuted.labels != permuted_labels(original, 4).labels).any()
    with pytest.raises(ArgumentError, match="seed: got -1; expected an integer ≥ 0"):
        permuted_labels(original, -1)
    single = data.from_arrays(np.zeros((3, 2, 2, 1)), np.zeros(3, int))
    with pytest.raises(DataError, match="all 3 images of 'arrays' have one label"):
        permuted_labels(single, 0)


@pytest.mark.long
def test_stages_and_draws_retrace_nothing():
    network, shapes = trained(sequential()), []
    call = network.call
    network.call = lambda x, **kwargs: (shapes.append(x.shape[0]), call(x, **kwargs))[1]
    counts = []
    for draws in (1, 1, 3):  # the first time, the network is also looked at for a softmax
        shapes.clear()
        randomisation(network, images(), GRADIENT, draws=draws, batch_size=2)
        counts.append(shapes.count(None))
        assert set(shapes) == {1, None}  # one image is looked at, all others are compiled
    assert counts[1] == counts[2]
