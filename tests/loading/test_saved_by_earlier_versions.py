"""A file that tfgrad 0.1.0 wrote loads, gives the same numbers and trains on."""

import json
import pathlib
import warnings

import numpy as np
import pytest

import tfgrad

SAVED = pathlib.Path(__file__).parent / "saved_by_0_1"
EXPECTED = json.loads((SAVED / "expected.json").read_text())
X = np.linspace(0, 1, 2 * 6 * 6, dtype="float32").reshape(2, 6, 6, 1)
Y = np.array([0, 2])
# Another CPU adds in another order: float32, and differences of logits over σ² = 0.09.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def model():
    with warnings.catch_warnings(action="ignore", category=tfgrad.errors.SecondOrderWarning):
        return tfgrad.loading.load(SAVED / "penalized.keras")


@pytest.mark.long
def test_decomposition(model):
    full = tfgrad.full_gradients(model, X)
    np.testing.assert_allclose(full.score, EXPECTED["score"], **CLOSE)
    gradient = np.ravel(full.input_gradient)
    np.testing.assert_allclose(gradient, EXPECTED["input_gradient"], **CLOSE)
    sums = {name: float(np.abs(term).sum()) for name, term in full.bias_gradients.items()}
    assert sums == pytest.approx(EXPECTED["bias_gradients"], rel=1e-4)
    assert list(sums) == list(EXPECTED["bias_gradients"])


def test_maps(model):
    maps = np.ravel(tfgrad.saliency.FullGrad(model, placement="stretch")(X))
    np.testing.assert_allclose(maps, EXPECTED["fullgrad"], rtol=1e-3, atol=1e-4)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
def test_the_next_step():
    logs = tfgrad.loading.load(SAVED / "penalized.keras").train_on_batch(X, Y, return_dict=True)
    assert logs == pytest.approx(EXPECTED["step"], rel=2e-3)
