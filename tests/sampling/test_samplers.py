"""Ascent and Langevin on densities in closed form; same noise in any batch; what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.mixture import gaussians
from tfgrad import sampling
from tfgrad.errors import ArgumentError, DataError, ModelError, NonFiniteError
from tfgrad.internal.stateless_noise import Draws

pytestmark = pytest.mark.usefixtures("one_output_is_a_number")

MIXTURE = gaussians(classes=3, components=2, deviation=0.5)
SHAPE = MIXTURE.shape


@pytest.fixture(scope="module")
def network():
    return MIXTURE.network()


def norms(gradients):
    return np.sqrt(np.sum(gradients**2, axis=(1, 2, 3)))


def slopes(x, classes):
    return MIXTURE.gradient(x)[np.arange(len(x)), classes]


# The rules


def test_ascent_is_the_papers_iteration(network):
    """Against numpy, with clipping and pull at work, over chunks and ragged batches."""
    start, classes = sampling.noise(5, SHAPE, seed=3), np.array([0, 1, 2, 1, 1])
    options = {"steps": 12, "step_size": 0.2, "pull": 0.5, "centre": 0.4, "bounds": (0.35, 0.6)}
    start = np.clip(start, 0.35, 0.6)
    samples = sampling.gradient_ascent(network, classes, start, **options, batch_size=2, every=5)
    x = start.astype("float64")
    for step in range(12):
        scores = MIXTURE.log_density(x)[np.arange(5), classes]
        np.testing.assert_allclose(samples.scores[:, step], scores, rtol=1e-10)
        gradient = slopes(x, classes)
        np.testing.assert_allclose(samples.gradient_norms[:, step], norms(gradient), rtol=1e-10)
        x = np.clip(x + 0.2 * (gradient - 0.5 * (x - 0.4)), 0.35, 0.6)
    assert (x == 0.6).any() and (x == 0.35).any()
    np.testing.assert_allclose(samples.images, x, atol=1e-12)
    last = MIXTURE.log_density(x)[np.arange(5), classes]
    np.testing.assert_allclose(samples.scores[:, 12], last, rtol=1e-10)
    assert samples.images.dtype == np.float64 and samples.scores.shape == (5, 13)
    assert samples.classes.tolist() == classes.tolist() and samples.outputs == 3
    assert samples.settings == {
        "rule": "gradient_ascent",
        **{name: options[name] for name in ("steps", "step_size", "pull", "centre")},
        "bounds": [0.35, 0.6],
    }


def test_ascent_finds_the_mode_where_score_and_pull_balance():
    """(μ − x) / s² = c (x − ½) has one solution on a single Gaussian."""
    mixture = gaussians(classes=1, deviation=0.5, seed=4)
    start = sampling.noise(2, SHAPE)
    samples = sampling.gradient_ascent(mixture.network(), 0, start, steps=200, pull=1.0)
    precision = 1 / 0.5**2
    mode = (precision * mixture.means[0, 0] + 0.5) / (precision + 1.0)
    np.testing.assert_allclose(samples.images, np.broadcast_to(mode, (2, *SHAPE)), atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_langevin_has_the_covariance_of_its_step(fraction):
    """s² / (1 − ε / (2s²)): a wrong sign, or √ε for √(2ε), is far off."""
    mixture = gaussians(classes=1, deviation=0.3, seed=5)
    step_size = fraction * 0.3**2
    start = np.full((1500, *SHAPE), 0.5)
    steps = int(6 / fraction)
    samples = sampling.langevin(
        mixture.network(), 0, start, steps=steps, step_size=step_size, seed=1, batch_size=1000
    )
    offsets = (samples.images - mixture.means[0, 0]).reshape(1500, -1)
    variance = 0.3**2 / (1 - fraction / 2)
    # 24,000 numbers: the variance is known to 0.9 %, the mean to 0.65 % of a deviation.
    assert np.mean(offsets**2) == pytest.approx(variance, rel=0.035)
    assert abs(offsets.mean()) < 0.03 * 0.3
    correlations = np.corrcoef(offsets.T) - np.eye(offsets.shape[1])
    assert np.abs(correlations).max() < 0.13


@pytest.mark.long
def test_langevin_draws_for_an_image_what_it_draws_in_any_batch(network):
    start = sampling.noise(5, SHAPE)
    common = {"steps": 7, "step_size": 0.01, "seed": 2}
    whole = sampling.langevin(network, 1, start, **common)
    cut = sampling.langevin(network, 1, start, **common, batch_size=2, every=3)
    first = sampling.langevin(network, 1, start[:3], **common)
    np.testing.assert_allclose(cut.images, whole.images, rtol=1e-12)
    np.testing.assert_allclose(cut.scores, whole.scores, rtol=1e-12)
    np.testing.assert_allclose(first.images, whole.images[:3], rtol=1e-12)
    other = sampling.langevin(network, 1, start, **{**common, "seed": 3})
    assert np.abs(other.images - whole.images).min() > 1e-6
    z = (whole.images - start)[:, None] - (whole.images - start)[None]
    assert np.abs(z[np.triu_indices(5, 1)]).min() > 1e-6
    assert whole.images.min() < 0 or whole.images.max() > 1
    assert whole.settings["bounds"] is None and whole.settings["seed"] == 2


def test_langevin_clips_where_it_is_asked_to(network):
    start = sampling.noise(3, SHAPE)
    samples = sampling.langevin(network, 0, start, steps=5, step_size=0.1, bounds=(0, 1))
    assert samples.images.min() == 0 and samples.images.max() == 1


def test_bounds_and_centre_of_each_channel():
    """Images normalised by channel: black and white are other numbers in each."""
    mixture = gaussians(classes=2, shape=(2, 2, 3), deviation=0.5)
    low, high = np.array([-1.0, -2.0, -0.5]), np.array([0.4, 0.45, 0.6])
    start = np.zeros((1, 2, 2, 3))
    common = {"steps": 60, "bounds": (low, high), "centre": (low + high) / 2}
    pulled = sampling.gradient_ascent(
        mixture.network(), 0, start, pull=1e3, step_size=5e-4, **common
    )
    means = mixture.means[0, 0]
    balance = (4 * means + 1e3 * (low + high) / 2) / 1004
    np.testing.assert_allclose(pulled.images[0], balance, atol=1e-9)
    free = sampling.gradient_ascent(mixture.network(), 0, start, pull=0, **common)
    np.testing.assert_allclose(free.images[0], np.clip(means, low, high), atol=1e-9)
    assert pulled.settings["bounds"] == [low.tolist(), high.tolist()]


def test_the_predicted_class_is_fixed_on_the_start_images(network):
    start = MIXTURE.means[:, 0]
    moved = sampling.langevin(network, "predicted", start, steps=30, step_size=0.05)
    assert moved.classes.tolist() == [0, 1, 2] and moved.classes.dtype == np.int32
    assert (MIXTURE.log_density(moved.images).argmax(-1) != [0, 1, 2]).any()
    some = sampling.gradient_ascent(network, [2, -1, 0], start, steps=1)
    assert some.classes.tolist() == [2, 1, 0]


# What is watched, and what is left alone


def test_callbacks_see_every_chunk(network):
    seen, done = [], []
    start = sampling.noise(3, SHAPE)
    samples = sampling.gradient_ascent(
        network,
        0,
        start,
        steps=7,
        batch_size=2,
        every=3,
        on_step=lambda step, images: seen.append((step, images)),
        progress=lambda *numbers: done.append(numbers),
    )
    assert [step for step, _ in seen] == [3, 6, 7]
    np.testing.assert_array_equal(seen[-1][1], samples.images)
    shorter = sampling.gradient_ascent(network, 0, start, steps=3)
    np.testing.assert_allclose(seen[0][1], shorter.images, rtol=1e-12)
    assert done == [(6, 21), (9, 21), (15, 21), (18, 21), (20, 21), (21, 21)]


@pytest.mark.long
def test_one_trace_in_inference_mode_and_nothing_of_the_model_changes():
    calls = []

    @keras.saving.register_keras_serializable("tests")
    class Counted(keras.layers.Layer):
        def call(self, x, training=None):
            calls.append(training)
            self.add_loss(tf.reduce_sum(x))
            return x

    x = keras.Input((None, None, 2))
    y = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Dropout(0.5)(Counted()(y)))
    model = keras.Model(x, keras.layers.Dense(3)(y))
    before = [v.numpy() for v in model.variables]
    start, counts = sampling.noise(5, (6, 5, 2)), []
    for options in ({}, {}, {"batch_size": 2, "every": 4}):
        calls.clear()
        samples = sampling.gradient_ascent(model, 0, start, steps=9, **options)
        assert not any(calls)
        counts.append(len(calls))
    # The first run inspects the model as well; of the others each traces two functions.
    assert counts[0] > counts[1] == counts[2]
    assert not model.losses
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert samples.images.dtype == np.float32
    again = sampling.gradient_ascent(model, 0, start, steps=9)
    np.testing.assert_allclose(again.images, samples.images, atol=1e-6)


@pytest.mark.sample(2)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_computed_in_float32(policy):
    """The samples are those of the same weights in float32, not of their rounded gradients."""

    def build(dtype):
        layers = [
            keras.layers.Conv2D(8, 3, activation="softplus", dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(3, dtype=dtype),
        ]
        return keras.Sequential([keras.Input(SHAPE), *layers])

    keras.utils.set_random_seed(1)
    wide, half = build("float32"), build(policy)
    half.set_weights(wide.get_weights())
    common = {"target": 0, "start": sampling.noise(2, SHAPE), "steps": 3, "step_size": 0.05}
    expected, samples = (sampling.gradient_ascent(model, **common) for model in (wide, half))
    assert samples.images.dtype == np.float32
    np.testing.assert_allclose(samples.images, expected.images, atol=1e-6)
    np.testing.assert_allclose(samples.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(samples.gradient_norms, expected.gradient_norms, rtol=1e-5)
    assert {layer.dtype_policy.name for layer in half.layers} == {policy}


def test_a_dict_of_one_input_and_a_wrapper_are_seen_through(network):
    image = keras.Input(SHAPE, name="image", dtype="float64")
    inside = keras.Model({"image": image}, {"logits": MIXTURE.network()(image)})
    wrapper = tfgrad.PenalizedModel(inside)
    options = {"target": 1, "start": sampling.noise(3, SHAPE, seed=8), "steps": 2}
    mine, its = (sampling.gradient_ascent(model, **options) for model in (wrapper, network))
    np.testing.assert_allclose(mine.images, its.images, rtol=1e-12)
    np.testing.assert_allclose(mine.scores, its.scores, rtol=1e-12)


def test_a_model_that_only_has_a_network_is_sampled_as_what_it_says():
    class Calibrated(keras.Model):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def call(self, x):
            return self.network(x) / 10

    inner, start = MIXTURE.network("float32"), sampling.noise(2, SHAPE)
    model = Calibrated(inner)
    logits = model(start)[:, 1]
    samples = sampling.gradient_ascent(model, 1, start, steps=2, step_size=0.1, pull=0)
    np.testing.assert_allclose(samples.scores[:, 0], logits, rtol=1e-6)
    expected = sampling.gradient_ascent(inner, 1, start, steps=2, step_size=0.01, pull=0)
    np.testing.assert_allclose(samples.images, expected.images, atol=1e-6)


# Starts


def test_noise_is_a_function_of_seed_and_image():
    images = sampling.noise(400, SHAPE, seed=7)
    assert images.shape == (400, *SHAPE) and images.dtype == np.float32
    assert images.min() == 0 and images.max() == 1
    # Clipping at ±2.5 deviations takes 2 % off a deviation of 0.2.
    assert images.mean() == pytest.approx(0.5, abs=0.01)
    assert images.std() == pytest.approx(0.198, abs=0.006)
    np.testing.assert_array_equal(sampling.noise(3, SHAPE, seed=7), images[:3])
    assert np.abs(sampling.noise(3, SHAPE, seed=8) - images[:3]).max() > 0.1
    free = sampling.noise(400, SHAPE, mean=2.0, deviation=3.0, bounds=None)
    assert free.mean() == pytest.approx(2.0, abs=0.15) and free.std() == pytest.approx(3.0, abs=0.1)


def test_noise_around_a_mean_of_each_channel():
    plain = sampling.noise(2, (3, 2, 2), bounds=None)
    means = np.array([0.1, 0.7])
    images = sampling.noise(2, (3, 2, 2), mean=means, bounds=None)
    np.testing.assert_allclose(images - plain, np.broadcast_to(means - 0.5, plain.shape), atol=1e-6)


def test_starts_are_drawn_in_parts_and_are_those_of_one_draw(monkeypatch):
    """Box-Muller takes a dozen times the memory of its result: of a part, not of all images."""
    draw, sizes = Draws.normal, []

    def watched(self, like, *arguments):
        sizes.append(int(tf.size(like)))
        return draw(self, like, *arguments)

    whole = draw(Draws(), tf.zeros([7, 400, 200, 3]), 1, 5, 1)[0]
    monkeypatch.setattr(Draws, "normal", watched)
    images = sampling.noise(7, (400, 200, 3), seed=5, bounds=None)
    assert max(sizes) <= 2**20 and sum(sizes) == images.size
    np.testing.assert_array_equal(images, 0.5 + 0.2 * whole)
    sizes.clear()
    clean = np.full((7, 400, 200, 3), 0.5)
    noised = sampling.noised(clean, seed=5)
    assert max(sizes) <= 2**20 and noised.dtype == np.float64
    alone = draw(Draws(offset=6), tf.constant(clean[6:]), 1, 5, 2)[0]
    np.testing.assert_array_equal(noised[6:], np.clip(clean[6:] + 0.1 * alone, 0, 1))


def test_noised_is_the_image_plus_noise_that_no_start_has():
    images = np.full((300, *SHAPE), 0.5, np.float32)
    difference = sampling.noised(images, sigma=0.1, seed=7) - images
    assert difference.std() == pytest.approx(0.1, rel=0.03)
    assert abs(difference.mean()) < 0.006
    start = sampling.noise(300, SHAPE, seed=7) - 0.5
    assert abs(np.corrcoef(difference.ravel(), start.ravel())[0, 1]) < 0.06
    bright = sampling.noised(images + 0.5, sigma=0.1)
    assert bright.max() == 1 and bright.min() < 1


# What is refused

START = np.full((2, *SHAPE), 0.5, np.float32)
BROKEN = np.array([START[0], START[0] * np.nan])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start": START + 0.6}, ArgumentError, r"start: got pixels from 1.1 to 1.1, which bounds"),
        ({"start": START.astype("uint8")}, ArgumentError, "start: got uint8 images; expected"),
        ({"start": BROKEN}, DataError, "start: image 1 of 2 holds NaN"),
        ({"start": [[1.0], [1.0, 2.0]]}, ArgumentError, "start: got a list that is no array"),
        (
            {"start": START[0]},
            ArgumentError,
            r"start: got shape \(4, 4, 1\); .*start\[None\]",
        ),
        ({"start": START[:0]}, ArgumentError, "start: got shape .* expected one image or more"),
        ({"target": 3}, ArgumentError, "target: got class 3; the model has 3 logits"),
        ({"target": [0, 5]}, ArgumentError, "target: got classes from 0 to 5"),
        ({"target": [0, 1, 2]}, ArgumentError, "target: got 3 classes for a batch of 2"),
        (
            {"target": "label"},
            ArgumentError,
            "target: got 'label'; expected .* follows one class",
        ),
        ({"steps": 0}, ArgumentError, "steps: got 0; expected an integer ≥ 1"),
        ({"step_size": 0}, ArgumentError, "step_size: got 0; expected a finite number above 0"),
        ({"step_size": np.inf}, ArgumentError, "step_size: got inf"),
        ({"pull": -1}, ArgumentError, "pull: got -1; expected a finite number from 0 up"),
        ({"centre": [1.0, 2.0]}, ArgumentError, r"centre: got \[1.0, 2.0\]; .* broadcasts against"),
        ({"bounds": (1, 0)}, ArgumentError, r"bounds: got \(1, 0\); expected the lowest below"),
        ({"bounds": 1}, ArgumentError, r"bounds: got 1; expected \(lowest, highest\)"),
        ({"bounds": (0, np.ones(5))}, ArgumentError, "bounds: got .* broadcasts against an image"),
        ({"batch_size": 0}, ArgumentError, "batch_size: got 0"),
        ({"every": 0}, ArgumentError, "every: got 0"),
    ],
)
def test_refuses_arguments(network, arguments, error, message):
    with pytest.raises(error, match=message):
        sampling.gradient_ascent(
            **{"model": network, "target": 0, "start": START, "steps": 1, **arguments}
        )


def test_refuses_models():
    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    whole = keras.Input(SHAPE, dtype="int32")
    flat = keras.layers.Flatten()
    counts = keras.layers.Dense(3)(flat(keras.ops.cast(whole, "float32")))
    logits = keras.layers.Dense(3)(flat(one) + flat(two))
    softmax = keras.layers.Dense(1, activation="softmax", name="out")(flat(one))
    broken = keras.Model(one, keras.layers.Dense(3, kernel_initializer="ones")(flat(one)))
    broken.layers[-1].bias.assign([np.nan] * 3)
    for model, error, message in (
        ("model.keras", ArgumentError, "model: got a str; expected a keras.Model"),
        (keras.Sequential([keras.layers.Dense(3)]), ModelError, "it is not built"),
        (keras.Model([one, two], logits), ArgumentError, "got 2 inputs"),
        (keras.Model(one, softmax), ModelError, "layer 'out': got a softmax of one unit"),
        (keras.Model(one, one * 2), ModelError, r"it returns \[\(None, 4, 4, 1\)\]; expected one"),
        (keras.Model(whole, counts), ArgumentError, "its input is int32, and only a float input"),
        (broken, ModelError, "its logits at the start images are NaN"),
    ):
        with pytest.raises(error, match=message):
            sampling.gradient_ascent(model, 0, START, steps=1)


@pytest.mark.parametrize(("scale", "bounds", "step"), [(1e100, None, 1), (1e250, (0, 1), 0)])
def test_a_step_that_is_too_large_is_named(scale, bounds, step):
    """A cubic runs away; where a clip hides that, the gradient shows it."""
    x = keras.Input((2,), dtype="float64")
    model = keras.Model(x, keras.ops.sum(x**3, -1, keepdims=True) * scale)
    start = np.full((1, 2), 0.5)
    with pytest.raises(NonFiniteError, match=rf"step_size: got 0\.1; .* step {step} .* smaller"):
        sampling.langevin(model, 0, start, steps=9, step_size=0.1, bounds=bounds)


def test_refuses_numbers_of_starts():
    with pytest.raises(ArgumentError, match="count: got 0"):
        sampling.noise(0, SHAPE)
    with pytest.raises(ArgumentError, match="seed: got -1"):
        sampling.noise(1, SHAPE, seed=-1)
    with pytest.raises(ArgumentError, match="deviation: got 0"):
        sampling.noise(1, SHAPE, deviation=0)
    for mean in (np.nan, np.inf, "a", "0.5", [0.1, 0.2], None):
        with pytest.raises(ArgumentError, match=r"mean: got .*; expected a finite number, or an"):
            sampling.noise(1, SHAPE, mean=mean)
    for shape in (8, (), None):
        with pytest.raises(ArgumentError, match=r"shape: got .*; expected the sizes of one image"):
            sampling.noise(1, shape)
    with pytest.raises(ArgumentError, match="shape: got None; expected an integer ≥ 1"):
        sampling.noise(1, (None, 4, 1))
    with pytest.raises(ArgumentError, match="sigma: got nan"):
        sampling.noised(START, sigma=float("nan"))
    with pytest.raises(ArgumentError, match=r"images: got pixels from 127\.5 to"):
        sampling.noised(START * 255)
