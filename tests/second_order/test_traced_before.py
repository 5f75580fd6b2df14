"""`make_safe` of networks whose `tf.function`s were traced before."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import PenalizedModel
from tfgrad.penalties import GradientNorm
from tfgrad.second_order import make_safe

pytestmark = pytest.mark.usefixtures("float64")

_RNG = np.random.default_rng(0)
_X, _Y = _RNG.normal(size=(3, 4)), np.array([0, 1, 1])


def _normalised(x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) / tf.sqrt(variance + 0.1)


def _network(function: Callable[..., Any]) -> keras.Model:
    class Normalised(keras.layers.Layer):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return function(x)

    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    x = keras.Input((4,), dtype="float64")
    h = Normalised(dtype="float64")(dense(3, "tanh", dtype="float64")(x))
    return keras.Model(x, dense(2, dtype="float64")(h))


class _Traced(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="traced", dtype="float64")
        self.dense = keras.layers.Dense(3, "tanh", dtype="float64")
        self.norm = keras.layers.LayerNormalization(epsilon=0.1, dtype="float64")
        self.out = keras.layers.Dense(2, dtype="float64")

    @tf.function
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.out(self.norm(self.dense(x)))


def _step(network: keras.Model, weight: Any) -> np.ndarray:
    """The penalty's gradient as `fit` subtracts it."""
    model = PenalizedModel(network, [GradientNorm(1.0)])
    model.compile(keras.optimizers.SGD(0.5), lambda t, p: 0 * p[:, 0])
    weights, before = network.get_weights(), weight.numpy()
    model.fit(_X, _Y, batch_size=3, verbose=0)
    step = (before - weight.numpy()) / 0.5
    network.set_weights(weights)
    return step


def _difference(network: keras.Model, weight: Any) -> tuple[np.ndarray, float]:
    """A direction, and the slope of the penalty in it by central differences."""
    direction, start, values = np.cos(np.arange(12.0).reshape(4, 3)), weight.numpy(), []

    def penalty() -> float:
        return float(tf.reduce_mean(GradientNorm().per_example(network, _X, _Y)))

    for step in (1e-5, -1e-5):
        weight.assign(start + step * direction)
        values.append(penalty())
    weight.assign(start)
    return direction, (values[0] - values[1]) / 2e-5


@pytest.mark.long
def test_fit_of_a_network_with_a_shared_traced_helper_is_right() -> None:
    helper = tf.function(_normalised)
    network, unsafe = _network(helper), _network(helper)  # building them traces the helper
    assert not make_safe(network).remaining
    unsafe.predict(_X, verbose=0)
    unsafe(tf.constant(_X))
    kernel = network.layers[1].kernel
    step = _step(network, kernel)
    direction, slope = _difference(network, kernel)
    assert np.sum(step * direction) == pytest.approx(slope, rel=1e-7)
    # The network that was not changed keeps TensorFlow's functions.
    with tf.GradientTape() as tape:
        x = tf.constant(_X)
        tape.watch(x)
        y = unsafe(x)
    np.testing.assert_allclose(y, network(x), rtol=1e-12)
    graph = helper.get_concrete_function(tf.TensorSpec((3, 3), tf.float64)).graph
    assert "StopGradient" in {operation.type for operation in graph.get_operations()}


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("with_inputs", [True, False])
def test_fit_of_a_traced_model_is_right(with_inputs: bool) -> None:
    keras.utils.set_random_seed(1)
    network = _Traced()
    network(tf.constant(_X))
    make_safe(network, _X if with_inputs else None)
    step = _step(network, network.dense.kernel)
    direction, slope = _difference(network, network.dense.kernel)
    assert np.sum(step * direction) == pytest.approx(slope, rel=1e-7)


def test_helper_is_traced_once() -> None:
    traces = []

    def counted(x: tf.Tensor) -> tf.Tensor:
        traces.append(x)
        return _normalised(x)

    network = _network(tf.function(counted))
    make_safe(network)
    network(tf.constant(_X))
    count = len(traces)
    for _ in range(3):
        network(tf.constant(_X))
    assert len(traces) == count
