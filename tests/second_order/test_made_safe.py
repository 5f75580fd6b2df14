"""A network after `make_safe`: its report, files, steps, and what could not be mended."""

import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.guard_cases import SHAPE, STOPPED, Lambda, found, network_with
from tfgrad import PenalizedModel, full_gradients, layers, second_order
from tfgrad.errors import ArgumentError, SecondOrderError, SecondOrderWarning
from tfgrad.penalties import GradientNorm

L = keras.layers
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def images():
    return np.random.default_rng(0).normal(0.3, 1.0, (4, *SHAPE)).astype("float32")


LABELS = np.array([0, 1, 1, 0])


def trained(network, **options):
    model = PenalizedModel(network, [GradientNorm(1.0)])
    model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, **options)
    return model


def convolutional(*stack):
    return network_with(L.Conv2D(4, 3, padding="same", activation="softplus"), *stack)


def test_the_report_names_what_changed():
    norms = [L.LayerNormalization(name=f"n{i}") for i in range(5)]
    network = convolutional(*norms, L.Resizing(5, 5, name="size"), layers.GroupNormalization(2))
    report = second_order.make_safe(network)
    assert [(c.operation.name, c.layer_class, c.functions) for c in report.changed] == [
        *((f"n{i}", "LayerNormalization", ("tf.nn.moments",)) for i in range(5)),
        ("size", "Resizing", ("tf.image.resize",)),
    ]
    assert "6 layers made safe" in str(report)
    assert (
        "LayerNormalization (tf.nn.moments): 'network/n0', 'network/n1', 'network/n2' and 2 more"
        in str(report)
    )
    assert report.checked
    assert report.remaining == ()
    again = second_order.make_safe(network)
    assert again.changed == ()


def test_the_guard_names_this_call():
    network = convolutional(*(L.LayerNormalization() for _ in range(6)))
    with pytest.raises(SecondOrderError) as error:
        second_order.check(network)
    assert str(error.value).count("tf.nn.moments") == 1
    assert "and 3 more (LayerNormalization)" in str(error.value)
    assert "make_safe(network), which mends all 6 in place" in str(error.value)
    slight = convolutional(*(L.BatchNormalization() for _ in range(6)))
    with pytest.warns(SecondOrderWarning, match=r"make_safe\(network\), which mends all 6") as w:
        second_order.check(slight)
    assert len(w) == 1
    assert str(w[0].message).count("tf.nn.moments") == 1
    pooled = convolutional(L.MaxPooling2D())
    with pytest.raises(SecondOrderError, match=r"make_safe\(network, xla=True\), which mends it"):
        second_order.check(pooled, by_xla=True)


def test_what_cannot_be_mended_is_said():
    def resized(x):
        return tf.raw_ops.ResizeBilinear(images=x, size=(4, 4))

    network = convolutional(Lambda(resized, name="raw"), L.LayerNormalization(name="norm"))
    report = second_order.make_safe(network)
    assert [(f.layer, f.operation) for f in report.remaining] == [("raw", "ResizeBilinearGrad")]
    assert "not made safe:\n  layer 'raw' (Lambda)" in str(report)
    with pytest.raises(SecondOrderError, match="make_safe mends none of these; change the layers"):
        second_order.check(network)
    mixed = convolutional(
        Lambda(tf.quantization.fake_quant_with_min_max_args, name="quantised"),
        L.LayerNormalization(),
    )
    with pytest.raises(SecondOrderError, match=r"mends 1 of these 2 in place.*; not 'quantised'"):
        second_order.check(mixed)


def test_wrong_arguments():
    with pytest.raises(ArgumentError, match="model: got 3; expected a Keras model"):
        second_order.make_safe(3)
    with pytest.raises(ArgumentError, match="inputs: got"):
        second_order.make_safe(convolutional(), "images")


class Late(L.Layer):
    """A layer that makes its parts when it is built, as packaged transformers do."""

    def build(self, shape):
        self.norm = L.LayerNormalization(name="norm")
        self.norm.build(shape)

    def call(self, x):
        mean, variance = keras.ops.moments(x, -1, keepdims=True)
        return self.norm(x) + (x - mean) * variance


class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__(name="unbuilt")
        self.late, self.norm, self.head = Late(name="late"), L.BatchNormalization(), L.Dense(2)

    def call(self, x, training=False):
        x = self.norm(self.late(x), training=training)
        return self.head(tf.reshape(x, (-1, 256)))


