"""A verdict is of the network as it is now."""

import types
import warnings

import keras
import pytest
import tensorflow as tf

from tests.helpers.guard_cases import SHAPE, STOPPED, Lambda, found, network_with
from tfgrad import PenalizedModel, second_order
from tfgrad.errors import ModelError, SecondOrderError, SecondOrderWarning
from tfgrad.penalties import GradientNorm
from tfgrad.second_order import guard
from tfgrad.second_order.fingerprint import fingerprint

L = keras.layers


def test_frozen_looked_at_and_thawed():
    network = network_with(L.BatchNormalization(name="bn"))
    network.get_layer("bn").trainable = False
    assert second_order.check(network).findings == ()
    network.get_layer("bn").trainable = True
    with pytest.warns(SecondOrderWarning, match="'bn'"):
        second_order.check(network)
    network.get_layer("bn").trainable = False
    assert second_order.inspect(network).findings == ()


def test_an_activation_is_replaced():
    network = keras.Sequential([keras.Input((4,)), L.Dense(3, "softmax", name="top")])
    with pytest.raises(ModelError, match="returns probabilities"):
        PenalizedModel(network, [GradientNorm()])
    network.layers[-1].activation = keras.activations.linear
    PenalizedModel(network, [GradientNorm()])
    network.layers[-1].activation = keras.activations.sigmoid
    with pytest.raises(ModelError, match="returns probabilities"):
        PenalizedModel(network, [GradientNorm()])


def test_functions_of_one_address_are_told_apart():
    network = network_with(Lambda(tf.identity, name="mine"))
    layer = network.get_layer("mine")
    for _ in range(3):  # Each is freed before the next is made, perhaps in its place.
        layer.function = lambda x: tf.nn.softsign(x)
        assert found(network) == [("mine", "SoftsignGrad", "error")]
        layer.function = lambda x: tf.tanh(x)
        assert found(network) == []


class Own(keras.Model):
    """Options in every place where a subclassed model may keep them."""

    def __init__(self):
        super().__init__(name="own")
        self.kind = "tanh"
        self.options = types.SimpleNamespace(kind="tanh")
        self.table = {"kind": "tanh", "more": ["tanh"]}
        self.blocks = [L.Dense(4, "tanh", name="a"), L.Dense(3, name="b")]

    def call(self, x, training=False):
        for kind in (self.kind, self.options.kind, self.table["kind"], self.table["more"][0]):
            x = tf.nn.softsign(x) if kind == "softsign" else tf.tanh(x)
        for block in self.blocks:
            x = block(x)
        return x


def set_kind(model):
    model.kind = "softsign"


def set_option(model):
    model.options.kind = "softsign"


def set_entry(model):
    model.table["kind"] = "softsign"


def set_element(model):
    model.table["more"][0] = "softsign"


def swap_layer(model):
    model.blocks[0] = L.Dense(4, tf.nn.softsign, name="a2")


def replace_call(model):
    model.blocks[0].call = lambda x, training=None: tf.nn.softsign(x)


def set_policy(model):
    model.blocks[0].dtype_policy = keras.DTypePolicy("mixed_bfloat16")


@pytest.mark.parametrize(
    "change", [set_kind, set_option, set_entry, set_element, swap_layer, replace_call]
)
def test_a_subclassed_model_is_changed(change):
    network, spec = Own(), tf.TensorSpec([None, 4])
    second_order.check(network, spec)
    change(network)
    with pytest.raises(SecondOrderError, match="SoftsignGrad"):
        second_order.check(network, spec)


def test_a_dtype_policy_counts():
    network = Own()
    network(tf.zeros((1, 4)))
    before = fingerprint(network)
    set_policy(network)
    assert fingerprint(network) != before


def test_training_leaves_the_fingerprint(monkeypatch):
    traces = []
    trace = guard.trace
    monkeypatch.setattr(guard, "trace", lambda *a: (traces.append(a[2]), trace(*a))[1])
    pool = L.GlobalAveragePooling2D()
    network = network_with(
        L.Conv2D(3, 3, kernel_regularizer="l2", activity_regularizer="l2"), L.Dropout(0.5), pool
    )
    model = PenalizedModel(network, [GradientNorm(0.1)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    network.compile("sgd", loss)
    x, y = tf.random.normal((4, *SHAPE)), tf.constant([0, 1, 0, 1])
    before = fingerprint(network)
    model.fit(x, y, 2, verbose=0)
    network.fit(x, y, verbose=0)
    network.predict(x, verbose=0)
    keras.models.clone_model(network)
    keras.Model(network.inputs, pool.output)
    assert fingerprint(network) == before
    assert hash(fingerprint(network)) == hash(before)
    second_order.inspect(network)
    assert traces == [True]


def test_a_new_fault_is_warned_of_after_an_old_one():
    network = network_with(L.BatchNormalization(name="first"), L.BatchNormalization(name="second"))
    network.get_layer("second").trainable = False
    with pytest.warns(SecondOrderWarning, match=r"layer 'first' \("):
        second_order.check(network)
    network.get_layer("second").trainable = True
    with pytest.warns(SecondOrderWarning, match=r"layers 'first', 'second' \("):
        second_order.check(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second_order.check(network)


def test_many_layers_with_one_fault_are_one_sentence():
    norms = [L.BatchNormalization(name=f"bn{i}") for i in range(6)]
    network = network_with(*norms, L.LayerNormalization(name="ln"))
    with pytest.raises(SecondOrderError, match="'ln'"):
        second_order.check(network)
    network.get_layer("ln").call = tf.identity
    with pytest.warns(SecondOrderWarning) as caught:
        second_order.check(network)
    message = str(caught[0].message)
    assert "layers 'bn0', 'bn1', 'bn2' and 3 more (BatchNormalization): " in message
    assert message.count("tfgrad.layers.BatchNormalization") == 1
    assert len(second_order.inspect(network).findings) == 6
    assert {f.operation for f in second_order.inspect(network).findings} == {STOPPED}
