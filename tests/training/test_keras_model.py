"""`PenalizedModel` as an ordinary Keras model: evaluated, called back, saved and loaded."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.training_cases import (
    LOSS,
    RATE,
    ByHand,
    Subclassed,
    assert_identical,
    assert_same,
    both,
    compiled,
    examples,
    functional,
    score_matching,
    sequential,
    weights_of,
    with_dropout,
)
from tfgrad import PenalizedModel
from tfgrad.penalties import GradientNorm, ScoreMatching

# Evaluation


@pytest.mark.long
def test_evaluate_reports_supervised_metrics_unless_asked():
    x, y = examples()
    model = compiled(sequential(), both())
    hand = ByHand(norm=0.3, score=0.05)
    each = hand.penalties(tf.constant(x), y, 0)
    cross_entropy = ByHand().loss(x, y, 0, 1.0)
    assert {"loss", "gradient_norm", "score_matching"} <= {m.name for m in model.metrics}
    supervised = model.evaluate(x, y, 12, verbose=0, return_dict=True)
    assert set(supervised) == {"loss", "accuracy"}
    np.testing.assert_allclose(supervised["loss"], cross_entropy, rtol=1e-5)
    accuracy = np.mean(np.argmax(model.predict(x, verbose=0), 1) == y)
    np.testing.assert_allclose(supervised["accuracy"], accuracy)
    ragged = model.evaluate(x, y, 5, verbose=0)
    assert ragged == pytest.approx([supervised["loss"], supervised["accuracy"]])

    full = PenalizedModel(model.network, both(), evaluate_penalties=True)
    full.compile("sgd", LOSS, metrics=["accuracy"])
    reported = full.evaluate(x, y, 12, verbose=0, return_dict=True)
    assert set(reported) == {"loss", "accuracy", "gradient_norm", "score_matching"}
    np.testing.assert_allclose(reported["loss"], hand.loss(x, y, 0, 1.0), rtol=1e-5)
    for name, values in each.items():
        np.testing.assert_allclose(reported[name], np.mean(values), rtol=1e-4)


@pytest.mark.long
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("evaluate_penalties", [False, True])
def test_validation_during_fit(evaluate_penalties):
    x, y = examples()
    model = PenalizedModel(sequential(), [GradientNorm(0.3)], evaluate_penalties=evaluate_penalties)
    model.compile(keras.optimizers.SGD(RATE), LOSS, metrics=["accuracy"])
    history = model.fit(x, y, 5, 2, validation_data=(x, y), shuffle=False, verbose=0).history
    train, seen = {"loss", "accuracy", "gradient_norm"}, {"loss", "accuracy"}
    if evaluate_penalties:
        seen = train
    assert set(history) == train | {f"val_{name}" for name in seen}
    final = model.evaluate(x, y, verbose=0, return_dict=True)
    for name in seen:
        assert history[f"val_{name}"][-1] == pytest.approx(final[name], rel=1e-6)
    # Validation between epochs leaves the training metrics as they are without it.
    alone = compiled(sequential(), [GradientNorm(0.3)])
    without = alone.fit(x, y, 5, 2, shuffle=False, verbose=0).history
    for name in train:
        assert history[name] == pytest.approx(without[name], rel=1e-6)


def test_single_batches():
    x, y = examples()
    hand = ByHand(norm=0.3)
    model = compiled(sequential(), [GradientNorm(0.3)])
    logits = hand.logit(tf.constant(x), y)[1]
    np.testing.assert_allclose(model.predict_on_batch(x), logits, atol=1e-6)
    tested = model.test_on_batch(x, y, return_dict=True)
    assert set(tested) == {"loss", "accuracy"}
    np.testing.assert_allclose(tested["loss"], ByHand().loss(x, y, 0, 1.0), rtol=1e-5)
    logs = model.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(
        logs["gradient_norm"],
        np.mean(hand.penalties(tf.constant(x), y, 0)["gradient_norm"]),
        rtol=1e-5,
    )
    np.testing.assert_allclose(logs["loss"], hand.step(x, y, 0), rtol=1e-5)
    assert_same(weights_of(model), hand.weights())


# Keras's machinery


def test_no_retracing_across_epochs():
    traced = []

    class Counted(Subclassed):
        def call(self, x):
            traced.append(x.shape)
            return super().call(x)

    x, y = examples()
    penalty = GradientNorm(0.1)
    model = compiled(Counted(), [penalty])
    options = {"validation_data": (x, y), "verbose": 0}
    model.fit(x, y, 5, 1, **options)  # 5, 5, 2: the ragged batch is in the first epoch.
    first = len(traced)
    assert first > 0
    penalty.weight = 0.7
    model.optimizer.learning_rate = 0.01
    model.fit(x, y, 5, 4, **options)
    assert len(traced) == first


@pytest.mark.long
def test_stock_callbacks(tmp_path):
    x, y = examples()
    model = compiled(sequential(), both())
    best = str(tmp_path / "best.keras")
    hooks = [
        keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=10.0),
        keras.callbacks.ModelCheckpoint(best, monitor="gradient_norm", mode="min"),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "w.weights.h5"), save_weights_only=True),
        keras.callbacks.ReduceLROnPlateau(
            "score_matching", 0.5, patience=0, min_delta=1e9, mode="min"
        ),
        keras.callbacks.TensorBoard(str(tmp_path / "board")),
        keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
    ]
    history = model.fit(x, y, 6, 9, validation_data=(x, y), callbacks=hooks, verbose=0).history
    assert len(history["loss"]) == 2  # Stopped early.
    assert float(model.optimizer.learning_rate) < RATE
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert {"gradient_norm", "score_matching", "val_loss"} <= set(header.split(","))
    assert list((tmp_path / "board").rglob("events*"))
    assert list((tmp_path / "backup").rglob("*.weights.h5"))
    loaded = keras.models.load_model(best)
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))


def test_learning_rate_scheduler():
    x, y = examples()
    model = compiled(sequential(), [GradientNorm(0.3)])
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: [RATE, 0.0][epoch])
    hand = ByHand(norm=0.3)
    hand.step(x, y, 0)
    model.fit(x, y, 12, 2, callbacks=[rates], shuffle=False, verbose=0)
    assert_same(weights_of(model), hand.weights())


# Saving


def run_of(model, x, y, epochs=2):
    return model.fit(x, y, 5, epochs, shuffle=False, verbose=0).history


def dropout_model():
    penalties = [GradientNorm(0.3), score_matching(samples=2)]
    return compiled(with_dropout(), penalties, keras.optimizers.Adam(0.01))


@pytest.mark.long
def test_a_saved_model_goes_on_bit_identically(tmp_path):
    x, y = examples()
    model = dropout_model()
    run_of(model, x, y)
    model.penalties[0].weight = 0.7
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded, PenalizedModel)
    assert [type(p) for p in loaded.penalties] == [GradientNorm, ScoreMatching]
    assert loaded.penalties[0].weight == 0.7
    assert loaded.optimizer.learning_rate == model.optimizer.learning_rate
    assert run_of(loaded, x, y) == run_of(model, x, y)
    assert_identical(weights_of(loaded), weights_of(model))
    again = dropout_model()  # One that forgot seeds, Adam's moments or draws would differ.
    again.network.set_weights(keras.models.load_model(path).network.get_weights())
    run_of(again, x, y)
    assert np.abs(weights_of(again)[0] - weights_of(model)[0]).max() > 1e-5


@pytest.mark.long
def test_weights_files_restore_seeds_draws_and_penalty_weights(tmp_path):
    x, y = examples()
    model = dropout_model()
    run_of(model, x, y)
    model.penalties[1].weight = 0.02
    path = str(tmp_path / "state.weights.h5")
    model.save_weights(path)
    other = dropout_model()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(path)
    assert other.penalties[1].weight == 0.02
    assert run_of(other, x, y) == run_of(model, x, y)
    assert_identical(weights_of(other), weights_of(model))


@pytest.mark.long
def test_the_network_is_a_plain_keras_model(tmp_path):
    x, y = examples()
    model = compiled(functional(), both())
    run_of(model, x, y)
    path, data = tmp_path / "network.keras", tmp_path / "x.npy"
    model.network.save(path)
    np.save(data, x)
    code = (
        "import sys, keras, numpy as np\n"
        "network = keras.models.load_model(sys.argv[1])\n"
        "assert 'tfgrad' not in sys.modules\n"
        "np.save(sys.argv[3], network.predict(np.load(sys.argv[2]), verbose=0))\n"
    )
    out = tmp_path / "out.npy"
    subprocess.run([sys.executable, "-c", code, path, data, out], check=True, timeout=120)
    np.testing.assert_allclose(np.load(out), model.predict(x, verbose=0), atol=1e-6)
