"""Matching attention maps and the input-gradients of their peaks."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.transfer_cases import (
    check_value_and_gradient,
    derivative,
    filled,
    images,
    inner,
    student,
    teacher,
    unit,
)
from tfgrad import models
from tfgrad.errors import ArgumentError
from tfgrad.penalties import AttentionJacobianMatching, AttentionMatching, matching_layers

L = keras.layers

# From two positions to three, bilinear with half-pixel centres: at −1/6 (the edge), ½ and 7/6.
TWO_TO_THREE = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])

PENALTIES = {
    "squares": lambda: AttentionMatching(layers=[("conv1", "features")]),
    "sizes": lambda: AttentionMatching(layers=[("act1", "features"), ("act2", "deep")], power=1),
    "power": lambda: AttentionMatching(layers=[("act1", "features")], power=1.5),
    "student_smaller": lambda: AttentionMatching(layers=[("conv2", "features")]),
    "teacher_smaller": lambda: AttentionMatching(layers=[("conv1", "deep")]),
    "pixel": lambda: AttentionJacobianMatching(layers=[("conv1", "features")], window=None),
    "two_pairs": lambda: AttentionJacobianMatching(
        layers=[("conv1", "features"), ("act2", "deep")], window=0.5
    ),
    "whole": lambda: AttentionJacobianMatching(
        layers=[("act2", "deep_act")], window=1.0, power=1.5
    ),
}
WINDOWS = {"pixel": {3: 1}, "two_pairs": {3: 2, 2: 1}, "whole": {2: 2}}


@functools.lru_cache(maxsize=4)
def compiled(net, layer):
    return tf.function(inner(net, layer), autograph=False)


def attention(net, layer, power, x):
    return np.sum(np.abs(compiled(net, layer)(tf.constant(x))) ** power, -1)


def grown(maps, size):
    if maps.shape[1] == size:
        return maps
    return np.einsum("ij,bjk,lk->bil", TWO_TO_THREE, maps, TWO_TO_THREE)


def pooled(maps, window):
    """[batch, positions], stride 1 and no padding."""
    side = maps.shape[1] - window + 1
    parts = [
        maps[:, i : i + window, j : j + window].mean((1, 2))
        for i in range(side)
        for j in range(side)
    ]
    return np.stack(parts, 1)


def oracle(case, penalty, net, taught, x):
    total = 0
    for own, other in penalty.layers:
        if isinstance(penalty, AttentionMatching):
            a, b = (attention(m, n, penalty.power, x) for m, n in ((net, own), (taught, other)))
            size = max(a.shape[1], b.shape[1])
            total += np.linalg.norm(unit(grown(a, size)) - unit(grown(b, size)), axis=1)
            continue

        def pixels(x, m, n):
            maps = attention(m, n, penalty.power, x)
            return pooled(maps, WINDOWS[case][maps.shape[1]])

        peak = pixels(x, taught, other).argmax(1)
        each = np.arange(len(x))
        g, h = (
            derivative(lambda x, m=m, n=n, at=(each, peak): pixels(x, m, n)[at], x)
            for m, n in ((net, own), (taught, other))
        )
        total += np.sum((unit(g) - unit(h)) ** 2, 1)
    return total


@pytest.mark.diagonal
@pytest.mark.sample(3)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("case", PENALTIES)
def test_value_and_weight_gradient(float64, case, batch_norm):
    net, taught, penalty, x = student(batch_norm), teacher(), PENALTIES[case](), images()

    def values():
        return penalty.per_example(net, x, teacher=taught)

    check_value_and_gradient(values, net, oracle(case, penalty, net, taught, x), case)


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", ["squares", "two_pairs"])
def test_weight_gradient_through_batch_statistics(float64, case):
    net, taught, penalty, x = student(True), teacher(), PENALTIES[case](), images()

    def values():
        return penalty.per_example(net, x, teacher=taught, training=True)

    check_value_and_gradient(values, net, None, f"{case} in training")


def pixelwise(kernel, bias=0.0, name="net"):
    """One map A = (kernel · x + bias)², of channels at every position."""
    kernel = np.reshape(np.asarray(kernel, "float64"), (1, 1, -1, 1))
    net = keras.Sequential(
        [
            keras.Input((None, None, kernel.shape[2])),
            L.Conv2D(1, 1, name="map"),
            L.GlobalAveragePooling2D(),
            L.Dense(2),
        ],
        name=name,
    )
    net.get_layer("map").set_weights([kernel, np.array([bias])])
    return net


def of_size(net, *shape):
    return keras.Sequential([keras.Input(shape), *net.layers])


def test_a_toy_of_two_positions(float64):
    # Z_s = x and Z_t = x − 1 at x = (2, 1): maps (4, 1)/√17 and (1, 0), so that the squared
    # distance is 2 − 8/√17.
    net, taught = pixelwise([1.0]), pixelwise([1.0], -1.0)
    x = np.array([2.0, 1.0]).reshape(1, 1, 2, 1)
    penalty = AttentionMatching(layers=["map"])
    value = penalty.per_example(of_size(net, 1, 2, 1), x, teacher=of_size(taught, 1, 2, 1))
    np.testing.assert_allclose(value, [np.sqrt(2 - 8 / np.sqrt(17))], rtol=1e-12)
    # Sums of absolute values: (2, 1)/√5 and (1, 0).
    value = AttentionMatching(layers=["map"], power=1).per_example(
        of_size(net, 1, 2, 1), x, teacher=of_size(taught, 1, 2, 1)
    )
    np.testing.assert_allclose(value, [np.sqrt(2 - 4 / np.sqrt(5))], rtol=1e-12)


@pytest.mark.parametrize(("order", "expected"), [((1, -1), 2 - 2**0.5), ((-1, 1), 2 + 2**0.5)])
def test_the_teacher_s_first_peak_serves_both(float64, order, expected):
    """A_s = x₁², A_t = (x₁ + x₂)². The teacher's map has 4 at two positions.

    The student's gradient points along (sign x₁, 0), the teacher's along
    (x₁ + x₂)(1, 1). At (1, 1) that is 2 − √2; at (1, −3), where the sum is −2, it is 2 + √2. The
    student's own peak is at (5, −5), where the teacher's gradient is zero.
    """
    pixel = {1: [1.0, 1.0], -1: [1.0, -3.0]}
    x = np.array([[5.0, -5.0], pixel[order[0]], pixel[order[1]], [0.5, 0.2]]).reshape(1, 2, 2, 2)
    net = of_size(pixelwise([1.0, 0.0]), 2, 2, 2)
    taught = of_size(pixelwise([1.0, 1.0]), 2, 2, 2)
    penalty = AttentionJacobianMatching(layers=["map"], window=None)
    np.testing.assert_allclose(penalty.per_example(net, x, teacher=taught), [expected], rtol=1e-12)


@pytest.mark.parametrize(
    ("height", "width", "window", "sides"),
    [
        # max(1, round(window · side)) per axis, halves up.
        (14, 14, 0.2, (3, 3)),
        (14, 14, 1 / 3, (5, 5)),
        (14, 14, 1 / 7, (2, 2)),
        (14, 14, None, (1, 1)),
        (14, 7, 1.0, (14, 7)),
        (5, 10, 0.5, (3, 5)),
        (4, 4, 0.01, (1, 1)),
        (4, 8, 0.2, (1, 2)),
    ],
)
def test_the_window(float64, height, width, window, sides):
    """A_s = x² and A_t = (x + 1)² have gradients x and x + 1 over the window, zero elsewhere."""
    x = np.random.default_rng(5).normal(size=(2, height, width, 1))
    net, taught = of_size(pixelwise([1.0]), height, width, 1), pixelwise([1.0], 1.0)
    penalty = AttentionJacobianMatching(layers=["map"], window=window)
    value = penalty.per_example(net, x, teacher=of_size(taught, height, width, 1))
    for example, got in zip(x[..., 0], value, strict=True):
        best = max(
            (
                np.mean((example[i : i + sides[0], j : j + sides[1]] + 1) ** 2),
                example[i : i + sides[0], j : j + sides[1]].ravel(),
            )
            for i in range(height - sides[0] + 1)
            for j in range(width - sides[1] + 1)
        )[1]
        cosine = best @ (best + 1) / np.linalg.norm(best) / np.linalg.norm(best + 1)
        np.testing.assert_allclose(got, 2 - 2 * cosine, rtol=1e-10, atol=1e-14)


# Zeros


@pytest.mark.diagonal
@pytest.mark.parametrize("dead", ["student", "teacher", "both"])
@pytest.mark.parametrize("power", [2, 1, 1.5, 0.5])
@pytest.mark.parametrize("cls", [AttentionMatching, AttentionJacobianMatching])
def test_maps_of_zeros(cls, power, dead):
    """A ReLU network that is off has no direction: the distance is 1, or 0 if both are off."""

    def network(off, seed):
        net = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                L.Conv2D(2, 2, activation="relu", name="map"),
                L.GlobalAveragePooling2D(),
                L.Dense(2),
            ]
        )
        filled(net, seed)
        net.get_layer("map").bias.assign([-99.0, -99.0] if off else [9.0, 8.0])
        return net

    net = network(dead != "teacher", 1)
    taught = network(dead != "student", 2)
    with tf.GradientTape() as tape:
        value = cls(layers=["map"], power=power).per_example(
            net, images().astype("float32"), teacher=taught
        )
    np.testing.assert_allclose(value, [float(dead != "both")] * 3, atol=1e-6)
    gradients = tape.gradient(
        value, [v.value for v in net.trainable_variables], unconnected_gradients="zero"
    )
    assert all(np.isfinite(g).all() for g in gradients)


def test_some_units_off(float64):
    """Powers other than 1 and 2 have no derivative at a ReLU's zeros, and need none."""
    net, taught = student(activation="relu"), teacher()
    for power in (0.5, 1.5):
        assert (inner(net, "act1")(images()).numpy() == 0).any()
        for cls in (AttentionMatching, AttentionJacobianMatching):
            with tf.GradientTape() as tape:
                value = cls(layers=[("act1", "features")], power=power).per_example(
                    net, images(), teacher=taught
                )
            gradient = tape.gradient(value, net.trainable_variables[0].value)
            assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_a_student_that_is_the_teacher(float64):
    net = student()
    for cls in (AttentionMatching, AttentionJacobianMatching):
        with tf.GradientTape() as tape:
            value = cls(layers=["conv1"]).per_example(net, images(), teacher=net)
        np.testing.assert_array_equal(value, [0, 0, 0])
        assert np.isfinite(tape.gradient(value, net.trainable_variables[0].value)).all()


