"""Classes and reports of the layers that `make_safe` changes."""

import pickle
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import PenalizedModel, layers
from tfgrad.penalties import GradientNorm
from tfgrad.second_order import check, inspect, make_safe


@keras.saving.register_keras_serializable("tfgrad_tests")
class _Pickled(keras.layers.LayerNormalization):
    pass


class _Unmendable(keras.layers.Layer):
    """Has a function of TensorFlow from before any exchange, as `from … import …` gives."""

    moments = staticmethod(tf.nn.moments)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        mean, variance = self.moments(x, [-1], keepdims=True)
        return (x - mean) / tf.sqrt(variance + 0.1)


_registered: list[str] = []


class _Registering(type):
    """A metaclass that remembers the classes that it makes."""

    def __new__(cls, name: str, bases: Any, members: Any, **options: Any) -> Any:
        _registered.append(name)
        return super().__new__(cls, name, bases, members, **options)


class _Registered(keras.layers.Layer, metaclass=_Registering):
    """Keeps a registry of its subclasses, which must state what they are for."""

    def __init_subclass__(cls, *, purpose: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        _registered.append(purpose)


class _Soft(_Registered, purpose="soft"):
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.softsign(x)


class _Slots(keras.layers.Layer):
    __slots__ = ("scale",)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.softsign(x)


class _Pyramid(keras.layers.Layer):
    """Makes a layer in each call, as DeepLabV3's of keras-hub does."""

    def __init__(self, resizing: Any = keras.layers.Resizing) -> None:
        super().__init__()
        self.resizing = resizing

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + self.resizing(6, 6)(keras.layers.AveragePooling2D(2)(x))


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


def test_no_registry_of_classes_sees_the_change() -> None:
    for layer in (_Soft(), _Slots()):
        network, seen = _around(layer), list(_registered)
        assert len(make_safe(network).changed) == 1
        assert _registered == seen
        assert layer.__class__ in (_Soft, _Slots)
        assert check(network).findings == ()


def _with_pyramid(resizing: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 1))
    y = keras.layers.Conv2D(2, 3, padding="same", activation="tanh")(x)
    y = keras.layers.Conv2D(2, 3, activation="tanh")(_Pyramid(resizing)(y))
    return keras.Model(x, keras.layers.Dense(1)(keras.layers.Flatten()(y)))


def _penalty_gradients(network: keras.Model) -> list[Any]:
    x = tf.random.stateless_normal((2, 6, 6, 1), (1, 2))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = network(x)
        penalty = tf.reduce_sum(tape.gradient(y, x) ** 2)
    gradients: list[Any] = outer.gradient(penalty, network.trainable_variables[:2])
    return gradients


def test_layer_made_in_a_call_is_mended_in_the_layer_that_makes_it() -> None:
    network = _with_pyramid(keras.layers.Resizing)
    (found,) = inspect(network).findings
    assert found.layer_class == "Resizing"
    assert "made in a call of '__pyramid" in found.problem
    (change,) = make_safe(network).changed
    assert isinstance(change.operation, _Pyramid)
    assert check(network).findings == ()
    expected = _penalty_gradients(_with_pyramid(layers.Resizing))
    for a, b in zip(_penalty_gradients(network), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
