"""The bound of Prop. 3, against numbers worked out by hand and against all pairs at once."""

import math
import sys

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation import TransferBound, transfer_bound

module = sys.modules[transfer_bound.__module__]


def linear(kernel, name=None, layer=None):
    kernel = np.array(kernel, "float32")
    network = keras.Sequential(name=name)
    network.add(keras.Input(kernel.shape[:1]))
    network.add(keras.layers.Dense(kernel.shape[1], use_bias=False, name=layer))
    network.set_weights([kernel])
    return network


# Images of two pixels; the mismatch is |x₁| + 2 |x₂|, whose Lipschitz constant in ℓ1 is 2.
STUDENT, TEACHER = linear([[1, 0], [0, 2]]), linear([[0, 0], [0, 0]])
SOURCE = np.array([[0, 0], [3, 0], [0, 2]], "float32")  # ρ = 0, 3, 4
TARGET = np.array([[1, 0], [0, 1]], "float32")  # ρ = 1, 2; 1, 2 and 1 from the source


def bound(source=SOURCE, target=TARGET, student=STUDENT, teacher=TEACHER, **arguments):
    return transfer_bound(student, teacher, source, target, **arguments)


# Numbers


def test_by_hand():
    result = bound()
    assert result == TransferBound(
        source_mean=pytest.approx(7 / 3),
        target_mean=1.5,
        target_max=2.0,
        hausdorff=2.0,
        lipschitz=2.0,
        empirical=True,
        gradient=2.0,
        space="pixels",
        images=(3, 2),
    )
    assert result.bound == 6.0 and result.holds


def test_the_distance_is_not_symmetric():
    source, target = [[0.0, 0.0]], [[0.0, 1.0], [10.0, 10.0]]
    assert bound(source, target).hausdorff == 1.0
    assert bound(target, source).hausdorff == 20.0


def test_a_given_constant_can_be_too_small():
    result = bound(lipschitz=0)
    assert (result.lipschitz, result.bound, result.empirical) == (0.0, 2.0, False)
    assert result.hausdorff == 2.0
    assert not result.holds
    assert bound(lipschitz=np.float32(1 / 6 + 1e-6)).holds  # 2 + 2/6 = 7/3
    assert not bound(lipschitz=1 / 6 - 1e-6).holds


def test_in_the_space_of_a_model():
    result = bound(features=linear([[10, 0], [0, 10]], name="tenfold"))
    assert (result.hausdorff, result.lipschitz) == (20.0, pytest.approx(0.2))
    assert (result.gradient, result.space) == (None, "tenfold")
    assert result.bound == pytest.approx(6.0) and result.holds


def test_in_the_space_of_the_teachers_layer_and_not_the_students_namesake():
    student = keras.Sequential([linear([[1, 0], [0, 2]], layer="f").layers[0]])
    teacher = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, name="f"), keras.layers.Dense(2)]
    )
    zero = np.zeros(2, "float32")
    teacher.set_weights([3 * np.eye(2, dtype="float32"), zero, np.zeros((2, 2), "float32"), zero])
    result = bound(student=student, teacher=teacher, features="f")
    assert (result.hausdorff, result.lipschitz) == (6.0, pytest.approx(2 / 3))
    assert result.bound == pytest.approx(6.0)
    assert result.space == "f"


