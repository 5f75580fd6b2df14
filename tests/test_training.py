"""`PenalizedModel` as an ordinary Keras model, against loops written by hand."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfgrad
from tfgrad import PenalizedModel
from tfgrad.draws import Draws
from tfgrad.errors import (
    ArgumentError,
    DataError,
    ModelError,
    NonFiniteError,
    SecondOrderError,
    SecondOrderWarning,
)
from tfgrad.penalties import GradientNorm, Penalty, ScoreMatching

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
FEATURES, UNITS, CLASSES, RATE = 5, 4, 3, 0.1
SIGMA, SEED, MU = 0.1, 11, 0.01


def examples(n=12):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, FEATURES)).astype("float32")
    return x, rng.integers(0, CLASSES, n).astype("int32")


def two_layers(regularised=False):
    """The layers of every network below: softplus(x W₁ + b₁) W₂ + b₂, with repeatable weights."""
    uniform = keras.initializers.RandomUniform
    extra = (
        {
            "kernel_regularizer": keras.regularizers.L2(0.05),
            "activity_regularizer": keras.regularizers.L2(0.02),
        }
        if regularised
        else {}
    )
    return [
        L.Dense(UNITS, "softplus", kernel_initializer=uniform(-1, 1, seed=1), **extra),
        L.Dense(CLASSES, kernel_initializer=uniform(-1, 1, seed=2)),
    ]


def sequential(regularised=False):
    return keras.Sequential([keras.Input((FEATURES,)), *two_layers(regularised)])


def functional():
    first, second = two_layers()
    x = keras.Input((FEATURES,))
    return keras.Model(x, second(first(x)))


def nested():
    first, second = two_layers()
    inner = keras.Sequential([keras.Input((FEATURES,)), first])
    x = keras.Input((FEATURES,))
    return keras.Model(x, second(inner(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = two_layers()

    def call(self, x):
        return self.second(self.first(x))


class SubclassedWithMode(Subclassed):
    def call(self, x, training=None):
        assert training is not None
        return super().call(x)


def score_matching(weight=0.05, **options):
    options = {"sigma": SIGMA, "stability": MU, "seed": SEED, **options}
    return ScoreMatching(weight, **options)


def compiled(network, penalties=(), optimizer=None, **options):
    model = PenalizedModel(network, penalties)
    model.compile(optimizer or keras.optimizers.SGD(RATE), LOSS, metrics=["accuracy"], **options)
    return model


def weights_of(model):
    return [v.numpy() for v in model.trainable_variables]


def assert_same(got, expected, atol=1e-6):
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def assert_identical(got, expected):
    assert_same(got, expected, atol=0)


class ByHand:
    """The same training without Keras: plain variables, one tape for x, one for the weights."""

    def __init__(self, norm=0.0, score=0.0, kernel_l2=0.0, activity_l2=0.0, xla=False):
        self.variables = [tf.Variable(v) for v in weights_of(sequential())]
        self.norm, self.score = norm, score
        self.kernel_l2, self.activity_l2 = kernel_l2, activity_l2
        # XLA makes other normals of the same counters.
        self.draws = tf.function(lambda x, n: Draws(n).normal(x, 2, SEED), jit_compile=xla)

    def hidden(self, x):
        return tf.nn.softplus(x @ self.variables[0] + self.variables[1])

    def logit(self, x, y):
        """The label's logit of each example."""
        logits = self.hidden(x) @ self.variables[2] + self.variables[3]
        return tf.reduce_sum(logits * tf.one_hot(y, CLASSES), 1), logits

    def penalties(self, x, y, step):
        with tf.GradientTape() as tape:
            tape.watch(x)
            clean, _ = self.logit(x, y)
            total = tf.reduce_sum(clean)
        squares = tf.reduce_sum(tape.gradient(total, x) ** 2, 1)
        differences = [
            self.logit(x + SIGMA * v, y)[0] + self.logit(x - SIGMA * v, y)[0] - 2 * clean
            for v in self.draws(x, tf.constant(step, tf.int64))
        ]
        h = sum(differences) / (2 * SIGMA**2)
        return {"gradient_norm": squares, "score_matching": h + squares / 2 + MU * h**2}

    def loss(self, x, y, step, w):
        x = tf.constant(x)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(y, self.logit(x, y)[1])
        each = self.penalties(x, y, step)
        each = (
            cross_entropy + self.norm * each["gradient_norm"] + self.score * each["score_matching"]
        )
        regularisers = self.kernel_l2 * tf.reduce_sum(self.variables[0] ** 2)
        # Keras divides the activity regulariser by the batch.
        regularisers += self.activity_l2 * tf.reduce_sum(self.hidden(x) ** 2) / len(x)
        return tf.reduce_sum(w * each) / len(x) + regularisers

    def gradients(self, x, y, step, w=1.0):
        with tf.GradientTape() as tape:
            loss = self.loss(x, y, step, w)
        return loss.numpy(), tape.gradient(loss, self.variables)

    def step(self, x, y, step, w=1.0):
        loss, gradients = self.gradients(x, y, step, w)
        for variable, gradient in zip(self.variables, gradients, strict=True):
            variable.assign_sub(RATE * gradient)
        return loss

    def weights(self):
        return [v.numpy() for v in self.variables]


