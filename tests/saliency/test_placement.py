"""Feature maps are laid on the image where their cells look."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps.common import architectures
from tfgrad import saliency
from tfgrad.errors import PlacementWarning
from tfgrad.saliency import placed_method, term_layout
from tfgrad.saliency.placement import Axis, Placement

L = keras.layers
SIDE = 16


class Code(L.Layer):
    """A layer whose call is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def network(*first, side=SIDE):
    """These layers, then a convolution with bias named "last", and two logits."""
    inputs = x = keras.Input((side, side, 1))
    for layer in first:
        x = layer(x)
    x = L.Conv2D(3, 1, bias_initializer="ones", name="last")(x)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(0.2 + np.abs(rng.normal(size=v.shape)))
    return model


def images(side=SIDE, n=2):
    return np.random.default_rng(1).uniform(0.1, 1, size=(n, side, side, 1)).astype("float32")


def grid(model, layer="last"):
    """The placement of a layer's output."""
    method = saliency.GradCAM(model, layer)
    side = model.input_shape[1]
    method(images(side), 0)
    return method._places[side, side].grids["features"]


# Centres worked out by hand, as scale and offset, and the pixels that are seen.
GRIDS = {
    "same size": ([L.Conv2D(2, 3, padding="same")], 1, 0, (0, 15)),
    "valid": ([L.Conv2D(2, 5)], 1, 2, (0, 15)),
    # 16 = 7 · 2 + 3 − 1: one row of zeros, behind the last row.
    "strides, same": ([L.Conv2D(2, 3, 2, padding="same")], 2, 1, (0, 15)),
    "strides, padded": ([L.ZeroPadding2D(1), L.Conv2D(2, 3, 2)], 2, 0, (0, 15)),
    "pooling": ([L.MaxPooling2D(2)], 2, 0.5, (0, 15)),
    "average": ([L.AveragePooling2D(3, 2, padding="same")], 2, 1, (0, 15)),
    "twice": ([L.MaxPooling2D(2), L.Conv2D(2, 3)], 2, 2.5, (0, 15)),
    "dilated": ([L.Conv2D(2, 3, dilation_rate=2)], 1, 2, (0, 15)),
    "depthwise": ([L.DepthwiseConv2D(3, 2, padding="valid")], 2, 1, (0, 14)),
    "separable": ([L.SeparableConv2D(2, 5)], 1, 2, (0, 15)),
    "transposed": ([L.AveragePooling2D(2), L.Conv2DTranspose(2, 2, 2)], 1, 0, (0, 15)),
    "enlarged": (
        [L.AveragePooling2D(4), L.UpSampling2D(2, interpolation="bilinear")],
        2,
        0.5,
        (0, 15),
    ),
    "nearest": ([L.AveragePooling2D(4), L.UpSampling2D(2)], 2, 0.5, (0, 15)),
    "centre": ([L.CenterCrop(8, 8)], 1, 4, (4, 11)),
    "one side": ([L.Cropping2D(((6, 0), (6, 0)))], 1, 6, (6, 15)),
    "sliced": ([Code(lambda x: x[:, 4:12, 4:12])], 1, 4, (4, 11)),
    "steps": ([Code(lambda x: x[:, 1::2, 1::2])], 2, 1, (1, 15)),
    "turned": ([Code(lambda x: tf.reverse(x, [1, 2]))], -1, 15, (0, 15)),
    "patches": ([Code(lambda x: tf.nn.space_to_depth(x, 4))], 4, 1.5, (0, 15)),
    "tokens": ([L.Reshape((256, 1)), L.Dense(2), L.Reshape((16, 16, 2))], 1, 0, (0, 15)),
    "resized": ([tfgrad.layers.Resizing(8, 8)], 2, 0.5, (0, 15)),
    "function": ([Code(tf.function(lambda x: tf.nn.relu(x[:, 4:, 4:])))], 1, 4, (4, 15)),
    "gate": ([Code(lambda x: x * tf.reduce_mean(x, [1, 2], keepdims=True))], 1, 0, (0, 15)),
    "normalised": ([L.LayerNormalization(axis=(1, 2, 3))], 1, 0, (0, 15)),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", GRIDS)
def test_centres_by_hand(name):
    layers, scale, offset, seen = GRIDS[name]
    placed = grid(network(*layers))
    assert placed.rows == placed.columns
    centres = scale * np.arange(len(placed.rows.centres)) + offset
    np.testing.assert_allclose(placed.rows.centres, centres, atol=2e-3)
    assert (placed.rows.first, placed.rows.last) == seen


def test_rows_and_columns_have_their_own():
    placed = grid(network(L.Cropping2D(((2, 0), (0, 4))), L.MaxPooling2D((2, 4))))
    assert placed.rows.centres == tuple(2.5 + 2 * i for i in range(7))
    assert placed.columns.centres == (1.5, 5.5, 9.5)
    assert (placed.columns.first, placed.columns.last) == (0, 11)


def test_centres_are_the_means_of_what_cells_depend_on():
    """Several strides and paddings, where the middle cells see no border."""
    layers = [
        L.Conv2D(2, 3, 2, padding="same"),
        L.MaxPooling2D(3, 2),
        L.Conv2D(2, 5),
        L.AveragePooling2D(2),
    ]
    model = network(*layers, side=64)
    placed = grid(model)
    x = tf.constant(images(64, 1))
    maps = keras.Model(model.input, model.get_layer("last").output)
    for cell in (1, 2, 3):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(maps(x)[:, cell, cell])
        seen = np.flatnonzero(np.any(tape.gradient(value, x)[0, ..., 0] != 0, 1))
        middle = (seen[0] + seen[-1]) / 2
        # One of the pixels of a max-pooling window counts.
        np.testing.assert_allclose(placed.rows.centres[cell], middle, atol=2)


def test_a_residual_branch_counts_as_much_as_its_weights_let_it():
    """Pooling with strides looks one pixel further than a 1×1 convolution with strides."""
    inputs = keras.Input((32, 32, 1))
    branch = L.Conv2D(2, 3, 2, padding="same", name="branch")(inputs)
    x = L.Add(name="last")([branch, L.Conv2D(2, 1, 2, name="shortcut")(inputs)])
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    for weight, offset in ((0.0, 0), (100.0, 1)):
        model.get_layer("branch").kernel.assign(weight * np.ones((3, 3, 1, 2)))
        np.testing.assert_allclose(grid(model).rows.centres[:2], [offset, offset + 2], atol=0.01)


CROPS = {
    "centre": (L.CenterCrop(8, 8), (slice(4, 12), slice(4, 12))),
    "one side": (L.Cropping2D(((6, 0), (0, 8))), (slice(6, 16), slice(0, 8))),
    "slice": (Code(lambda x: x[:, 2:10, 7:]), (slice(2, 10), slice(7, 16))),
    "patch": (Code(lambda x: x[:, 4:8, 8:12]), (slice(4, 8), slice(8, 12))),
    "every second": (Code(lambda x: x[:, ::2, 1::2]), (slice(0, 16, 2), slice(1, 16, 2))),
    "mask": (
        Code(
            lambda x: x * np.pad(np.ones([1, 6, 5, 1], "float32"), [(0, 0), (3, 7), (9, 2), (0, 0)])
        ),
        (slice(3, 9), slice(9, 14)),
    ),
}
METHODS = [
    "fullgrad",
    "simple_fullgrad",
    "smooth_fullgrad",
    "full_jacobian_map",
    "bias_map",
    "layer_map",
    "gradcam",
]


@pytest.mark.long
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("crop", CROPS)
def test_maps_lie_where_the_network_looks(crop):
    layer, where = CROPS[crop]
    model = network(layer, L.Conv2D(2, 3, padding="same", activation="relu"))
    for name in METHODS if crop == "slice" else ["fullgrad", "gradcam"]:
        options = {"samples": 2} if name == "smooth_fullgrad" else {}
        maps = np.abs(saliency.get(name)(model, **options)(images(), 0))
        inside = maps[:, where[0], where[1]].sum()
        assert inside > 0.999 * maps.sum() > 0, name


def test_the_peak_is_at_its_cause():
    """Six valid convolutions 5×5: the 40 cells lie 12 pixels inside the image."""
    model = network(
        *(L.Conv2D(1, 5, use_bias=False, kernel_initializer="ones") for _ in range(6)), side=64
    )
    placed, stretched = saliency.GradCAM(model), saliency.GradCAM(model, placement="stretch")
    for row, column in ((20, 44), (40, 16)):
        x = np.zeros((1, 64, 64, 1), "float32")
        x[0, row, column] = 1.0
        peaks = [np.argmax(method(x, 0)[0]) for method in (placed, stretched)]
        off = [np.subtract(np.unravel_index(peak, (64, 64)), (row, column)) for peak in peaks]
        assert np.abs(off[0]).max() <= 2 < np.abs(off[1]).max()


@pytest.mark.long
def test_a_transformer_has_the_grid_of_its_patches():
    model = architectures.randomised(architectures.KINDS["vision transformer"]())
    method = saliency.GradCAM(model)
    method(architectures.random_inputs(model), 0)
    (places,) = method._places.values()
    assert places.seen is None
    centres = places.grids["features"].rows.centres
    np.testing.assert_allclose(centres, 3.5 + 8 * np.arange(4), atol=0.3)


def test_a_fixed_batch_size_and_eager_terms_have_the_same_places():
    layers = [L.Conv2D(2, 3, 2), L.Cropping2D(((1, 0), (0, 0)))]
    x, plain = images(), network(*layers)
    expected = saliency.GradCAM(plain)(x, 0)
    traced = tf.function(saliency.GradCAM(plain))(tf.constant(x), 0)
    np.testing.assert_allclose(traced, expected, rtol=1e-5, atol=1e-6)
    method = saliency.GradCAM(plain)
    terms = method.terms(tf.constant(x), tf.constant([0, 0]))
    np.testing.assert_allclose(method.assemble(terms, x), expected, rtol=1e-5, atol=1e-6)


def test_places_are_found_once_per_size(monkeypatch):
    calls = []
    known = placed_method.measured
    monkeypatch.setattr(placed_method, "measured", lambda *a: calls.append(1) or known(*a))
    model = network(L.Conv2D(2, 3))
    method = saliency.FullGrad(model)
    for n in (1, 2, 3):
        method(images(n=n), 0)
    method.explain(tf.constant(images()), 0)
    assert len(calls) == 1
    saliency.FullGrad(model, placement="stretch")(images(), 0)
    assert len(calls) == 1


def test_a_size_that_a_graph_leaves_open_is_stretched_with_half_pixels():
    inputs = keras.Input((None, None, 1))
    x = L.Conv2D(2, 3, 2, bias_initializer="ones", name="last")(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    spec = tf.TensorSpec([None, None, None, 1])
    x = tf.constant(images())
    method = saliency.LayerMap(model, "last")
    with pytest.warns(PlacementWarning, match="any×any"):
        opened = tf.function(lambda v: method.explain(v, 0)["saliency"], input_signature=[spec])(x)
    halves = {"resize": "bilinear_half_pixel", "placement": "stretch"}
    np.testing.assert_allclose(opened, saliency.LayerMap(model, "last", **halves)(x, 0), rtol=1e-5)


# Interpolation


def square(columns):
    rows = Axis((2.5, 6.5), 1, 8)
    return Placement((rows, columns), (0, 1), (2, 2))


def test_a_map_is_linear_between_centres_and_constant_beyond():
    axis = Axis((2.5, 6.5), 1, 8)
    assert square(axis).is_near(square(Axis((2.6, 6.6), 1, 8)))
    assert not square(axis).is_near(square(Axis((3.5, 7.5), 1, 8)))
    matrix = axis.matrix(10, cubic=False)
    second = [0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 0]
    np.testing.assert_allclose(matrix[:, 1], second)
    np.testing.assert_allclose(matrix[:, 0], [0, *(1 - np.array(second[1:9])), 0])


def test_interpolation_of_equal_and_of_turned_centres():
    turned = Axis((6.5, 2.5), 0, 9).matrix(10, False)
    np.testing.assert_allclose(turned, Axis((2.5, 6.5), 0, 9).matrix(10, False)[:, ::-1])
    equal = Axis((2.0, 2.0, 6.0), 0, 8).matrix(9, False)
    np.testing.assert_allclose(equal[2], [0.5, 0.5, 0])
    np.testing.assert_allclose(equal.sum(1), 1)


def test_cubic_interpolation_reproduces_quadratics():
    axis = Axis(tuple(1.5 + 4 * i for i in range(5)), 0, 19)
    matrix = axis.matrix(20, cubic=True)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(
        (matrix @ np.square(axis.centres))[6:14], np.square(np.arange(6, 14))
    )


def test_stretching_is_what_it_was():
    model, x = network(L.Conv2D(2, 3, 2, activation="relu")), images()
    method = saliency.FullGrad(model, placement="stretch")
    terms = method.terms(tf.constant(x), tf.constant([0, 1]))
    maps = list(term_layout.rescaled_sums(terms, "abs", "layer").values())
    np.testing.assert_array_equal(
        method.assemble(terms, tf.constant(x)), term_layout.resized_sum(maps, x, "bilinear")
    )


@pytest.mark.parametrize("name", ["gradcam_plus_plus", "layercam", "scorecam"])
def test_methods_of_tf_keras_vis_lie_where_the_network_looks(name):
    layer, where = CROPS["one side"]
    model = network(layer, L.Conv2D(2, 3, padding="same", activation="relu"))
    x = images()
    # exp(logit) must not overflow.
    model.layers[-1].set_weights([0.02 * w for w in model.layers[-1].get_weights()])
    maps = saliency.get(name)(model)(x, 0).numpy()
    assert maps[:, where[0], where[1]].sum() > 0.999 * maps.sum() > 0
    stretched = saliency.get(name)(model, placement="stretch")(x, 0).numpy()
    assert stretched[:, where[0], where[1]].sum() < 0.9 * stretched.sum()
