"""Maps of series, volumes, tables and grey images: equal to those of the same network on images."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tests.helpers.saliency_cases import policy
from tests.helpers.variants import with_slow
from tfgrad import decomposition, saliency
from tfgrad.errors import AxesWarning, ModelError, PlacementWarning
from tfgrad.gradients.probe import Probe

L = keras.layers


def filled(model):
    """The model with random weights, the same ones for weights of the same sizes."""
    rng = np.random.default_rng(3)
    for v in model.weights:
        spread = rng.normal(size=np.prod(v.shape), scale=0.4).reshape(v.shape)
        v.assign(1.0 + np.abs(spread) if "variance" in v.path else spread)
    kernel = model.layers[-1].kernel
    kernel.assign(np.abs(kernel))  # every class has a Grad-CAM above zero
    return model


def built(shape, *layers):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return filled(keras.Model(inputs, x))


def of_series(activation="softplus"):
    return built(
        (14, 2),
        L.Conv1D(3, 3, strides=2, activation=activation, name="first"),
        L.BatchNormalization(name="norm"),
        L.MaxPooling1D(2),
        L.UpSampling1D(2),
        L.Conv1DTranspose(3, 2, padding="same", activation=activation, name="last"),
        L.GlobalAveragePooling1D(),
        L.Dense(3),
    )


def of_one_row(activation="softplus"):
    return built(
        (1, 14, 2),
        L.Conv2D(3, (1, 3), strides=(1, 2), activation=activation, name="first"),
        L.BatchNormalization(name="norm"),
        L.MaxPooling2D((1, 2)),
        L.UpSampling2D((1, 2)),
        L.Conv2DTranspose(3, (1, 2), padding="same", activation=activation, name="last"),
        L.GlobalAveragePooling2D(),
        L.Dense(3),
    )


def of_one_slice(activation="softplus"):
    return built(
        (1, 7, 6, 2),
        L.Conv3D(3, (1, 3, 2), strides=(1, 2, 1), activation=activation, name="first"),
        L.BatchNormalization(name="norm"),
        L.AveragePooling3D((1, 1, 2)),
        L.UpSampling3D((1, 1, 2)),
        L.Conv3DTranspose(3, (1, 2, 2), padding="same", activation=activation, name="last"),
        L.GlobalAveragePooling3D(),
        L.Dense(3),
    )


def of_images(activation="softplus"):
    return built(
        (7, 6, 2),
        L.Conv2D(3, (3, 2), strides=(2, 1), activation=activation, name="first"),
        L.BatchNormalization(name="norm"),
        L.AveragePooling2D((1, 2)),
        L.UpSampling2D((1, 2)),
        L.Conv2DTranspose(3, (2, 2), padding="same", activation=activation, name="last"),
        L.GlobalAveragePooling2D(),
        L.Dense(3),
    )


PAIRS = {"series": (of_series, of_one_row), "volume": (of_one_slice, of_images)}
METHODS = {
    "fullgrad": saliency.FullGrad,
    "fullgrad by channel": functools.partial(
        saliency.FullGrad, rescale="channel", resize="bicubic"
    ),
    "fullgrad stretched": functools.partial(saliency.FullGrad, placement="stretch"),
    "simple_fullgrad": saliency.SimpleFullGrad,
    "smooth_fullgrad": functools.partial(saliency.SmoothFullGrad, samples=2),
    "full_jacobian_map": functools.partial(saliency.FullJacobianMap, blocks=True),
    "bias_map": saliency.BiasMap,
    "layer_map": functools.partial(saliency.LayerMap, call="first"),
    "gradcam": saliency.GradCAM,
    "gradcam stretched": functools.partial(saliency.GradCAM, layer="last", placement="stretch"),
    "input_gradient": functools.partial(saliency.InputGradient, reduce="deviation"),
    "input_times_gradient": saliency.InputTimesGradient,
    "integrated_gradients": functools.partial(saliency.IntegratedGradients, steps=3),
    "smoothgrad": functools.partial(saliency.SmoothGrad, samples=2),
    "guided_backprop": saliency.GuidedBackprop,
    "random": saliency.Random,
}
FAST = ["fullgrad", "gradcam"]


def examples(model):
    return np.random.default_rng(4).uniform(size=(2, *model.input_shape[1:])).astype("float32")


def close(got, expected, relative=1e-6):
    got, expected = np.asarray(got), np.asarray(expected)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=relative * np.abs(expected).max())


@pytest.mark.diagonal
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", with_slow(FAST, [m for m in METHODS if m not in FAST]))
def test_an_axis_of_length_one_changes_nothing(name, pair):
    """A series is an image of one row, an image a volume of one slice."""
    activation = "relu" if name == "guided_backprop" else "softplus"
    one, two = (make(activation) for make in PAIRS[pair])
    x = examples(one)
    same = np.reshape(x, (2, *two.input_shape[1:]))
    got = METHODS[name](one)(x, [1, 2])
    expected = METHODS[name](two)(same, [1, 2]).numpy()
    assert got.shape == x.shape[:-1]
    close(got, np.reshape(expected, got.shape), 1e-5 if pair == "volume" else 1e-6)


@pytest.mark.parametrize("name", FAST)
def test_channels_first_is_a_permutation(name):
    body = [L.Conv1D(3, 3, activation="softplus", name="conv"), L.Flatten(), L.Dense(3)]
    last = built((8, 2), *body)
    first = built((2, 8), L.Permute((2, 1)), *body)
    x = examples(last)
    close(METHODS[name](first)(np.swapaxes(x, 1, 2), 1), METHODS[name](last)(x, 1))


def without_channels(shape, *layers):
    return built(shape, L.Reshape((*shape, 1)), *layers, L.Flatten(), L.Dense(2))


GREY = {
    "series": ((8,), lambda: L.Conv1D(2, 3, activation="softplus", name="conv")),
    "image": ((5, 6), lambda: L.Conv2D(2, 3, activation="softplus", name="conv")),
    "volume": ((3, 4, 5), lambda: L.Conv3D(2, 2, activation="softplus", name="conv")),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", GREY)
def test_inputs_without_channels(kind):
    shape, conv = GREY[kind]
    grey = without_channels(shape, conv())
    with_one = built((*shape, 1), conv(), L.Flatten(), L.Dense(2))
    x = examples(grey)
    for name in FAST:
        maps = METHODS[name](grey)(x, 1)
        assert maps.shape == x.shape
        close(maps, METHODS[name](with_one)(x[..., np.newaxis], 1))
    assert saliency.Random(grey)(x).shape == x.shape


def test_a_table_has_a_map_of_its_features():
    model = built((5,), L.Rescaling(0.5), L.Dense(4, activation="softplus"), L.Dense(3))
    x = examples(model)
    product = saliency.InputTimesGradient(model)(x, 1)
    signed = saliency.FullGrad(model, part="signed", rescale=None)(x, 1)
    close(signed, product)  # dense layers have no positions
    with pytest.raises(ModelError, match="no layer puts out feature maps"):
        saliency.GradCAM(model)(x, 1)


def test_an_undecidable_input_is_asked_for():
    model = built((4, 5), L.Flatten(), L.Dense(3))
    x = examples(model)
    with pytest.warns(AxesWarning, match=r"got inputs \[batch, 4, 5\].*try channels='none'"):
        assert saliency.InputGradient(model)(x).shape == (2, 4)
    method = saliency.InputGradient(model, channels="none")
    assert method(x).shape == (2, 4, 5) and method.stated()["channels"] == "none"
    assert saliency.InputGradient(model, channels="first")(x).shape == (2, 5)
    smooth = saliency.SmoothGrad(model, samples=2, channels="last")
    assert smooth(x).shape == (2, 4)


def small_volume():
    return built((3, 4, 5, 1), L.Conv3D(2, 2, activation="softplus"), L.Flatten(), L.Dense(3))


@pytest.mark.parametrize("make", [of_series, small_volume])
def test_the_terms_add_up_to_the_logit(make):
    with policy("float64"):
        model = make()
    x = tf.constant(examples(model), tf.float64)
    method = saliency.FullGrad(model)
    terms = method.terms(x, tf.constant([1, 1]))
    placed = sum(np.sum(t, axis=tuple(range(1, t.shape.rank))) for t in terms.values())
    np.testing.assert_allclose(placed + model.layers[-1].bias[1], model(x)[:, 1], rtol=1e-10)
    assert np.max(method.explain(x, 1)["completeness_error"]) < 1e-6


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("name", FAST)
def test_gradient_of_a_map_of_a_series(name):
    """With respect to the series, against central differences in float64."""
    with policy("float64"):
        model = of_series()
    method = METHODS[name](model)
    series = tf.Variable(examples(model)[:1], dtype="float64")
    weigh = np.random.default_rng(5).normal(size=(1, 14))

    @tf.function(autograph=False)
    def value():
        x = tf.convert_to_tensor(series)
        return tf.reduce_sum(weigh * method.assemble(method.terms(x, tf.constant([1])), x))

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            total = value()
        return tape.gradient(total, series)

    exact = gradient()
    assert np.abs(exact).max() > 0
    numerical = numerical_gradient(value, series, 1e-5)
    assert worst_relative_error([exact], [numerical]) < 1e-6


@pytest.mark.long
def test_grad_cam_takes_the_last_layer_with_positions():
    shape = (4, 5, 6, 1)
    model = built(shape, L.Conv3D(2, 2, name="conv"), L.GlobalMaxPooling3D(), L.Dense(2))
    method = saliency.GradCAM(model)
    assert method(examples(model), 1).shape == (2, 4, 5, 6)
    assert method._calls[shape].name == "conv"
    recurrent = built((6, 2), L.LSTM(3, return_sequences=True, name="steps"), L.GRU(2), L.Dense(2))
    method = saliency.GradCAM(recurrent)
    assert method(examples(recurrent), 1).shape == (2, 6)
    assert method._calls[6, 2].name == "steps"


class Attention(keras.Model):
    """Steps that attend to each other, in a call."""

    def __init__(self):
        super().__init__()
        self.conv = L.Conv1D(4, 3, strides=2, name="conv")
        self.attention = L.MultiHeadAttention(2, 2, name="attention")
        self.head = L.Dense(3)

    def call(self, x):
        h = self.conv(x)
        return self.head(tf.reduce_mean(h + self.attention(h, h), 1))


def test_attention_over_steps_has_their_places():
    model = Attention()
    model(np.zeros((1, 12, 2), "float32"))
    filled(model)
    x = np.random.default_rng(0).normal(size=(2, 12, 2)).astype("float32")
    method = saliency.FullGrad(model)
    assert method(x, 1).shape == (2, 12)
    grids = method._places[12,].grids
    for name in ("conv", "query", "key", "value", "attention_output"):
        np.testing.assert_allclose(grids[name].axes[0].centres, 1 + 2 * np.arange(5))


def test_a_spectrogram_is_added_up_over_frequencies():
    """Frames of 4 steps are the rows of a map, the steps within them its columns."""
    model = without_channels((12,), L.Reshape((3, 4, 1)), L.Conv2D(2, (1, 4), name="conv"))
    grid = _grid(model, "conv")
    np.testing.assert_allclose(grid.axes[0].centres, [1.5, 5.5, 9.5])
    x = examples(model)
    got = saliency.GradCAM(model, "conv")(x, 1).numpy()
    signed = np.asarray(saliency.GradCAM(model, "conv").terms(tf.constant(x), tf.constant([1, 1])))
    assert got.shape == (2, 12) and signed.shape == (2, 3, 1)
    close(got[:, [1, 10]], np.maximum(signed[:, [0, 2], 0], 0))  # constant beyond the centres


def _grid(model, layer):
    method = saliency.GradCAM(model, layer)
    places = method.located_apart(tf.TensorSpec([None, *model.input_shape[1:]]))
    return places.grids["features"]


def test_slices_without_a_place_are_stretched_with_a_warning():
    layers = [L.TimeDistributed(L.Conv2D(2, 2, name="inner"), name="each"), L.Flatten(), L.Dense(2)]
    model = built((3, 5, 4, 1), *layers)
    with pytest.warns(PlacementWarning, match="volumes of 3×5×4 voxels.*stretched to the volume"):
        assert saliency.GradCAM(model)(examples(model), 1).shape == (2, 3, 5, 4)


@pytest.mark.parametrize("name", ["gradcam_plus_plus", "layercam", "scorecam"])
def test_methods_of_tf_keras_vis_name_what_takes_series(name):
    with pytest.raises(ModelError, match="for tf-keras-vis; try 'gradcam', which takes series"):
        saliency.get(name)(of_series())


class Turned(L.Layer):
    """A rotation by a half, whose shape a graph states as that of a quarter."""

    def call(self, x):
        return tf.image.rot90(x, 2)


@pytest.mark.long
def test_an_image_turned_by_half_can_be_stretched():
    conv = L.Conv2D(2, 1, name="conv")
    model = built((4, 6, 1), Turned(), conv, L.GlobalAveragePooling2D(), L.Dense(2))
    x = examples(model)
    for make in (saliency.GradCAM, saliency.FullGrad):
        assert make(model, placement="stretch")(x, 1).shape == (2, 4, 6)


def test_probes_of_series_decompose():
    model = of_series()
    x = tf.constant(examples(model))
    probe = Probe(model, x, training=False, needs=decomposition.NEEDS)
    error = decomposition.of_probe(probe, tf.constant([1, 2])).completeness_error()
    assert np.max(error) < 1e-5
