"""Which axes of series, images and volumes are positions, as the network tells."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tfgrad.gradients import axes

L = keras.layers

# name: (shape of one input, first layers, channel axis, whether the network tells it)
NETWORKS = {
    "series": ((12, 3), [L.Conv1D(2, 3)], 2, True),
    "series, channels first": ((3, 12), [L.Permute((2, 1)), L.Conv1D(2, 3)], 1, True),
    "series, dilated": ((12, 3), [L.Conv1D(2, 3, dilation_rate=2, padding="causal")], 2, True),
    "series without channels": ((12,), [L.Reshape((12, 1)), L.Conv1D(2, 3)], None, True),
    "series of a recurrent layer": ((12, 3), [L.LSTM(4)], 2, True),
    "table": ((7,), [L.Dense(4)], None, True),
    "grey image": ((6, 8), [L.Reshape((6, 8, 1)), L.Conv2D(2, 3)], None, True),
    "table or image": ((6, 8), [L.Flatten()], 2, False),
    "image": ((6, 8, 3), [L.Conv2D(2, 3)], 3, True),
    "volume": ((3, 6, 8, 2), [L.Conv3D(2, 2)], 4, True),
    "volume, channels first": ((2, 3, 6, 8), [L.Permute((2, 3, 4, 1)), L.Conv3D(2, 2)], 1, True),
    "grey volume": ((3, 6, 8), [L.Reshape((3, 6, 8, 1)), L.Conv3D(2, 2)], None, True),
    "slices as channels": ((3, 6, 8, 1), [L.Reshape((3, 48)), L.Conv1D(2, 3)], 4, True),
}


def built(shape, layers):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer.__class__.from_config(layer.get_config())(x)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


@pytest.mark.parametrize("name", NETWORKS)
def test_axes_of_inputs(name):
    shape, layers, channels, certain = NETWORKS[name]
    rank = len(shape) + 1
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    found = axes.of_input(built(shape, layers), tf.constant(x))
    assert (found.rank, found.channels, found.certain) == (rank, channels, certain)
    assert found.sizes(x.shape) == tuple(n for i, n in enumerate(x.shape) if i not in (0, channels))
    last = found.channels_last(tf.constant(x))
    assert last.shape[1:-1] == found.sizes(x.shape)
    np.testing.assert_array_equal(found.as_given(last), x)


# What a layer returns: (input, layers, sizes of the positions of the last layer's output)
OUTPUTS = {
    "pooled": ((12, 3), [L.Conv1D(2, 3), L.MaxPooling1D(2)], (5,)),
    "enlarged": ((12, 3), [L.Conv1D(2, 3), L.UpSampling1D(3)], (30,)),
    "transposed": ((12, 3), [L.Conv1DTranspose(2, 3, strides=2)], (25,)),
    "recurrent": ((12, 3), [L.Bidirectional(L.GRU(2, return_sequences=True))], (12,)),
    "a vector": ((12, 3), [L.Conv1D(2, 3), L.GlobalAveragePooling1D()], None),
    "a volume": ((4, 6, 6, 1), [L.Conv3D(2, 2), L.UpSampling3D(2), L.Cropping3D(1)], (4, 8, 8)),
    "each slice": ((4, 6, 6, 2), [L.TimeDistributed(L.Conv2D(2, 2))], (4, 5, 5)),
    "last slice": ((4, 6, 6, 2), [L.ConvLSTM2D(2, 2)], (5, 5)),
    "a spectrogram": ((24,), [L.Reshape((6, 4, 1)), L.Conv2D(2, 2)], (5, 3)),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_layouts_of_feature_maps(name):
    shape, layers, sizes = OUTPUTS[name]
    network = built(shape, layers)
    calls = axes.analysed(network, tf.TensorSpec([None, *shape])).calls.values()
    *_, last, _ = (c for c in calls if not c.name.startswith(("flatten", "dense")))
    if sizes is None:
        assert last.features is None
        return
    values = tf.zeros([2, *last.shape[1:]])
    assert last.features.laid_out(values).shape[1:-1] == sizes


class WithoutShape(keras.layers.Layer):
    """A loop whose result has no shape in a graph."""

    def call(self, x):
        shapes = tf.TensorShape([]), tf.TensorShape(None)
        _, y = tf.while_loop(
            lambda i, y: i < 2, lambda i, y: (i + 1, tf.sin(y)), (0, x), shape_invariants=shapes
        )
        return y

    def compute_output_shape(self, shape):
        return shape


def test_a_call_whose_result_has_no_shape_has_no_axes():
    inputs = keras.Input((5, 3))
    steps = keras.ops.reshape(WithoutShape(name="loop")(inputs), (-1, 15))
    network = keras.Model(inputs, keras.layers.Dense(2)(steps))
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(y := tf.constant(x))
        score = tf.reduce_sum(network(y)[:, 1])
    expected = np.abs(tape.gradient(score, y)).sum(-1)
    maps = tfgrad.saliency.InputGradient(network, channels="last")(x, 1)
    np.testing.assert_allclose(maps, expected, rtol=1e-5)
