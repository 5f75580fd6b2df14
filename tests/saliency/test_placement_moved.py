"""Maps of networks that turn, shuffle, wrap, pad or crop their cells lie at their cause."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.variants import with_slow
from tfgrad import export, loading, saliency
from tfgrad.errors import PlacementWarning
from tfgrad.saliency.placement import Placement, Scattered

L, ops = keras.layers, keras.ops
POSITIVE = {"kernel_initializer": "ones", "activation": "relu"}
SIZE = (24, 36)


class Code(L.Layer):
    """A layer whose call is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def conv(x, strides=2):
    bias = keras.initializers.Constant(-0.5)
    return L.Conv2D(4, 3, strides, padding="same", bias_initializer=bias, **POSITIVE)(x)


def network(function, size=SIZE):
    inputs = keras.Input((*size, 1))
    x = function(inputs)
    pooling = L.GlobalAveragePooling2D if len(x.shape) == 4 else L.GlobalAveragePooling1D
    return keras.Model(inputs, L.Dense(2, kernel_initializer="ones")(pooling()(x)))


def peak(method, row, column, size=SIZE):
    """The largest value of the map of one bright square 3×3."""
    x = np.zeros((1, *size, 1), "float32")
    x[0, row - 1 : row + 2, column - 1 : column + 2] = 1
    return np.unravel_index(np.argmax(method(x, 0)[0]), size)


def placed(method, size=SIZE):
    return method._places[size].grids["features"]


def columns_first(x):
    return L.Dense(4, **POSITIVE)(L.Reshape((54, 4))(ops.transpose(conv(x, 4), (0, 2, 1, 3))))


def shuffled(x):
    order = np.random.default_rng(0).permutation(54)
    return L.Dense(4, **POSITIVE)(ops.take(L.Reshape((54, 4))(conv(x, 4)), order, axis=1))


def cropped(x):
    def crop(t):
        count = tf.shape(t)[0]
        boxes = tf.tile([[0.25, 0.25, 1.0, 1.0]], [count, 1])
        return tf.image.crop_and_resize(t, boxes, tf.range(count), (18, 27))

    return conv(Code(crop)(x))


MOVES = {
    "permuted": lambda x: conv(L.Permute((2, 1, 3))(x)),
    "transposed": lambda x: conv(ops.transpose(x, (0, 2, 1, 3))),
    "transposed images": lambda x: conv(Code(tf.image.transpose)(x)),
    "a quarter": lambda x: conv(Code(lambda t: tf.image.rot90(t, 1))(x)),
    "half": lambda x: conv(Code(lambda t: tf.image.rot90(t, 2))(x)),
    "a quarter, a bare operation": lambda x: conv(ops.rot90(x, 1, axes=(1, 2))),
    "tokens, columns first": columns_first,
    "shuffled tokens": shuffled,
    "rolled": lambda x: conv(Code(lambda t: tf.roll(t, 6, 1))(x), 3),
    "a box": cropped,
}
# What has no second derivative has no decomposition.
DECOMPOSED = ("transposed images", "a quarter", "half", "tokens, columns first")


@pytest.mark.long
@pytest.mark.parametrize("name", with_slow([n for n in MOVES if n != "half"], ["half"]))
def test_the_peak_is_at_its_cause(name):
    model = network(MOVES[name])
    methods = [saliency.GradCAM(model)]
    if name in DECOMPOSED:
        methods.append(saliency.FullGrad(model))
    for method in methods:
        for row, column in ((8, 28), (18, 13)):
            found = peak(method, row, column)
            assert np.abs(np.subtract(found, (row, column))).max() <= 4, (method, found)
    grid = placed(methods[0])
    if name == "shuffled tokens":
        assert isinstance(grid, Scattered)
    else:
        quarters = ("permuted", "transposed", "a quarter", "tokens")
        assert isinstance(grid, Placement)
        assert grid.turned == name.startswith(quarters)


def test_centres_of_wrapped_cells_lie_in_the_image():
    method = saliency.GradCAM(network(MOVES["rolled"]))
    peak(method, 8, 28)
    rows = placed(method).rows.centres
    np.testing.assert_allclose(rows[2:], 3 * np.arange(6) + 1, atol=0.6)
    np.testing.assert_allclose(rows[0], 19, atol=0.6)


def test_centres_of_images_padded_to_a_shape():
    resizing = L.Resizing(12, 12, pad_to_aspect_ratio=True)
    model = network(lambda x: L.Conv2D(4, 1, **POSITIVE)(resizing(x)), (24, 48))
    method = saliency.GradCAM(model)
    peak(method, 5, 27, (24, 48))
    grid = placed(method, (24, 48))
    np.testing.assert_allclose(grid.rows.centres, 4 * np.arange(12) + 1.5 - 12, atol=1e-3)
    np.testing.assert_allclose(grid.columns.centres, 4 * np.arange(12) + 1.5, atol=1e-3)


def test_scattered_cells_are_drawn_at_the_nearest_pixels():
    nan = float("nan")
    grid = Scattered(((0, 6), (nan, nan), (4, 0), (4, 6)), (4.0, 6.0), ((0, 5), (1, 7)))
    nearest = grid.nearest((7, 8))
    assert nearest[0, 0] == 0 and nearest[6, 0] == 2 and nearest[6, 7] == 3
    maps = grid.laid(tf.constant([[[1.0, 5.0], [2.0, 3.0]]]), (7, 8))[0].numpy()
    assert maps[0, 6] == 1 and maps[4, 1] == 2 and maps[4, 6] == 3
    assert not maps[6].any() and not maps[:, 0].any()


def test_cells_without_a_place_are_stretched_with_one_warning():
    def lost(t):
        scores = tf.nn.softmax(tf.matmul(t, t, transpose_b=True))
        return tf.matmul(scores, t)[:, ::2, ::2]

    method = saliency.GradCAM(network(lambda x: conv(Code(lost)(x))))
    with pytest.warns(PlacementWarning, match="stretched to the image") as caught:
        peak(method, 8, 28)
        peak(method, 18, 13)
    assert len(caught) == 1
    peak(saliency.GradCAM(method.network, placement="stretch"), 8, 28)


def test_an_export_for_any_size_says_that_maps_are_stretched(tmp_path):
    model = network(conv, (None, None))
    with pytest.warns(PlacementWarning, match="any×any pixels"):
        path = export.save(model, tmp_path, ["fullgrad", "input_gradient"])
    left_out = loading.load_served(path).metadata["left_out"]
    assert "maps of fullgrad are stretched" in left_out["placement"]
