"""Penalties on ∇_z f ⊙ b: of convolutions, dense layers and blocks with batch norm."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.transfer_cases import (
    IMPORTANCE,
    LABELS,
    check_value_and_gradient,
    derivative,
    filled,
    images,
    student,
    teacher,
    unit,
)
from tests.helpers.variants import with_slow
from tfgrad import layers
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.penalties import BiasGradientMatching, BiasGradientNorm

L = keras.layers
BOTH = ["conv1", "conv2"]

NORMS = {
    "convolutions": BiasGradientNorm(layers=BOTH),
    "dense": BiasGradientNorm(layers=["head", "conv2"], target="predicted"),
    "class": BiasGradientNorm(layers=["conv1"], target=1),
}
MATCHES = {
    "equal_maps": BiasGradientMatching(layers=[("conv1", "features"), ("conv2", "deep")]),
    "predicted": BiasGradientMatching(layers=[("conv1", "features")], target="predicted"),
    "ints": BiasGradientMatching(layers=[("conv1", "features")], target=[0, -1, 2]),
}


# The oracle: f after the layer, by differences in z


def run(layer, h, training):
    if training and isinstance(layer, L.BatchNormalization):
        return normalized(layer, h, training)[0]
    return np.asarray(layer(h, training=False))


def normalized(norm, h, training):
    """The norm's output, and γ/√(v + ε) and β − γμ/√(v + ε)."""
    if training:
        mean, variance = h.mean((0, 1, 2)), h.var((0, 1, 2))
    else:
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    scale = norm.gamma.numpy() / np.sqrt(variance + norm.epsilon)
    shift = norm.beta.numpy() - scale * mean
    return h * scale + shift, scale, shift


def bias_gradient(net, name, x, classes, training=False):
    """∇_z f ⊙ b of a layer of a Sequential network, and of its block with a batch norm."""
    names = [layer.name for layer in net.layers]
    at = names.index(name)
    h = x
    for layer in net.layers[:at]:
        h = run(layer, h, training)
    layer, rest = net.layers[at], net.layers[at + 1 :]
    twin = type(layer).from_config({**layer.get_config(), "activation": None})
    twin.build(h.shape)
    twin.set_weights(layer.get_weights())
    z, b = np.asarray(twin(h)), layer.bias.numpy() if layer.use_bias else 0.0
    if rest and isinstance(rest[0], L.BatchNormalization):
        z, scale, shift = normalized(rest[0], z, training)
        b, rest = b * scale + shift, rest[1:]

    def f(z):
        h = layer.activation(z)
        for following in rest:
            h = run(following, h, training)
        return np.asarray(h)[np.arange(len(x)), classes]

    return derivative(f, z) * b


def oracle(penalty, net, x, training=False, taught=None):
    own = np.asarray(net(x)).argmax(1)
    said = own if taught is None else np.asarray(taught(x)).argmax(1)
    if isinstance(penalty.target, str):
        classes = {"label": LABELS, "predicted": said}[penalty.target]
    else:
        classes = np.broadcast_to(penalty.target, 3)
        classes = np.where(classes < 0, said, classes)
    total = 0
    for entry in penalty.layers:
        if taught is None:
            squares = bias_gradient(net, entry, x, classes, training) ** 2
            total += squares.reshape(len(x), -1).sum(1)
        else:
            s = bias_gradient(net, entry[0], x, classes, training).sum(-1)
            t = bias_gradient(taught, entry[1], x, classes).sum(-1)
            total += np.sum((unit(s) - unit(t)) ** 2, 1)
    return total


@pytest.mark.diagonal
@pytest.mark.sample(2)
@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "blocks"])
@pytest.mark.parametrize("case", NORMS)
def test_norm(float64, case, batch_norm):
    net, penalty, x = student(batch_norm), NORMS[case], images()

    def values():
        return penalty.per_example(net, x, LABELS)

    check_value_and_gradient(values, net, oracle(penalty, net, x), f"norm {case}")


@pytest.mark.parametrize(
    ("case", "batch_norm"),
    with_slow(
        [("predicted", False), ("equal_maps", True)],
        [
            *((case, False) for case in MATCHES if case != "predicted"),
            *((case, True) for case in MATCHES if case != "equal_maps"),
        ],
    ),
)
def test_matching(float64, case, batch_norm):
    net, taught, penalty, x = student(batch_norm), teacher(), MATCHES[case], images()

    def values():
        return penalty.per_example(net, x, LABELS, teacher=taught)

    expected = oracle(penalty, net, x, taught=taught)
    check_value_and_gradient(values, net, expected, f"matching {case}")


