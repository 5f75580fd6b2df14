"""Small networks under penalties, and the same training as a loop written by hand."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L

from tfgrad import PenalizedModel
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties import GradientNorm, ScoreMatching

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


@functools.cache
def _draws(xla):
    """XLA makes other normals of the same counters."""
    options = {"jit_compile": xla, "autograph": False}
    return tf.function(lambda x, n: Draws(n).normal(x, 2, SEED), **options)


class ByHand:
    """The same training without Keras: plain variables, one tape for x, one for the weights."""

    def __init__(self, norm=0.0, score=0.0, kernel_l2=0.0, activity_l2=0.0, xla=False):
        self.variables = [tf.Variable(v) for v in weights_of(sequential())]
        self.norm, self.score = norm, score
        self.kernel_l2, self.activity_l2 = kernel_l2, activity_l2
        self.draws = _draws(xla)

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


def with_dropout():
    return keras.Sequential(
        [keras.Input((FEATURES,)), two_layers()[0], L.Dropout(0.5, seed=3), two_layers()[1]]
    )
