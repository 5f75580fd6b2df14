"""A small student, a teacher of another architecture, and the oracle of what matches them."""

import keras
import numpy as np
import tensorflow as tf

from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tfgrad import layers

L = keras.layers
CLASSES, SHAPE = 3, (4, 4, 1)
LABELS = np.array([2, 0, 1])
# So that no example can hide in a sum.
IMPORTANCE = np.array([1.0, -0.7, 2.0])


def filled(net, seed, scale=0.8):
    """The network with weights that depend on the seed alone, positive ones where they must be."""
    rng = np.random.default_rng(seed)
    for v in net.weights:
        positive = "gamma" in v.path or "variance" in v.path
        v.assign(
            rng.uniform(0.5, 1.5, v.shape) if positive else rng.normal(size=v.shape, scale=scale)
        )
    return net


def student(batch_norm=False, activation="softplus", classes=CLASSES, name="student"):
    """Maps of 3×3 (`conv1`, `act1`) and 2×2 (`conv2`, `act2`); 37 weights, 45 with batch norm."""
    steps = [keras.Input(SHAPE)]
    for i in (1, 2):
        steps.append(L.Conv2D(2, 2, name=f"conv{i}"))
        if batch_norm:
            steps.append(layers.BatchNormalization(name=f"norm{i}"))
        steps.append(L.Activation(activation, name=f"act{i}"))
    steps += [L.GlobalAveragePooling2D(name="pool"), L.Dense(classes, name="head")]
    return filled(keras.Sequential(steps, name=name), 1)


def teacher(classes=CLASSES, shape=SHAPE, name="teacher"):
    """Maps of 4×4 (`wide`), 3×3 (`features`) and 2×2 (`deep`), with batch norm after the last."""
    steps = [
        keras.Input(shape),
        L.Conv2D(2, 3, padding="same", activation="tanh", name="wide"),
        L.Conv2D(3, 2, activation="tanh", name="features"),
        L.Conv2D(2, 2, name="deep"),
        layers.BatchNormalization(name="deep_norm"),
        L.Activation("softplus", name="deep_act"),
        L.Flatten(name="flat"),
        L.Dense(classes, name="logits"),
    ]
    return filled(keras.Sequential(steps, name=name), 2)


def images(n=3, shape=SHAPE):
    """[n, …], normal, float64."""
    return np.random.default_rng(3).normal(size=(n, *shape))


def linear(weights, name="linear"):
    """f = W x without a bias."""
    weights = np.asarray(weights, "float64")
    net = keras.Sequential(
        [keras.Input(weights.shape[1:]), L.Dense(len(weights), use_bias=False)], name=name
    )
    net.set_weights([weights.T])
    return net


def inner(net, name):
    """The model from the network's input to one layer's output."""
    return keras.Model(net.inputs[0], net.get_layer(name).output)


def after(net, name, z):
    """What a Sequential network makes of the output z of one of its layers."""
    names = [layer.name for layer in net.layers]
    for layer in net.layers[names.index(name) + 1 :]:
        z = layer(z, training=False)
    return np.asarray(z)


def derivative(f, x, step=3e-3):
    """∂f/∂x by five-point differences, of a function [B, …] → [B, …] of each example's own row.

    Returns:
        [B, …f, …x].
    """
    columns = []
    for index in np.ndindex(x.shape[1:]):
        v = np.zeros_like(x)
        v[(slice(None), *index)] = step
        values = {n: np.asarray(f(x + n * v)) for n in (-2, -1, 1, 2)}
        columns.append((values[-2] - 8 * values[-1] + 8 * values[1] - values[2]) / (12 * step))
    stacked = np.stack(columns, -1)
    return stacked.reshape(*stacked.shape[:-1], *x.shape[1:])


def unit(values):
    """v / ‖v‖ of each example."""
    flat = values.reshape(len(values), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def check_value_and_gradient(values, net, expected, name):
    """Value against an oracle, weight gradient against differences of the value: ≤ 1e-7."""
    function = tf.function(values, autograph=False)
    value = function()
    assert value.dtype == tf.float64
    if expected is not None:
        largest = np.abs(expected).max()
        value_error = np.abs(value - expected).max() / largest
        print(f"{name} value: {value_error:.1e}")
        assert value_error <= 1e-7

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(IMPORTANCE * values())
        sources = [v.value for v in net.trainable_variables]
        found = tape.gradient(total, sources, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in found]  # an embedding's are rows of a table

    numerical = [
        numerical_gradient(lambda: tf.reduce_sum(IMPORTANCE * function()), v)
        for v in net.trainable_variables
    ]
    error = worst_relative_error(gradients(), numerical)
    print(f"{name} weight gradient: {error:.1e}")
    assert error <= 1e-7
    return numerical
