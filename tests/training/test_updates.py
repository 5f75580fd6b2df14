"""The updates of `PenalizedModel`, against loops written by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfgrad
from tests.helpers.training_cases import (
    BATCHES,
    CLASSES,
    FEATURES,
    LOSS,
    RATE,
    ByHand,
    Subclassed,
    SubclassedWithMode,
    assert_identical,
    assert_same,
    both,
    compiled,
    examples,
    functional,
    nested,
    score_matching,
    sequential,
    two_layers,
    weights_of,
    with_dropout,
)
from tests.helpers.variants import with_slow
from tfgrad import PenalizedModel
from tfgrad.penalties import GradientNorm, Penalty

# The update


@pytest.mark.long
@pytest.mark.parametrize("mode", with_slow(["graph", "eager", "class_weight"], ["xla"]))
def test_three_steps_equal_a_loop_by_hand(mode):
    # 5, 5 and 2 examples: the ragged batch counts by its own size, like any other.
    x, y = examples()
    w = np.linspace(0.2, 2.0, 12, dtype="float32")
    class_weight = None
    if mode == "class_weight":
        class_weight = {0: 0.5, 1: 1.0, 2: 3.0}
        w = np.array([class_weight[k] for k in y], "float32")
    hand = ByHand(0.3, 0.05, kernel_l2=0.05, activity_l2=0.02, xla=mode == "xla")
    losses, penalties = [], []
    for step, batch in enumerate(BATCHES):
        penalties.append(hand.penalties(tf.constant(x[batch]), y[batch], step))
        losses.append(hand.step(x[batch], y[batch], step, w[batch]))
    how = {"eager": {"run_eagerly": True}, "xla": {"jit_compile": True}}.get(mode, {})
    model = compiled(sequential(regularised=True), both(), **how)
    weights = {"class_weight": class_weight} if class_weight else {"sample_weight": w}
    history = model.fit(x, y, 5, shuffle=False, verbose=0, **weights).history
    assert_same(weights_of(model), hand.weights())
    assert set(history) == {"loss", "accuracy", "gradient_norm", "score_matching"}
    np.testing.assert_allclose(history["loss"], np.dot(losses, [5, 5, 2]) / 12, rtol=1e-5)
    for name in ("gradient_norm", "score_matching"):  # Without λ, with sample weights.
        each = np.concatenate([p[name] for p in penalties])
        np.testing.assert_allclose(history[name], np.mean(w * each), rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    "network",
    with_slow(
        [SubclassedWithMode, lambda: keras.Sequential(two_layers())],
        [functional, nested, Subclassed],
    ),
    ids=["subclassed_with_mode", "unbuilt_sequential", "functional", "nested", "subclassed"],
)
def test_every_kind_of_network(network):
    x, y = examples()
    hand = ByHand(norm=0.3, score=0.05)
    for step, batch in enumerate(BATCHES):
        hand.step(x[batch], y[batch], step)
    model = compiled(network(), both())
    model.fit(x, y, 5, shuffle=False, verbose=0)
    assert_same(weights_of(model), hand.weights())


def test_steps_per_execution():
    x, y = examples()
    hand = ByHand(norm=0.3, score=0.05)
    for step, batch in enumerate(BATCHES):
        hand.step(x[batch], y[batch], step)
    model = compiled(sequential(), both(), steps_per_execution=3)
    model.fit(x, y, 5, shuffle=False, verbose=0)
    assert_same(weights_of(model), hand.weights())
    assert int(model._draws_made.numpy()) == 3


@pytest.mark.long
def test_without_penalties_it_is_keras():
    x, y = examples()
    histories, weights = [], []
    for model in (sequential(regularised=True), PenalizedModel(sequential(regularised=True))):
        model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
        keras.utils.set_random_seed(5)
        history = model.fit(
            x, y, 5, 3, sample_weight=np.linspace(0, 1, 12), validation_data=(x, y), verbose=0
        )
        histories.append(history.history)
        weights.append(weights_of(model))
    assert histories[0] == histories[1]
    assert_identical(*weights)


def test_without_penalties_probabilities_are_allowed():
    network = keras.Sequential([keras.Input((FEATURES,)), L.Dense(CLASSES, "softmax")])
    model = PenalizedModel(network)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(*examples(), verbose=0)


def test_gradient_accumulation_averages_micro_batches_with_draws_of_their_own():
    x, y = examples()
    hand = ByHand(score=0.05)
    parts = [hand.gradients(x[b], y[b], step)[1] for step, b in enumerate(BATCHES[:2])]
    repeated = hand.gradients(x[BATCHES[1]], y[BATCHES[1]], 0)[1]
    assert np.abs(repeated[0] - parts[1][0]).max() > 1e-4  # The draw matters.
    expected = [
        v.numpy() - RATE * (a + b).numpy() / 2
        for v, a, b in zip(hand.variables, *parts, strict=True)
    ]
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    penalty = score_matching(samples=2, estimator="antithetic")
    model = compiled(sequential(), [penalty], optimizer)
    before = weights_of(model)
    model.train_on_batch(x[BATCHES[0]], y[BATCHES[0]])
    assert_identical(weights_of(model), before)
    model.train_on_batch(x[BATCHES[1]], y[BATCHES[1]])
    assert_same(weights_of(model), expected)


def test_a_schedule_follows_the_optimizer_s_steps():
    x, y = examples()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.0, 0.3])
    hand = ByHand()
    for step, batch in enumerate(BATCHES):
        hand.norm = [0.5, 0.0, 0.3][step]
        hand.step(x[batch], y[batch], step)
    model = compiled(sequential(), GradientNorm(schedule))
    model.fit(x, y, 5, shuffle=False, verbose=0)
    assert_same(weights_of(model), hand.weights())


def test_a_weight_changes_between_steps_without_retracing():
    x, y = examples()
    penalty = GradientNorm(0.5)
    model = compiled(sequential(), penalty)
    hand = ByHand()
    for step in range(3):
        penalty.weight = hand.norm = [0.5, 0.0, 2.0][step]
        model.train_on_batch(x, y)
        hand.step(x, y, step)
    assert_same(weights_of(model), hand.weights())


def test_mixed_float16_uses_its_loss_scale():
    x, y = examples()
    float32 = compiled(sequential(), [GradientNorm(0.3)])
    float32.fit(x, y, 5, 2, shuffle=False, verbose=0)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(sequential(), [GradientNorm(0.3)])
    finally:
        keras.config.set_dtype_policy(policy)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = weights_of(model)
    model.fit(x, y, 5, 2, shuffle=False, verbose=0)
    assert int(model.optimizer.inner_optimizer.iterations.numpy()) == 6  # No step was skipped.
    assert np.abs(before[0] - weights_of(model)[0]).max() > 0.05
    assert_same(weights_of(model), weights_of(float32), atol=5e-3)


# State that a forward pass moves


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
def test_batch_norm_statistics_move_once_per_step():
    x, y = examples()
    norm = tfgrad.layers.BatchNormalization(momentum=0.9)
    network = keras.Sequential([keras.Input((FEATURES,)), norm, *two_layers()])
    mean, variance = np.zeros(FEATURES), np.ones(FEATURES)
    for batch in BATCHES:
        mean = 0.9 * mean + 0.1 * x[batch].mean(0)
        variance = 0.9 * variance + 0.1 * x[batch].var(0)
    penalties = [*both(), score_matching(estimator="taylor", name="taylor")]
    model = compiled(network, penalties)
    model.fit(x, y, 5, shuffle=False, verbose=0)
    np.testing.assert_allclose(norm.moving_mean.numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), variance, atol=1e-6)
    model.evaluate_penalties = True
    model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(norm.moving_mean.numpy(), mean, atol=1e-6)


def test_dropout_draws_the_masks_of_a_plain_training_run():
    # A penalty of weight 0 runs its extra forward passes and must take no mask away.
    x, y = examples()
    plain = with_dropout()
    plain.compile(keras.optimizers.SGD(RATE), LOSS)
    plain.fit(x, y, 5, 2, shuffle=False, verbose=0)
    model = compiled(with_dropout(), [score_matching(0.0, samples=2, estimator="antithetic")])
    model.fit(x, y, 5, 2, shuffle=False, verbose=0)
    assert_same(weights_of(model), weights_of(plain))


def test_the_extra_passes_of_a_penalty_repeat_its_masks():
    # With one mask f is linear in x and its second difference vanishes; with fresh masks f(x + v)
    # differs from f(x) by whole units, over σ².
    x, y = examples()
    network = keras.Sequential([keras.Input((FEATURES,)), L.Dropout(0.5), L.Dense(CLASSES)])
    penalty = score_matching(samples=2, estimator="antithetic", stability=1.0)
    model = compiled(network, [penalty, GradientNorm(0.0)], optimizer=keras.optimizers.SGD(0.0))
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["gradient_norm"] > 0.1
    np.testing.assert_allclose(logs["score_matching"], logs["gradient_norm"] / 2, rtol=1e-2)


# Users' own penalties


class LogitNorm(Penalty):
    """‖f(x)‖², which differentiates nothing."""

    def compute(self, probe):
        return tf.reduce_sum(probe.logits**2, 1)


def test_a_penalty_of_the_user_s_own():
    x, y = examples()
    hand = ByHand()
    with tf.GradientTape() as tape:
        logits = hand.logit(tf.constant(x), y)[1]
        loss = LOSS(y, logits) + 0.2 * tf.reduce_mean(tf.reduce_sum(logits**2, 1))
    gradients = tape.gradient(loss, hand.variables)
    expected = [(v - RATE * g).numpy() for v, g in zip(hand.variables, gradients, strict=True)]
    model = compiled(sequential(), [LogitNorm(0.2)])
    model.train_on_batch(x, y)
    assert_same(weights_of(model), expected)
    assert "LogitNorm" in model.get_metrics_result()


@pytest.mark.long
def test_sample_weights_of_a_list_of_heads():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    h = keras.layers.Dense(3, activation="softplus")(inputs)
    network = keras.Model(inputs, [keras.layers.Dense(2)(h), keras.layers.Dense(3)(h)])
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    y = [np.array([0, 1, 0, 1, 1, 0]), np.array([0, 1, 2, 1, 2, 0])]
    w = [np.linspace(start, 2, 6, dtype="float32") for start in (0, 1)]
    for head in (0, 1):
        penalty = GradientNorm(0.1, head=head)
        model = PenalizedModel(network, [penalty])
        losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True) for _ in y]
        model.compile(keras.optimizers.SGD(0.0), losses)
        for weights, own in ((w, w[head]), ([w[0], None], w[0] if head == 0 else np.ones(6))):
            got = model.fit(x, y, 6, sample_weight=weights, verbose=0).history["gradient_norm"]
            expected = np.mean(own * penalty.per_example(network, x, y))
            assert got == [pytest.approx(expected, rel=1e-5)]
