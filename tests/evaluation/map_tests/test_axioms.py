"""The axioms measured on networks whose maps, biases and regions are known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import saliency
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.evaluation import bias_sensitivity, completeness, shift_agreement, weak_dependence

L = keras.layers
SHAPE = (6, 6, 2)
GRADIENT = saliency.get("input_gradient")
PRODUCT = saliency.get("input_times_gradient")
INTEGRATED = saliency.get("integrated_gradients")
RANDOM = saliency.get("random")
ALL = (completeness, bias_sensitivity, weak_dependence, shift_agreement)


def images(n=6, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 1, (n, *SHAPE)).astype(keras.config.floatx())


def relu(bias=0.3, activation="relu"):
    """A convolution, a dense layer, biases of both signs and of size `bias`."""
    network = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Conv2D(4, 3, activation=activation, name="conv"),
            L.Flatten(),
            L.Dense(3, name="logits"),
        ]
    )
    rng = np.random.default_rng(3)
    for layer in (network.layers[0], network.layers[-1]):
        layer.bias.assign(bias * rng.normal(size=layer.bias.shape))
    return network


def signed(network):
    """The signed channel sum of the input-gradient."""
    return GRADIENT(network, reduce="sum")


def weights(network):
    return [v.numpy().copy() for v in network.variables]


def number(result, column):
    return result.columns[column][0]


# Completeness


def test_completeness_of_a_network_without_biases():
    network, x = relu(bias=0), images()
    result = completeness(network, x, PRODUCT, batch_size=4)
    # Rounding of the largest pixels: sums of both signs are ten times smaller.
    assert result.value < 1e-5 and number(result, "of the score") < 1e-5
    assert number(result, "full-gradients") < 1e-5
    assert (result.direction, result.along, result.examples) == ("lower", "", 6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("baseline", [None, 0.25])
def test_completeness_against_numpy(baseline):
    network, x = relu(), images()
    result = completeness(network, x, PRODUCT, target=2, baseline=baseline, batch_size=4)
    maps = PRODUCT(network)(x, 2).numpy().astype("float64")
    rise = network.predict(x, verbose=0)[:, 2]
    if baseline is not None:
        rise = rise - network.predict(np.full((1, *SHAPE), baseline), verbose=0)[0, 2]
    miss = np.abs(maps.sum((1, 2)) - rise)
    each = miss / (np.abs(maps.sum((1, 2))) + np.abs(rise))
    assert result.value == pytest.approx(each.mean(), rel=1e-6)
    assert result.deviations[0] == pytest.approx(each.std(ddof=1) / np.sqrt(6), rel=1e-5)
    assert number(result, "of the score") == pytest.approx(np.median(miss / np.abs(rise)), rel=1e-6)
    assert number(result, "full-gradients") < 1e-6
    assert 0.01 < result.value < 1


def test_integrated_gradients_complete_the_rise_over_their_own_baseline():
    network, x = relu(), images()
    baseline = np.random.default_rng(5).uniform(size=SHAPE)

    def method(m):
        return INTEGRATED(m, baseline=baseline, steps=100)

    assert completeness(network, x, method, baseline=baseline).value < 2e-3
    assert completeness(network, x, method) == completeness(network, x, method, baseline=baseline)
    assert completeness(network, x, method, baseline=0.0).value > 0.05
    smooth = completeness(network, x, lambda m: saliency.Smooth(method(m), samples=2, noise=1e-4))
    assert smooth.value < 3e-3
    assert completeness(network, x, lambda m: lambda x, y: method(m)(x, y)).value > 0.05


def test_noise_that_cancels_is_not_complete():
    """However large its pixels are beside the score."""
    rng = np.random.default_rng(0)

    def method(m):
        def maps(x, y):
            noise = 1e3 * rng.normal(size=x.shape[:3])
            return noise - noise.mean((1, 2), keepdims=True)

        return maps

    assert completeness(relu(), images(), method).value > 0.99


def test_half_and_twice_are_equally_far_from_complete():
    network, x = relu(bias=0), images()
    maps = PRODUCT(network)
    for factor, expected in ((0.5, 1 / 3), (2.0, 1 / 3), (3.0, 1 / 2)):
        found = completeness(network, x, lambda m, c=factor: lambda x, y: c * maps(x, y))
        assert found.value == pytest.approx(expected, rel=1e-4)


def test_a_map_that_says_the_opposite_or_nothing_has_the_worst_value():
    network, x = relu(bias=0), images()
    for sign in (0, -1):
        maps = PRODUCT(network)
        result = completeness(network, x, lambda m, s=sign, f=maps: lambda x, y: s * f(x, y))
        scores = number(result, "of the score")
        assert scores == pytest.approx(1 - sign, rel=1e-4)
    assert completeness(network, x, lambda m: lambda x, y: 0 * maps(x, y)).value == 1


# Biases


def bias_terms(m, factor=1.0):
    """The convolution's bias-gradients at every position, laid over the corner."""

    def maps(x, classes):
        z = m.layers[0](x)
        kernel = tf.reshape(m.layers[-1].kernel, [4, 4, 4, 3])
        upper = tf.transpose(tf.gather(kernel, classes, axis=3), [3, 0, 1, 2])
        terms = tf.reduce_sum(tf.where(z > 0, upper * factor * m.layers[0].bias, 0), -1)
        return tf.pad(terms, [[0, 0], [0, 2], [0, 2]])

    return maps


