"""A teacher beside a model that trains: what it is asked, when, and what stays as it was."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.transfer_cases import SHAPE, images, student, teacher
from tfgrad.callbacks import Backup
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.probe import Probe
from tfgrad.penalties import (
    ActivationMatching,
    AttentionJacobianMatching,
    AttentionMatching,
    GradientNorm,
    JacobianMatching,
    full_gradient_matching,
)
from tfgrad.penalties.teacher import Lesson, Teacher

L = keras.layers
PAIRS = [("conv1", "features")]


def every_penalty():
    return [
        ActivationMatching(0.1),
        *full_gradient_matching(0.1, PAIRS),
        JacobianMatching(0.1, target="all", name="all"),
        JacobianMatching(0.1, target="predicted", loss="cross_entropy", name="cross_entropy"),
        AttentionMatching(0.1, layers=PAIRS),
        AttentionJacobianMatching(0.1, layers=PAIRS),
    ]


def compiled(penalties=None, net=None, taught=None, optimizer=None, **options):
    model = tfgrad.PenalizedModel(
        net or student(True),
        every_penalty() if penalties is None else penalties,
        teacher=taught or teacher(),
        **options,
    )
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def data(n=7):
    return images(n).astype("float32"), (np.arange(n) % 3).astype("int32")


@pytest.mark.long
def test_fit_leaves_the_teacher_as_it_is():
    taught = teacher()
    assert taught.trainable and taught.trainable_variables
    before = [v.numpy() for v in taught.variables]
    model = compiled(taught=taught)
    start = model.network.get_weights()
    x, y = data()
    model.fit(x, y, batch_size=3, epochs=2, verbose=0)
    for v, value in zip(taught.variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), value)
    paths = [v.path for v in model.network.weights]
    moved = [np.abs(a - b).max() for a, b in zip(model.network.get_weights(), start, strict=True)]
    assert all(m > 0 for m, p in zip(moved, paths, strict=True)), list(
        zip(paths, moved, strict=True)
    )


def test_the_teacher_s_variables_are_kept_and_not_trained():
    taught = teacher()
    model = compiled(taught=taught)
    own = {id(v) for v in model.network.variables}
    his = {id(v) for v in taught.variables}
    assert {id(v) for v in model.trainable_variables} == {
        id(v) for v in model.network.trainable_variables
    }
    assert own < {id(v) for v in model.variables}
    assert his < {id(v) for v in model.non_trainable_variables}
    assert not his & {id(v) for v in model.trainable_weights}
    model.optimizer.build(model.trainable_variables)
    assert len(model.optimizer._momentums) == len(model.network.trainable_variables)
    model.network.trainable = False
    assert model.trainable_variables == []


# Each answer once


def counted(monkeypatch):
    """How many backward passes a probe makes of each network, by its name."""
    passes = collections.Counter()
    backward = Probe._backward

    def counting(probe, scalar):
        passes[probe.network.name] += 1
        return backward(probe, scalar)

    monkeypatch.setattr(Probe, "_backward", counting)
    return passes


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("penalties", "expected"),
    [
        ([ActivationMatching()], (0, 0)),
        ([JacobianMatching()], (1, 1)),
        # Input-gradients and bias-gradients of a label from one pass of each network.
        (full_gradient_matching(layers=PAIRS), (1, 1)),
        (full_gradient_matching(layers=PAIRS, target="predicted"), (1, 1)),
        ([JacobianMatching(), JacobianMatching(name="again"), GradientNorm()], (1, 1)),
        ([JacobianMatching(target="all"), JacobianMatching()], (3, 3)),
        ([JacobianMatching(), JacobianMatching(target="predicted", name="other")], (2, 2)),
    ],
)
def test_each_gradient_once(monkeypatch, penalties, expected):
    for i, penalty in enumerate(penalties):
        penalty.name = f"penalty_{i}"
    passes = counted(monkeypatch)
    model = compiled(penalties, net=student())
    model.train_step(tuple(map(tf.constant, data(3))))
    assert (passes["student"], passes["teacher"]) == expected


def test_one_forward_pass_of_the_teacher(monkeypatch):
    made = []
    start = Teacher.__init__

    def counting(self, *args, **kwargs):
        made.append(self)
        start(self, *args, **kwargs)

    monkeypatch.setattr(Teacher, "__init__", counting)
    model = compiled(
        [
            ActivationMatching(0.1),
            JacobianMatching(0.1, target="all", name="all"),
            JacobianMatching(0.1, target="predicted", loss="cross_entropy"),
        ]
    )
    x, y = data(3)
    model.train_step((tf.constant(x), tf.constant(y)))
    assert len(made) == 1
    keys = set(made[0].answers())
    assert {"logits", "jacobian", "predicted"} < keys
    lessons = model.lessons(x, y)
    assert set(lessons.taught) == keys
    made.clear()
    model.fit(lessons, y, verbose=0)
    assert made == []


def test_answers_carry_no_gradient_and_repeat():
    x, y = data(3)
    taught = teacher()
    with tf.GradientTape() as tape:
        said = Teacher(taught, x, y)
        first = said.recall("gradient", lambda probe: probe.input_gradient("label"))
        again = said.recall("gradient", lambda probe: pytest.fail("asked twice"))
        total = tf.reduce_sum(first)
    assert again is first
    assert tape.gradient(total, [v.value for v in taught.trainable_variables]) == [None] * len(
        taught.trainable_variables
    )
    assert list(said.answers()) == ["gradient"]


# Lessons


def trained(model, inputs, y, **options):
    keras.utils.set_random_seed(3)
    history = model.fit(inputs, y, batch_size=3, epochs=3, verbose=0, **options).history
    return model.network.get_weights(), history


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [pytest.param(False, marks=pytest.mark.slow), True])
def test_lessons_are_as_good_as_the_teacher(shuffle):
    """Seven examples in batches of 3, 3 and 1, recorded in parts of 4 and 3."""
    x, y = data()
    w = np.linspace(0.5, 2.0, 7)
    # Steps in proportion to the gradient: Adam would make 0.01 of a rounding.
    live, recorded = (compiled(optimizer=keras.optimizers.SGD(0.01)) for _ in range(2))
    lessons = recorded.lessons(x, y, batch_size=4)
    assert isinstance(lessons, Lesson) and lessons.x is x
    assert all(len(a) == 7 for a in tf.nest.flatten(lessons.taught))
    expected = trained(live, x, y, shuffle=shuffle, sample_weight=w)
    got = trained(recorded, lessons, y, shuffle=shuffle, sample_weight=w)
    for a, b in zip(got[0], expected[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert set(got[1]) == set(expected[1])
    for name in got[1]:
        np.testing.assert_allclose(got[1][name], expected[1][name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_lessons_in_evaluate_predict_and_validation():
    x, y = data()
    model = compiled(evaluate_penalties=True)
    lessons = model.lessons(x, y)
    np.testing.assert_allclose(
        model.evaluate(lessons, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5
    )
    np.testing.assert_array_equal(model.predict(lessons, verbose=0), model.predict(x, verbose=0))
    history = model.fit(lessons, y, validation_data=(x, y), verbose=0).history
    assert "val_activation_matching" in history
    pipeline = tf.data.Dataset.from_tensor_slices((lessons, y)).batch(3)
    np.testing.assert_allclose(
        model.evaluate(pipeline, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5
    )


@pytest.mark.long
def test_lessons_for_other_penalties():
    x, y = data()
    lessons = compiled([ActivationMatching()]).lessons(x, y)
    with pytest.raises(
        ArgumentError, match=r"x: got lessons that .*; expected 'logit gradient/label"
    ):
        compiled([ActivationMatching(), JacobianMatching()]).fit(lessons, y, verbose=0)
    with pytest.raises(ArgumentError, match="teacher: got None; expected a model with a teach"):
        tfgrad.PenalizedModel(student(), [GradientNorm()]).lessons(x, y)
    with pytest.raises(ArgumentError, match="x: got no examples"):
        compiled([ActivationMatching()]).lessons(x[:0], y[:0])


# Going on


@pytest.mark.slow
def test_saved_loaded_and_trained_on(tmp_path):
    x, y = data()
    model = compiled()
    model.fit(x, y, batch_size=3, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [p.get_config() for p in loaded.penalties] == [p.get_config() for p in model.penalties]
    for a, b in zip(loaded.teacher.get_weights(), model.teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for twin in (model, loaded):
        twin.fit(x, y, batch_size=3, verbose=0, shuffle=False)
    for a, b in zip(model.network.get_weights(), loaded.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_goes_on_from_its_backup(tmp_path):
    x, y = data()
    whole, parts = compiled(), compiled()
    options = {"batch_size": 3, "shuffle": False, "verbose": 0}
    whole.fit(x, y, epochs=3, **options)
    parts.fit(x, y, epochs=1, callbacks=[Backup(tmp_path)], **options)
    again = compiled()
    backup = Backup(tmp_path)
    assert backup.restore(again) == 1
    again.fit(x, y, initial_epoch=1, epochs=3, callbacks=[backup], **options)
    for a, b in zip(whole.network.get_weights(), again.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_export_holds_the_student_alone(tmp_path):
    model = compiled()
    loaded = tf.saved_model.load(tfgrad.export.save(model, tmp_path / "m", methods=[]))
    shapes = sorted(tuple(v.shape) for v in loaded.variables_of_network)
    assert shapes == sorted(tuple(v.shape) for v in model.network.variables)
    assert len(shapes) < len(model.variables) - len(model.teacher.variables)


# Which models


@pytest.mark.slow
def test_a_teacher_in_half_precision_and_a_student_in_half_precision():
    x, y = data(3)
    expected = [
        np.mean(p.per_example(student(True), x, y, teacher=teacher())) for p in every_penalty()
    ]
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        net, taught = student(True), teacher()
    finally:
        keras.config.set_dtype_policy("float32")
    for pair in ((net, teacher()), (student(True), taught), (net, taught)):
        for penalty, value in zip(every_penalty(), expected, strict=True):
            got = penalty.per_example(pair[0], x, y, teacher=pair[1])
            assert got.dtype == tf.float32
            # A peak may move to a neighbour, and a direction with it; the rest only rounds.
            np.testing.assert_allclose(np.mean(got), value, rtol=0.1, atol=0.05)
        history = compiled(net=pair[0], taught=pair[1]).fit(x, y, verbose=0).history
        assert all(np.isfinite(v).all() for v in history.values())


@pytest.mark.long
def test_a_subclassed_student_trains():
    @keras.saving.register_keras_serializable("tests")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.conv1 = L.Conv2D(2, 2, name="conv1")
            self.pool, self.head = L.GlobalAveragePooling2D(), L.Dense(3)

        def call(self, x, training=None):
            return self.head(self.pool(tf.nn.softplus(self.conv1(x))))

    x, y = data()
    penalties = [JacobianMatching(0.1), AttentionMatching(0.1, layers=PAIRS)]
    history = compiled(penalties, net=Own()).fit(x, y, batch_size=3, verbose=0).history
    assert all(np.isfinite(v).all() for v in history.values())


def test_a_random_teacher_is_asked_in_inference_mode():
    """Dropout off, moving statistics used: the answers do not depend on the batch."""
    taught = keras.Sequential([keras.Input(SHAPE), L.Dropout(0.5), *teacher().layers])
    x, y = data(4)
    whole = Teacher(taught, x, y).recall("logits", lambda probe: probe.logits)
    part = Teacher(taught, x[:2], y[:2]).recall("logits", lambda probe: probe.logits)
    np.testing.assert_allclose(whole[:2], part, rtol=1e-5)
    np.testing.assert_allclose(whole, taught(x, training=False), rtol=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("penalties", "taught", "error", "message"),
    [
        (
            [ActivationMatching()],
            None,
            ArgumentError,
            "teacher: got NoneType; expected .* 'activation_match",
        ),
        ([GradientNorm()], teacher, ArgumentError, "teacher: got 'teacher', but no penalty match"),
        (
            [ActivationMatching()],
            lambda: teacher(shape=(6, 6, 1)),
            ArgumentError,
            r"teacher: got a model of inputs \(None, 6, 6, 1\); expected \(None, 4, 4, 1\)",
        ),
        (
            [AttentionMatching(layers=[("conv1", "conv1")])],
            teacher,
            ArgumentError,
            "network 'teacher' has no layer named 'conv1'",
        ),
        (
            [JacobianMatching()],
            lambda: keras.Sequential([teacher(), L.Softmax()], name="t"),
            ModelError,
            r"teacher 't': .*returns probabilities",
        ),
    ],
)
def test_models_that_cannot_be_made(penalties, taught, error, message):
    with pytest.raises(error, match=message):
        tfgrad.PenalizedModel(student(), penalties, teacher=None if taught is None else taught())


def test_a_teacher_that_shares_the_student_s_weights():
    taught = teacher()
    net = tfgrad.models.two_heads(taught, 3)
    with pytest.raises(
        ArgumentError, match="teacher: got 'teacher', which shares weights with network"
    ):
        tfgrad.PenalizedModel(net, [ActivationMatching(head="source")], teacher=taught)


def test_other_classes_are_refused_before_a_step():
    model = compiled([ActivationMatching()], taught=teacher(classes=5))
    before = model.network.get_weights()
    x, y = data(3)
    with pytest.raises(ArgumentError, match=r"teacher: got 5 logits; expected 3.*two_heads"):
        model.fit(x, y, verbose=0)
    for a, b in zip(model.network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_are_asked_for():
    with pytest.raises(ArgumentError, match="y: got None"):
        JacobianMatching().per_example(student(), data(3)[0], teacher=teacher())