# Which networks


def test_teachers_of_other_classes_with_probabilities_and_layer_norm():
    """Maps are compared, no logits, and their gradients only by one of the two penalties."""
    taught = keras.Sequential([teacher(classes=7), L.Softmax()])
    net = student()
    x = images().astype("float32")
    for cls in (AttentionMatching, AttentionJacobianMatching):
        value = cls(layers=[("conv1", "features")]).per_example(net, x, teacher=taught)
        assert (value.numpy() > 0).all()
    normed = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            L.Conv2D(2, 2, name="conv1"),
            L.LayerNormalization(),
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ]
    )
    value = AttentionMatching(layers=[("conv1", "features")]).per_example(normed, x, teacher=taught)
    assert (value.numpy() > 0).all()
    with pytest.raises(ValueError, match=r"use tfgrad\.layers\.LayerNormalization"):
        AttentionJacobianMatching(layers=[("conv1", "features")]).per_example(
            normed, x, teacher=taught
        )


def test_a_layer_called_twice_and_a_nested_network(float64):
    inputs = keras.Input((4, 4, 1))
    conv, head = L.Conv2D(1, 2, padding="same", name="conv"), L.Dense(3)
    h = conv(L.Activation("softplus")(conv(inputs)))
    shared = filled(keras.Model(inputs, head(L.GlobalAveragePooling2D()(h))), 4)
    nested = keras.Sequential([keras.Input((4, 4, 1)), shared])
    last = np.sum(np.asarray(keras.Model(inputs, h)(images())) ** 2, -1)
    said = attention(teacher(), "wide", 2, images())
    expected = np.linalg.norm(unit(last) - unit(said), axis=1)
    for net in (shared, nested):
        penalty = AttentionMatching(layers=[("conv:1", "wide")])
        np.testing.assert_allclose(
            penalty.per_example(net, images(), teacher=teacher()), expected, rtol=1e-12
        )
    message = (
        r"layers: got 'wide:1', which network 'teacher' did not call.*; expected one of \['wide'\]"
    )
    with pytest.raises(ArgumentError, match=message):
        AttentionMatching(layers=[("conv:1", "wide:1")]).per_example(
            nested, images(), teacher=teacher()
        )


