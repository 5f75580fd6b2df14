"""Density ratios against closed forms."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.mixture import gaussians
from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation import density_ratios
from tfgrad.evaluation.network_tests.density_ratios import SIGMAS


def stream(x, y=None, size=64):
    y = np.zeros(len(x), "int32") if y is None else y
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def linear(kernel, dtype="float32", bias=None):
    """Logits W·x + b, [batch, classes]; its density ratio is exp(σ²‖w‖²/2)."""
    kernel = np.asarray(kernel, "float64")
    x = keras.Input(kernel.shape[:1], dtype="float64" if dtype == "float64" else "float32")
    dense = keras.layers.Dense(kernel.shape[1], dtype=dtype)
    logits = dense(x)
    dense.set_weights([kernel, np.zeros(kernel.shape[1]) if bias is None else np.asarray(bias)])
    return keras.Model(x, logits)


def one_slope(norm, size=4, **options):
    kernel = np.zeros((size, 2))
    kernel[:, 0] = norm / math.sqrt(size)
    return linear(kernel, **options)


# Density ratios


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_gaussian_mixture_has_a_closed_form(dtype):
    mixture, count = gaussians(3, 2, (4, 4, 1), 0.3), 300
    x = np.concatenate([mixture.sample(k, count, seed=k) for k in range(3)])
    y = np.repeat(np.arange(3), count)
    sigmas = (1e-4, 1e-3, 1e-2, 3e-2)
    found = density_ratios(mixture.network(dtype), stream(x.astype(dtype), y), sigmas, draws=16)
    assert found.points == sigmas and found.examples == len(x)
    assert (found.direction, found.along, found.seed) == ("lower", "noise σ", 0)
    of_label = np.arange(len(y)), y
    for i, sigma in enumerate(sigmas):
        expected = mixture.density_ratio(x, sigma)[of_label].mean()
        assert abs(found.values[i] - expected) < 4 * found.deviations[i] + 1e-7
        # The slope alone: Var f(x+η) = σ²‖∇f‖², over images and draws.
        slope = mixture.gradient(x)[of_label].reshape(len(x), -1)
        spread = sigma * np.sqrt((slope**2).sum(-1).mean())
        assert 0.5 * spread < found.deviations[i] * math.sqrt(16 * len(x)) < 2 * spread


def test_a_slope_has_a_normal_log_ratio():
    sigma, norm = 0.5, 2.0
    x = np.random.default_rng(0).normal(size=(4000, 4))
    found = density_ratios(one_slope(norm, dtype="float64"), stream(x, size=999), [sigma], draws=5)
    # f(x+η) − f(x) ~ N(0, 1): the ratio is lognormal.
    assert found.value == pytest.approx(math.exp(0.5), abs=4 * found.deviations[0])
    lognormal = math.sqrt(math.e * (math.e - 1) / 20_000)
    assert found.deviations[0] == pytest.approx(lognormal, rel=0.2)
    normal = {"5 %": -1.645, "25 %": -0.674, "50 %": 0.0, "75 %": 0.674, "95 %": 1.645, "mean": 0.0}
    for name, expected in normal.items():
        (value,) = found.columns[f"log ratio, {name}"]
        assert value == pytest.approx(expected, abs=0.06)
    (logarithm,) = found.columns["log of the ratio"]
    assert logarithm == pytest.approx(math.log(found.value))


@pytest.mark.long
def test_draws_of_one_image_are_no_further_images():
    """The error is that of the images' means: equal images have none but that of their draws."""
    x = np.zeros((50, 4))
    network = one_slope(1.0, dtype="float64")
    few, many = (density_ratios(network, stream(x), [0.5], draws=n) for n in (1, 100))
    assert 5 < few.deviations[0] / many.deviations[0] < 20
    (alone,) = density_ratios(network, stream(x[:1]), [0.5], draws=9).deviations
    assert alone == 0.0


def test_a_ratio_beyond_float64_has_a_logarithm():
    found = density_ratios(one_slope(1e6), stream(np.ones((8, 4), "float32")), (1e-3, 1.0))
    assert found.values[1] == math.inf and not math.isnan(found.deviations[1])
    (logarithm,) = found.columns["log of the ratio"][1:]
    (quantile,) = found.columns["log ratio, 95 %"][1:]
    assert 1e5 < quantile < logarithm + math.log(8) < 1e7
    assert logarithm == pytest.approx(1e3 * found.columns["log of the ratio"][0], rel=0.01)


@pytest.mark.long
def test_the_seed_decides_and_the_batch_size_does_not():
    x = np.random.default_rng(1).normal(size=(100, 4))
    network = one_slope(1.0, dtype="float64")

    def of(seed, size=100):
        found = density_ratios(network, stream(x, size=size), (0.1, 1.0), draws=2, seed=seed)
        return *found.values, *found.columns["log ratio, 5 %"]

    assert of(0) == of(0) != of(1)
    assert of(0) == pytest.approx(of(0, 33), rel=1e-12)


def test_one_direction_serves_every_sigma():
    """On a slope the log ratio is then proportional to σ, exactly."""
    x = np.zeros((7, 4))
    found = density_ratios(one_slope(3.0, dtype="float64"), stream(x), (0.01, 0.1))
    small, large = found.columns["log ratio, 75 %"]
    assert large == pytest.approx(10 * small, rel=1e-9)