@pytest.mark.long
@pytest.mark.parametrize(
    "matching", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["norm", "matching"]
)
def test_blocks_in_training(float64, matching):
    """μ and v are the batch's, and are differentiated: by γ, β, kernels and the conv's own bias."""
    net, x = student(batch_norm=True), images()
    penalty = MATCHES["equal_maps"] if matching else NORMS["convolutions"]
    taught = {"teacher": teacher()} if matching else {}

    def values(penalty=penalty):
        return penalty.per_example(net, x, LABELS, training=True, **taught)

    numerical = check_value_and_gradient(values, net, None, f"training matching={matching}")
    paths = [v.path.split("/", 1)[1] for v in net.trainable_variables]
    largest = max(np.abs(g).max() for g in numerical)
    sizes = {p: np.abs(g).max() / largest for p, g in zip(paths, numerical, strict=True)}
    moved = {p for p, size in sizes.items() if size > 1e-6}
    # z is x's conv output less its mean, and so is b: the conv's bias leaves both.
    assert moved == set(paths) - {"conv1/bias", "conv2/bias", "head/bias"}
    # The last block has nothing after it that couples the examples.
    if matching:
        last = BiasGradientMatching(layers=[("conv2", "deep")])
        expected = oracle(last, net, x, True, taught["teacher"])
    else:
        last = BiasGradientNorm(layers=["conv2", "head"])
        expected = oracle(last, net, x, True)
    np.testing.assert_allclose(values(last), expected, rtol=1e-7)
    inference = last.per_example(net, x, LABELS, **taught)
    assert np.abs(inference - expected).max() > 1e-3


@pytest.mark.long
def test_fused_activations_and_no_bias(float64):
    """z is the pre-activation; a block needs no bias of the convolution's own."""
    net = filled(
        keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                L.Conv2D(2, 2, activation="softplus", name="fused"),
                L.Conv2D(2, 2, use_bias=False, name="bare"),
                layers.BatchNormalization(name="norm"),
                L.Activation("tanh"),
                L.Flatten(),
                L.Dense(4, activation="softplus", name="hidden"),
                L.Dense(3, name="head"),
            ]
        ),
        5,
    )
    penalty, x = BiasGradientNorm(layers=["fused", "bare", "hidden"]), images()
    values = lambda: penalty.per_example(net, x, LABELS)  # noqa: E731
    check_value_and_gradient(values, net, oracle(penalty, net, x), "fused")


def test_maps_of_unequal_size(float64):
    """The smaller one, 2×2, is resized to 3×3 whoever it is of."""
    grow = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    net, taught, x = student(), teacher(), images()
    for own, other in (("conv2", "features"), ("conv1", "deep")):
        s = bias_gradient(net, own, x, LABELS).sum(-1)
        t = bias_gradient(taught, other, x, LABELS).sum(-1)
        s, t = (
            np.einsum("ij,bjk,lk->bil", grow, m, grow) if m.shape[1] == 2 else m for m in (s, t)
        )
        value = BiasGradientMatching(layers=[(own, other)]).per_example(
            net, x, LABELS, teacher=taught
        )
        np.testing.assert_allclose(value, np.sum((unit(s) - unit(t)) ** 2, 1), rtol=1e-6)


# Closed forms


def test_norm_of_a_toy(float64):
    # f_0 = 3 relu(2x₁ + 1) + relu(x₂ − 1), f_1 = −f_0, at (1, 3): both units on, ∇_z f ⊙ b =
    # (3 · 1, 1 · −1) and 9 + 1. At (1, 0) the second is off: 9. The head's own bias (2, −2) is
    # added where the logit is: 4.
    net = keras.Sequential(
        [
            keras.Input((2,)),
            L.Dense(2, activation="relu", name="units"),
            L.Dense(2, name="head"),
        ]
    )
    net.set_weights(
        [
            np.array([[2.0, 0.0], [0.0, 1.0]]),
            np.array([1.0, -1.0]),
            np.array([[3.0, -3.0], [1.0, -1.0]]),
            np.array([2.0, -2.0]),
        ]
    )
    x, y = np.array([[1.0, 3.0], [1.0, 0.0]]), np.array([0, 1])
    for names, expected in (
        (["units"], [10, 9]),
        (["head"], [4, 4]),
        (["units", "head"], [14, 13]),
    ):
        value = BiasGradientNorm(layers=names).per_example(net, x, y)
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_matching_of_a_toy(float64):
    """Two positions; f reads them with weights (3, 4) in the student and (1, 0) in the teacher.

    With b = 1 the maps are (3, 4) and (1, 0), or their negatives for class 1: (0.6 − 1)² + 0.8².
    """

    def network(weights):
        net = keras.Sequential(
            [
                keras.Input((1, 2, 1)),
                L.Conv2D(1, 1, name="conv"),
                L.Flatten(),
                L.Dense(2, use_bias=False),
            ]
        )
        w = np.array(weights)
        net.set_weights([np.ones((1, 1, 1, 1)), np.ones(1), np.stack([w, -w], 1)])
        return net

    value = BiasGradientMatching(layers=["conv"]).per_example(
        network([3.0, 4.0]), np.zeros((2, 1, 2, 1)), np.array([0, 1]), teacher=network([1.0, 0.0])
    )
    np.testing.assert_allclose(value, [0.8, 0.8], rtol=1e-12)


