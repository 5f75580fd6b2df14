"""The battery that every penalty registered in conformance.py passes."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.conformance import (
    CASES,
    VARIANTS,
    batch,
    compiled,
    examples,
    network,
    one_step,
    public_penalties,
    taught,
    teacher,
)
from tests.helpers.variants import one_of_each
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties import GradientNorm, Penalty
from tfgrad.penalties.teacher import Teacher, needs_of

ONE_OF_EACH = [f"{name}-{next(iter(variants))}" for name, variants in CASES.items()]


@pytest.fixture(params=VARIANTS)
def case(request):
    return VARIANTS[request.param]


@pytest.fixture(params=one_of_each(VARIANTS))
def class_case(request):
    """For what the options of a penalty hardly change: its other variants are slow."""
    return VARIANTS[request.param]


def tolerance(values, relative=1e-5):
    """Float32 rounding of a penalty: relative to the largest value, as entries may cancel."""
    return {"rtol": 0, "atol": relative * float(np.max(np.abs(values)))}


def per_example(penalty, net, x, y, **options):
    """The penalty on its own, with a teacher where it wants one."""
    return penalty.per_example(net, examples(x), y, **taught(penalty), **options)


def test_every_public_penalty_is_registered():
    assert set(CASES) == public_penalties()
    for name, variants in CASES.items():
        assert all(type(v.make()).__name__ == name for v in variants.values()), name


def test_an_unregistered_penalty_would_be_noticed(monkeypatch):
    class New(Penalty):
        pass

    monkeypatch.setattr(tfgrad.penalties, "New", New, raising=False)
    monkeypatch.setattr(tfgrad.penalties, "__all__", [*tfgrad.penalties.__all__, "New"])
    assert public_penalties() - set(CASES) == {"New"}


def test_batch_is_per_example(class_case):
    net, penalty, (x, y) = network(), class_case.make(), batch()

    def values(part, offset):
        draws, needs = Draws(step=5, offset=offset), needs_of([penalty])
        said = None if needs is None else Teacher(teacher(), x[part], y[part], needs)
        given = examples(x[part]).given
        return penalty.compute(
            Probe(
                *(net, x[part], y[part]),
                needs=penalty.needs(),
                draws=draws,
                teacher=said,
                given=given,
            )
        )

    whole = per_example(penalty, net, x, y, seed=5)
    assert whole.shape == (4,)
    singles = np.concatenate([values(slice(i, i + 1), i) for i in range(4)])
    np.testing.assert_allclose(whole, singles, **tolerance(whole))
    np.testing.assert_allclose(whole[2:], values(slice(2, 4), 2), **tolerance(whole))
    if class_case.random:
        assert np.abs(values(slice(2, 4), 0) - whole[2:]).max() > 1e-3 * np.abs(whole).max()
    assert len(np.unique(whole)) == 4


@pytest.mark.sample(6)
def test_saved_loaded_and_trained_on(class_case, tmp_path):
    model = compiled(network(), class_case.make(), keras.optimizers.Adam(0.01))
    one_step(model)
    model.penalties[0].weight = 0.123
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.penalties[0].get_config() == model.penalties[0].get_config()
    before = model.network.get_weights()
    for twin in (model, loaded):
        one_step(twin)
    pairs = zip(model.network.get_weights(), loaded.network.get_weights(), before, strict=True)
    for kept, again, old in pairs:
        np.testing.assert_array_equal(again, kept)
        assert np.abs(kept - old).max() > 0


@pytest.mark.diagonal
@pytest.mark.parametrize("scheduled", [False, True])
def test_config_round_trip(class_case, scheduled):
    more = {"name": "mine"}
    if scheduled:
        more["weight"] = keras.optimizers.schedules.PiecewiseConstantDecay([10], [0.5, 0.25])
    penalty = class_case.make(**more)
    arguments = set(inspect.signature(type(penalty)).parameters)
    assert set(penalty.get_config()) == arguments
    config = keras.saving.serialize_keras_object(penalty)
    again = keras.saving.deserialize_keras_object(config)
    direct = type(penalty).from_config(penalty.get_config())
    net, (x, y) = network(), batch()
    value = per_example(penalty, net, x, y)
    for twin in (again, direct):
        assert type(twin) is type(penalty)
        assert twin.get_config() == penalty.get_config()
        assert twin.name == "mine"
        np.testing.assert_array_equal(per_example(twin, net, x, y), value)
        for step in (0, 20):
            weight = twin.weight_at(tf.constant(step), "float32")
            assert float(weight) == float(penalty.weight_at(tf.constant(step), "float32"))
    if scheduled:
        assert float(again.weight_at(tf.constant(20), "float32")) == 0.25


@pytest.mark.sample(6, start=1)
@pytest.mark.parametrize(
    "policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_mixed_precision(class_case, policy):
    x, y = batch()
    expected = np.mean(per_example(class_case.make(), network(), x, y))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        net = network()
        model = compiled(net, class_case.make(name="penalty"), keras.optimizers.SGD(0.01))
    finally:
        keras.config.set_dtype_policy(before)
    assert net.get_layer("conv").compute_dtype == policy.removeprefix("mixed_")
    old = net.get_weights()
    history = one_step(model)
    assert np.isfinite(history["loss"]).all()
    np.testing.assert_allclose(
        history["penalty"], [expected], rtol=class_case.half_precision[policy]
    )
    for v, value in zip(net.trainable_weights, old, strict=True):
        assert v.dtype == "float32"
        assert np.isfinite(v.numpy()).all() and np.abs(v.numpy() - value).max() > 0


@pytest.mark.sample(6, start=2)
def test_metric_is_the_mean_before_the_step(class_case):
    net, (x, y) = network(), batch()
    expected = np.mean(per_example(class_case.make(), net, x, y, training=True))
    logits = net(x)
    supervised = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
    history = one_step(compiled(net, class_case.make(weight=0.5, name="mine")))
    np.testing.assert_allclose(history["mine"], [expected], rtol=1e-5)
    np.testing.assert_allclose(history["loss"], [float(supervised) + 0.5 * expected], rtol=1e-5)


@pytest.mark.sample(5, start=1)
@pytest.mark.parametrize(
    "jit_compile",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["graph", "xla"],
)
def test_compiled_is_eager(case, jit_compile):
    check_compiled(case, jit_compile)


def test_one_penalty_compiled_with_xla():
    check_compiled(VARIANTS["ScoreMatching-taylor"], True)


def check_compiled(case, jit_compile):
    net, penalty, (x, y) = network(), case.make(), batch()
    said = taught(penalty)
    variables = [v.value for v in net.trainable_variables]

    def value_and_gradient():
        with tf.GradientTape() as tape:
            value = penalty.per_example(net, examples(x), y, training=True, seed=2, **said)
        return value, tape.gradient(value, variables, unconnected_gradients="zero")

    compiled = tf.function(value_and_gradient, jit_compile=jit_compile, autograph=False)
    eager_value, eager_gradient = value_and_gradient()
    value, gradient = compiled()
    # A trace estimate divides logits by σ² ≈ 0.1: ten times float32's rounding.
    np.testing.assert_allclose(value, eager_value, **tolerance(eager_value))
    for got, expected in zip(gradient, eager_gradient, strict=True):
        largest = max(np.abs(g).max() for g in eager_gradient)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * largest)


@keras.saving.register_keras_serializable("tests")
class Traced(keras.layers.Layer):
    """Counts the traces of the network it sits in."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.traces = 0

    def call(self, x):
        self.traces += 1
        return x