@pytest.mark.usefixtures("float64")
def test_biases_move_full_gradients_and_not_the_input_gradient():
    """Within a region each f^b scales with its bias, and no gradient moves."""
    network, x = relu(), images()
    before, step = weights(network), 1e-6

    result = bias_sensitivity(network, x, bias_terms, step, seed=5, draws=3)
    classes = network.predict(x, verbose=0).argmax(1)
    maps = bias_terms(network)(x, classes).numpy()
    each = np.zeros((3, 6))
    for draw in range(3):
        coins = np.random.default_rng([5, draw, 0]).choice([-1, 1], 4)  # of the first with a bias
        moved = bias_terms(network, coins)(x, classes).numpy()
        each[draw] = np.linalg.norm(moved, axis=(1, 2)) / np.linalg.norm(maps, axis=(1, 2))
    assert result.value == pytest.approx(each.mean(), rel=1e-6)
    assert number(result, "median") == pytest.approx(np.median(each), rel=1e-6)
    errors = [each.mean(axis).std(ddof=1) / np.sqrt(each.shape[1 - axis]) for axis in (0, 1)]
    assert result.deviations[0] == pytest.approx(np.hypot(*errors), rel=1e-6)
    assert result.over == "6 images and 3 draws of signs (standard error)"
    for name in ("regions left", "logits unmoved", "maps left out"):
        assert number(result, name) == 0
    assert bias_sensitivity(network, x, signed, step).value == 0
    assert bias_sensitivity(network, x, bias_terms, step, seed=6).value != result.value
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert (result.direction, result.examples) == ("higher", 6)


def test_fullgrad_moves_in_float32_too_and_random_does_not():
    network, x = relu(), images()
    result = bias_sensitivity(network, x, saliency.get("fullgrad"), 0.01)
    assert 0.01 < result.value < 1
    assert bias_sensitivity(network, x, RANDOM, 0.01).value == 0


@pytest.mark.usefixtures("float64")
def test_the_intercept_of_a_batch_norm_is_scaled_as_a_whole():
    norm = L.BatchNormalization()
    network = keras.Sequential([keras.Input(SHAPE), norm, L.Flatten(), L.Dense(3, use_bias=False)])
    rng = np.random.default_rng(0)
    for w in norm.weights:
        w.assign(rng.uniform(0.5, 2, w.shape))
    seen = []

    def method(m):
        def maps(x, classes):
            seen.append(m(tf.zeros_like(x)).numpy())  # f(0) is what the intercepts amount to
            return tf.reduce_sum(x, -1)

        return maps

    bias_sensitivity(network, images(), method, 0.125, draws=1)
    kernel = network.layers[-1].kernel.numpy()
    coins = np.random.default_rng([0, 0, 0]).choice([-1, 1], 2)
    beta, gamma, mean, variance = (
        w.numpy() for w in (norm.beta, norm.gamma, norm.moving_mean, norm.moving_variance)
    )
    shift = beta - gamma * mean / np.sqrt(variance + norm.epsilon)
    for found, factor in ((seen[0], 1), (seen[1], 1 + 0.125 * coins)):
        expected = np.tile(shift * factor, 36) @ kernel
        np.testing.assert_allclose(found[0], expected, rtol=1e-9)


def test_the_step_is_halved_until_the_region_stays():
    network, x = relu(), images()
    result = bias_sensitivity(network, x, signed, 5.0)
    assert result.value == number(result, "regions left") == 0
    large, small = (bias_sensitivity(network, x, bias_terms, step).value for step in (5.0, 1e-3))
    assert large == pytest.approx(small, rel=1e-2) and large > 0.1
    smooth = bias_sensitivity(relu(activation="softplus"), x, signed, 0.05, draws=1)
    assert number(smooth, "regions left") == smooth.examples == 6 and smooth.value > 1e-3


