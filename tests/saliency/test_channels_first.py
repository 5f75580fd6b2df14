"""Networks with channels first: the maps of the same network with channels last."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.serving_cases import PYTHON
from tests.helpers.variants import with_slow
from tfgrad import saliency
from tfgrad.errors import ModelError
from tfgrad.gradients import axes

L = keras.layers
SIZE = (10, 8, 3)


class FirstConv2D(L.Conv2D):
    """A convolution with channels first that runs on CPUs."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, data_format="channels_first", **kwargs)

    def convolution_op(self, inputs, kernel):
        inputs = keras.ops.moveaxis(inputs, 1, -1)
        outputs = keras.ops.conv(inputs, kernel, padding="valid", data_format="channels_last")
        return keras.ops.moveaxis(outputs, -1, 1)


def body(conv, form, axis):
    return [
        conv(3, 3, name="first"),
        L.BatchNormalization(axis=axis),
        L.Activation("relu"),
        L.AveragePooling2D(2, data_format=form),
        conv(4, 2, name="second"),
        L.Activation("relu"),
        L.GlobalAveragePooling2D(data_format=form),
        L.Dense(3),
    ]


@pytest.fixture(scope="module")
def last():
    network = keras.Sequential([keras.Input(SIZE), *body(L.Conv2D, "channels_last", -1)])
    rng = np.random.default_rng(0)
    for v in network.weights:
        v.assign(
            np.abs(rng.normal(size=v.shape)) + 0.2 if "var" in v.path else rng.normal(size=v.shape)
        )
    return network


def first_everywhere(last):
    network = keras.Sequential([keras.Input((3, 10, 8)), *body(FirstConv2D, "channels_first", 1)])
    network.set_weights(last.get_weights())
    return network


def permuted(last):
    return keras.Sequential([keras.Input((3, 10, 8)), L.Permute((2, 3, 1)), *last.layers])


def transposed_operation(last):
    inputs = keras.Input((3, 10, 8))
    return keras.Model(inputs, last(keras.ops.transpose(inputs, (0, 2, 3, 1))))


class Subclassed(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(tf.transpose(x, [0, 2, 3, 1]))


def subclassed(last):
    network = Subclassed(last)
    network(np.zeros((1, 3, 10, 8), "float32"))
    return network


FORMS = (first_everywhere, permuted, transposed_operation, subclassed)


def images():
    return np.random.default_rng(1).uniform(size=(2, *SIZE)).astype("float32")


# The squares and the smoothed sums have the axes of what they are made of.
MADE_OF_OTHERS = ("smoothgrad_squared", "smooth_fullgrad")


@pytest.mark.long
@pytest.mark.sample(6, start=1)
@pytest.mark.parametrize(
    "name",
    with_slow([n for n in saliency.METHODS if n not in (*PYTHON, *MADE_OF_OTHERS)], MADE_OF_OTHERS),
)
def test_maps_are_those_of_the_network_with_channels_last(last, name):
    options = {"samples": 2} if "smooth" in name else {}
    x = images()
    expected = saliency.get(name)(last, **options)(x, 1)
    assert expected.shape == (2, 10, 8)
    # `simple_fullgrad` has another term where a convolution has code of its own.
    form = permuted if name == "simple_fullgrad" else first_everywhere
    found = saliency.get(name)(form(last), **options)(x.transpose(0, 3, 1, 2), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.diagonal
@pytest.mark.sample(2)
@pytest.mark.parametrize("form", FORMS[2:])
@pytest.mark.parametrize("name", ["input_gradient", "gradcam", "fullgrad"])
def test_axes_that_code_moves_are_seen(last, form, name):
    x = images()
    expected = saliency.get(name)(last)(x, 1)
    found = saliency.get(name)(form(last))(x.transpose(0, 3, 1, 2), 1)
    assert found.shape == expected.shape
    if name != "fullgrad":  # which rescales each term, and code has others than layers
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PYTHON)
def test_methods_that_take_channels_last_say_so(last, name):
    x = images().transpose(0, 3, 1, 2)
    with pytest.raises(ModelError, match=r"images \[batch, channels, height, width\]; .*'gradcam'"):
        saliency.get(name)(permuted(last))(x, 1)


@pytest.mark.long
def test_penalties_and_evaluations_follow_the_network(last):
    x, first = images(), first_everywhere(last)
    turned, y = x.transpose(0, 3, 1, 2), np.array([0, 2])
    mask = np.zeros((10, 8))
    mask[:4, :3] = 1
    fooling = tfgrad.penalties.SaliencyFooling(1.0, mask)
    np.testing.assert_allclose(
        fooling.per_example(first, turned, y), fooling.per_example(last, x, y), rtol=1e-4
    )
    pairs = tfgrad.penalties.matching_layers(permuted(last), last, verbose=False)
    assert pairs and all(a == b for a, b in pairs)
    for penalty in (tfgrad.penalties.AttentionMatching, tfgrad.penalties.AttentionJacobianMatching):
        matching = penalty(1.0, ["first", "second"])
        value = matching.per_example(first, turned, y, teacher=permuted(last))
        np.testing.assert_allclose(value, [0, 0], atol=2e-3)
    shares = [
        tfgrad.evaluation.energy_share(network, [(images, y)], mask, target=0).value
        for network, images in ((last, x), (first, turned))
    ]
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)
    maps = saliency.InputGradient(last)(x)
    found = [
        tfgrad.evaluation.pixel_perturbation(network, [(images, y)], maps, (0.3,), score=score)
        for network, images in ((last, x), (first, turned))
        for score in ("log density ratio",)
    ]
    assert found[0].value == pytest.approx(found[1].value, rel=1e-4)