@pytest.mark.long
def test_the_target_is_fixed_on_the_clean_image():
    """Two slopes that are equal at 0 but for the bias: noise turns the decision at once."""
    kernel = np.array([[1.0, -1.0], [0.0, 0.0]])
    network = linear(kernel, "float64", bias=[1e-9, 0.0])
    x, y = np.zeros((500, 2)), np.ones(500, "int32")
    logs = {
        target: density_ratios(network, stream(x, y), [0.1], target=target).columns
        for target in ("predicted", "label", 0)
    }
    assert logs["predicted"] == logs[0]
    for low, high in (("5 %", "95 %"), ("25 %", "75 %")):
        (a,), (b,) = logs["label"][f"log ratio, {low}"], logs[0][f"log ratio, {high}"]
        assert a == pytest.approx(-b, rel=1e-6)


@pytest.mark.long
def test_half_precision_is_computed_in_float32():
    """Logits near 100 are 0.06 apart in float16, and noise moves them by 0.001."""
    x = np.ones((64, 4), "float32")
    kwargs = {"bias": [100.0, 0.0]}
    half, single = (one_slope(1.0, dtype=d, **kwargs) for d in ("mixed_float16", "float32"))
    a, b = (density_ratios(network, stream(x), [1e-3]) for network in (half, single))
    assert a.values == pytest.approx(b.values, abs=1e-6)
    assert a.columns["log ratio, 95 %"][0] == pytest.approx(1.6e-3, rel=0.4)
    assert half.layers[-1].compute_dtype == "float16"
    images = density_ratios(single, stream(x.astype("float16")), [1e-3])
    assert images.columns["log ratio, 95 %"] == pytest.approx(b.columns["log ratio, 95 %"])


@pytest.mark.long
def test_rounding_is_measured_and_found():
    """The column predicts how far a float32 network is from the same one in float64."""
    random = np.random.default_rng(0)
    kernels = [random.normal(size=s) / math.sqrt(s[0]) for s in ((64, 256), (256, 256), (256, 2))]

    def network(dtype):
        inputs = keras.Input((64,), dtype=dtype)
        layers = [keras.layers.Dense(k.shape[1], dtype=dtype) for k in kernels]
        x = inputs
        for layer in layers:
            x = keras.ops.softplus(layer(x))
        for layer, kernel in zip(layers, kernels, strict=True):
            layer.set_weights([kernel, np.zeros(kernel.shape[1])])
        return keras.Model(inputs, x)

    single, double = network("float32"), network("float64")
    for layer, other in zip(single.layers, double.layers, strict=True):
        other.set_weights(layer.get_weights())
    x = random.normal(size=(256, 64)).astype("float32")
    error = np.std((single(x).numpy() - double(x.astype("float64")).numpy())[:, 0])
    (rounding,) = density_ratios(single, stream(x), [0.1]).columns["log ratio, rounding"]
    assert error / 3 < rounding < 6 * error
    wide = density_ratios(double, stream(x.astype("float64")), [0.1])
    assert wide.columns["log ratio, rounding"][0] < 1e-7 * rounding


def test_noise_below_the_pixels_spacing_is_refused():
    x = np.full((8, 4), 200.0, "float32")  # float32 numbers there are 1.5e-5 apart
    with pytest.raises(ArgumentError, match=r"sigmas: got 1e-05; the pixels' numbers are 2e-05 "):
        density_ratios(one_slope(1.0), stream(x), (1e-5, 1e-2))
    assert density_ratios(one_slope(1.0), stream(x), [1e-4]).value == pytest.approx(1, abs=1e-3)
    wide = one_slope(1.0, dtype="float64")
    assert density_ratios(wide, stream(x.astype("float64")), [1e-5]).value != 1.0


def test_the_network_is_traced_a_fixed_number_of_times_and_keeps_its_state():
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    before = [v.numpy() for v in network.variables]
    traces = []
    call = network.call
    network.call = lambda *args, **kwargs: (traces.append(1), call(*args, **kwargs))[1]
    counts = []
    for n in (64, 300):
        traces.clear()
        density_ratios(network, stream(np.zeros((n, 4), "float32"), size=64), (0.1, 0.2), draws=3)
        counts.append(len(traces))
    assert counts[1] <= counts[0] <= 5  # clean, noisy, last bits, and once the check for softmax
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_defaults_are_those_of_the_figure():
    assert len(SIGMAS) == 13
    assert SIGMAS[0] == pytest.approx(1e-4) and SIGMAS[-1] == pytest.approx(0.1)
    np.testing.assert_allclose(np.diff(np.log(SIGMAS)), math.log(1000) / 12)


def test_what_density_ratios_refuse():
    x, network = np.ones((8, 4), "float32"), one_slope(1.0)
    for sigmas in ((), (-0.1,), (math.nan,)):
        with pytest.raises(ArgumentError, match=r"sigmas: got \[.*expected finite numbers ≥ 0"):
            density_ratios(network, stream(x), sigmas)
    with pytest.raises(ArgumentError, match=r"draws: got 0; expected an integer ≥ 1"):
        density_ratios(network, stream(x), draws=0)
    with pytest.raises(ArgumentError, match=r"target: got 'all'"):
        density_ratios(network, stream(x), target="all")
    with pytest.raises(ArgumentError, match=r"batches: got an empty data set"):
        density_ratios(network, stream(x).take(0))
    x[5] = np.nan
    message = (
        r"network: the changes of the logit of image 5 are NaN or infinite, as of 1 of 8 images"
    )
    with pytest.raises(NonFiniteError, match=message):
        density_ratios(network, stream(x), [0.1])