def both():
    return [GradientNorm(0.3), score_matching(0.05, samples=2, estimator="antithetic")]


BATCHES = [slice(0, 5), slice(5, 10), slice(10, 12)]


# The update


@pytest.mark.parametrize("mode", ["graph", "eager", "xla", "class_weight"])
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


@pytest.mark.parametrize(
    "network",
    [
        functional,
        nested,
        Subclassed,
        SubclassedWithMode,
        lambda: keras.Sequential(two_layers()),
    ],
    ids=["functional", "nested", "subclassed", "subclassed_with_mode", "unbuilt_sequential"],
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


def with_dropout():
    return keras.Sequential(
        [keras.Input((FEATURES,)), two_layers()[0], L.Dropout(0.5, seed=3), two_layers()[1]]
    )


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


# Evaluation


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


# Bad input


def ending_in(how):
    x = keras.Input((FEATURES,))
    if how == "fused":
        return keras.Model(x, L.Dense(CLASSES, activation="softmax", name="top")(x))
    logits = L.Dense(CLASSES)(x)
    outputs = L.Softmax(name="top")(logits) if how == "layer" else keras.ops.softmax(logits)
    return keras.Model(x, outputs)


@pytest.mark.parametrize("how", ["fused", "layer", "bare"])
def test_probabilities_are_refused(how):
    with pytest.raises(ModelError, match=r"outputs are probabilities.*Remove that activation"):
        PenalizedModel(ending_in(how), [GradientNorm()])


def test_probabilities_of_an_unbuilt_network_are_refused_at_its_first_use():
    network = keras.Sequential([L.Dense(CLASSES, activation="softmax")])
    model = compiled(network, [GradientNorm()])
    with pytest.raises(ModelError, match="outputs are probabilities"):
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


def fit_error(kind, x, y, match):
    model = compiled(sequential(), [GradientNorm(0.1)])
    before = weights_of(model)
    with pytest.raises(kind, match=match):
        model.fit(x, y, 12, verbose=0)
    assert_identical(weights_of(model), before)


def test_labels_of_the_wrong_kind():
    x, y = examples()
    one_hot = np.eye(CLASSES, dtype="float32")[y]
    fit_error(ArgumentError, x, one_hot, r"y: got shape \(12, 3\) \(one-hot rows\?\).*argmax")
    fit_error(ArgumentError, x, y.astype("float32"), r"y: got dtype float32.*astype\('int32'\)")


@pytest.mark.parametrize("feed", ["arrays", "tf.data", "column"])
def test_labels_out_of_range(feed):
    x, y = examples()
    y = y.copy()
    y[7] = CLASSES
    match = r"y: a label is out of range: expected 0 to 2, the network has 3 logits; got 0 to 3"
    if feed == "arrays":
        fit_error(DataError, x, y, match)
        y[7] = -1
        match = r"got -1 to 2"
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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite(value):
    x, y = examples()
    x = x.copy()
    x[3, 1] = value
    fit_error(DataError, x, y, r"x: the images hold NaN or infinite values.*Check the data set")


def test_integer_images():
    x, y = examples()
    fit_error(ArgumentError, x.astype("uint8"), y, r"x: got uint8.*Cast images")


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


def test_constructor_arguments():
    network = sequential()
    with pytest.raises(ArgumentError, match=r"'gradient_norm' is taken.*own name="):
        PenalizedModel(network, [GradientNorm(), GradientNorm()])
    with pytest.raises(ArgumentError, match=r"'loss' is taken"):
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
        with pytest.raises(ArgumentError, match=r"metrics: .*'gradient_norm' is taken.*name="):
            model.compile("sgd", LOSS, **{kind: [keras.metrics.Mean(name="gradient_norm")]})


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
