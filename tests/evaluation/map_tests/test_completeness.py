"""Completeness, on networks whose maps are known."""

import numpy as np
import pytest

from tests.helpers.axiom_cases import INTEGRATED, PRODUCT, SHAPE, images, number, relu
from tfgrad import saliency
from tfgrad.evaluation import completeness


def test_completeness_of_a_network_without_biases():
    network, x = relu(bias=0), images()
    result = completeness(network, x, PRODUCT, batch_size=4)
    # Rounding of the largest pixels: sums of both signs are ten times smaller.
    assert result.value < 1e-5 and number(result, "of the score") < 1e-5
    assert number(result, "full-gradients") < 1e-5
    assert (result.direction, result.along, result.examples) == ("lower", "", 6)


@pytest.mark.long
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


@pytest.mark.long
def test_half_and_twice_are_equally_far_from_complete():
    network, x = relu(bias=0), images()
    maps = PRODUCT(network)
    for factor, expected in ((0.5, 1 / 3), (2.0, 1 / 3), (3.0, 1 / 2)):
        found = completeness(network, x, lambda m, c=factor: lambda x, y: c * maps(x, y))
        assert found.value == pytest.approx(expected, rel=1e-4)


@pytest.mark.long
def test_a_map_that_says_the_opposite_or_nothing_has_the_worst_value():
    network, x = relu(bias=0), images()
    for sign in (0, -1):
        maps = PRODUCT(network)
        result = completeness(network, x, lambda m, s=sign, f=maps: lambda x, y: s * f(x, y))
        scores = number(result, "of the score")
        assert scores == pytest.approx(1 - sign, rel=1e-4)
    assert completeness(network, x, lambda m: lambda x, y: 0 * maps(x, y)).value == 1
