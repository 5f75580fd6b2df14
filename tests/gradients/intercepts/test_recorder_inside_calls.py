"""Intercepts of calls that code of a user makes: arithmetic, constants, shapes and loops."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps.common import architectures
from tests.gradients.intercepts.cases import IMAGE, LINE, ORDINARY, by_definition, network
from tests.helpers.variants import with_slow
from tfgrad import decomposition
from tfgrad.errors import ModelError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.intercepts.recording import Recording
from tfgrad.gradients.probe import Probe

L = keras.layers


class Positions(L.Layer):
    """A table of positions, as Keras's own examples add them."""

    def __init__(self, leading, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.dense, self.leading = L.Embedding(5, 4), L.Dense(4), leading

    def call(self, x):
        positions = self.embedding(keras.ops.arange(5))
        return self.dense(x) + (positions[None] if self.leading else positions)


class Windows(L.Layer):
    """Windows stacked on the batch axis, a layer, and back; and a loss beside the output."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.head, self.loss_of = L.Dense(4, "gelu"), L.Dense(2), Scalar()

    def call(self, x):
        batch, time, width = keras.ops.shape(x)[0], *x.shape[1:]
        h = self.dense(keras.ops.reshape(x, (-1, width)))
        h = keras.ops.reshape(h, (batch, time, 4))
        h, loss = self.loss_of(h)
        return self.head(h) + 0.0 * loss


class Scalar(L.Layer):
    def call(self, x):
        return x + 1.0, tf.reduce_mean(x)


class TimeFirst(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3, "tanh")

    def call(self, x):
        return keras.ops.transpose(self.dense(keras.ops.transpose(x, (1, 0, 2))), (1, 0, 2))


# Five is the length of the sequence too.
@pytest.mark.diagonal
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("batch", with_slow([1, 5], [2]))
@pytest.mark.parametrize(
    "make", [lambda: Positions(True), lambda: Positions(False), lambda: Windows(), TimeFirst]
)
def test_calls_without_the_batch_in_front_count_with_the_next(make, batch, float64):
    inputs = keras.Input(LINE)
    h = L.Dense(3, "elu")(L.GlobalAveragePooling1D()(make()(inputs)))
    model = architectures.randomised(keras.Model(inputs, L.Dense(2)(h)))
    x = tf.random.normal([batch, *LINE], dtype="float64")
    full = tfgrad.full_gradients(model, x)
    assert all(t.shape[0] == batch for t in full.bias_gradients.values())
    assert np.max(full.completeness_error()) < 1e-10
    free = tf.TensorSpec([None, *LINE], tf.float64)
    traced = tf.function(
        lambda x: tfgrad.full_gradients(model, x).bias_gradients,
        input_signature=[free],
        autograph=False,
    )(x)
    for name, value in full.bias_gradients.items():
        np.testing.assert_allclose(traced[name], value, rtol=1e-9, atol=1e-12)
    first = tfgrad.full_gradients(model, x[:1])
    for name, value in first.bias_gradients.items():
        np.testing.assert_allclose(full.bias_gradients[name][:1], value, rtol=1e-9, atol=1e-12)


def test_windows_in_a_functional_graph(float64):
    inputs = keras.Input(LINE)
    rows = keras.ops.reshape(inputs, (-1, 2))
    back = L.Dense(4, "softplus", name="on_rows")(rows)
    h = keras.ops.reshape(back, (-1, 20))
    model = architectures.randomised(keras.Model(inputs, L.Dense(2)(h)))
    x = tf.random.normal([3, *LINE], dtype="float64")
    full = tfgrad.full_gradients(model, x)
    assert np.max(full.completeness_error()) < 1e-12
    assert "on_rows" not in full.bias_gradients


class Captures(L.Layer):
    """Variables and arrays as arguments of layers."""

    def build(self, shape):
        self.latent = self.add_weight(shape=(2, shape[-1]), initializer="random_normal")
        self.add, self.dense = L.Add(), L.Dense(3, "tanh")
        self.dense.build((None, shape[-1]))

    def call(self, x):
        h = self.add([x, np.full((1, 3), 0.5)])
        h = self.add([h, keras.ops.convert_to_tensor(self.latent)[:1]])
        return h * keras.ops.sum(self.dense(self.latent))


@pytest.mark.parametrize(
    "make",
    [
        lambda h: Captures()(h),
        lambda h: L.Add()([h, np.ones((1, 3))]),
        lambda h: h * keras.Variable([1.0, 2.0, 3.0], dtype="float64") + 1.0,
        lambda h: keras.ops.max(h, axis=-1, keepdims=True, initial=0.3) + h,
        lambda h: L.ReLU(threshold=0.3, negative_slope=0.2)(h),
        lambda h: L.Dense(3, activation=L.ReLU(threshold=0.3, negative_slope=0.2))(h),
    ],
)
def test_constants_of_every_kind(make, float64):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Dense(2)(make(inputs)))
    x = tf.random.normal([6, 3], dtype="float64")
    full = tfgrad.full_gradients(model, x)
    assert np.max(full.completeness_error()) < 1e-10
    for b in range(6):
        expected = by_definition_of_one(model, x[b : b + 1], int(full.classes[b]))
        total = sum(float(tf.reduce_sum(t[b])) for t in full.bias_gradients.values())
        np.testing.assert_allclose(total, expected, rtol=1e-9, atol=1e-12)


def by_definition_of_one(model, x, k):
    with tf.GradientTape() as tape:
        tape.watch(x)
        logit = model(x)[0, k]
    return float(logit - tf.reduce_sum(tape.gradient(logit, x) * x))


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling:UserWarning")
def test_the_intercept_of_keras_rms_scaling(float64):
    shapes, layer = [LINE], L.LayerNormalization(rms_scaling=True, epsilon=0.3)
    model, x = network(shapes, layer)
    expected = by_definition(model, x)
    full = tfgrad.full_gradients(model, x, 1)
    total = sum(np.asarray(t).reshape(2, -1).sum(1) for t in full.bias_gradients.values())
    np.testing.assert_allclose(total, expected[:, 1], rtol=1e-9)


class Helped(L.Layer):
    """A `tf.function` in the middle of a `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = L.Dense(3, "tanh"), L.Dense(2)

    def call(self, x):
        return self.last(_helper(self.first(x)))


@tf.function
def _helper(x):
    return x * tf.sin(x) + 1.0


def test_a_tf_function_called_inside(float64):
    model = keras.Sequential([keras.Input((3,)), Helped(name="helped")])
    x = tf.random.normal([2, 3], dtype="float64")
    full = tfgrad.full_gradients(model, x)
    assert np.max(full.completeness_error()) < 1e-12
    names = [t.name for t in full.intercepts if t.kind == "arithmetic"]
    assert names == ["helped/arithmetic"] and len(full.bias_gradients) == 4


class Branches(L.Layer):
    """Convolutions on the branches of a condition, which forward mode cannot follow."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = L.Conv2D(2, 3, padding="same"), L.Conv2D(2, 3, padding="same")

    def build(self, shape):
        self.one.build(shape), self.two.build(shape)

    def call(self, x):
        first = lambda: self.one(x) * x  # noqa: E731
        return tf.cond(tf.reduce_sum(x) > 0, first, lambda: self.two(x) + 1.0)


@pytest.mark.slow
def test_a_map_is_refused_where_layers_had_to_be_taken_as_one():
    model = keras.Sequential([keras.Input(IMAGE), Branches(name="mine"), L.Flatten(), L.Dense(2)])
    x = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype("float32")
    traced = tf.function(
        lambda x: tfgrad.full_gradients(model, x).completeness_error(), autograph=False
    )
    assert np.max(traced(x)) < 1e-5
    with pytest.raises(ModelError, match=r"layer 'mine'.*cannot be followed.*separate layer"):
        tfgrad.saliency.FullGrad(model)(x)


class FailsOnce(L.Layer):
    """Fails half-way when it is first followed, as forward mode does at what it cannot pass."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.norm, self.attempts = L.Dense(3, name="dense"), L.BatchNormalization(), 0

    def build(self, shape):
        self.dense.build(shape), self.norm.build((None, 3))

    def call(self, x):
        h = self.norm(self.dense(x))
        if isinstance(x, tf.Tensor) and tf.executing_eagerly():
            self.attempts += 1
            if self.attempts == 1:
                raise RuntimeError("forward mode cannot pass this")
        return h


def test_a_call_that_is_made_again_counts_once(float64):
    """Every recorder forgets what it has seen of the attempt that failed."""
    x = tf.random.normal([2, 4], dtype="float64")
    inputs = keras.Input((4,))
    h = L.BatchNormalization(name="after")(FailsOnce(name="mine")(inputs))
    net = keras.Model(inputs, L.Dense(2, name="head")(h))
    block = net.get_layer("mine")
    block.attempts = 0
    needs = Needs(intercepts=True, layers=("dense",), biases=("dense",))
    probe = Probe(net, x, needs=needs)
    assert block.attempts == 2
    assert [t.name for t in probe.intercepts] == ["mine", "after", "head"]
    assert [t.source for t in probe.intercepts] == [None, 0, 1]
    assert list(probe.layer_outputs) == list(probe.biases) == ["dense"]
    (gradient,) = probe.layer_gradients(0).values()
    assert gradient is not None  # the tensor is that of the attempt that succeeded
    assert np.max(decomposition.of_probe(probe, 0).completeness_error()) < 1e-12
    # The layers inside took part in the Jacobian-vector product of the whole.
    assert probe.intercepts.differentiated == {"mine", "dense", block.norm.name}


def test_a_removed_term_names_no_source():
    """An output's id may be another tensor's, once its term is gone."""
    recording = Recording(lambda tensor: None, contextlib.nullcontext)
    layer, kept, removed = L.Dense(1, name="dense"), tf.ones([1, 1]), tf.ones([1, 1])
    recording.add(layer, recording.names.next("dense"), "affine", kept)
    restore = recording.checkpoint()
    recording.add(layer, recording.names.next("dense"), "affine", removed)
    recording.terms.differentiated.add("lambda")
    restore()
    recording.add(layer, recording.names.next("dense"), "batch_norm", kept + 1, source=removed)
    recording.add(layer, recording.names.next("dense"), "batch_norm", kept + 2, source=kept)
    assert [t.source for t in recording.terms] == [None, None, 0]
    assert [t.name for t in recording.terms] == ["dense", "dense:1", "dense:2"]
    assert not recording.terms.differentiated


class Fails(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(2)

    def call(self, x):
        if not isinstance(x, keras.KerasTensor) and tf.executing_eagerly():
            raise ValueError("boom")
        return self.dense(x)


def test_an_error_of_the_users_own_is_theirs():
    model = keras.Sequential([keras.Input((3,)), Fails()])
    with pytest.raises(ValueError, match="boom") as caught:
        tfgrad.full_gradients(model, np.ones((1, 3), "float32"))
    assert not isinstance(caught.value, ModelError)
    assert (L.Layer.__call__, keras.Operation.__call__) == ORDINARY


def test_training_mode_given_to_one_layer(float64):
    class Trained(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.norm = L.BatchNormalization()

        def call(self, x):
            return self.norm(x, training=True)

    model = keras.Sequential([keras.Input((4, 4, 2)), Trained(), L.Flatten(), L.Dense(2)])
    x = tf.random.normal([1, 4, 4, 2], dtype="float64")
    full = tfgrad.full_gradients(model, x)
    assert np.max(full.completeness_error()) < 1e-10


@pytest.mark.long
def test_pixels_rescaled_leave_no_noise_in_the_map():
    body = [L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3)]
    plain = keras.Sequential([keras.Input((8, 8, 3)), *body])
    for scaling in (L.Rescaling(1 / 255.0), L.Normalization(mean=0.0, variance=255.0**2)):
        scaled = keras.Sequential([keras.Input((8, 8, 3)), scaling, *body])
        x = np.random.default_rng(0).uniform(0, 255, size=(2, 8, 8, 3)).astype("float32")
        np.testing.assert_allclose(
            tfgrad.saliency.FullGrad(scaled)(x, 1),
            tfgrad.saliency.FullGrad(plain)(x / 255, 1),
            atol=2e-4,  # ε of the rescaling: zeros in place of the biases
        )


def test_a_causal_convolution_has_one_entry():
    model = keras.Sequential(
        [keras.Input(LINE), L.Conv1D(3, 2, padding="causal", name="conv"), L.Flatten(), L.Dense(2)]
    )
    architectures.randomised(model)
    full = tfgrad.full_gradients(model, np.ones((1, *LINE), "float32"))
    assert next(iter(full.bias_gradients)) == "conv" and len(full.bias_gradients) == 2
