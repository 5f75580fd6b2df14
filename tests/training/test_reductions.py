"""The reduction of the compiled loss holds for the penalties, too."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.training_cases import (
    BATCHES,
    CLASSES,
    FEATURES,
    RATE,
    assert_same,
    examples,
    sequential,
    weights_of,
)
from tfgrad.errors import ArgumentError
from tfgrad.penalties import GradientNorm
from tfgrad.training import reductions

L = keras.layers
LAMBDA = 0.3
WEIGHTS = np.linspace(0.2, 2.0, 12, dtype="float32")
ALL = ["sum_over_batch_size", "mean_with_sample_weight", "sum", None]


def loss(reduction):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)


def trained(network, reduction, weights=None, penalties=None, **fit):
    penalties = [GradientNorm(LAMBDA)] if penalties is None else penalties
    model = tfgrad.PenalizedModel(network, penalties)
    model.compile(keras.optimizers.SGD(RATE), loss(reduction))
    x, y = examples()
    return model.fit(x, y, 5, shuffle=False, sample_weight=weights, verbose=0, **fit).history


def by_hand(network, reduction, weights):
    """Three steps on 1/D Σ w (ℓ + λ p), and the reports of each: loss, penalty."""
    x, y = examples()
    reports = []
    for batch in BATCHES:
        w = np.ones(12, "float32")[batch] if weights is None else weights[batch]
        divisor = {"sum": 1.0, "none": 1.0, None: 1.0, "mean_with_sample_weight": w.sum()}
        d = divisor.get(reduction, float(len(w)))
        with tf.GradientTape() as tape:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(y[batch], network(x[batch]))
            p = GradientNorm().per_example(network, tf.constant(x[batch]), y[batch], training=True)
            total = tf.reduce_sum(w * (each + LAMBDA * p)) / d
        variables = [v.value for v in network.trainable_variables]
        for v, g in zip(variables, tape.gradient(total, variables), strict=True):
            v.assign_sub(RATE * g)
        mean_of = w.sum() if reduction == "mean_with_sample_weight" else len(w)
        reported = total if reduction not in ("none", None) else total / len(w)
        reports.append([float(reported), float(tf.reduce_sum(w * p) / mean_of)])
    return np.average(reports, axis=0, weights=[5, 5, 2])


@pytest.mark.long
@pytest.mark.parametrize(
    ("reduction", "weights"),
    [*((reduction, WEIGHTS) for reduction in ALL), ("mean_with_sample_weight", None)],
)
def test_both_parts_are_reduced_alike(reduction, weights):
    hand, network = sequential(), sequential()
    expected = by_hand(hand, reduction, weights)
    history = trained(network, reduction, weights)
    assert_same(network.get_weights(), hand.get_weights(), atol=2e-6)
    got = [history["loss"][0], history["gradient_norm"][0]]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.sample(3)
@pytest.mark.parametrize("reduction", ALL[1:])
def test_without_penalties_the_update_is_keras(reduction):
    ours, stock = sequential(), sequential()
    trained(ours, reduction, WEIGHTS, penalties=[])
    stock.compile(keras.optimizers.SGD(RATE), loss(reduction))
    x, y = examples()
    stock.fit(x, y, 5, shuffle=False, sample_weight=WEIGHTS, verbose=0)
    assert_same(weights_of(ours), weights_of(stock))


def test_names_of_keras():
    kinds = [reductions.of_loss(loss(name)) for name in ("mean", "none", None, "sum")]
    assert kinds == ["mean", "none", "none", "sum"]
    assert reductions.of_loss("mse") == "mean"
    assert reductions.of_loss(keras.losses.mean_squared_error) == "mean"


def test_weights_that_are_all_zero():
    network = sequential()
    before = network.get_weights()
    trained(network, "mean_with_sample_weight", np.zeros(12, "float32"))
    assert_same(network.get_weights(), before, atol=0)


def heads():
    x = keras.Input((FEATURES,))
    hidden = L.Dense(4, "softplus")(x)
    return keras.Model(x, {name: L.Dense(CLASSES, name=name)(hidden) for name in "ab"})


def test_a_penalty_is_reduced_as_the_loss_of_its_head():
    def fitted(first, second, scale):
        keras.utils.set_random_seed(0)
        penalty = GradientNorm(LAMBDA * scale, head="a")
        model = tfgrad.PenalizedModel(heads(), [penalty])
        weights = {"a": 1.0, "b": 0.0}
        losses = {"a": loss(first), "b": loss(second)}
        model.compile(keras.optimizers.SGD(RATE), losses, loss_weights=weights)
        x, y = examples(5)
        logs = model.train_on_batch(x, {"a": y, "b": y}, return_dict=True)
        return weights_of(model), logs["gradient_norm"]

    (summed, one), (averaged, other) = fitted("sum", "mean", 0.2), fitted("mean", "sum", 1.0)
    before = weights_of(_seeded())
    for i in (0, 1, 2, 3):  # λ/5 of a sum of five is λ of their mean; ℓ is five times as large.
        assert np.abs(summed[i] - before[i]).max() > np.abs(averaged[i] - before[i]).max()
    assert one == pytest.approx(other, rel=1e-5)


def _seeded():
    keras.utils.set_random_seed(0)
    return heads()


def test_reductions_that_leave_a_penalty_undefined():
    model = tfgrad.PenalizedModel(heads(), [GradientNorm(head="a")])
    with pytest.raises(ArgumentError, match=r"reductions are 'mean' and 'none'; expected .*; try"):
        model.compile("sgd", {"a": loss(None), "b": loss("mean")})
    with pytest.raises(ArgumentError, match=r"'gradient_norm' belongs to none of the heads"):
        model.compile("sgd", [loss("sum"), loss("mean")])
    regularised = sequential(regularised=True)
    with pytest.raises(ArgumentError, match=r"reduction=None beside regularisers.*'sum'"):
        trained(regularised, None)


REPLICAS = """
import keras, numpy as np, tensorflow as tf, tfgrad
from tests.training.test_reductions import GradientNorm, examples, loss, sequential
from tfgrad import distribution
from tfgrad.errors import ArgumentError

mirrored = distribution.strategy("mirrored", 2)
x, y = examples(11)
w = np.linspace(0.2, 2.0, 11, dtype="float32")
for reduction in ("sum", None):
    results = []
    for strategy in (tf.distribute.OneDeviceStrategy("CPU:0"), mirrored):
        with strategy.scope():
            model = tfgrad.PenalizedModel(sequential(), [GradientNorm(0.3)])
            model.compile(keras.optimizers.SGD(0.05), loss(reduction))
        # 5, 5, 1: ragged, and one of two replicas goes empty.
        history = model.fit(x, y, 5, 2, sample_weight=w, shuffle=False, verbose=0).history
        results.append([*model.get_weights(), history["loss"], history["gradient_norm"]])
    for one, two in zip(*results):
        np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-6)
with mirrored.scope():
    model = tfgrad.PenalizedModel(sequential(), [GradientNorm(0.3)])
    try:
        model.compile("sgd", loss("mean_with_sample_weight"))
    except ArgumentError as error:
        print(error)
"""


@pytest.mark.slow
def test_replicas_equal_one_device():
    ran = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "got the reduction 'weighted_mean' on 2 replicas; expected one reduction" in ran.stdout
