"""Steps in reversed order, and learned tokens among steps, on the maps of series and videos."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.variants import with_slow
from tfgrad import saliency
from tfgrad.errors import PlacementWarning
from tfgrad.gradients import axes

L = keras.layers
STEPS, READ = 4, 1


def filled(model):
    rng = np.random.default_rng(3)
    for v in model.weights:
        v.assign(rng.normal(size=v.shape, scale=0.4))
    return model


def reading(cell, *layers):
    """A head that reads one cell of what the layers make of a series."""
    x = inputs = keras.Input((STEPS, 2))
    for layer in layers:
        x = layer(x)
    model = filled(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    kernel = np.zeros([STEPS, x.shape[-1], 2], "float32")
    kernel[cell, -3:] = 1
    model.layers[-1].kernel.assign(kernel.reshape(-1, 2))
    return model


def example(*shape):
    return np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")


def backwards(cell=L.LSTM):
    return cell(3, return_sequences=True, go_backwards=True, name="back")


# Each reads the state of step 1, which depends on the steps behind it: (cell, layers, its call)
NETWORKS = {
    "backwards": (STEPS - 1 - READ, lambda: [backwards()], "back"),
    "bidirectional": (
        READ,
        lambda: [L.Bidirectional(L.SimpleRNN(3, return_sequences=True, name="r"))],
        "backward_r",
    ),
    "flipped after": (READ, lambda: [backwards(L.SimpleRNN), Flipped(1)], "back"),
}


class Flipped(L.Layer):
    """Steps in reversed order, by an operation or by a slice."""

    def __init__(self, axis=None):
        super().__init__()
        self.axis = axis

    def call(self, x):
        return x[:, ::-1] if self.axis is None else tf.reverse(x, [self.axis])


@pytest.mark.long
@pytest.mark.parametrize("name", with_slow(["flipped after", "bidirectional"], ["backwards"]))
def test_terms_of_recurrent_layers_that_go_backwards_are_at_their_steps(name):
    cell, layers, call = NETWORKS[name]
    model = reading(cell, *layers())
    found = saliency.LayerMap(model, call=call)(example(STEPS, 2), 1).numpy()[0]
    assert np.flatnonzero(found).tolist() == [READ]


def test_grad_cam_of_a_layer_that_goes_backwards_is_at_its_steps():
    model = reading(STEPS - 1 - READ, backwards())
    x = example(STEPS, 2)
    steps = keras.Model(model.input, model.get_layer("back").output)(x)
    expected = np.maximum(np.sum(steps[0, ::-1], -1) / STEPS, 0)  # the weights are 1 / steps
    found = saliency.GradCAM(model, layer="back")(x, 1).numpy()[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    assert found.max() > 0


# (the input, layers, the axes of the last one that run against the input's)
TURNED = {
    "forwards": ((6, 2), lambda: [L.GRU(2, return_sequences=True)], ()),
    "backwards": ((6, 2), lambda: [L.GRU(2, return_sequences=True, go_backwards=True)], (1,)),
    "a reversed input": ((6, 2), lambda: [Flipped(), L.GRU(2, return_sequences=True)], (1,)),
    "twice": (
        (6, 2),
        lambda: [Flipped(1), L.GRU(2, return_sequences=True, go_backwards=True)],
        (),
    ),
    "and a convolution": ((6, 2), lambda: [backwards(), L.Conv1D(2, 3)], (1,)),
    "a row": (
        (4, 5, 2),
        lambda: [L.ConvLSTM1D(2, 2, return_sequences=True, go_backwards=True)],
        (1,),
    ),
    "a video": (
        (4, 5, 5, 2),
        lambda: [L.ConvLSTM2D(2, 2, return_sequences=True, go_backwards=True)],
        (1,),
    ),
}


@pytest.mark.parametrize("name", TURNED)
def test_axes_that_run_backwards(name):
    shape, layers, expected = TURNED[name]
    x = inputs = keras.Input(shape)
    for layer in layers():
        x = layer(x)
    network = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    calls = axes.analysed(network, tf.TensorSpec([None, *shape])).calls.values()
    *_, last, _ = (c for c in calls if not c.name.startswith(("flatten", "dense")))
    assert last.features.backwards == expected
    values = np.random.default_rng(0).normal(size=[2, *last.shape[1:]])
    found = last.features.laid_out(tf.constant(values))
    np.testing.assert_array_equal(found, values[:, ::-1] if expected else values)


class Token(L.Layer):
    """A learned token before the steps."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]))

    def call(self, x):
        return tf.concat([tf.repeat(self.token, tf.shape(x)[0], 0), x], 1)


def transformer():
    inputs = keras.Input((24, 2))
    h = Token()(L.Conv1D(4, 4, strides=4, name="embed")(inputs))
    h = h + L.MultiHeadAttention(2, 2, name="attention")(h, h)
    h = L.Dense(4, activation="gelu", name="after")(h)
    return filled(keras.Model(inputs, L.Dense(3)(h[:, 0])))


@pytest.mark.long
def test_a_learned_token_is_no_step():
    method = saliency.BiasMap(transformer())
    with pytest.warns(PlacementWarning, match="attention/arithmetic"):
        assert method(example(24, 2), 1).shape == (1, 24)
    grids = method._places[24,].grids
    for name in ("embed", "query", "key", "value"):
        np.testing.assert_allclose(grids[name].axes[0].centres, 1.5 + 4 * np.arange(6))
    with_grids = [grid for grid in grids.values() if grid is not None]
    assert {len(grid.axes[0].centres) for grid in with_grids} <= {6, 24}


def test_layouts_leave_a_learned_token_out():
    calls = axes.analysed(transformer(), tf.TensorSpec([None, 24, 2])).calls
    assert calls["embed"].features.joined is None
    after = calls["after"].features
    assert after.joined == (1, 6) and after.others
    values = np.random.default_rng(0).normal(size=(2, 7, 4))
    np.testing.assert_array_equal(after.laid_out(tf.constant(values)), values[:, 1:])
