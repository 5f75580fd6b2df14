"""How the guard looks at a network: bodies of functions, state, caches, unbuilt networks."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.guard_cases import BILINEAR, SHAPE, STOPPED, Lambda, found, network_with
from tfgrad import layers, second_order
from tfgrad.errors import ArgumentError, ModelError, SecondOrderError
from tfgrad.second_order import guard

L = keras.layers


class Subclassed(keras.Model):
    """Two inputs, function bodies, state and randomness TensorFlow keeps to itself."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.grouped = L.Conv2D(4, 3, groups=2)
        self.norm = L.LayerNormalization(name="norm")
        self.dropout = L.Dropout(0.5)
        self.noise = Lambda(lambda x: x + tf.random.normal(tf.shape(x)), name="noise")
        self.counter = Lambda(self.count, name="counter")
        self.calls = tf.Variable(0)
        self.head = L.Dense(2, activation="sigmoid", name="head")

    def count(self, x):
        self.calls.assign_add(1)
        return x

    @tf.function
    def normalised(self, x):
        return self.norm(x)

    @tf.function
    def probability(self, x):
        return self.head(x)

    def call(self, inputs, training=False):
        x = self.normalised(self.grouped(inputs["image"]))
        x = self.counter(self.noise(self.dropout(x, training=training)))
        return {"p": tf.reshape(self.probability(tf.reduce_mean(x, [1, 2])), [-1, 2])}


def test_subclassed_network_unbuilt_with_function_bodies():
    network = Subclassed()
    specs = {"image": tf.TensorSpec([None, *SHAPE]), "size": tf.TensorSpec([None], tf.int32)}
    inspection = second_order.inspect(network, specs)
    assert network.built
    assert [(f.layer, f.operation) for f in inspection.findings] == [("norm", STOPPED)]
    assert inspection.probabilities == "head"
    assert inspection.stateful_random == ("noise",)
    assert inspection.untracked_state == ("counter",)
    assert int(network.calls) == 0


def test_an_unbuilt_network_is_built_where_the_caller_is():
    # The dtype policy, like a strategy, is local to a thread; the trace has a thread of its own.
    class Late(keras.Model):
        def build(self, shape):
            self.dense = L.Dense(2)
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x)

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = Late()
        second_order.check(network, np.zeros((2, 3), "float32"))
    finally:
        keras.config.set_dtype_policy(policy)
    assert network.dense.compute_dtype == "bfloat16"


def test_recurrent_body():
    class Cell(L.SimpleRNNCell):
        def build(self, shape):
            super().build(shape)
            self.norm = L.LayerNormalization(name="norm")
            self.norm.build((None, self.units))

        def call(self, x, states, training=False):
            y, states = super().call(x, states, training=training)
            return self.norm(y), states

    network = network_with(L.RNN(Cell(3), return_sequences=True), shape=(5, 4))
    assert found(network) == [("norm", STOPPED, "error")]


def test_cudnn_kernels():
    # What an LSTM with use_cudnn="auto" emits where there is a GPU; traced, never run.
    def recurrent(x):
        batch = tf.shape(x)[0]
        state = tf.zeros([1, batch, 3])
        lengths = tf.fill([batch], 5)
        weights = tf.zeros([4 * 3 * (4 + 3) + 8 * 3])
        x = tf.transpose(x, [1, 0, 2])
        y = tf.raw_ops.CudnnRNNV3(
            input=x, input_h=state, input_c=state, params=weights, sequence_lengths=lengths
        )
        return tf.ensure_shape(tf.transpose(y.output, [1, 0, 2]), [None, 5, 3])

    network = keras.Sequential([Lambda(recurrent, name="rnn"), L.Dense(1)])
    spec = tf.TensorSpec([2, 5, 4])
    network.built = True  # the symbolic call would need a GPU's shapes
    assert found(network, spec) == [("rnn", "CudnnRNNBackpropV3", "error")]
    with pytest.raises(SecondOrderError, match="use_cudnn=False"):
        second_order.check(network, spec)


@pytest.mark.parametrize(
    ("stack", "name"),
    [
        ([L.Dense(3), L.Softmax(name="p")], "p"),
        ([L.Dense(1, activation="sigmoid", name="p"), L.Reshape(())], "p"),
        ([L.Dense(3, activation="softmax", dtype="mixed_float16", name="p")], "p"),
        ([L.Dense(3), L.Activation("sigmoid", name="p"), L.Dense(2)], None),
        ([L.Dense(3, activation="log_softmax")], None),
        ([L.Dense(3)], None),
    ],
)
def test_probabilities(stack, name):
    network = network_with(L.Flatten(), *stack, dense=False)
    assert second_order.inspect(network).probabilities == name


def test_probabilities_of_a_bare_operation():
    x = keras.Input((4,))
    logits = L.Dense(3)(x)
    network = keras.Model(x, [logits, keras.ops.softmax(logits)], name="two")
    assert second_order.inspect(network).probabilities == "two/Softmax"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.nn.dropout(x, 0.5),
        lambda x: x * tf.random.uniform(tf.shape(x)),
        lambda x: x + tf.random.truncated_normal(tf.shape(x)),
        lambda x: tf.random.shuffle(x),
    ],
)
def test_stateful_random(function):
    network = network_with(L.Dropout(0.5), Lambda(function, name="mine"))
    assert second_order.inspect(network).stateful_random == ("mine",)


