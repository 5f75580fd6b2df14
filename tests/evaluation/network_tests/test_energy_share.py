"""The share of gradient energy in a region, on a linear network."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation import energy_share

CORNER = np.array([[1, 0], [0, 0]])
KERNEL = np.zeros((8, 3))  # 2×2 pixels of 2 channels
KERNEL[:, 0] = [-1, 2, 1, 0, 0, -4, 2, 2]  # |∇f_0|: 3, 1, 4, 4 by pixel
KERNEL[:, 1] = [5, 5, 0, 0, 0, 0, 0, 0]


def stream(x, y=None, size=64):
    y = np.zeros(len(x), "int32") if y is None else y
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def flat(bias=None, kernel=KERNEL, dtype="float32"):
    x = keras.Input((2, 2, 2), dtype=dtype)
    dense = keras.layers.Dense(3, dtype=dtype)
    logits = dense(keras.layers.Flatten(dtype=dtype)(x))
    dense.set_weights([np.asarray(kernel), np.zeros(3) if bias is None else np.asarray(bias)])
    return keras.Model(x, logits)


def test_energy_by_hand():
    x = np.random.default_rng(0).normal(size=(5, 2, 2, 2)).astype("float32")
    found = energy_share(flat(), stream(x, np.array([0, 1, 0, 0, 1]), 2), CORNER)
    shares = np.array([3 / 12, 1, 3 / 12, 3 / 12, 1])
    assert found.value == pytest.approx(shares.mean())
    assert found.deviations[0] == pytest.approx(shares.std(ddof=1))
    assert found.columns == {"chance": (0.25,), "without gradient": (0.0,)}
    ones = energy_share(flat(), stream(x), np.array([[False, True], [True, True]]), target=0)
    assert ones.value == pytest.approx(9 / 12) and ones.columns["chance"] == (0.75,)


def test_channels_first(monkeypatch):
    turned = keras.Sequential([keras.Input((2, 2, 2)), keras.layers.Permute((2, 3, 1)), flat()])
    x = np.zeros((3, 2, 2, 2), "float32")
    with monkeypatch.context() as patch:
        patch.setattr(keras.config, "image_data_format", lambda: "channels_first")
        found = energy_share(turned, stream(x), CORNER)
    assert found.value == pytest.approx(3 / 12)


def test_loss_gradients_are_those_of_the_softened_cross_entropy():
    x = np.random.default_rng(1).normal(size=(6, 2, 2, 2))
    y = np.array([0, 1, 2, 0, 1, 2])
    batches, network = stream(x, y), flat(dtype="float64")
    for temperature in (1.0, 1e3):
        found = energy_share(network, batches, CORNER, of="loss", temperature=temperature)
        logits = x.reshape(6, 8) @ KERNEL / temperature
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        energy = np.abs((np.eye(3)[y] - p) @ KERNEL.T)
        expected = (energy[:, :2].sum(-1) / energy.sum(-1)).mean()
        assert found.value == pytest.approx(expected, rel=1e-9)


def test_images_without_gradient_are_counted():
    """Class 2 has no slope; a sure prediction has no loss-gradient in float32."""
    x, y = np.zeros((4, 2, 2, 2), "float32"), np.array([0, 2, 2, 0])
    found = energy_share(flat(), stream(x, y), CORNER)
    assert found.value == pytest.approx(0.25) and found.deviations == (0.0,)
    assert found.columns["without gradient"] == (0.5,) and found.examples == 4
    sure = flat(bias=[200.0, 0.0, 0.0])
    with pytest.raises(NonFiniteError, match=r"the loss-gradient of all 4 images is zero"):
        energy_share(sure, stream(x), CORNER, of="loss")
    hot = energy_share(sure, stream(x), CORNER, of="loss", temperature=1e3)
    assert hot.columns["without gradient"] == (0.0,)


def test_what_energy_share_refuses():
    batches = stream(np.zeros((4, 2, 2, 2), "float32"))
    for mask in (np.zeros((2, 2)), np.ones((2, 2)), np.array([[0.5, 0], [0, 1]]), 1, []):
        with pytest.raises(ArgumentError, match=r"mask: got shape .*expected 1 inside the region"):
            energy_share(flat(), batches, mask)
    with pytest.raises(ArgumentError, match=r"mask: got shape \(3, 2\); the images are \(2, 2, 2"):
        energy_share(flat(), batches, np.eye(3, 2))
    with pytest.raises(ArgumentError, match=r"of: got 'probability'; expected one of 'logit', 'l"):
        energy_share(flat(), batches, CORNER, of="probability")
    with pytest.raises(ArgumentError, match=r"temperature: got 10 for of='logit', which has no"):
        energy_share(flat(), batches, CORNER, temperature=10)
    with pytest.raises(ArgumentError, match=r"temperature: got 0; expected a finite number"):
        energy_share(flat(), batches, CORNER, of="loss", temperature=0)
    with pytest.raises(NonFiniteError, match=r"the logits or gradients of image 0 are NaN"):
        energy_share(flat(kernel=KERNEL * np.nan), batches, CORNER)
    with pytest.raises(NonFiniteError, match=r"of image 0 are NaN or infinite, as of 4 of 4"):
        energy_share(flat(bias=[0, np.nan, 0]), batches, CORNER)
    with pytest.raises(ArgumentError, match=r"got shape \(2, 2\); .* \(8,\), so expected \(8,\)"):
        line = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
        energy_share(line, stream(np.zeros((4, 8), "float32")), CORNER)


def test_the_mask_tells_images_without_channels_from_series():
    x = np.zeros((4, 2, 2), "float32")
    line = keras.Sequential([keras.Input((2, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
    line.set_weights([KERNEL[:4], np.zeros(3)])
    assert energy_share(line, stream(x), CORNER).value == pytest.approx(1 / 4)
    assert energy_share(line, stream(x), [1, 0]).value == pytest.approx(3 / 4)
