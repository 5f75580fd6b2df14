"""The registry: one entry per penalty class, and the battery that every entry must pass.

A new penalty is registered here once, in as many variants as it has ways of computing, and
test_conformance.py tests each of them along every axis.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

import tfgrad
from tfgrad.penalties import (
    ActivationMatching,
    AntiScoreMatching,
    AttentionJacobianMatching,
    AttentionMatching,
    BiasGradientMatching,
    BiasGradientNorm,
    DerivativeMatching,
    Examples,
    GradientMask,
    GradientNorm,
    JacobianMatching,
    Penalty,
    SaliencyFooling,
    ScoreMatching,
)

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


# The student's layer, and the teacher's of the same map size.
PAIRS = [("conv", "features")]

# Of unequal weights and without symmetry, so that no transposition can hide.
MASK = [[0, 0, 0, 0], [0, 3, 1, 0], [2, 0, 0, 0], [0, 0, 0, 1]]

CASES = {
    "GradientNorm": {
        "label": _variant(GradientNorm, weight=0.3),
        "all": _variant(GradientNorm, weight=0.3, target="all"),
        "cross_entropy": _variant(
            GradientNorm, weight=0.3, target="predicted", loss="cross_entropy"
        ),
        "projected": _variant(
            GradientNorm, True, weight=0.3, target="projected", projections=2, seed=3
        ),
    },
    "ScoreMatching": {
        "taylor": _in_float32(ScoreMatching, True, weight=0.05, sigma=0.3, stability=0.1),
        "hutchinson": _in_float32(
            ScoreMatching, True, weight=0.05, estimator="hutchinson", samples=2, seed=4
        ),
        "running": _in_float32(
            ScoreMatching,
            True,
            weight=0.05,
            estimator="antithetic",
            sigma=0.3,
            stability=0.1,
            statistics="running",
        ),
    },
    "AntiScoreMatching": {
        "antithetic": _in_float32(
            AntiScoreMatching, True, weight=0.05, estimator="antithetic", sigma=0.3, threshold=9.0
        ),
    },
    "SaliencyFooling": {
        "label": _variant(SaliencyFooling, weight=3.0, mask=MASK),
        "predicted": _variant(SaliencyFooling, weight=3.0, mask=MASK, target="predicted"),
    },
    "DerivativeMatching": {
        "label": _variant(DerivativeMatching, weight=0.3, target="label"),
        "all": _variant(DerivativeMatching, weight=0.3, target="all", key="jacobian"),
    },
    "GradientMask": {
        "every_class": _variant(GradientMask, weight=0.03),
        "logit": _variant(GradientMask, weight=0.3, target="label", of="logit", key="pixels"),
    },
    # Small, or float16's first loss scale overflows and the optimizer leaves that step out.
    "ActivationMatching": {"logits": _variant(ActivationMatching, weight=0.03)},
    "JacobianMatching": {
        "label": _variant(JacobianMatching, weight=0.3),
        "predicted": _variant(JacobianMatching, weight=0.3, target="predicted"),
        "all": _variant(JacobianMatching, weight=0.3, target="all"),
        "projected": _variant(JacobianMatching, True, weight=0.3, target="projected"),
        "difference": _in_float32(
            JacobianMatching, True, weight=0.3, target="all", estimator="difference", step=0.1
        ),
        "contrast": _variant(JacobianMatching, weight=0.3, target=tfgrad.targets.Contrast()),
        "cross_entropy": _variant(
            JacobianMatching, weight=0.3, loss="cross_entropy", temperature=2.0
        ),
        "all_cross_entropy": _variant(
            JacobianMatching, weight=0.3, target="all", loss="cross_entropy", temperature=3.0
        ),
    },
    "AttentionMatching": {
        "squares": _variant(AttentionMatching, weight=0.3, layers=PAIRS),
        "sizes": _variant(AttentionMatching, weight=0.3, layers=PAIRS, power=1),
    },
    "AttentionJacobianMatching": {
        "pixel": _variant(AttentionJacobianMatching, weight=0.3, layers=PAIRS),
        "whole": _variant(AttentionJacobianMatching, weight=0.3, layers=PAIRS, window=1.0),
    },
    "BiasGradientNorm": {"label": _variant(BiasGradientNorm, weight=0.3, layers=["conv", "head"])},
    "BiasGradientMatching": {
        "label": _variant(BiasGradientMatching, weight=0.3, layers=PAIRS),
        "predicted": _variant(BiasGradientMatching, weight=0.3, layers=PAIRS, target="predicted"),
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


def teacher():
    """Another smooth network on the same inputs, classes and map sizes, the same at every call."""
    net = keras.Sequential(
        [
            keras.Input(SHAPE, dtype="float32"),
            # No tanh here: float32 loses a saturated unit's slope, and a direction magnifies it.
            keras.layers.Conv2D(4, 3, activation="softplus", dtype="float32", name="features"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="tanh", dtype="float32"),
            keras.layers.Dense(CLASSES, dtype="float32", name="logits"),
        ]
    )
    rng = np.random.default_rng(9)
    for v in net.trainable_weights:
        v.assign(rng.normal(size=v.shape, scale=0.4))
    # Biases of one sign: a channel sum that cancels has no direction float32 could hold.
    net.get_layer("features").bias.assign([0.5, 0.8, 1.1, 0.6])
    return net


def taught(penalty):
    """`teacher=` for whoever computes this penalty, where it matches one."""
    return {} if penalty.teacher_needs() is None else {"teacher": teacher()}


def batch(n=4):
    """Images [n, 4, 4, 1] and labels [n]."""
    rng = np.random.default_rng(8)
    return rng.normal(size=(n, *SHAPE)).astype("float32"), (np.arange(n) % CLASSES).astype("int32")


def examples(x):
    """Images with what penalties need of each, which depends on the image alone."""
    derivatives = np.where(x > 1.0, np.nan, np.cos(x))
    given = {
        "derivatives": derivatives,
        "jacobian": np.stack([derivatives, x, 2 * x], 1),
        "mask": np.abs(x),
        "pixels": np.abs(x[..., 0]),
    }
    return Examples(x, given)


def compiled(net, penalty, optimizer=None, **options):
    """A PenalizedModel ready for `fit`."""
    model = tfgrad.PenalizedModel(net, [penalty], **taught(penalty))
    model.compile(
        optimizer or keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options,
    )
    return model


def one_step(model, n=4, **options):
    """History of one epoch of one batch."""
    x, y = batch(n)
    return model.fit(examples(x), y, batch_size=n, shuffle=False, verbose=0, **options).history