@pytest.mark.usefixtures("float64")
def test_an_image_at_the_edge_of_its_region_is_left_out():
    network, x = relu(), images()
    kernel = network.layers[0].kernel.numpy()
    bias = network.layers[0].bias.numpy()
    patch = np.zeros((3, 3, 2))
    patch[1, 1] = np.linalg.lstsq(kernel[1, 1].T[:1], -bias[:1], rcond=None)[0]
    x[2] = 0
    x[2, :3, :3] = patch  # the first unit's pre-activation is 0 where it can be switched on
    z = network.layers[0](x[2:3]).numpy()
    assert network.layers[0].activation(0.0) == 0 and np.abs(z[0, 0, 0, 0]) < 1e-12
    found = {s: bias_sensitivity(network, x, signed, seed=s, draws=1) for s in range(4)}
    assert {number(r, "regions left") for r in found.values()} == {0, 1}
    assert all(r.value == 0 for r in found.values())
    assert all(r.examples == 6 - number(r, "regions left") for r in found.values())


def test_a_bias_that_nothing_reaches():
    with pytest.raises(ModelError, match=r"no weight called bias, beta, moving_mean that is not z"):
        bias_sensitivity(relu(bias=0), images(), GRADIENT)
    network = relu()
    network.layers[0].bias.assign([0.0] * 4)
    network.layers[-1].bias.assign([5.0, 0, 0])
    result = bias_sensitivity(network, images(), GRADIENT, target=[0, 1, 0, 2, 0, 1], draws=2)
    assert (number(result, "logits unmoved"), result.examples) == (2 * 3, 3)
    with pytest.raises(DataError, match=r"move the logit of none of 6; take a larger step, or ano"):
        bias_sensitivity(network, images(), GRADIENT, target=1)


# Regions


@pytest.mark.usefixtures("float64")
def test_weak_dependence_within_a_region():
    network, x = relu(), images()
    assert weak_dependence(network, x, GRADIENT, batch_size=4).value == 0
    seen = []

    def method(m):
        product = PRODUCT(m)
        return lambda x, y: (seen.append(x.numpy()), product(x, y))[1]

    result = weak_dependence(network, x, method, 1e-2, seed=4, batch_size=4)
    here, there = np.concatenate(seen[:2]), np.concatenate(seen[2:])
    with tf.GradientTape(persistent=True) as tape:
        inputs = [tf.constant(x), tf.constant(there)]
        tape.watch(inputs)
        scores = [tf.reduce_max(network(i), -1) for i in inputs]
    gradients = [tape.gradient(s, i).numpy() for s, i in zip(scores, inputs, strict=True)]
    np.testing.assert_array_equal(here, x)
    np.testing.assert_allclose(*gradients, atol=1e-12)  # the same region
    flat = [v.reshape(6, -1) for v in (x, there - x)]
    lengths = np.linalg.norm(flat[1], axis=1) / np.linalg.norm(flat[0], axis=1)
    halvings = np.log2(1e-2 / lengths)
    np.testing.assert_allclose(halvings, halvings.round(), atol=1e-9)
    assert halvings.round().max() > 0.5  # somebody had to come back
    maps = [(gradients[0] * v).sum(-1).reshape(6, -1) for v in (x, there - x)]
    each = np.linalg.norm(maps[1], axis=1) / np.linalg.norm(maps[0], axis=1) / lengths
    assert result.value == pytest.approx(each.mean(), rel=1e-3)  # maps are float32
    assert number(result, "move") == pytest.approx(lengths.mean(), rel=1e-9)
    assert number(result, "regions left") == number(result, "maps left out") == 0
    assert (result.direction, result.seed) == ("lower", 4)


def test_the_noise_is_a_function_of_the_seed_and_not_of_the_batches():
    network, x = relu(), images()

    def of(seed, size):
        return weak_dependence(network, x, PRODUCT, seed=seed, batch_size=size).value

    assert of(1, 2) == pytest.approx(of(1, 6), rel=1e-3)
    assert of(1, 2) != pytest.approx(of(2, 2), rel=1e-3)


def test_images_at_the_edge_of_a_region_and_smooth_networks():
    network, x = relu(), images()
    x[2] = 0  # has no size to move by
    result = weak_dependence(network, x, PRODUCT)
    assert number(result, "maps left out") == 1 and result.examples == 5
    with pytest.raises(DataError, match=r"none of 6 stays within a linear region .* by 4\.9e-04"):
        weak_dependence(relu(activation="softplus"), images(), GRADIENT, 0.5)