@pytest.mark.sample(6, start=3)
def test_a_new_weight_takes_effect_without_retracing(class_case):
    traced = Traced()
    net = keras.Sequential([network(), traced])
    model = compiled(net, class_case.make(weight=1.0, name="penalty"))
    weights, traces = [1.0, 0.0, 0.25], []

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.penalties[0].weight = weights[epoch]

        def on_epoch_end(self, epoch, logs=None):
            traces.append(traced.traces)

    history = one_step(model, epochs=3, callbacks=[Change()])
    assert traces[0] == traces[1] == traces[2]
    loss, penalty = np.array(history["loss"]), np.array(history["penalty"])
    supervised = np.full(3, loss[1])  # λ = 0 there, and the weights stand still
    np.testing.assert_allclose(loss, supervised + weights * penalty, rtol=1e-5)
    assert np.abs(penalty).min() > 1e-3


@pytest.mark.sample(6, start=4)
def test_sample_weights_weigh_examples(class_case):
    """λ/B Σ w_i p_i: what the metric says, and what the weights of the network do."""
    net, penalty, (x, y) = network(), class_case.make(name="penalty"), batch()
    w = np.array([2.0, 0.0, 1.0, 0.5], "float32")
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    with tf.GradientTape() as tape:
        values = per_example(penalty, net, x, y, training=True)
        expected = tf.reduce_sum(w * values) / 4
        loss = tf.reduce_sum(w * crossentropy(y, net(x))) / 4 + penalty.weight * expected
    gradients = tape.gradient(loss, [v.value for v in net.trainable_variables])
    moved = [v.numpy() - 0.1 * g for v, g in zip(net.trainable_variables, gradients, strict=True)]
    history = one_step(compiled(net, penalty, keras.optimizers.SGD(0.1)), sample_weight=w)
    np.testing.assert_allclose(history["penalty"], [expected], rtol=1e-5, atol=1e-6)
    for v, value in zip(net.trainable_variables, moved, strict=True):
        np.testing.assert_allclose(v.numpy(), value, **tolerance(value))


@pytest.mark.sample(5, start=4)
@pytest.mark.parametrize(
    "variant", one_of_each(name for name, case in VARIANTS.items() if not case.random)
)
def test_weight_two_is_the_example_twice_and_zero_leaves_it_out(variant):
    """Of four examples weighing (2, 0, 1, 1), and of the four they stand for."""
    case, (x, y) = VARIANTS[variant], batch()
    stands_for = [0, 0, 2, 3]
    after = []
    for kept, w in ((range(4), [2.0, 0.0, 1.0, 1.0]), (stands_for, [1.0] * 4)):
        net, rows = network(), list(kept)
        model = compiled(net, case.make(), keras.optimizers.SGD(0.1))
        model.fit(
            examples(x[rows]), y[rows], 4, sample_weight=np.array(w), shuffle=False, verbose=0
        )
        after.append(net.get_weights())
    for a, b, old in zip(*after, network().get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **tolerance(b))
        assert np.abs(a - old).max() > 1e-3


@pytest.mark.parametrize(
    "names",
    [ONE_OF_EACH, pytest.param([*VARIANTS], marks=pytest.mark.slow)],
    ids=["one of each class", "every variant"],
)
def test_penalties_do_not_disturb_one_another(names):
    """At once they give what each gives alone."""
    net, (x, y) = network(), batch()
    penalties = [VARIANTS[name].make(name=name.replace("-", "_")) for name in names]
    expected = {p.name: np.mean(per_example(p, net, x, y, training=True)) for p in penalties}
    model = tfgrad.PenalizedModel(net, penalties, teacher=teacher())
    model.compile(
        keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    history = one_step(model)
    for name, value in expected.items():
        np.testing.assert_allclose(history[name], [value], rtol=1e-5, err_msg=name)
    assert type(penalties[0]) is GradientNorm
