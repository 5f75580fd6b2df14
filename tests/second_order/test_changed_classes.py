"""Classes and reports of the layers that `make_safe` changes."""

import pickle

import keras
import numpy as np
import tensorflow as tf

from tfgrad import PenalizedModel
from tfgrad.penalties import GradientNorm
from tfgrad.second_order import make_safe


@keras.saving.register_keras_serializable("tfgrad_tests")
class _Pickled(keras.layers.LayerNormalization):
    pass


class _Unmendable(keras.layers.Layer):
    """Has a function of TensorFlow from before any exchange, as `from … import …` gives."""

    moments = staticmethod(tf.nn.moments)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        mean, variance = self.moments(x, [-1], keepdims=True)
        return (x - mean) / tf.sqrt(variance + 0.1)


def _around(layer: keras.layers.Layer) -> keras.Model:
    x = keras.Input((4,))
    return keras.Model(x, keras.layers.Dense(2)(layer(keras.layers.Dense(3)(x))))


def test_changed_layer_is_pickled_as_its_class() -> None:
    layer = _Pickled(epsilon=0.25)
    make_safe(_around(layer))
    again = pickle.loads(pickle.dumps(layer))
    assert type(again) is _Pickled
    assert again.epsilon == 0.25


def test_layer_whose_fault_is_left_is_not_reported_as_made_safe() -> None:
    layer = _Unmendable()
    report = make_safe(_around(layer))
    assert report.remaining
    assert not report.changed


def test_unbuilt_network_of_unknown_inputs_trains() -> None:
    class Network(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.norm = keras.layers.LayerNormalization(epsilon=0.1)
            self.out = keras.layers.Dense(2)

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return self.out(self.norm(x))

    network = Network()
    assert not make_safe(network).checked
    model = PenalizedModel(network, [GradientNorm(0.1)])
    model.compile("sgd", lambda target, output: tf.square(output[:, 0]))
    model.fit(np.ones((2, 4), "float32"), np.zeros(2), verbose=0)
    assert len(network.trainable_variables) == 4
