"""What `PenalizedModel` refuses, each in one sentence, and that its weights stay as they were."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfgrad
from tests.helpers.training_cases import (
    CLASSES,
    FEATURES,
    LOSS,
    assert_identical,
    compiled,
    examples,
    sequential,
    two_layers,
    weights_of,
)
from tfgrad import PenalizedModel
from tfgrad.errors import (
    ArgumentError,
    DataError,
    ModelError,
    NonFiniteError,
    SecondOrderError,
    SecondOrderWarning,
)
from tfgrad.penalties import GradientNorm, ScoreMatching


def ending_in(how):
    x = keras.Input((FEATURES,))
    if how == "fused":
        return keras.Model(x, L.Dense(CLASSES, activation="softmax", name="top")(x))
    logits = L.Dense(CLASSES)(x)
    outputs = L.Softmax(name="top")(logits) if how == "layer" else keras.ops.softmax(logits)
    return keras.Model(x, outputs)


@pytest.mark.parametrize("how", ["fused", "layer", "bare"])
def test_probabilities_are_refused(how):
    with pytest.raises(
        ModelError, match=r"returns probabilities; expected logits.*activation=None"
    ):
        PenalizedModel(ending_in(how), [GradientNorm()])


def test_probabilities_of_an_unbuilt_network_are_refused_at_its_first_use():
    network = keras.Sequential([L.Dense(CLASSES, activation="softmax")])
    model = compiled(network, [GradientNorm()])
    with pytest.raises(ModelError, match="returns probabilities"):
        model.fit(*examples(), verbose=0)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(),
        keras.losses.sparse_categorical_crossentropy,
    ],
    ids=["string", "object", "function"],
)
def test_losses_on_probabilities_are_refused(loss):
    model = PenalizedModel(sequential(), [GradientNorm()])
    with pytest.raises(ArgumentError, match=r"loss: .*expects probabilities.*from_logits=True"):
        model.compile("sgd", loss)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("binary_crossentropy", r"Use keras\.losses\.BinaryCrossentropy\(from_logits=True\)"),
        (keras.losses.BinaryFocalCrossentropy(), "BinaryCrossentropy"),
        (
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            r"'own' with one output; .*try keras\.losses\.BinaryCrossentropy\(from_logits=True\)",
        ),
    ],
    ids=["string", "focal", "sparse"],
)
def test_losses_of_one_logit(loss, expected):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)], name="own")
    with pytest.raises(ArgumentError, match=expected):
        PenalizedModel(network, [GradientNorm()]).compile("sgd", loss)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("categorical_crossentropy", "CategoricalCrossentropy"),
        (keras.losses.CategoricalFocalCrossentropy(), "CategoricalFocalCrossentropy"),
    ],
)
def test_the_same_loss_on_logits_is_named(loss, kind):
    with pytest.raises(ArgumentError, match=rf"Use keras\.losses\.{kind}\(from_logits=True\)"):
        PenalizedModel(sequential(), [GradientNorm()]).compile("sgd", loss)


def fit_error(kind, x, y, match):
    model = compiled(sequential(), [GradientNorm(0.1)])
    before = weights_of(model)
    with pytest.raises(kind, match=match):
        model.fit(x, y, 12, verbose=0)
    assert_identical(weights_of(model), before)


def test_labels_of_the_wrong_kind():
    x, y = examples()
    fit_error(ArgumentError, x, np.eye(4)[y], r"y: got shape \(12, 4\); expected class indices")
    halves = np.where(np.arange(12) == 5, 1.5, y)
    fit_error(DataError, x, halves, r"y: got labels that are no whole numbers, such as 1.5")


def test_labels_of_the_wrong_kind_where_penalties_are_evaluated():
    x, y = examples()
    model = PenalizedModel(sequential(), [GradientNorm(0.1)], evaluate_penalties=True)
    model.compile("sgd", LOSS)
    with pytest.raises(ArgumentError, match=r"y: got shape \((12|None), 4\); expected class"):
        model.evaluate(x, np.eye(4, dtype="float32")[y], verbose=0)


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("feed", ["arrays", "tf.data", "column"])
def test_labels_out_of_range(feed):
    x, y = examples()
    y = y.copy()
    y[7] = CLASSES
    match = r"y: got labels from 0 to 3; expected 0 to 2, the network has 3 logits"
    if feed == "arrays":
        fit_error(DataError, x, y, match)
        y[7] = -1
        match = r"y: got labels from -1 to 2; expected 0 to 2"
        fit_error(DataError, x, y, match)
    elif feed == "column":
        fit_error(DataError, x, y[:, None], match)
    else:
        model = compiled(sequential(), [GradientNorm(0.1)])
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
        with pytest.raises(DataError, match=match):
            model.fit(batches, shuffle=False, verbose=0)
        with pytest.raises(DataError, match=match):
            model.evaluate(batches, verbose=0)
        with pytest.raises(DataError, match=match):
            model.train_on_batch(x, y)
        with pytest.raises(DataError, match=match):
            model.test_on_batch(x, y)


@pytest.mark.sample(2)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite(value):
    x, y = examples()
    x = x.copy()
    x[3, 1] = value
    fit_error(
        DataError,
        x,
        y,
        r"x: got NaN or infinite values; expected finite images.*Check the data set",
    )


def test_integer_images():
    x, y = examples()
    fit_error(ArgumentError, x.astype("uint8"), y, r"x: got uint8.*tf.cast")


def test_layers_without_a_right_second_derivative():
    layers = [keras.Input((FEATURES,)), L.LayerNormalization(name="ln"), *two_layers()]
    with pytest.raises(SecondOrderError, match=r"'ln'.*use tfgrad.layers.LayerNormalization"):
        PenalizedModel(keras.Sequential(layers), [GradientNorm()])
    unbuilt = compiled(keras.Sequential(layers[1:]), [GradientNorm()])
    with pytest.raises(SecondOrderError, match=r"'ln'"):
        unbuilt.fit(*examples(), verbose=0)
    PenalizedModel(keras.Sequential(layers))  # No penalty, no second derivative.


def test_stock_batch_normalisation_warns_and_trains():
    network = keras.Sequential([keras.Input((FEATURES,)), L.BatchNormalization(), *two_layers()])
    with pytest.warns(SecondOrderWarning, match=r"use tfgrad.layers.BatchNormalization"):
        model = compiled(network, [GradientNorm()])
    model.fit(*examples(), verbose=0)


def test_a_trace_that_batch_norm_makes_the_batch_s_is_told_of():
    def network(**options):
        norm = tfgrad.layers.BatchNormalization(name="norm", **options)
        layers = [L.Dense(4), norm, L.Activation("softplus"), L.Dense(3)]
        return keras.Sequential([keras.Input((FEATURES,)), *layers])

    with pytest.warns(
        SecondOrderWarning, match=r"'norm'.*'score_matching'.*statistics=\"running\""
    ):
        PenalizedModel(network(), [ScoreMatching()])
    PenalizedModel(network(), [ScoreMatching(statistics="running"), GradientNorm()])
    PenalizedModel(network(trainable=False), [ScoreMatching()])


def test_constructor_arguments():
    network = sequential()
    with pytest.raises(
        ArgumentError, match=r"penalties: got the name 'gradient_norm', which is taken.*own name="
    ):
        PenalizedModel(network, [GradientNorm(), GradientNorm()])
    with pytest.raises(ArgumentError, match=r"penalties: got the name 'loss', which is taken"):
        PenalizedModel(network, [GradientNorm(name="loss")])
    with pytest.raises(ArgumentError, match=r"penalties: got float.*GradientNorm\(0.1\)"):
        PenalizedModel(network, [0.1])
    with pytest.raises(ArgumentError, match=r"penalties: got type"):
        PenalizedModel(network, [GradientNorm])
    with pytest.raises(ArgumentError, match=r"network: got Dense; expected a keras.Model"):
        PenalizedModel(L.Dense(3), [GradientNorm()])
    with pytest.raises(ArgumentError, match=r"network: got function"):
        PenalizedModel(lambda x: x, [GradientNorm()])


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "0.1", None, True])
def test_penalty_weights(weight):
    with pytest.raises(ArgumentError, match=r"weight: got .*expected a finite number from 0 up"):
        GradientNorm(weight)
    penalty = GradientNorm(0.1)
    with pytest.raises(ArgumentError, match=r"weight: got "):
        penalty.weight = weight
    assert penalty.weight == 0.1


def test_a_metric_that_shares_a_penalty_s_name():
    model = PenalizedModel(sequential(), [GradientNorm()])
    for kind in ("metrics", "weighted_metrics"):
        with pytest.raises(
            ArgumentError, match=r"metrics: got the name 'gradient_norm', which is taken.*name="
        ):
            model.compile("sgd", LOSS, **{kind: [keras.metrics.Mean(name="gradient_norm")]})


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("loss", ["hinge", keras.losses.SquaredHinge()])
def test_labels_of_a_hinge_loss(loss):
    # Keras converts 0 and 1, so that they are the classes here, too.
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model, x = PenalizedModel(network, [GradientNorm(0.1)]), np.ones((4, 4), "float32")
    model.compile("sgd", loss)
    y = np.array([[0.0], [1.0], [1.0], [0.0]], "float32")
    assert np.isfinite(model.train_on_batch(x, y)).all()
    with pytest.raises(DataError, match=r"got labels from -1 to 1; expected 0 to 1.*use 0 and 1"):
        model.train_on_batch(x, 2 * y - 1)


def test_sample_weights_of_the_wrong_shape():
    x, y = examples()
    model = compiled(sequential(), [GradientNorm()])
    with pytest.raises(ArgumentError, match=r"sample_weight: got shape .*one weight per example"):
        model.train_on_batch(x, y, sample_weight=np.ones((12, 3), "float32"))


def test_another_backend_is_named():
    # The other backends' packages need not be installed: Keras is a stand-in that names one.
    code = (
        "import sys, types\n"
        "keras = sys.modules['keras'] = types.ModuleType('keras')\n"
        "keras.backend = types.SimpleNamespace(backend=lambda: 'jax')\n"
        "import tfgrad\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    last = ran.stderr.strip().splitlines()[-1]
    assert "KERAS_BACKEND: got 'jax'" in last
    assert "Set KERAS_BACKEND=tensorflow" in last


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(tmp_path):
    class Blowup(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.optimizer.learning_rate = 1e30

    x, y = examples()
    good = compiled(sequential(), [GradientNorm(0.1)])
    good.fit(x, y, 5, 2, shuffle=False, verbose=0)
    model = compiled(sequential(), [GradientNorm(0.1)])
    backup = tfgrad.callbacks.Backup(tmp_path / "state")
    hooks = [tfgrad.callbacks.StopOnNonFinite("it is kept"), backup, Blowup()]
    with pytest.raises(
        NonFiniteError, match=r"loss: (nan|inf) at batch \d of epoch [34].*it is kept"
    ):
        model.fit(x, y, 5, 9, shuffle=False, callbacks=hooks, verbose=0)
    restored = compiled(sequential(), [GradientNorm(0.1)])
    assert tfgrad.callbacks.Backup(tmp_path / "state").restore(restored) == 2
    assert_identical(weights_of(restored), weights_of(good))
