"""DerivativeMatching and GradientMask in steps that XLA compiles: the numbers of plain steps."""

import keras
import numpy as np
import pytest

import tfgrad
from tests.helpers.transfer_cases import filled
from tfgrad.penalties import DerivativeMatching, Examples, GradientMask
from tfgrad.targets import Output

L = keras.layers
EXCLUSIVE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def curve():
    """Slopes, some unknown, and masks of a table."""
    x = floats(6, 3)
    net = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"), L.Dense(1)])
    given = {"derivatives": np.where(x > 0.5, np.nan, np.cos(x)), "mask": np.abs(x)}
    penalties = [DerivativeMatching(0.5), GradientMask(0.3, target=Output())]
    return net, penalties, Examples(x, given), floats(6, 1), "mse"


def heads(form):
    """Slopes of one head, some unknown, and a mask without channels of another, of images."""
    x = keras.Input((4, 4, 2))
    features = L.Flatten()(L.Conv2D(3, 2, activation="softplus")(x))
    outputs = {"price": L.Dense(1)(features), "kind": L.Dense(3)(features)}
    keys = [*outputs] if form is dict else [0, 1]
    losses = {"price": "mse", "kind": EXCLUSIVE}
    labels = {"price": floats(6, 1), "kind": np.arange(6) % 3}
    if form is list:
        outputs, losses, labels = ([*part.values()] for part in (outputs, losses, labels))
    penalties = [DerivativeMatching(0.5, target=Output(keys[0])), GradientMask(3.0, head=keys[1])]
    slopes = floats(6, 4, 4, 2, seed=1)
    given = {"derivatives": np.where(slopes > 1, np.nan, slopes), "mask": np.abs(floats(6, 4, 4))}
    return keras.Model(x, outputs), penalties, Examples(floats(6, 4, 4, 2), given), labels, losses


def rows():
    """Derivatives of all classes."""
    net = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"), L.Dense(3)])
    penalties = [DerivativeMatching(0.5, target="all"), GradientMask(3.0, target="label")]
    given = {"derivatives": floats(6, 3, 3, seed=1), "mask": np.abs(floats(6, 3))}
    return net, penalties, Examples(floats(6, 3), given), np.arange(6) % 3, EXCLUSIVE


def tokens():
    """Masks of token ids, and derivatives at their embedding."""
    ids = np.random.default_rng(0).integers(1, 9, (6, 5))
    steps = [L.Embedding(9, 3), L.Conv1D(4, 2, activation="tanh"), L.GlobalAveragePooling1D()]
    net = keras.Sequential([keras.Input((5,), dtype="int32"), *steps, L.Dense(3)])
    given = {"derivatives": floats(6, 5, 3), "mask": np.abs(floats(6, 5))}
    penalties = [DerivativeMatching(0.5, target=1), GradientMask(3.0)]
    return net, penalties, Examples(ids, given), np.arange(6) % 3, EXCLUSIVE


CASES = [
    pytest.param(curve, marks=pytest.mark.slow),
    pytest.param(lambda: heads(dict), id="dict"),
    pytest.param(lambda: heads(list), id="list", marks=pytest.mark.slow),
    pytest.param(rows, id="rows", marks=pytest.mark.slow),
    pytest.param(tokens, id="tokens", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_without_xla(case):
    """The penalties' means and the weights after two batches, the second one smaller."""
    network, penalties, examples, labels, losses = case()
    filled(network, 1, scale=0.4)
    before, found = network.get_weights(), {}
    for jit_compile in (False, True):
        network.set_weights(before)
        model = tfgrad.PenalizedModel(network, penalties)
        model.compile(keras.optimizers.SGD(0.1), losses, jit_compile=jit_compile)
        logs = model.fit(examples, labels, 4, verbose=0, shuffle=False).history
        found[jit_compile] = [logs[p.name][0] for p in penalties], network.get_weights()
    for plain, compiled in zip(found[False][0], found[True][0], strict=True):
        assert plain > 1e-3 and compiled == pytest.approx(plain, rel=1e-5)
    changes = [np.abs(a - b).max() for a, b in zip(before, found[False][1], strict=True)]
    errors = [np.abs(a - b).max() for a, b in zip(found[True][1], found[False][1], strict=True)]
    assert min(changes) > 1e-3 and max(errors) < 1e-5 * max(changes)