def test_noise_on_biases_is_the_penalty(float64):
    """Prop. 10 on an affine network: E(f(b ⊙ (1 + ε)) − f)² = σ² Σ(∇f ⊙ b)², ε = ±σ√D e_i."""
    net = filled(keras.Sequential([keras.Input((3,)), L.Dense(4, name="a"), L.Dense(2)]), 6)
    x, sigma, bias = np.ones((1, 3)), 0.3, net.get_layer("a").bias
    clean, b = net(x)[0, 1].numpy(), bias.numpy()
    squares = []
    for e in sigma * 2 * np.concatenate([np.eye(4), -np.eye(4)]):
        bias.assign(b * (1 + e))
        squares.append((net(x)[0, 1].numpy() - clean) ** 2)
    bias.assign(b)
    penalty = BiasGradientNorm(layers=["a"], target=1).per_example(net, x)[0]
    np.testing.assert_allclose(np.mean(squares), sigma**2 * penalty, rtol=1e-9)


# Zeros


@pytest.mark.parametrize("dead", ["student", "teacher", "both"])
def test_maps_of_zeros(dead):
    """No bias, or a network that is off, has no direction: 1, or 0 if both have none."""

    def network(off, seed):
        net = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                L.Conv2D(2, 2, activation="relu", name="conv"),
                L.GlobalAveragePooling2D(),
                L.Dense(3),
            ]
        )
        filled(net, seed)
        net.get_layer("conv").bias.assign([-99.0, -99.0] if off else [9.0, 8.0])
        return net

    net, taught = network(dead != "teacher", 1), network(dead != "student", 2)
    with tf.GradientTape() as tape:
        value = BiasGradientMatching(layers=["conv"]).per_example(
            net, images().astype("float32"), LABELS, teacher=taught
        )
        total = tf.reduce_sum(IMPORTANCE.astype("float32") * value)
    np.testing.assert_allclose(value, [float(dead != "both")] * 3, atol=1e-6)
    gradients = tape.gradient(
        total, [v.value for v in net.trainable_variables], unconnected_gradients="zero"
    )
    assert all(np.isfinite(g).all() for g in gradients)


# What is refused


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (BiasGradientNorm(layers=["conv3"]), "has no layer named 'conv3'; did you mean 'conv"),
        (BiasGradientNorm(layers=["pool"]), "'pool' of network 'student', a GlobalAveragePool"),
        (
            BiasGradientNorm(layers=["conv1:1"]),
            "got 'conv1:1', which network 'student' did not call",
        ),
        (BiasGradientMatching(layers=[("conv1", "x")]), "network 'teacher' has no layer named 'x'"),
        (
            BiasGradientMatching(layers=[("head", "deep")]),
            r"got 'head' of network 'student', .* bias-gradients of shape \(3, 3\); expected maps",
        ),
        (BiasGradientMatching(layers=[("conv1", "flat")]), "'flat' of network 'teacher', a Flat"),
    ],
)
def test_layers_that_will_not_do(penalty, message):
    taught = {} if isinstance(penalty, BiasGradientNorm) else {"teacher": teacher()}
    with pytest.raises(ArgumentError, match=f"layers: .*{message}"):
        penalty.per_example(student(), images().astype("float32"), LABELS, **taught)


def test_a_teacher_that_ends_in_softmax():
    taught = keras.Sequential([teacher(), L.Softmax()], name="t")
    with pytest.raises(ModelError, match=r"teacher 't': .*returns probabilities"):
        MATCHES["equal_maps"].per_example(
            student(), images().astype("float32"), LABELS, teacher=taught
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BiasGradientNorm(), r"layers: got \(\); expected a list of layer names"),
        (lambda: BiasGradientNorm(layers=[("a", "b")]), r"layers: got \[\('a', 'b'\)\]"),
        (lambda: BiasGradientNorm(layers=["a"], target="all"), "target: got 'all'"),
        (lambda: BiasGradientMatching(layers=["a"], target="all"), "target: got 'all'"),
        (lambda: BiasGradientMatching(layers=[]), r"layers: got \[\]"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