def test_matching_layers(capsys):
    vgg = models.vgg(4, (8, 8, 1), 3, width=0.1, name="v")
    resnet = models.get("resnet9", (8, 8, 1), 3, width=0.1)
    pairs = matching_layers(vgg, resnet)
    maps = [
        [inner(net, name).output_shape[1:3] for name in names]
        for net, names in zip((vgg, resnet), zip(*pairs, strict=True), strict=True)
    ]
    assert maps[0] == maps[1] == [(8, 8), (4, 4), (2, 2)]
    assert [s for s, _ in pairs] == ["act1", "act2", "act3"]
    printed = capsys.readouterr().out
    assert printed.count("learns from") == 3 and f"v/act1 learns from {resnet.name}/" in printed
    assert matching_layers(vgg, resnet, count=1, verbose=False) == pairs[:1]
    assert capsys.readouterr().out == ""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    for cls in (AttentionMatching, AttentionJacobianMatching):
        assert np.isfinite(cls(layers=pairs).per_example(vgg, x, teacher=resnet)).all()
    nested = keras.Sequential([keras.Input((8, 8, 1)), vgg])
    assert matching_layers(nested, resnet, verbose=False) == pairs
    biased = matching_layers(vgg, resnet, kind="bias", verbose=False)
    assert [s for s, _ in biased] == ["conv1", "conv2", "conv3"]


