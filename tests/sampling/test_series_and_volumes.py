"""Samples of networks of series and of volumes equal those of the same networks of images."""

import numpy as np
import pytest

from tests.helpers.series_cases import KINDS, pair
from tfgrad import sampling


@pytest.mark.parametrize("kind", ["series", pytest.param("volumes", marks=pytest.mark.slow)])
def test_samples_equal_those_of_images(kind):
    net, twin = pair(kind, 2, 2)
    _, shape, image, *_ = KINDS[kind]
    start = sampling.noise(3, shape, mean=0.0, bounds=None)
    moved = sampling.gradient_ascent(net, 1, start, steps=3, bounds=None, centre=0.0)
    other = sampling.gradient_ascent(
        twin, 1, start.reshape(3, *image), steps=3, bounds=None, centre=0.0
    )
    np.testing.assert_allclose(moved.images.reshape(other.images.shape), other.images, atol=1e-5)
    assert (moved.scores[:, -1] > moved.scores[:, 0]).all()
    drawn = sampling.langevin(net, 1, start, steps=2, step_size=1e-2)
    assert drawn.images.shape == (3, *shape)
