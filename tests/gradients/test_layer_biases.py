"""Which pre-activation and which bias a bias-gradient is of."""

import keras
import numpy as np
import pytest

from tests.helpers.transfer_cases import LABELS, filled, images, student
from tfgrad import full_gradients, layers
from tfgrad.errors import ArgumentError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.penalties import BiasGradientNorm

L = keras.layers
BOTH = ["conv1", "conv2"]


def bias_gradients(net, names, x, target="label"):
    probe = Probe(net, x, LABELS, needs=Needs(biases=tuple(names)))
    return {n: g.numpy() for n, g in probe.bias_gradients(target).items()}


def test_a_block_is_the_sum_of_its_full_gradients(float64):
    """∇_z f ⊙ b of a block = the terms of its convolution and of its norm."""
    net, x = student(batch_norm=True), images()
    terms = full_gradients(net, x, LABELS).bias_gradients
    mine = bias_gradients(net, [*BOTH, "norm1", "head"], x)
    for i in (1, 2):
        np.testing.assert_allclose(
            mine[f"conv{i}"], terms[f"conv{i}"] + terms[f"norm{i}"], rtol=1e-9, atol=1e-12
        )
    np.testing.assert_allclose(mine["norm1"], terms["norm1"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mine["head"], terms["head"], rtol=1e-12)


def branched(second):
    """A convolution whose output a batch norm reads, and perhaps something else."""
    inputs = keras.Input((4, 4, 1))
    h = L.Conv2D(2, 2, name="conv")(inputs)
    normed = layers.BatchNormalization(name="norm")(h)
    if second == "layer":
        out = L.Add()([normed, L.Activation("tanh")(h)])
    elif second == "operation":
        out = normed + keras.ops.tanh(h)
    elif second == "norm":
        out = L.Add()([normed, layers.BatchNormalization(name="other")(h)])
    else:
        out = normed
    out = L.Dense(3, name="head")(L.GlobalAveragePooling2D()(L.Activation("softplus")(out)))
    return filled(keras.Model(inputs, out), 7)


@pytest.mark.parametrize("second", ["layer", "operation", "norm"])
def test_a_convolution_that_is_read_twice_is_no_block(float64, second):
    net, x = branched(second), images()
    terms = full_gradients(net, x, LABELS).bias_gradients
    mine = bias_gradients(net, ["conv", "norm"], x)
    for name in ("conv", "norm"):
        np.testing.assert_allclose(mine[name], terms[name], rtol=1e-9, atol=1e-12)
    alone, terms = branched(None), full_gradients(branched(None), x, LABELS).bias_gradients
    block = bias_gradients(alone, ["conv"], x)["conv"]
    np.testing.assert_allclose(block, terms["conv"] + terms["norm"], rtol=1e-9, atol=1e-12)


def test_calls_and_nested_networks(float64):
    """`conv:1` is the second call; each has a gradient of its own. A nested model changes none."""
    inputs = keras.Input((4, 4, 1))
    conv, norm = L.Conv2D(1, 2, padding="same", name="conv"), layers.BatchNormalization(name="n")
    h = L.Activation("softplus")(norm(conv(inputs)))
    h = L.Activation("softplus")(norm(conv(h)))
    shared = filled(keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(h))), 8)
    x = images()
    terms = full_gradients(shared, x, LABELS).bias_gradients
    nested = keras.Sequential([keras.Input((4, 4, 1)), shared])
    for net in (shared, nested):
        mine = bias_gradients(net, ["conv"], x)
        assert list(mine) == ["conv", "conv:1"]
        for call in ("", ":1"):
            np.testing.assert_allclose(
                mine[f"conv{call}"], terms[f"conv{call}"] + terms[f"n{call}"], rtol=1e-9
            )
        value = BiasGradientNorm(layers=["conv:1"]).per_example(net, x, LABELS)
        np.testing.assert_allclose(value, np.sum(mine["conv:1"] ** 2, (1, 2, 3)), rtol=1e-12)


def test_a_layer_that_the_logit_does_not_read(float64):
    inputs = keras.Input((4,))
    a, b = L.Dense(1, name="a")(inputs), L.Dense(1, name="b")(inputs)
    net = filled(keras.Model(inputs, L.Concatenate()([a, b])), 9)
    penalty = BiasGradientNorm(layers=["a"], target=1)
    np.testing.assert_array_equal(penalty.per_example(net, np.ones((2, 4))), [0, 0])


# What is refused


def one_convolution(*rest, **options):
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            L.Conv2D(2, 2, name="conv", **options),
            *rest,
            L.Flatten(),
            L.Dense(3),
        ]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: one_convolution(use_bias=False),
            "got 'conv', which has no bias, and no batch norm alone",
        ),
        (
            lambda: one_convolution(layers.BatchNormalization(renorm=True, name="norm")),
            "got 'norm' with renorm=True",
        ),
    ],
)
def test_biases_that_are_not_known(make, message):
    x = images().astype("float32")
    with pytest.raises(ArgumentError, match=message):
        BiasGradientNorm(layers=["conv"]).per_example(make(), x, LABELS, training=True)
