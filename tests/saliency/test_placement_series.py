"""Feature maps of series and volumes are laid where their cells look."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.variants import with_slow
from tfgrad import saliency
from tfgrad.saliency.placement import Axis, Placement, Scattered, interpolated

L = keras.layers
STEPS, VOLUME = 16, (8, 6, 10)


class Code(L.Layer):
    """A layer whose call is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def network(shape, *layers):
    """These layers, then a pointwise convolution named "last", and two logits."""
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    kind = L.Conv1D if len(x.shape) == 3 else L.Conv3D
    x = kind(3, 1, bias_initializer="ones", name="last")(x)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(0.2 + np.abs(rng.normal(size=v.shape)))
    return model


def grid(model):
    """The placement of the output of "last", from a run on coordinates alone."""
    method = saliency.GradCAM(model, "last")
    spec = tf.TensorSpec([None, *model.input_shape[1:]])
    return method.located_apart(spec).grids["features"]


# Centres worked out by hand, as scale and offset, and the steps that are seen.
SERIES = {
    "same": ([L.Conv1D(2, 3, padding="same")], 1, 0, (0, 15)),
    "valid": ([L.Conv1D(2, 5)], 1, 2, (0, 15)),
    # 16 = 7 · 2 + 3 − 1: one zero, behind the last step.
    "strides": ([L.Conv1D(2, 3, 2, padding="same")], 2, 1, (0, 15)),
    "dilated": ([L.Conv1D(2, 3, dilation_rate=3)], 1, 3, (0, 15)),
    # A causal convolution looks at its step and those before.
    "causal": ([L.Conv1D(2, 5, padding="causal")], 1, -2, (0, 15)),
    "depthwise": ([L.DepthwiseConv1D(3, 2)], 2, 1, (0, 14)),
    "separable": ([L.SeparableConv1D(2, 5)], 1, 2, (0, 15)),
    "pooling": ([L.MaxPooling1D(4)], 4, 1.5, (0, 15)),
    "average": ([L.AveragePooling1D(3, 2, padding="same")], 2, 1, (0, 15)),
    "transposed": ([L.AveragePooling1D(2), L.Conv1DTranspose(2, 2, 2)], 1, 0, (0, 15)),
    "enlarged": ([L.AveragePooling1D(4), L.UpSampling1D(2)], 2, 0.5, (0, 15)),
    "cropped": ([L.Cropping1D((6, 2))], 1, 6, (6, 13)),
    "padded": ([L.ZeroPadding1D((1, 1)), L.Conv1D(2, 3, 2)], 2, 0, (0, 15)),
    "reversed": ([Code(lambda x: x[:, ::-1])], -1, 15, (0, 15)),
    "frames": ([L.Reshape((4, 4))], 4, 1.5, (0, 15)),
}


@pytest.mark.parametrize("name", SERIES)
def test_steps_by_hand(name):
    layers, scale, offset, seen = SERIES[name]
    (axis,) = grid(network((STEPS, 1), *layers)).axes
    centres = scale * np.arange(len(axis.centres)) + offset
    np.testing.assert_allclose(axis.centres, centres, atol=2e-3)
    assert (axis.first, axis.last) == seen