def test_feature_maps_are_flattened():
    def network(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                keras.layers.Conv2D(3, 3, name="conv"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )

    student, teacher = network(0), network(1)
    x = np.random.default_rng(0).normal(size=(7, 6, 6, 2)).astype("float32")
    result = bound(x[:4], x[4:], student, teacher, features="conv", batch_size=3)
    maps = teacher.layers[0](x).numpy().reshape(7, -1)
    rho = np.abs(student(x).numpy() - teacher(x).numpy()).sum(1)
    expected = brute_force(maps, rho, 4)
    assert (result.hausdorff, result.lipschitz) == pytest.approx(expected, rel=1e-5)
    assert result.source_mean == pytest.approx(rho[:4].mean(), rel=1e-5)
    assert bound(x[:4], x[4:], student, teacher).gradient > 0


def brute_force(points, rho, cut):
    """(H_a, K) from every pair."""
    distance = np.abs(points[:, None].astype("float64") - points).sum(-1)
    change = np.abs(rho[:, None] - rho)
    different = distance > 0
    slope = np.max(change[different] / distance[different]) if different.any() else 0.0
    return distance[:cut, cut:].min(1).max(), slope


points = st.lists(st.tuples(*[st.integers(-8, 8).map(lambda n: n / 4)] * 2), min_size=1, max_size=7)


@pytest.fixture(scope="module")
def small_blocks():
    before, module._BLOCK = module._BLOCK, 3
    yield
    module._BLOCK = before


@pytest.mark.slow
@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(source=points, target=points, more=points)
def test_any_sets_block_by_block_and_the_corollary(small_blocks, source, target, more):
    arrays = [np.array(s, "float32") for s in (source, target, more)]
    result = bound(*arrays[:2], batch_size=4)
    everything = np.concatenate(arrays[:2])
    rho = np.abs(everything) @ [1.0, 2.0]
    expected = brute_force(everything, rho, len(source))
    assert (result.hausdorff, result.lipschitz) == pytest.approx(expected, abs=1e-12)
    assert result.source_mean == pytest.approx(rho[: len(source)].mean())
    assert result.target_max == rho[len(source) :].max()
    assert result.lipschitz <= 2.0 and result.holds
    # The corollary: more target images never lie farther away.
    larger = bound(arrays[0], np.concatenate(arrays[1:]), lipschitz=2.0)
    assert larger.hausdorff <= result.hausdorff
    assert larger.holds


def test_noisy_copies_of_the_target_tighten_the_distance():
    random = np.random.default_rng(0)
    source, target = random.normal(size=(40, 2)), random.normal(size=(5, 2))
    noisy = np.concatenate([target, *(target + 0.3 * random.normal(size=(8, 5, 2)))])
    before, after = (bound(source, t, lipschitz=2.0) for t in (target, noisy))
    assert after.hausdorff < before.hausdorff


# Duplicates, and distances of zero


def test_duplicates_are_counted_and_have_no_slope():
    twice = np.concatenate([SOURCE, SOURCE[1:2], TARGET[:1]])
    result = bound(twice, np.concatenate([TARGET, TARGET]))
    assert result.images == (5, 4)
    assert result.source_mean == pytest.approx((0 + 3 + 4 + 3 + 1) / 5)
    assert (result.hausdorff, result.lipschitz, result.target_mean) == (2.0, 2.0, 1.5)


def test_one_and_the_same_image():
    result = bound(SOURCE[1:2], SOURCE[1:2])
    assert (result.hausdorff, result.lipschitz, result.bound) == (0.0, 0.0, 3.0)
    assert result.holds
    assert bound([[0.0, -0.0]], [[-0.0, 0.0]]).hausdorff == 0.0


def test_a_source_inside_the_target_is_bounded_by_the_maximum():
    result = bound(SOURCE, np.concatenate([TARGET, SOURCE]))
    assert (result.hausdorff, result.bound, result.target_max) == (0.0, 4.0, 4.0)


def test_features_blind_to_what_the_loss_sees_have_no_constant():
    blind = linear([[1], [0]], name="first_pixel")
    result = bound(features=blind)
    assert result.hausdorff == 2.0
    assert result.lipschitz == result.bound == math.inf
    assert result.holds
    # Nothing lies outside the target, so the constant does not matter.
    inside = bound(SOURCE[:1], TARGET[1:], features=blind)
    assert (inside.hausdorff, inside.lipschitz, inside.bound) == (0.0, math.inf, 2.0)


def test_features_blind_to_what_the_loss_does_not_see_either_are_harmless():
    student = linear([[1, 1], [0, 0]])
    result = bound(SOURCE, TARGET, student=student, features=linear([[1], [0]]))
    assert (result.hausdorff, result.lipschitz) == (2.0, 2.0)  # ρ = 2 |x₁|


def test_a_student_that_is_its_teacher():
    result = bound(teacher=STUDENT)
    assert (result.source_mean, result.target_max, result.lipschitz) == (0.0, 0.0, 0.0)
    assert result.bound == 0.0 and result.holds


# What comes in


def test_data_sets_and_integers():
    expected = bound()
    source = tf.data.Dataset.from_tensor_slices(SOURCE).batch(2)
    target = tf.data.Dataset.from_tensor_slices((TARGET, [0, 1])).batch(1)
    assert bound(source, target) == expected
    assert bound(SOURCE.astype("uint8"), TARGET.astype("int64")) == expected
    assert bound(tf.constant(SOURCE), TARGET.tolist()) == expected


def test_half_precision_networks():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student, teacher = (linear(n.get_weights()[0]) for n in (STUDENT, TEACHER))
    finally:
        keras.config.set_dtype_policy("float32")
    assert bound(student=student, teacher=teacher) == bound()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student": linear([[1, 0, 0], [0, 2, 0]])}, r"student, teacher: got 3 and 2 logits"),
        ({"source": SOURCE[:0]}, r"source: got shape \(0, 2\); expected images"),
        ({"target": TARGET[0]}, r"target: got shape \(2,\); expected images"),
        ({"target": np.zeros((2, 3))}, r"source, target: got images of shape \(2,\) and \(3,\)"),
        ({"features": "nothing"}, r"no layer named 'nothing'"),
        ({"features": 3}, r"features: got int; expected a layer's name"),
        ({"lipschitz": -1.0}, r"lipschitz: got -1.0; expected a number ≥ 0"),
        ({"lipschitz": math.nan}, r"lipschitz: got nan"),
        ({"batch_size": 0}, r"batch_size: got 0"),
        (
            {"student": keras.Sequential([keras.Input((2,)), keras.layers.Reshape((2, 1))])},
            r"student: got outputs of shape \(5, 2, 1\); expected a model with one output",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        bound(**arguments)


def test_wrong_data_sets():
    batches = tf.data.Dataset.from_tensor_slices(SOURCE).batch(2)
    with pytest.raises(ArgumentError, match=r"source: got a data set without end"):
        bound(batches.repeat())
    with pytest.raises(ArgumentError, match=r"target: got shape \(0,\)"):
        bound(target=batches.take(0))


def test_a_layer_that_is_never_called():
    inputs = keras.Input((2,), name="pixels")
    teacher = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ArgumentError, match=r"features: got 'pixels'; the teacher never calls"):
        bound(teacher=teacher, features="pixels")


def test_images_that_are_not_finite():
    with pytest.raises(NonFiniteError, match=r"source, target: a pixel"):
        bound(SOURCE * np.float32("nan"))


def test_markdown():
    rows = {"flowers": bound(), "in features": bound(features=linear([[1], [0]], name="f"))}
    assert TransferBound.markdown(rows) == (
        "| | ψ | mean ρ source | mean ρ target | max ρ target | H_a | K | K∇ | bound | holds |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
        "| flowers | pixels | 2.333 | 1.5 | 2 | 2 | 2 | 2 | 6 | yes |\n"
        "| in features | f | 2.333 | 1.5 | 2 | 2 | inf | – | inf | yes |"
    )
    assert "| no |" in TransferBound.markdown({"a": bound(lipschitz=0)})
    with pytest.raises(ArgumentError, match=r"rows: got none"):
        TransferBound.markdown({})
