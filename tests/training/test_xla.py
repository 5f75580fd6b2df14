"""Steps that XLA compiles: the updates of plain ones, refusals and checks as without it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.training_cases import (
    CLASSES,
    LOSS,
    assert_identical,
    assert_same,
    compiled,
    examples,
    sequential,
    weights_of,
)
from tfgrad.errors import DataError, SecondOrderError
from tfgrad.penalties import GradientNorm

L = keras.layers


def pooling(module):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((9, 9, 1)),
            L.Conv2D(3, 2, activation="softplus"),
            module.MaxPooling2D(3, 2, padding="same", name="pool"),
            L.Conv2D(4, 2, activation="tanh"),
            L.GlobalAveragePooling2D(),
            L.Dense(CLASSES),
        ]
    )


def images():
    """Neighbours that agree in half of float32's bits, which is what XLA compares of its own."""
    random = np.random.default_rng(0)
    x = random.integers(0, 2, (8, 9, 9, 1)) + 1e-3 * random.normal(size=(8, 9, 9, 1))
    return x.astype("float32"), np.arange(8) % CLASSES


def fitted(network, **options):
    model = compiled(network, [GradientNorm(3.0)], **options)
    model.fit(*images(), 4, verbose=0, shuffle=False)
    return weights_of(model)


@pytest.mark.long
def test_a_penalised_step_of_a_max_pooling_network():
    plain = fitted(pooling(keras.layers))
    assert_same(fitted(pooling(tfgrad.layers), jit_compile=True), plain, atol=1e-5)


def test_keras_pooling_is_refused_before_training():
    network = pooling(keras.layers)
    before = network.get_weights()
    with pytest.raises(SecondOrderError, match=r"'pool' .*XLA.*tfgrad.layers.MaxPooling1D"):
        fitted(network, jit_compile=True)
    assert_identical(network.get_weights(), before)
    model = tfgrad.PenalizedModel(network)  # Nothing is differentiated twice.
    model.compile("sgd", LOSS, jit_compile=True)
    model.fit(*images(), verbose=0)


@pytest.mark.parametrize(
    ("module", "penalties", "compiles"),
    [(keras.layers, 1, False), (keras.layers, 0, True), (tfgrad.layers, 1, True)],
)
def test_the_default_takes_xla_only_where_it_is_right(monkeypatch, module, penalties, compiles):
    # As on a GPU; on a CPU Keras leaves XLA off.
    monkeypatch.setattr(tfgrad.PenalizedModel, "_resolve_auto_jit_compile", lambda self: True)
    model = compiled(pooling(module), [GradientNorm()] * penalties)
    assert model.jit_compile == compiles


def test_a_step_in_a_compiled_function_of_ones_own():
    model = compiled(pooling(keras.layers), [GradientNorm(0.1)])
    model.fit(*images(), verbose=0)
    step = tf.function(model.train_step, jit_compile=True, autograph=False)
    with pytest.raises(SecondOrderError, match="'pool'"):
        step(tuple(map(tf.constant, images())))


@pytest.fixture(scope="module")
def model():
    return compiled(sequential(), [GradientNorm(0.1)], jit_compile=True)


def broken(what):
    x, y = (a.copy() for a in examples())
    if what == "labels":
        y[7] = CLASSES
    else:
        x[3, 1] = np.nan
    return x, y


@pytest.mark.long
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize(
    ("what", "match"),
    [("labels", r"y: got labels from 0 to 3; expected 0 to 2"), ("images", r"x: got NaN")],
)
def test_checks_are_kept(model, what, match):
    x, y = broken(what)
    before = weights_of(model)
    with pytest.raises(DataError, match=match):
        model.fit(x, y, 12, verbose=0)
    with pytest.raises(DataError, match=match):
        model.evaluate(x, y, 12, verbose=0)
    with pytest.raises(DataError, match=match):
        model.train_on_batch(x, y)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(12)
    with pytest.raises(DataError, match=match):
        model.fit(batches, shuffle=False, verbose=0)
    assert_identical(weights_of(model), before)
    if what == "images":
        assert np.isnan(model.predict(x, verbose=0)).any()  # As without XLA.


@pytest.mark.slow
def test_checks_of_several_steps_at_once():
    several = compiled(sequential(), [GradientNorm(0.1)], jit_compile=True, steps_per_execution=3)
    with pytest.raises(DataError, match="y: got labels"):
        several.fit(*broken("labels"), 4, verbose=0, shuffle=False)


def test_images_without_labels():
    penalty = GradientNorm(0.1, target="predicted", loss="cross_entropy")
    alone = tfgrad.PenalizedModel(sequential(), [penalty])
    alone.compile(keras.optimizers.SGD(0.1), jit_compile=True)
    with pytest.raises(DataError, match="x: got NaN"):
        alone.fit(broken("images")[0], verbose=0)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rows_that_name_no_class(jit_compile):
    x, rows = examples(4)[0], np.eye(CLASSES, dtype="float32")[[0, 1, 2, 0]]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    on_label = tfgrad.PenalizedModel(sequential(), [GradientNorm(0.1)])
    on_label.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit_compile)
    on_label.fit(x, rows, verbose=0)
    before = weights_of(on_label)
    for row in ([0, 1, 1], [0, 0, 0], [0.5, 0.3, 0.2]):
        rows[2] = row
        with pytest.raises(DataError, match="target 'label' needs one label per example"):
            on_label.fit(x, rows, verbose=0)
    assert_identical(weights_of(on_label), before)


@pytest.mark.slow
def test_rows_of_labels_that_no_penalty_reads():
    x, rows = examples(4)[0], np.ones([4, CLASSES], "float32")
    free = tfgrad.PenalizedModel(sequential(), [GradientNorm(0.1, target="all")])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    free.compile(keras.optimizers.SGD(0.1), loss, jit_compile=True)
    assert np.isfinite(free.fit(x, rows, verbose=0).history["loss"]).all()
