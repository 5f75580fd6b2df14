"""Networks that are written for one batch size, whose inner layers see another first axis."""

import keras
import numpy as np

import tfgrad


class Graphs(keras.layers.Layer):
    """Two graphs of six nodes as the rows of one matrix; every node is added to the next one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(5, bias_initializer="ones", dtype="float64")
        self.second = keras.layers.Dense(4, bias_initializer="ones", dtype="float64")

    def build(self, shape):
        self.first.build((12, shape[-1]))
        self.second.build((12, 5))
        self.built = True

    def call(self, graphs):
        nodes = keras.ops.tanh(self.first(keras.ops.reshape(graphs, (12, graphs.shape[-1]))))
        following = np.arange(12).reshape(2, 6)[:, [1, 2, 3, 4, 5, 0]].reshape(-1)
        nodes = self.second(nodes + keras.ops.take(nodes, following, axis=0))
        return keras.ops.reshape(nodes, (2, 6, 4))


def test_a_layer_that_makes_one_matrix_of_the_whole_batch_decomposes():
    inputs = keras.Input((6, 3), batch_size=2, dtype="float64")
    layer = Graphs(dtype="float64")
    pooled = keras.layers.GlobalAveragePooling1D(dtype="float64")(layer(inputs))
    head = keras.layers.Dense(3, bias_initializer="ones", dtype="float64", name="head")
    network = keras.Model(inputs, head(pooled))
    x = np.random.default_rng(0).normal(size=(2, 6, 3))
    full = tfgrad.full_gradients(network, x, target=1)
    assert np.max(full.completeness_error()) < 1e-12
    # The layer's own entry holds all of its constants; the head's is its bias.
    assert {n: t.shape[0] for n, t in full.bias_gradients.items()} == {layer.name: 2, "head": 2}
    np.testing.assert_allclose(full.bias_gradients["head"], [[0, 1, 0]] * 2)
