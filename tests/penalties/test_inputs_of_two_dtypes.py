"""Networks with a float32 and a float64 input, against the same network in float64 alone."""

import keras
import numpy as np
import pytest

from tfgrad.penalties import ESTIMATORS, GradientNorm, JacobianMatching, ScoreMatching

L = keras.layers
RNG = np.random.default_rng(0)
# Exact in float32, so that both networks get the same numbers.
X = [RNG.normal(size=(5, n)).astype("float32") for n in (4, 3)]
Y = np.array([0, 1, 0, 1, 1])


def network(first, seed=0):
    """softplus between two dense layers; the first input and its layer in a dtype of their own."""
    keras.utils.set_random_seed(seed)
    a, b = keras.Input((4,), dtype=first), keras.Input((3,), dtype="float64")
    parts = [L.Dense(3, dtype=first)(a), L.Dense(3, dtype="float64")(b)]
    h = L.Activation("softplus", dtype="float64")(L.Concatenate(dtype="float64")(parts))
    return keras.Model([a, b], L.Dense(2, dtype="float64")(h))


def pair(seed=0):
    """(the network of two dtypes, the same in float64)."""
    mixed, wide = network("float32", seed), network("float64", seed)
    wide.set_weights(mixed.get_weights())
    return mixed, wide


def inputs(first):
    return [X[0].astype(first), X[1].astype("float64")]


PENALTIES = {
    "norm": GradientNorm(),
    "norm of all": GradientNorm(target="all"),
    "jacobian": JacobianMatching(),
    "jacobian of all": JacobianMatching(target="all"),
    "cross-entropy": JacobianMatching(loss="cross_entropy"),
    "cross-entropy of all": JacobianMatching(target="all", loss="cross_entropy"),
    # The noise of both networks is the same.
    **{name: ScoreMatching(sigma=0.3, samples=2, estimator=name) for name in ESTIMATORS},
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", PENALTIES)
def test_both_inputs_count_in_the_wider_dtype(name):
    (mixed, wide), teachers, penalty = pair(), pair(seed=1), PENALTIES[name]
    matches = isinstance(penalty, JacobianMatching)
    of_mixed, of_wide = ({"teacher": teacher} if matches else {} for teacher in teachers)
    got = penalty.per_example(mixed, inputs("float32"), Y, **of_mixed)
    expected = penalty.per_example(wide, inputs("float64"), Y, **of_wide)
    assert got.dtype == "float64"
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-7)
