"""Trains the same thing on as many replicas as it is told, for test_distribution.

    python -m tests.helpers.replica_run REPLICAS FEED PENALTIES OUT.npz

FEED is `arrays` (Keras shards) or `slices` (tfgrad does), PENALTIES `every` or `few`.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad import distribution
from tfgrad.penalties import (
    AntiScoreMatching,
    DerivativeMatching,
    Examples,
    GradientMask,
    GradientNorm,
    ScoreMatching,
)

EXAMPLES, BATCH, EPOCHS = 50, 16, 3  # 16, 16, 16, 2: ragged, and 2 of 4 replicas go empty.


def penalties(which):
    # What depends on a replica's place in the batch: draws, what is given with examples, a period.
    few = [
        GradientNorm(0.3),
        ScoreMatching(0.01, sigma=0.1),
        DerivativeMatching(0.1, target="label", every=3),
        GradientMask(0.1),
    ]
    others = [
        GradientNorm(0.2, target="all", name="all"),
        GradientNorm(0.2, target="predicted", loss="cross_entropy", name="cross_entropy"),
        ScoreMatching(0.01, sigma=0.1, samples=2, estimator="antithetic", name="antithetic"),
        ScoreMatching(0.01, estimator="hutchinson", name="hutchinson"),
        AntiScoreMatching(0.01, sigma=0.1),
        GradientNorm(0.2, target="projected", name="projected"),
    ]
    return few if which == "few" else [*few, *others]


def network():
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(5, 3, activation="softplus", kernel_regularizer="l2"),
            keras.layers.Conv2D(4, 3, activation="softplus"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


def data(given=True):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(EXAMPLES, 6, 6, 2)).astype("float32")
    y = rng.integers(0, 3, EXAMPLES).astype("int32")
    w = rng.uniform(0.2, 3.0, EXAMPLES).astype("float32")
    if given:
        derivatives = np.where(x > 1.5, np.float32("nan"), np.cos(x))
        x = Examples(x, {"derivatives": derivatives, "mask": np.abs(x[..., 0])})
    return x, y, w


def sliced(index, count):
    x, y, w = data()
    batches = []
    for start in list(range(0, EXAMPLES, BATCH)) * EPOCHS:
        batch = np.array_split(np.arange(start, min(start + BATCH, EXAMPLES)), count)[index]
        batches.append(tf.nest.map_structure(lambda a, rows=batch: a[rows], (x, y, w)))
    signature = tf.nest.map_structure(
        lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), (x, y, w)
    )
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)


def main(replicas, feed, which, out):
    name = "mirrored" if replicas > 1 else "one_device"
    strategy = distribution.strategy(name, replicas if replicas > 1 else None)
    with strategy.scope():
        model = tfgrad.PenalizedModel(network(), penalties(which))
        model.compile(
            keras.optimizers.SGD(0.05),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True)],
        )
    x, y, w = data()
    if feed == "arrays":
        history = model.fit(x, y, BATCH, EPOCHS, sample_weight=w, shuffle=False, verbose=0).history
    else:
        history = model.fit(
            distribution.local_slices(strategy, sliced),
            epochs=EPOCHS,
            steps_per_epoch=-(-EXAMPLES // BATCH),
            shuffle=False,
            verbose=0,
        ).history
    x, y, w = data(given=False)
    evaluated = model.evaluate(x, y, BATCH, sample_weight=w, verbose=0, return_dict=True)
    predicted = model.predict(x, BATCH, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 12
    np.savez(
        out,
        *[v.numpy() for v in model.network.weights],
        predicted=predicted,
        **{f"history_{k}": np.asarray(v) for k, v in history.items()},
        **{f"evaluate_{k}": np.asarray(v) for k, v in evaluated.items()},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