def test_a_network_of_unknown_inputs_is_finished_when_it_is_used():
    network = Unbuilt()
    report = second_order.make_safe(network)
    assert not report.checked
    assert [change.operation for change in report.changed] == [network.norm]
    assert "make_safe(network, inputs)" in str(report)
    second_order.check(network, images())
    assert second_order.make_safe(network).changed == ()


@pytest.mark.slow
def test_inputs_that_are_given_or_have_been_seen():
    given = second_order.make_safe(Unbuilt(), tf.TensorSpec((None, *SHAPE)))
    assert sorted(c.operation.name for c in given.changed)[1:] == ["late", "norm"]
    seen = Unbuilt()
    with pytest.raises(SecondOrderError, match="make_safe"):
        second_order.check(seen, images())
    assert len(second_order.make_safe(seen).changed) == 3  # with the inputs of the check


def test_files_do_not_depend_on_it(tmp_path):
    network = convolutional(L.LayerNormalization(), L.BatchNormalization(), L.Resizing(5, 5))
    network.save_weights(tmp_path / "plain.weights.h5")
    config, before = network.get_config(), network(images())
    second_order.make_safe(network)
    assert network.get_config() == config
    network.save(tmp_path / "safe.keras")
    loaded = keras.models.load_model(tmp_path / "safe.keras")
    assert type(loaded.layers[1]) is L.LayerNormalization
    np.testing.assert_array_equal(loaded(images()), before)
    network.save_weights(tmp_path / "safe.weights.h5")
    loaded.load_weights(tmp_path / "safe.weights.h5")
    network.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_allclose(network(images()), before, rtol=0, atol=1e-6)
    assert len(found(loaded)) == 3


