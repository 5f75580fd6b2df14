"""What comes with each example travels wherever x does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.transfer_cases import filled
from tfgrad.errors import ArgumentError
from tfgrad.penalties import ActivationMatching, DerivativeMatching, Examples, GradientMask

L = keras.layers
N = 7
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype("float32")
Y, D = RNG.normal(size=(N, 1)).astype("float32"), RNG.normal(size=(N, 3)).astype("float32")
W = RNG.uniform(0.5, 2.0, N).astype("float32")
GIVEN = Examples(X, {"derivatives": D})


def network(seed=1):
    return filled(keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"), L.Dense(1)]), seed)


def compiled(rate=0.0, penalties=None, **options):
    model = tfgrad.PenalizedModel(network(), penalties or DerivativeMatching(0.5), **options)
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(3 * index, 3 * index + 3)
        return Examples(X[rows], {"derivatives": D[rows]}), Y[rows], W[rows]


def expected(weights=W):
    return float(np.sum(weights * DerivativeMatching().per_example(network(), GIVEN).numpy()) / N)


def test_arrays_data_sets_and_sequences():
    stream = tf.data.Dataset.from_tensor_slices((GIVEN, Y, W)).batch(3)
    model = compiled()
    for data, options in (
        ((GIVEN, Y), {"sample_weight": W, "batch_size": 3, "shuffle": True}),
        ((stream,), {"shuffle": False}),
        ((Batches(),), {"shuffle": False}),
    ):
        history = model.fit(*data, verbose=0, **options).history
        assert history["derivative_matching"][0] == pytest.approx(expected(), rel=1e-5)
    logs = model.train_on_batch(GIVEN, Y, W, return_dict=True)
    assert logs["derivative_matching"] == pytest.approx(expected(), rel=1e-5)


@pytest.mark.long
def test_validation_and_evaluation():
    plain, penalized = compiled(), compiled(evaluate_penalties=True)
    (one, whole) = (
        model.fit(GIVEN, Y, validation_data=(GIVEN, Y), verbose=0).history
        for model in (plain, penalized)
    )
    term = 0.5 * expected(1.0)
    assert whole["val_loss"][0] == pytest.approx(one["val_loss"][0] + term, rel=1e-5)
    assert plain.evaluate(X, Y, verbose=0) == pytest.approx(one["val_loss"][0], rel=1e-5)
    np.testing.assert_array_equal(plain.predict(GIVEN, verbose=0), plain.predict(X, verbose=0))


class Unlabelled(Batches):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_examples_without_labels(jit_compile):
    """Data sets of `Examples` alone are those of `(Examples,)`, and not of pairs (x, y)."""
    alone = tf.data.Dataset.from_tensor_slices(GIVEN).batch(3)
    wrapped = tf.data.Dataset.from_tensor_slices((GIVEN,)).batch(3)
    hidden = [L.Dense(4, "tanh"), L.Dense(1, use_bias=False)]  # no slope has a gradient for a bias
    net = filled(keras.Sequential([keras.Input((3,)), *hidden]), 1)
    model = tfgrad.PenalizedModel(net, DerivativeMatching(0.5), evaluate_penalties=True)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    term = float(np.mean(DerivativeMatching().per_example(net, GIVEN)))
    for data in (GIVEN, alone, wrapped, Unlabelled()):
        shown = data if data is GIVEN else alone
        logs = model.fit(data, validation_data=shown, verbose=0, shuffle=False).history
        for name in ("derivative_matching", "val_derivative_matching"):
            assert logs[name][0] == pytest.approx(term, rel=1e-5), (type(data), name)
        assert logs["val_loss"][0] == pytest.approx(0.5 * term, rel=1e-5)
        outputs = model.predict(data, verbose=0)
        np.testing.assert_allclose(outputs, net(X), rtol=1e-5)


def test_lessons_without_labels():
    model = tfgrad.PenalizedModel(network(), ActivationMatching(), teacher=network(2))
    model.compile(keras.optimizers.SGD(0.0))
    lesson = model.lessons(X)
    other = tf.nest.map_structure(lambda answer: answer + 1, lesson.taught)
    lesson = lesson._replace(taught=other)  # which the teacher would not answer
    stream = tf.data.Dataset.from_tensor_slices(lesson).batch(N)
    whole, streamed = (
        model.fit(data, verbose=0, shuffle=False).history for data in (lesson, stream)
    )
    name = "activation_matching"
    assert streamed[name][0] == pytest.approx(whole[name][0], rel=1e-6)


def test_missing_data_are_named_before_training():
    model = compiled(0.1)
    before = model.network.get_weights()
    with pytest.raises(ArgumentError, match=r"x: got inputs alone; .*Examples\(x, \{'derivat"):
        model.fit(X, Y, verbose=0)
    for kept, old in zip(model.network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(kept, old)


def test_lessons_keep_what_is_given():
    penalties = [ActivationMatching(), DerivativeMatching(0.5)]
    model = compiled(penalties=penalties, teacher=network(2))
    live = model.fit(GIVEN, Y, verbose=0).history
    lesson = model.lessons(GIVEN, Y)
    recorded = model.fit(lesson, Y, verbose=0).history
    for name, value in live.items():
        assert recorded[name] == pytest.approx(value, rel=1e-5)
    assert model.predict(lesson, verbose=0).shape == (N, 1)


@pytest.mark.slow
def test_slopes_fix_the_function_between_its_points():
    """sin at 7 points: with its slopes the fit between them is better by a factor."""
    x = np.linspace(-3.0, 3.0, 7)[:, None].astype("float32")
    between = np.linspace(-3.0, 3.0, 61)[:, None].astype("float32")
    errors = {}
    for weight in (0.0, 1.0):
        keras.utils.set_random_seed(1)
        net = keras.Sequential([keras.Input((1,)), L.Dense(24, "tanh"), L.Dense(1)])
        model = tfgrad.PenalizedModel(net, DerivativeMatching(weight))
        model.compile(keras.optimizers.Adam(0.02), "mse", steps_per_execution=100)
        examples = Examples(np.tile(x, (800, 1)), {"derivatives": np.tile(np.cos(x), (800, 1))})
        model.fit(examples, np.tile(np.sin(x), (800, 1)), 7, shuffle=False, verbose=0)
        errors[weight] = float(np.sqrt(np.mean((net(between) - np.sin(between)) ** 2)))
    print(errors)
    assert errors[1.0] < errors[0.0] / 2


@pytest.mark.slow
def test_masks_move_the_gradients_of_digits_inside():
    """Gradient energy outside over inside: 0.93 without the penalty, 2e-5 with it."""
    train, test = (tfgrad.data.load("digits", part) for part in ("train[:800]", "test[:300]"))
    outside = np.zeros((800, 8, 8), "float32")
    outside[:, :, [0, 1, 6, 7]] = 1
    shares, accuracies = [], []
    for weight in (0.0, 0.1):
        keras.utils.set_random_seed(0)
        dense = [L.Flatten(), L.Dense(32, "softplus"), L.Dense(10)]
        net = keras.Sequential([keras.Input((8, 8, 1)), *dense])
        model = tfgrad.PenalizedModel(net, GradientMask(weight))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        model.fit(Examples(train.images, {"mask": outside}), train.labels, 32, 15, verbose=0)
        energy = [
            np.sum(GradientMask().per_example(net, Examples(test.images, {"mask": mask})))
            for mask in (outside[:300], 1 - outside[:300])
        ]
        shares.append(energy[0] / energy[1])
        accuracies.append(model.evaluate(test.images, test.labels, verbose=0)[1])
    print(shares, accuracies)
    assert shares[0] > 0.5 and shares[1] < 1e-3
    assert accuracies[1] > 0.9