def test_matching_layers_of_no_common_size():
    with pytest.raises(
        ArgumentError, match=r"got 'student' with maps of 3x3, 2x2 and 'teacher' with"
    ):
        matching_layers(student(), teacher(shape=(9, 9, 1)))
    with pytest.raises(ArgumentError, match="kind: got 'maps'; expected one of 'attention', 'bia"):
        matching_layers(student(), teacher(), kind="maps")


# What is refused


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            ["conv3"],
            r"layers: got 'conv3'; network 'student' has no layer named 'conv3'; did you mean",
        ),
        ([("conv1", "featurs")], r"network 'teacher' has no layer named 'featurs'; did you mean"),
        (
            [("pool", "deep")],
            r"layers: got 'pool' of network 'student', which has outputs of shape \(3, 2\)",
        ),
        (
            [("conv1", "flat")],
            r"layers: got 'flat' of network 'teacher', which has outputs of shape \(3, 8\)",
        ),
        ([("conv1:1", "deep")], r"layers: got 'conv1:1', which network 'student' did not call"),
    ],
)
@pytest.mark.parametrize("cls", [AttentionMatching, AttentionJacobianMatching])
def test_layers_that_are_not_there_or_no_maps(cls, layers, message):
    with pytest.raises(ArgumentError, match=message):
        cls(layers=layers).per_example(student(), images().astype("float32"), teacher=teacher())


def test_maps_that_do_not_fit():
    net, taught = (
        keras.Sequential([keras.Input((4, 4, 1)), L.Conv2D(1, k, name="map"), *tail()], name=n)
        for k, n in (((1, 3), "s"), ((3, 1), "t"))
    )
    x = images().astype("float32")
    message = r"layers: got \('map', 'map'\), whose maps have sizes \(4, 2\) and \(2, 4\)"
    with pytest.raises(ArgumentError, match=message + ", of which neither is the smaller"):
        AttentionMatching(layers=["map"]).per_example(net, x, teacher=taught)
    with pytest.raises(ArgumentError, match=message + "; expected equal sizes"):
        AttentionJacobianMatching(layers=["map"]).per_example(net, x, teacher=taught)


def tail():
    return [L.GlobalAveragePooling2D(), L.Dense(2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"layers: got \(\); expected a list of layer names, or of \(student, teacher\)"),
        ({"layers": []}, r"layers: got \[\]"),
        ({"layers": [("a", "b", "c")]}, r"layers: got \('a', 'b', 'c'\) among them"),
        ({"layers": [3]}, "layers: got 3 among them"),
        ({"layers": ["a"], "power": 0}, "power: got 0; expected a finite number above 0"),
        ({"layers": ["a"], "window": 0}, r"window: got 0; expected a fraction .* \(0, 1\]"),
        ({"layers": ["a"], "window": 1.5}, "window: got 1.5"),
        ({"layers": ["a"], "window": "full"}, "window: got 'full'"),
        ({"layers": ["a"], "window": True}, "window: got True"),
    ],
)
def test_arguments(options, message):
    cls = AttentionJacobianMatching if "window" in options else AttentionMatching
    with pytest.raises(ArgumentError, match=message):
        cls(**options)