@pytest.mark.long
@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_saved_penalised_model_goes_on(tmp_path, xla):
    network = convolutional(L.LayerNormalization(), L.MaxPooling2D())
    second_order.make_safe(network, xla=xla)
    model = trained(network, jit_compile=False)
    model.fit(images(), LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config()["made_safe"] == {"xla": xla}
    second_order.check(loaded.network, by_xla=xla)
    for one in (model, loaded):
        one.fit(images(), LABELS, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert "made_safe" not in trained(convolutional()).get_config()


@pytest.mark.long
def test_a_compiled_step_is_made_anew():
    results = []
    for late in (False, True):
        keras.utils.set_random_seed(0)
        network = convolutional(L.BatchNormalization(momentum=0.5), L.Activation("tanh"))
        weights = network.get_weights()
        if not late:
            second_order.make_safe(network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecondOrderWarning)
            model = trained(network)
            model.fit(images(), LABELS, verbose=0)
        plain = network.get_weights()
        second_order.make_safe(network)
        network.set_weights(weights)
        model.fit(images(), LABELS, verbose=0)
        results.append((plain, network.get_weights()))
    (right, again), (wrong, late) = results
    assert max(np.max(np.abs(a - b)) for a, b in zip(right, wrong, strict=True)) > 1e-5
    for a, b, c in zip(right, again, late, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6)
        np.testing.assert_allclose(c, a, rtol=0, atol=1e-6)


class Traced(keras.Model):
    """A model with `tf.function`s of its own, which TensorFlow has traced before."""

    def __init__(self, norm):
        super().__init__(name="traced")
        self.norm, self.head = norm, L.Dense(2)

    @tf.function
    def normalised(self, x):
        return self.norm(x)

    @tf.function
    def call(self, x):
        return self.head(tf.reshape(self.normalised(x), (-1, 256)))


@pytest.mark.long
def test_functions_that_were_traced_before():
    x, gradients = tf.constant(images()), []
    for norm in (layers.LayerNormalization(), L.LayerNormalization()):
        network = Traced(norm)
        network(x)
        random = np.random.default_rng(1)
        network.set_weights([random.normal(size=w.shape) for w in network.weights])
        second_order.make_safe(network, x)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(GradientNorm().per_example(network, x, tf.constant(LABELS)))
        gradients.append(tape.gradient(total, network.head.kernel.value))
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_other_threads_and_networks_keep_tensorflow_s_functions():
    inside, results = threading.Event(), []

    def wait(x):
        results.append(tf.nn.moments)
        other = threading.Thread(target=lambda: results.append(found(other_network)))
        other.start()
        other.join()
        return tf.nn.softsign(x)

    other_network, moments = convolutional(L.LayerNormalization(name="other")), tf.nn.moments
    network = convolutional(Lambda(wait, name="waits"))
    second_order.make_safe(network)
    results.clear()
    network(images())
    assert results[0] is not moments  # a choice by thread
    assert results[1] == [("other", STOPPED, "error")]
    assert tf.nn.moments is moments
    assert not inside.is_set()


@pytest.mark.slow
def test_pooling_that_xla_compiles():
    gradients = []
    for xla in (False, True):
        keras.utils.set_random_seed(0)
        network = convolutional(L.MaxPooling2D(3, 2, "same"), L.LayerNormalization())
        second_order.make_safe(network, xla=xla)
        model = trained(network, jit_compile=xla)
        model.fit(images(), LABELS, verbose=0)
        gradients.append(network.get_weights())
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "pool",
    [
        lambda x: tf.nn.max_pool2d(x, [1, 3, 2, 1], [1, 2, 2, 1], "SAME"),
        lambda x: tf.nn.max_pool(x, 2, 1, "VALID"),
        lambda x: tf.nn.max_pool1d(x[:, 0], 3, 2, "SAME"),
        lambda x: tf.nn.max_pool3d(tf.stack([x, 2 * x], 1), (2, 3, 1), 2, "SAME"),
        lambda x: keras.ops.max_pool(x, 2, data_format="channels_first"),
        lambda x: (
            tf.nn.max_pool2d(x, 2, 2, [[0, 0], [1, 0], [0, 1], [0, 0]])
            + tf.nn.softsign(x[:, :4, :4])
        ),
    ],
)
def test_pooling_in_a_layer_s_own_code(pool):
    network = convolutional(Lambda(pool, name="pool"))
    before = network(images())
    report = second_order.make_safe(network, xla=True)
    assert [change.operation.name for change in report.changed] == ["pool"]
    np.testing.assert_allclose(network(images()), before, rtol=0, atol=1e-6)


class Recurrent(L.Layer):
    """A recurrent layer that runs in cuDNN where it may; a trace needs no such device."""

    use_cudnn = "auto"

    def call(self, x):
        if not self.use_cudnn:
            return tf.tanh(x)
        steps = tf.transpose(tf.reshape(x, (-1, 64, 4)), (1, 0, 2))
        state = tf.zeros_like(steps[:1])
        y = tf.raw_ops.CudnnRNNV3(
            input=steps,
            input_h=state,
            input_c=state,
            params=tf.zeros([160]),
            sequence_lengths=tf.fill([tf.shape(x)[0]], 64),
        )
        return tf.reshape(tf.transpose(y.output, (1, 0, 2)), tf.shape(x))


def test_recurrent_layers_leave_cudnn():
    network = convolutional(Recurrent(name="rnn"))
    assert [layer for layer, _, _ in found(network)] == ["rnn"]
    report = second_order.make_safe(network)
    assert [c.functions for c in report.changed] == [("use_cudnn=False",)]
    assert network.get_layer("rnn").use_cudnn is False
    assert second_order.check(network).findings == ()


def test_frozen_layers_stay_frozen_and_are_safe_when_thawed():
    network = convolutional(L.BatchNormalization(name="norm"), L.LayerNormalization())
    network.get_layer("norm").trainable = False
    second_order.make_safe(network)
    assert not network.get_layer("norm").trainable
    network.get_layer("norm").trainable = True
    assert second_order.check(network).findings == ()


def test_a_call_replaced_on_the_layer_itself():
    network = convolutional(L.LayerNormalization(name="norm"))
    layer = network.get_layer("norm")
    own = layer.call
    layer.call = lambda inputs: 2 * own(inputs)
    before = network(images())
    assert second_order.make_safe(network).remaining == ()
    np.testing.assert_array_equal(network(images()), before)


def test_decompositions_stay():
    network = convolutional(L.BatchNormalization(), L.LayerNormalization(), L.UpSampling2D(2))
    before = full_gradients(network, images(), 0)
    second_order.make_safe(network)
    after = full_gradients(network, images(), 0)
    assert [i.kind for i in after.intercepts] == [i.kind for i in before.intercepts]
    assert list(after.bias_gradients) == list(before.bias_gradients)
    for a, b in zip(after.bias_gradients.values(), before.bias_gradients.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
