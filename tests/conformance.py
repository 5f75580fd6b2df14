"""The registry: one entry per penalty class, and the battery that every entry must pass.

A new penalty is registered here once, in as many variants as it has ways of computing, and
test_conformance.py tests each of them along every axis.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

import tfgrad
from tfgrad.penalties import AntiScoreMatching, GradientNorm, Penalty, ScoreMatching

CLASSES, SHAPE = 3, (4, 4, 1)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of using a penalty.

    Attributes:
        make: builds the penalty; keyword arguments override the variant's own.
        random: whether its value depends on draws.
        half_precision: relative tolerance of its value under a half-precision policy.
    """

    make: Callable[..., Penalty]
    random: bool = False
    # Float16 keeps 11 bits and bfloat16 8 (2⁻⁸ = 0.4 % a rounding): a squared gradient passes
    # some ten of them. What is computed in float32 has no such excuse.
    half_precision: dict = dataclasses.field(
        default_factory=lambda: {"mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}
    )


def _variant(cls, random=False, **arguments):
    return Variant(lambda **more: cls(**{**arguments, **more}), random)


def _in_float32(cls, random, **arguments):
    tolerance = {"mixed_float16": 1e-4, "mixed_bfloat16": 1e-4}
    return dataclasses.replace(_variant(cls, random, **arguments), half_precision=tolerance)


CASES = {
    "GradientNorm": {
        "label": _variant(GradientNorm, weight=0.3),
        "all": _variant(GradientNorm, weight=0.3, target="all"),
        "cross_entropy": _variant(
            GradientNorm, weight=0.3, target="predicted", loss="cross_entropy"
        ),
    },
    "ScoreMatching": {
        "taylor": _in_float32(ScoreMatching, True, weight=0.05, sigma=0.3, stability=0.1),
        "hutchinson": _in_float32(
            ScoreMatching, True, weight=0.05, estimator="hutchinson", samples=2, seed=4
        ),
    },
    "AntiScoreMatching": {
        "antithetic": _in_float32(
            AntiScoreMatching, True, weight=0.05, estimator="antithetic", sigma=0.3, threshold=9.0
        ),
    },
}

VARIANTS = {
    f"{name}-{variant}": case
    for name, variants in CASES.items()
    for variant, case in variants.items()
}


def public_penalties():
    """Names of the public penalty classes; each must be in CASES."""
    exported = {n: getattr(tfgrad.penalties, n) for n in tfgrad.penalties.__all__}
    return {
        name
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, Penalty) and value is not Penalty
    }


def network():
    """A small smooth network, the same one at every call; no batch norm, which couples examples."""
    net = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(3, 3, name="conv"),
            keras.layers.Activation("softplus"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, dtype="float32", name="head"),
        ]
    )
    rng = np.random.default_rng(7)
    for v in net.trainable_weights:
        v.assign(rng.normal(size=v.shape, scale=0.6))
    return net


def batch(n=4):
    """Images [n, 4, 4, 1] and labels [n]."""
    rng = np.random.default_rng(8)
    return rng.normal(size=(n, *SHAPE)).astype("float32"), (np.arange(n) % CLASSES).astype("int32")


def compiled(net, penalty, optimizer=None, **options):
    """A PenalizedModel ready for `fit`."""
    model = tfgrad.PenalizedModel(net, [penalty])
    model.compile(
        optimizer or keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options,
    )
    return model


def one_step(model, n=4, **options):
    """History of one epoch of one batch."""
    x, y = batch(n)
    return model.fit(x, y, batch_size=n, shuffle=False, verbose=0, **options).history
