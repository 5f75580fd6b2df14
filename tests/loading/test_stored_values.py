"""Values that a `.keras` file holds, in forms that other software writes, or does not hold."""

import warnings

import keras
import numpy as np
import pytest

from tests.helpers.loading_cases import build, weights
from tfgrad import loading
from tfgrad.errors import ArgumentError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_chunked_and_empty_arrays(tmp_path):
    def edit(file):
        value = file["layers/dense/vars/0"][()]
        del file["layers/dense/vars/0"]
        file.create_dataset("layers/dense/vars/0", data=value, chunks=(3, 2), compression="gzip")
        file.create_dataset("empty", (0, 4), "f4")

    path, network = tmp_path / "model.keras", build()
    network.save(path)
    weights(edit)(path)
    x = np.ones((2, 4, 4, 1), "float32")
    np.testing.assert_array_equal(loading.load(path)(x), network(x))


def test_complex_weights(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Turned(keras.layers.Layer):
        def build(self, shape):
            self.turn = self.add_weight(shape=(), dtype="complex64", initializer="ones")

        def call(self, x):
            return x * keras.ops.real(self.turn)

    network = keras.Sequential([keras.Input((2,)), Turned()])
    network.layers[0].turn.assign(2 + 3j)
    network.save(tmp_path / "model.keras")
    assert loading.load(tmp_path / "model.keras").layers[0].turn.numpy() == 2 + 3j


def test_nan_in_the_state_of_the_optimizer(tmp_path):
    path = tmp_path / "model.keras"
    network = build()
    network.compile("adam", "mse")
    network.fit(np.ones((4, 4, 4, 1)), np.ones((4, 3)), verbose=0)
    network.optimizer.variables[-1].assign([0.0, np.nan, 0.0])
    network.save(path)
    with pytest.raises(ModelError, match=r"state of the optimizer, .*head.*compile=False"):
        loading.load(path)
    assert loading.load(path, compile=False)


def test_the_state_of_the_optimizer_is_absent(tmp_path):
    path = tmp_path / "model.keras"
    network = build()
    network.compile("adam", "mse")
    network.save(path)
    with warnings.catch_warnings(action="ignore"):  # of Keras: the optimizer has no state yet
        assert loading.load(path)
    weights(lambda file: file.pop("optimizer"))(path)
    with pytest.raises(ModelError, match=r"without the state of the optimizer.*compile=False"):
        loading.load(path)
    assert loading.load(path, compile=False)


@pytest.mark.parametrize("path", [3, None])
@pytest.mark.parametrize("load", [loading.load, loading.load_served])
def test_no_path(load, path):
    with pytest.raises(ArgumentError, match=rf"path: got {path}; expected a string"):
        load(path)