# Shifts


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_a_shifted_function_agrees_and_input_times_gradient_does_not():
    network, x = relu(), images()
    shift = np.linspace(-1, 1, 6)[:, None, None] + np.array([0.5, 2])
    result = shift_agreement(network, x, signed, shift, batch_size=4)
    assert result.value == 1 and number(result, "relative difference") < 1e-7
    result = shift_agreement(network, x, PRODUCT, shift, batch_size=4)
    gradient = GRADIENT(network).explain(tf.constant(x))["gradient"].numpy()
    maps, added = (gradient * x).sum(-1), (gradient * shift).sum(-1)
    norms = [np.linalg.norm(m.reshape(6, -1), axis=1) for m in (added, maps)]
    difference = number(result, "relative difference")
    assert difference == pytest.approx((norms[0] / norms[1]).mean(), rel=1e-5)
    assert result.value < 0.99
    assert (result.direction, result.examples) == ("higher", 6)


@pytest.mark.usefixtures("float64")
def test_the_shift_has_the_units_of_the_images():
    """That of bytes moves input × gradient as far as that of images in [0, 1] does."""
    network, x = relu(), images()
    scaled = keras.Sequential([keras.Input(SHAPE), L.Rescaling(1 / 255), network])
    small, large = (
        shift_agreement(model, pixels, PRODUCT)
        for model, pixels in ((network, x), (scaled, 255 * x))
    )
    assert small.value == pytest.approx(large.value, rel=1e-6)
    assert small == shift_agreement(network, x, PRODUCT, np.ptp(x))


def test_a_baseline_that_is_shifted_too_agrees():
    network, x = relu(), images()

    def method(m):
        return INTEGRATED(m, baseline=0.0 if m is network else 1.0)

    assert shift_agreement(network, x, method, 1.0).value > 0.999
    assert shift_agreement(network, x, INTEGRATED, 1.0).value < 0.99


def test_methods_that_look_inside_work_on_the_shifted_model():
    network, x = relu(), images()
    assert shift_agreement(network, x, saliency.get("gradcam")).value > 0.999
    assert shift_agreement(network, x, saliency.get("fullgrad")).value < 0.999


# What all refuse


@pytest.mark.parametrize("axiom", ALL)
def test_bad_input(axiom):
    network, x = relu(), images()
    refused = [
        ({"images": x[0]}, r"images: got float32 of shape \(6, 6, 2\); expected float images"),
        ({"images": x.astype("int32")}, r"images: got int32 of shape .* expected float images"),
        ({"images": x[..., :1]}, r"images: got shape \(None, 6, 6, 1\); the model takes"),
        ({"method": "fullgrad"}, r"method: got 'fullgrad'; expected a function from a model to"),
        ({"method": lambda m: lambda x, y: x}, r"method: got maps of shape \(6, 6, 6, 2\) for im"),
        ({"target": 3}, r"target: got class 3; the model has 3 logits"),
        ({"batch_size": 0}, r"batch_size: got 0; expected an integer ≥ 1"),
    ]
    for more, message in refused:
        with pytest.raises(ArgumentError, match=message):
            axiom(**{"model": network, "images": x, "method": GRADIENT, **more})
    x[4, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match=r"images: number 4 of 6 holds NaN or infinite pixels"):
        axiom(network, x, GRADIENT)
    nothing = tf.fill([6, 6, 6], np.nan)
    with pytest.raises(DataError, match=r"maps: those of all 6 images are constant, zero, NaN or"):
        axiom(network, images(), lambda m: lambda x, y: nothing)


def test_bad_options():
    network, x = relu(), images()
    for axiom in (bias_sensitivity, weak_dependence):
        with pytest.raises(ArgumentError, match=r"step: got 0; expected a finite number above 0"):
            axiom(network, x, GRADIENT, 0)
    for shift in (np.nan, "left", np.ones(5)):
        with pytest.raises(ArgumentError, match=r"shift: got .*; expected a finite number, or an"):
            shift_agreement(network, x, GRADIENT, shift)
    with pytest.raises(ArgumentError, match=r"shift: got zero, or images of one value; expected "):
        shift_agreement(network, x, GRADIENT, 0.0)
    with pytest.raises(ArgumentError, match=r"shift: got zero, or images of one value; expected "):
        shift_agreement(network, np.ones_like(x), GRADIENT)
    with pytest.raises(
        ArgumentError, match=r"baseline: got .* broadcasts to one image \(6, 6, 2\)"
    ):
        completeness(network, x, GRADIENT, baseline=np.ones(5))