def test_no_state_is_left_behind():
    network = network_with(
        L.BatchNormalization(), L.Dropout(0.5), L.Conv2D(3, 3, activity_regularizer="l2")
    )
    before = [v.numpy() for v in network.variables]
    tf.random.set_seed(1)
    expected = tf.random.normal([3])
    tf.random.set_seed(1)
    second_order.inspect(network)
    np.testing.assert_array_equal(tf.random.normal([3]), expected)
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, value)
    assert network.losses == []


def test_inside_a_function_a_tape_and_a_strategy():
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        network = network_with(L.LayerNormalization(name="norm"), L.Resizing(4, 4, name="resizing"))
    seen = []

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            seen.append(found(network, x))
            y = network(x)
        return tape.gradient(y, x)

    run = tf.function(lambda x: strategy.run(step, (x,)), autograph=False)
    gradient = run(tf.ones((2, *SHAPE)))
    assert seen == [[("norm", STOPPED, "error"), ("resizing", BILINEAR, "error")]]
    assert gradient.shape == (2, *SHAPE)


@pytest.mark.long
def test_cached_for_the_life_of_the_network(monkeypatch):
    traces = []
    trace = guard.trace
    monkeypatch.setattr(guard, "trace", lambda *a: (traces.append(a[2]), trace(*a))[1])
    network = network_with(L.GroupNormalization(2))
    first = second_order.inspect(network)
    assert second_order.inspect(network) is first
    assert second_order.inspect(network, training=False) is not first
    assert traces == [True, False]
    alive = weakref.ref(network)
    del network, traces[:]
    keras.backend.clear_session()
    gc.collect()
    assert alive() is None


def test_refuses_what_it_cannot_trace():
    with pytest.raises(ArgumentError, match=r"inputs: got None; .*; try inputs="):
        second_order.inspect(keras.Sequential([L.Dense(1)]))
    with pytest.raises(ArgumentError, match=r"network: got <.*; expected a Keras model"):
        second_order.inspect(lambda x: x)
    with pytest.raises(ArgumentError, match="inputs: got 'image'; expected a nest of tensors"):
        second_order.inspect(network_with(), ["image"])
    integers = network_with(Lambda(lambda x: tf.cast(x, tf.int32)), dense=False)
    with pytest.raises(ModelError, match=r"got no floating output; expected .*; try"):
        second_order.inspect(integers)


def test_integer_inputs_are_followed_from_their_embedding():
    tokens = keras.Input((5,), dtype="int32")
    network = keras.Sequential([tokens, L.Embedding(9, 4), L.LayerNormalization(name="norm")])
    assert found(network) == [("norm", "tf.nn.moments", "error")]


class Compiled(keras.Model):
    """A network whose call is a `tf.function` of its own."""

    def __init__(self):
        super().__init__(name="compiled")
        self.norm = L.BatchNormalization(name="norm")
        self.resizing = L.Resizing(5, 5, name="resizing")
        self.dense = L.Dense(2, name="dense")

    @tf.function
    def body(self, x, training):
        return self.resizing(self.norm(x, training=training))

    def call(self, x, training=False):
        return self.dense(tf.reduce_mean(self.body(x, training), [1, 2]))


def test_the_networks_own_functions_keep_their_traces():
    """A trace without updates would stay in their caches, and moving statistics stand still."""
    x = np.random.default_rng(0).random((4, *SHAPE), "float32")
    network = Compiled()
    network(x)
    second_order.inspect(network, x)
    network(x, training=True)
    np.testing.assert_allclose(network.norm.moving_mean, 0.01 * x.mean((0, 1, 2)), rtol=1e-4)


def test_functions_traced_before_are_attributed_all_the_same():
    x = np.zeros((4, *SHAPE), "float32")
    network = Compiled()
    for training in (True, False):
        network(x, training=training)
    expected = [("norm", STOPPED, "warning"), ("resizing", BILINEAR, "error")]
    assert found(network, x) == expected
    assert found(network, x, training=False) == expected[1:]


def test_a_bare_operation_with_the_name_of_a_layer():
    inner = keras.Sequential([keras.Input(SHAPE), L.Conv2D(4, 3, name="resize")], name="inner")
    image = keras.Input(SHAPE)
    x = keras.ops.image.resize(inner(image), (5, 5), interpolation="bilinear")
    network = keras.Model(image, L.Dense(2)(L.Flatten()(x)), name="network")
    assert found(network) == [("network", BILINEAR, "error")]


def test_a_copy_of_a_layer_is_named_once():
    layer = layers.BiasNoise(L.Dense(3, activation="softsign", name="dense"), 0.1, name="noise")
    x = keras.Input((4,))
    network = keras.Model(x, [layer(x), layer(2.0 * x)])
    assert found(network) == [("dense", "SoftsignGrad", "error")]
