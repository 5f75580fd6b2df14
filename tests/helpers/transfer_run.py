"""Learns from a teacher on as many replicas as it is told, for test_transfer_replicas.

python -m tests.helpers.transfer_run REPLICAS OUT.npz
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import tfgrad
from tfgrad import distribution
from tfgrad.penalties import (
    ActivationMatching,
    AttentionJacobianMatching,
    AttentionMatching,
    BiasGradientMatching,
    BiasGradientNorm,
    JacobianMatching,
)

EXAMPLES, BATCH, EPOCHS = 35, 16, 2  # 16, 16, 3: ragged
PAIRS = [("conv", "features")]
L = keras.layers


def penalties():
    return [
        ActivationMatching(0.1),
        JacobianMatching(0.1),
        JacobianMatching(0.1, target="all", name="jacobian"),
        JacobianMatching(0.1, target="predicted", loss="cross_entropy", name="cross_entropy"),
        AttentionMatching(0.1, layers=PAIRS),
        AttentionJacobianMatching(0.1, layers=PAIRS),
        BiasGradientNorm(0.1, layers=["conv", "hidden"]),
        BiasGradientMatching(0.1, layers=PAIRS),
    ]


def network(seed, channels, conv, norm=False):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            L.Conv2D(channels, 3, bias_initializer="ones", name=conv),
            *([L.BatchNormalization(name=f"{conv}_norm")] if norm else []),
            L.Activation("softplus"),
            L.Flatten(),
            L.Dense(4, activation="softplus", bias_initializer="ones", name="hidden"),
            L.Dense(3, name="head"),
        ]
    )


def students(teacher):
    """{name: (model, labels)}; without batch norm, whose statistics are each replica's own."""
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain = [
        tfgrad.PenalizedModel(network(1, 3, "conv"), penalties(), teacher=teacher) for _ in range(2)
    ]
    keras.utils.set_random_seed(2)
    two = tfgrad.PenalizedModel(
        tfgrad.models.two_heads(network(1, 3, "conv"), 3),
        [
            ActivationMatching(0.1, head="source"),
            JacobianMatching(0.1, head="source", target="predicted"),
            tfgrad.penalties.GradientNorm(0.1, head="target"),
        ],
        teacher=teacher,
    )
    for model in plain:
        model.compile(keras.optimizers.SGD(0.05), crossentropy, metrics=["accuracy"])
    two.compile(
        keras.optimizers.SGD(0.05), {"target": crossentropy}, metrics={"target": ["accuracy"]}
    )
    return {"live": plain[0], "lessons": plain[1], "heads": two}


def main(replicas, out, names):
    name = "mirrored" if replicas > 1 else "one_device"
    strategy = distribution.strategy(name, replicas if replicas > 1 else None)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(EXAMPLES, 5, 5, 2)).astype("float32")
    y = rng.integers(0, 3, EXAMPLES).astype("int32")
    w = rng.uniform(0.2, 3.0, EXAMPLES).astype("float32")
    with strategy.scope():
        teacher = network(5, 4, "features", norm=True)
        for v in teacher.get_layer("features_norm").weights:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        models = {name: model for name, model in students(teacher).items() if name in names}
    before = [v.numpy() for v in teacher.variables]
    results = {}
    for name, model in models.items():
        inputs = model.lessons(x, y) if name == "lessons" else x
        labels = {"target": y} if name == "heads" else y
        weight = None if name == "heads" else w
        history = model.fit(
            inputs, labels, BATCH, EPOCHS, sample_weight=weight, shuffle=False, verbose=0
        ).history
        evaluated = model.evaluate(x, labels, BATCH, verbose=0, return_dict=True)
        results |= {f"{name}/weight_{i}": v.numpy() for i, v in enumerate(model.network.weights)}
        results |= {f"{name}/history_{k}": np.asarray(v) for k, v in history.items()}
        results |= {f"{name}/evaluate_{k}": np.asarray(v) for k, v in evaluated.items()}
    for v, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), value)
    np.savez(out, **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
