"""A call in `unchanged_state` changes nothing, now or later."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.penalties import GradientNorm


class Normalised(keras.layers.Layer):
    """A layer that calls a `tf.function` of its own, which TensorFlow traces once."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(momentum=0.5)
        self.dropout = keras.layers.Dropout(0.5, seed=1)

    def build(self, shape):
        self.norm.build(shape)

    @tf.function
    def normalised(self, x, training):
        return self.dropout(self.norm(x, training=training), training=training)

    def call(self, x, training=False):
        return self.normalised(x, training)


X = tf.constant(np.full((4, 3), 10.0, "float32"))


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), Normalised(), keras.layers.Dense(2)])


def means(model, calls=2):
    """The moving mean after some calls in training mode."""
    for _ in range(calls):
        model(X, training=True)
    return model.layers[0].norm.moving_mean.numpy()


def in_scope(model):
    with unchanged_state():
        model(X, training=True)


def penalised(model):
    GradientNorm(target=0).per_example(model, X, training=True)


@pytest.mark.filterwarnings("ignore::tfgrad.errors.SecondOrderWarning")
@pytest.mark.parametrize("use", [in_scope, penalised])
def test_later_calls_move_the_statistics(use):
    model = network()
    before = [v.numpy() for v in model.variables]
    use(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    np.testing.assert_array_equal(means(model), [7.5, 7.5, 7.5])  # 10 (1 − 0.5²)


def test_keras_alone_keeps_the_trace():
    """Why there is such a scope; once this fails, Keras or TensorFlow has changed."""
    model = network()
    with keras.StatelessScope():
        model(X, training=True)
    np.testing.assert_array_equal(means(model), [0.0, 0.0, 0.0])
