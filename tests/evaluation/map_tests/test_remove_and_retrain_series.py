"""Remove and retrain, and kept maps, on series and volumes."""

import keras
import numpy as np
import pytest

from tests.helpers.retraining_cases import build
from tfgrad import data
from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation import remove_and_retrain, saved_maps

SHAPES = {1: (8, 2), 3: (2, 2, 2, 2)}


def marked(positions, n, seed):
    """Noise of any range; two of the eight positions tell the class."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=5, size=(n, 8, 2)).astype("float32")
    labels = np.arange(n) % 3
    x[:, :2] = np.array([[-40, 40], [40, -40], [40, 40]])[labels][:, None]
    return data.from_arrays(x.reshape(n, *SHAPES[positions]), labels, positions=positions)


@pytest.mark.long
@pytest.mark.parametrize("positions", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_positions_that_carry_the_label(tmp_path, positions):
    train, test = marked(positions, 120, 0), marked(positions, 90, 1)
    shape = SHAPES[positions]

    def of_marks(x, classes):
        maps = np.zeros((len(x), 8), np.float32)
        maps[:, :2] = 1
        return maps.reshape(np.shape(x)[:-1])

    maps = {
        name: tuple(
            saved_maps(sign(of_marks), one, tmp_path / f"{name}-{k}", name=name)
            for k, one in enumerate((train, test))
        )
        for name, sign in (
            ("marks", lambda f: f),
            ("others", lambda f: lambda x, y: -f(x, y)),
        )
    }
    assert maps["marks"][0].shape == (120, *shape[:-1])
    found = remove_and_retrain(
        lambda: build(shape=shape),
        train,
        test,
        maps,
        tmp_path / "runs",
        fractions=(0.25, 0.75),
        fill=-1.5,
        epochs=4,
        batch_size=30,
    )
    accuracy = {name: dict(zip(m.points, m.values, strict=True)) for name, m in found.items()}
    assert accuracy["others"][0.0] > 0.95 and accuracy["others"][0.75] > 0.95
    assert accuracy["marks"][0.25] < 0.6


def test_what_data_sets_of_series_take():
    with pytest.raises(DataError, match=r"expected \[n, time, channels\]. For one channel, pass"):
        data.from_arrays(np.zeros((4, 8), "f4"), np.zeros(4, int), positions=1)
    with pytest.raises(DataError, match=r"\[n, height, width, channels\].*Series have positions=1"):
        data.from_arrays(np.zeros((4, 8, 2), "f4"), np.zeros(4, int))
    series = marked(1, 6, 0)
    mean, std = data.channel_statistics(series)
    np.testing.assert_allclose(mean, series.images.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(std, series.images.std((0, 1)), rtol=1e-5)
    with pytest.raises(ArgumentError, match=r"augment: got True for 'arrays', which has no images"):
        data.pipeline(series, 2, training=True, augment=True)
    x, _ = next(iter(data.pipeline(series, 6, training=False, normalize=(mean, std))))
    np.testing.assert_allclose(x, (series.images - mean) / std, rtol=1e-5)
    assert keras.ops.shape(x) == (6, 8, 2)
