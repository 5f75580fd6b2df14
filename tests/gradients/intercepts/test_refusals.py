"""Every operation that `docs/decomposition.md` lists as rejected is, with the message it gives."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tfgrad.errors import ModelError
from tfgrad.gradients.probe import Probe

L = keras.layers
SHAPE = (4, 4, 3)
ROOT = pathlib.Path(__file__).parents[3]
CORNERS = [[0, 0], [3, 0], [0, 3], [3, 3]]


@tf.custom_gradient
def _without_second(x):
    def backward(upstream):
        raise NotImplementedError("no derivative")

    return x * 1.0, backward


def _numpy(x):
    return x + tf.ensure_shape(tf.numpy_function(lambda a: a**2, [x], x.dtype), x.shape)


def _python(x):
    return tf.ensure_shape(tf.py_function(lambda a: a**2, [x], x.dtype), x.shape)


def _affine(x):
    return keras.ops.image.affine_transform(x, np.array([1, 0.1, 0, 0, 1, 0, 0, 0], "float32"))


def _perspective(x):
    moved = np.array(CORNERS, "float32") + 0.3
    return keras.ops.image.perspective_transform(x, np.array(CORNERS, "float32"), moved)


def _segments(x):
    return tf.sparse.segment_sum(x, tf.constant([0, 1]), tf.constant([0, 1]))


# What the page lists as called, and how a layer calls it.
CALLS = {
    "tf.numpy_function": _numpy,
    "tf.py_function": _python,
    "keras.ops.image.affine_transform": _affine,
    "keras.ops.image.perspective_transform": _perspective,
    "tf.image.adjust_saturation": lambda x: tf.image.adjust_saturation(x, 0.5),
    "tf.image.hsv_to_rgb": tf.image.hsv_to_rgb,
    "tf.image.extract_glimpse": lambda x: tf.image.extract_glimpse(x, (2, 2), [[0.0, 0.0]] * 2),
    "tf.random.shuffle": tf.random.shuffle,
    "tf.nn.local_response_normalization": tf.nn.local_response_normalization,
    "tf.nn.max_pool_with_argmax": lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")[0],
    "tf.nn.fractional_avg_pool": lambda x: tf.nn.fractional_avg_pool(x, [1, 1.5, 1.5, 1], seed=1)[
        0
    ],
    "tf.nn.dilation2d": lambda x: tf.nn.dilation2d(
        x, tf.zeros([2, 2, 3]), (1, 1, 1, 1), "SAME", "NHWC", (1, 1, 1, 1)
    ),
    "tf.truncatemod": lambda x: tf.truncatemod(x, tf.constant(0.7)),
    "tf.sparse.segment_sum": _segments,
    "tf.recompute_grad": lambda x: tf.recompute_grad(tf.sin)(x),
    "tf.custom_gradient": _without_second,
    "tf.RaggedTensor": lambda x: tf.RaggedTensor.from_tensor(x),
}


class Calls(L.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


class Block(L.Layer):
    """The call at fault beside another layer, inside a block."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.before, self.fault = L.Conv2D(3, 1), Calls(function, name="fault")

    def build(self, shape):
        self.before.build(shape)

    def call(self, x):
        y = self.fault(self.before(x))
        y = y.to_tensor() if isinstance(y, tf.RaggedTensor) else y
        return keras.ops.mean(y, axis=(1, 2))


def _listed():
    text = (ROOT / "docs" / "decomposition.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| .+ \|$", text, re.MULTILINE)
    return dict(rows)


def _network(function):
    inner = keras.Sequential([keras.Input(SHAPE), Block(function, name="block")], name="inner")
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, L.Dense(2)(inner(inputs)))


def test_every_row_of_the_page_is_tried():
    assert {*CALLS, 'quantize("float8")'} == set(_listed()) and len(_listed()) > 15


@pytest.mark.parametrize("called", CALLS)
def test_it_is_rejected_with_the_layer_and_the_reason(called):
    model, x = _network(CALLS[called]), tf.random.uniform([2, *SHAPE], 0.1, 0.9, seed=1)
    with pytest.raises(ModelError) as caught:
        tfgrad.full_gradients(model, x)
    message = str(caught.value)
    assert _listed()[called] in message and "; try: " in message
    # What the guard's trace finds is named by the layer, what the pass finds by its path.
    assert re.match(r"layer '(inner/block/)?fault' \(Calls\): ", message), message


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`:UserWarning")
def test_float8_layers_are_rejected_by_name():
    inner = keras.Sequential([keras.Input((3,)), L.Dense(4, name="eighth")], name="inner")
    model = keras.Sequential([keras.Input((3,)), inner, L.Dense(2)])
    inner.quantize("float8")
    reason = _listed()['quantize("float8")']
    with pytest.raises(ModelError, match=rf"layer 'eighth' \(Dense\): .*{reason}; try"):
        Probe(model, np.ones((1, 3), "float32")).input_gradient(0)
    with pytest.raises(ModelError, match=rf"layer 'inner/eighth' \(Dense\): .*{reason}; try"):
        tfgrad.full_gradients(model, np.ones((1, 3), "float32"))


def test_a_derivative_that_is_not_needed_is_no_fault():
    """The Jacobian-vector product of igamma does not differentiate its gradient in the input."""
    model = _network(lambda x: tf.math.igamma(tf.exp(x), 1.0))
    x = tf.random.uniform([2, *SHAPE], seed=1)
    assert np.max(tfgrad.full_gradients(model, x).completeness_error()) < 1e-5


def test_a_value_without_derivative_from_stopped_gradients_is_no_fault():
    """What the network does not differentiate needs no derivative."""
    shuffled = _network(lambda x: x * tf.random.shuffle(tf.ones([3]) * 2.0))
    x = tf.random.uniform([2, *SHAPE], seed=1)
    assert np.max(tfgrad.full_gradients(shuffled, x).completeness_error()) < 1e-5