def einsum_dense():
    inputs = keras.Input((3, 4, 5))
    maps = L.EinsumDense("bchw,cd->bdhw", (6, 4, 5))(inputs)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(maps)))


def dense_after_permutation():
    inputs = keras.Input((3, 4, 5))
    maps = L.Dense(6)(L.Permute((2, 3, 1))(inputs))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(maps)))


def pooled():
    inputs = keras.Input((3, 4, 5))
    maps = L.MaxPooling2D(2, data_format="channels_first")(L.Rescaling(2.0)(inputs))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(maps)))


def reversed_twice():
    inputs = keras.Input((3, 4, 5))
    maps = L.Permute((1, 3, 2))(L.Permute((2, 1, 3))(inputs))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Conv2D(2, 2)(maps))))


@pytest.mark.parametrize("make", [einsum_dense, dense_after_permutation, pooled, reversed_twice])
def test_the_channel_axis_is_found_without_a_convolution_that_takes_the_image(make):
    network = make()
    assert axes.channel_axis(network, tf.TensorSpec((None, 3, 4, 5), "float32")) == 1
    x = np.ones((2, 3, 4, 5), "float32")
    assert saliency.InputGradient(network)(x, 0).shape == (2, 4, 5)


def test_where_the_network_does_not_tell_the_image_data_format_does():
    network = keras.Sequential([keras.Input((3, 4, 5)), L.Flatten(), L.Dense(2)])
    spec = tf.TensorSpec((None, 3, 4, 5), "float32")
    assert axes.channel_axis(network, spec) == 3
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        assert axes.channel_axis(keras.Sequential([keras.Input((3, 4, 5)), L.Flatten()]), spec) == 1
    finally:
        keras.config.set_image_data_format(before)


def test_feature_maps_of_mixed_networks_have_their_own_channels():
    inputs = keras.Input((3, 8, 8))
    early = L.MaxPooling2D(2, data_format="channels_first", name="early")(inputs)
    late = L.Conv2D(5, 2, name="late")(L.Permute((2, 3, 1))(early))
    network = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.GroupNormalization(5)(2.0 * late))))
    calls = axes.analysed(network, tf.TensorSpec((None, 3, 8, 8), "float32")).calls
    found = {name: c.features.channels for name, c in calls.items() if c.features is not None}
    assert (found["early"], found["late"]) == (1, 3) and list(found.values())[-1] == 3
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype("float32")
    for layer in ("early", "late"):
        assert saliency.GradCAM(network, layer)(x, 1).shape == (1, 8, 8)