# The same for each axis of a volume of 8×6×10 voxels.
VOLUMES = {
    "valid": ([L.Conv3D(2, 3)], (1, 1, 1), (1, 1, 1)),
    "strides": ([L.Conv3D(2, (2, 3, 1), (2, 1, 3))], (2, 1, 3), (0.5, 1, 0)),
    "dilated": ([L.Conv3D(2, 2, dilation_rate=2)], (1, 1, 1), (1, 1, 1)),
    "pooling": ([L.MaxPooling3D((2, 3, 5))], (2, 3, 5), (0.5, 1, 2)),
    "average": ([L.AveragePooling3D((4, 2, 1))], (4, 2, 1), (1.5, 0.5, 0)),
    "transposed": (
        [L.MaxPooling3D((2, 1, 1)), L.Conv3DTranspose(2, (2, 1, 1), (2, 1, 1))],
        (1, 1, 1),
        (0, 0, 0),
    ),
    "enlarged": (
        [L.AveragePooling3D((4, 1, 1)), L.UpSampling3D((2, 1, 1))],
        (2, 1, 1),
        (0.5, 0, 0),
    ),
    "cropped": ([L.Cropping3D(((2, 1), (0, 1), (3, 0)))], (1, 1, 1), (2, 0, 3)),
    "padded": ([L.ZeroPadding3D(1), L.Conv3D(2, 3)], (1, 1, 1), (0, 0, 0)),
    "turned": ([L.Permute((3, 1, 2, 4))], (1, 1, 1), (0, 0, 0)),
    "slices as channels": ([Code(lambda x: tf.reduce_sum(x, 1, keepdims=True))], None, (3.5, 0, 0)),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_voxels_by_hand(name):
    layers, scales, offsets = VOLUMES[name]
    found = grid(network((*VOLUME, 1), *layers))
    for axis, scale, offset in zip(found.axes, scales or (1, 1, 1), offsets, strict=True):
        centres = scale * np.arange(len(axis.centres)) + offset
        np.testing.assert_allclose(axis.centres, centres, atol=2e-3)
    assert found.order == ((1, 2, 0) if name == "turned" else (0, 1, 2))
    assert found.cells == tuple(network((*VOLUME, 1), *layers).get_layer("last").output.shape[1:-1])


MEASURED = {
    "series": ((48, 1), [L.Conv1D(4, 5, 2), L.MaxPooling1D(2), L.Conv1D(4, 3, dilation_rate=2)]),
    "volume": ((12, 12, 12, 1), [L.Conv3D(4, 3), L.AveragePooling3D(2), L.Conv3D(4, 2)]),
}


@pytest.mark.parametrize("name", with_slow(["series"], [n for n in MEASURED if n != "series"]))
def test_centres_are_those_of_squared_gradients(name):
    """With equal weights, up to the pixel by which a maximum of noise moves the centre of mass."""
    shape, layers = MEASURED[name]
    model = network(shape, *layers)
    rng = np.random.default_rng(1)
    for layer in layers[::2]:
        layer.kernel.assign(np.ones(layer.kernel.shape))
    maps = keras.Model(model.input, model.get_layer("last").output)
    x = tf.constant(rng.normal(size=(6, *shape)), tf.float32)
    middle = tuple(n // 2 for n in maps.output.shape[1:-1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(maps(x)[(slice(None), *middle)])
    weight = np.square(tape.gradient(value, x)[..., 0]).sum(0)
    for i, (axis, cell) in enumerate(zip(grid(model).axes, middle, strict=True)):
        along = weight.sum(tuple(j for j in range(weight.ndim) if j != i))
        mass = (along * np.arange(len(along))).sum() / along.sum()
        np.testing.assert_allclose(axis.centres[cell], mass, atol=1)


def test_a_spectrogram_has_a_row_for_each_frame():
    """8 frames of 8 steps, 4 apart; frequencies are added up."""

    def spectrogram(x):
        frames = tf.signal.frame(x[..., 0], 8, 4)
        return tf.abs(tf.signal.rfft(frames))[..., tf.newaxis]

    inputs = keras.Input((36, 1))
    x = L.Conv2D(2, (1, 3), name="last")(Code(spectrogram)(inputs))
    found = grid(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x))))
    assert found.cells == (8, 3) and found.order == (0,)
    np.testing.assert_allclose(found.axes[0].centres, 3.5 + 4 * np.arange(8))


def test_maps_lie_where_the_network_looks():
    model = network((STEPS, 1), L.Cropping1D((5, 3)), L.Conv1D(2, 3, padding="same"))
    x = np.random.default_rng(1).uniform(0.1, 1, size=(2, STEPS, 1)).astype("float32")
    for name in ("fullgrad", "gradcam", "bias_map"):
        maps = np.abs(saliency.get(name)(model)(x, 0))
        assert maps[:, 5:13].sum() > 0.999 * maps.sum() > 0, name


def test_interpolation_of_three_axes_is_that_of_each():
    rng = np.random.default_rng(2)
    matrices = [rng.normal(size=(n + 2, n)) for n in (2, 3, 4)]
    maps = rng.normal(size=(5, 2, 3, 4))
    expected = np.einsum("bdhw,Dd,Hh,Ww->bDHW", maps, *matrices)
    found = interpolated(tf.constant(maps), [tf.constant(m) for m in matrices])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cells_of_a_series_in_rows_and_columns():
    """Frequencies are added up; an image made of a series has every cell at its own step."""
    axis = Axis((1.5, 5.5), 0, 7)
    folded = Placement((axis,), (0,), (2, 3))
    maps = tf.constant(np.arange(6.0).reshape(1, 2, 3))
    laid = folded.laid(maps, (8,))[0].numpy()
    np.testing.assert_allclose(laid[[0, 7]], [3, 12])
    inputs = keras.Input((12,))
    x = L.Conv2D(2, 1, name="last")(L.Reshape((3, 4, 1))(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    found = grid(model)
    assert isinstance(found, Scattered)
    np.testing.assert_array_equal(found.nearest((12,)), np.arange(12))
