"""Penalties that are computed at each k-th step, with k times the weight."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.training_cases import LOSS, examples, sequential
from tfgrad import PenalizedModel
from tfgrad.errors import ArgumentError
from tfgrad.penalties import (
    ActivationMatching,
    GradientNorm,
    JacobianMatching,
    Penalty,
)
from tfgrad.training.periods import Periods, switched

L = keras.layers
STEPS = 7


def compiled(network, penalties, teacher=None, **options):
    model = PenalizedModel(network, penalties, teacher=teacher)
    options = {"jit_compile": False, **options}
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, **options)
    return model


def steps(model, data, weights=()):
    """Train for some steps; `weights` are functions from a step to the weight of each penalty."""
    logs = []
    for step in range(STEPS):
        for penalty, weight in zip(model.penalties, weights, strict=False):
            penalty.weight = weight(step)
        model.reset_metrics()
        logs.append(model.train_on_batch(*data, return_dict=True))
    return logs


def check_alike(model, other):
    for a, b in zip(model.network.get_weights(), other.network.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def at_each(k, weight):
    return lambda step: k * weight if step % k == 0 else 0.0


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_kth_step_has_k_times_the_weight(jit_compile):
    def penalties(*every):
        return [
            GradientNorm(0.3, every=every[0]),
            GradientNorm(0.2, target=1, every=every[1], name="of_class"),
        ]

    model = compiled(sequential(), penalties(2, 3), jit_compile=jit_compile)
    logs = steps(model, examples())
    by_hand = compiled(sequential(), penalties(1, 1))
    expected = steps(by_hand, examples(), [at_each(2, 0.3), at_each(3, 0.2)])
    check_alike(model, by_hand)
    for step, (got, exact) in enumerate(zip(logs, expected, strict=True)):
        assert got["loss"] == pytest.approx(exact["loss"], rel=1e-5)
        # The metrics are means over the steps that compute a penalty, here of one step or none.
        for name, k in (("gradient_norm", 2), ("of_class", 3)):
            value = exact[name] if step % k == 0 else 0.0
            assert got[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (step, name)


def test_run_eagerly():
    data = [tf.constant(part) for part in examples()]
    eager = compiled(sequential(), [GradientNorm(0.3, every=2)], run_eagerly=True)
    graph = compiled(sequential(), [GradientNorm(0.3, every=2)])
    for model in (eager, graph):
        steps(model, data)
    check_alike(eager, graph)


class Counted(Penalty):
    """Counts how often it is computed."""

    def __init__(self, **kwargs):
        super().__init__(0.1, **kwargs)
        self.computed = 0

    def compute(self, probe):
        def count(logits):
            self.computed += 1
            return logits

        counted = tf.numpy_function(count, [probe.logits], probe.logits.dtype, stateful=True)
        counted = tf.stop_gradient(tf.ensure_shape(counted, probe.logits.shape))
        return tf.reduce_sum(tf.square(probe.input_gradient("label")), -1) + 0.0 * counted[:, 0]


def test_other_steps_do_not_compute_it():
    penalties = [Counted(every=3, name="third"), Counted(name="always")]
    steps(compiled(sequential(), penalties), examples())
    assert [penalty.computed for penalty in penalties] == [3, 7]


def test_the_metric_is_the_mean_over_the_steps_that_compute_it():
    x, y = examples(16)
    model = PenalizedModel(sequential(), [GradientNorm(0.3, every=2, name="norm")])
    model.compile(keras.optimizers.SGD(0.0), LOSS)
    history = model.fit(x, y, 4, epochs=2, shuffle=False, verbose=0).history["norm"]
    values = GradientNorm().per_example(model.network, x, y).numpy()
    expected = np.mean([values[:4], values[8:12]])
    np.testing.assert_allclose(history, [expected, expected], rtol=1e-5)


def test_evaluation_computes_it_once_with_its_own_weight():
    x, y = examples()
    model = PenalizedModel(sequential(), [GradientNorm(0.3, every=5)], evaluate_penalties=True)
    model.compile("sgd", LOSS)
    got = model.evaluate(x, y, verbose=0, return_dict=True)
    norm = np.mean(GradientNorm().per_example(model.network, x, y))
    supervised = float(LOSS(y, model.network(x)))
    assert got["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert got["loss"] == pytest.approx(supervised + 0.3 * norm, rel=1e-5)


def test_a_resumed_run_keeps_its_place(tmp_path):
    model = compiled(sequential(), [GradientNorm(0.3, every=4)])
    data = examples()
    steps(model, data)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.penalties[0].every == 4
    computed = []
    for twin in (model, loaded):
        twin.jit_compile = False
        computed.append([log["gradient_norm"] > 0 for log in steps(twin, data)])
    assert computed[0] == computed[1] == [False, True, False, False, False, True, False]
    for a, b in zip(model.network.get_weights(), loaded.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_teacher_runs_where_a_penalty_asks_it():
    teacher = keras.Sequential([keras.Input((5,)), L.Dense(3, kernel_initializer="ones")])
    calls = []
    seen = keras.Sequential([teacher, L.Lambda(lambda x: _counted(x, calls))])

    model = compiled(sequential(), [JacobianMatching(0.3, every=3)], teacher=seen)
    calls.clear()
    steps(model, examples())
    assert len(calls) == 3
    by_hand = compiled(sequential(), [JacobianMatching(0.3)], teacher=teacher)
    steps(by_hand, examples(), [at_each(3, 0.3)])
    check_alike(model, by_hand)


@pytest.mark.slow
def test_lessons_keep_a_teacher_s_answers():
    x, y = examples()
    teacher = keras.Sequential([keras.Input((5,)), L.Dense(3, kernel_initializer="ones")])
    after = []
    for every, weights in ((3, ()), (1, [at_each(3, 0.3), at_each(3, 0.2)])):
        penalties = [JacobianMatching(0.3, every=every), ActivationMatching(0.2, every=every)]
        model = compiled(sequential(), penalties, teacher=teacher)
        steps(model, (model.lessons(x, y) if every > 1 else x, y), weights)
        after.append(model)
    check_alike(*after)


def _counted(x, calls):
    @tf.custom_gradient
    def identity(x):
        def count(value):
            calls.append(1)
            return value

        counted = tf.numpy_function(count, [x], x.dtype, stateful=True)
        return tf.ensure_shape(counted, x.shape), lambda upstream: upstream

    return identity(x)


class TwoHeads(keras.Model):
    """Token ids to two heads; the second has weights that only a penalty trains."""

    def __init__(self):
        super().__init__()
        uniform = keras.initializers.RandomUniform(-1, 1, seed=3)
        self.embedding = L.Embedding(9, 4, embeddings_initializer=uniform)
        self.mixed = L.LSTM(5, kernel_initializer=uniform, recurrent_initializer=uniform)
        self.first = L.Dense(3, kernel_initializer=uniform)
        self.second = L.Dense(3, kernel_initializer=uniform, use_bias=False)

    def call(self, ids):
        mixed = self.mixed(self.embedding(ids))
        return {"first": self.first(mixed), "second": self.second(mixed)}


@pytest.mark.slow
def test_loops_embeddings_and_weights_that_a_penalty_alone_trains():
    ids = np.random.default_rng(0).integers(0, 9, (6, 4))
    y = {"first": np.arange(6) % 3}
    after = []
    for every, weights in ((3, ()), (1, [at_each(3, 0.3)])):
        network = TwoHeads()
        network(ids)
        penalty = GradientNorm(0.3, target="predicted", head="second", every=every)
        model = PenalizedModel(network, [penalty])
        model.compile(keras.optimizers.SGD(0.1), {"first": LOSS}, jit_compile=False)
        start = [v.numpy() for v in network.second.weights]
        steps(model, (ids, y), weights)
        assert np.abs(network.second.kernel.numpy() - start[0]).max() > 1e-3
        after.append(model)
    check_alike(*after)


@pytest.mark.slow
def test_half_precision_and_its_loss_scale():
    x, y = examples()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(sequential(), [GradientNorm(0.3, every=2)])
    finally:
        keras.config.set_dtype_policy(before)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    start = [w.copy() for w in model.network.get_weights()]
    norms = [log["gradient_norm"] for log in steps(model, (x, y))]
    assert [norm > 0 for norm in norms] == [True, False] * 3 + [True]
    for w, old in zip(model.network.get_weights(), start, strict=True):
        assert np.isfinite(w).all() and np.abs(w - old).max() > 0


@pytest.mark.parametrize(
    ("every", "sets"),
    [
        ((1, 1), [(0, 1)]),
        ((2, 1), [(0, 1), (1,)]),
        ((2, 4), [(0, 1), (0,), ()]),
        ((2, 3), [(0, 1), (0,), (1,), ()]),
        ((6, 2, 3), [(0, 1, 2), (1,), (2,), ()]),
    ],
)
def test_each_set_of_penalties_that_occurs_has_a_case(every, sets):
    penalties = [GradientNorm(every=k) for k in every]
    periods = Periods(penalties)
    found = [tuple(penalties.index(p) for p in case) for case in periods.cases]
    assert sorted(found) == sorted(sets) and found[0] == tuple(range(len(every)))
    for step in range(13):
        due = tuple(i for i, k in enumerate(every) if step % k == 0)
        assert found[int(periods.case(tf.constant(step, tf.int64)))] == due


def test_too_many_different_periods():
    penalties = [GradientNorm(every=k, name=str(k)) for k in (2, 3, 4, 5)]
    with pytest.raises(ArgumentError, match=r"every: got the 4 values \[2, 3, 4, 5\]; expected"):
        PenalizedModel(sequential(), penalties)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_every_is_an_integer_from_one(every):
    with pytest.raises(ArgumentError, match=r"every: got .*; expected an integer ≥ 1"):
        GradientNorm(every=every)


def test_repr_shows_it_where_it_is_not_one():
    assert "every" not in repr(GradientNorm())
    assert "every=4" in repr(GradientNorm(every=4))


def test_autograph_converts_it():
    """`tf.function(model.train_step)` would warn otherwise."""
    tf.autograph.to_graph(switched)
