"""The intercept y − J·x of every kind of call, position by position, against its definition."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps.common import architectures
from tests.gradients.intercepts.cases import (
    HOMOGENEOUS,
    IMAGE,
    LAYERS,
    LINE,
    ORDINARY,
    by_definition,
    network,
)
from tests.helpers.variants import with_slow
from tfgrad import decomposition
from tfgrad.errors import ModelError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.intercepts import closed_forms, recorded_intercepts
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks, derivatives

L, A = keras.layers, keras.activations


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", LAYERS)
def test_the_intercept_is_what_it_is_defined_to_be(name, float64):
    shapes, make, single = LAYERS[name]
    model, x = network(shapes, make())
    expected = by_definition(model, x)
    scale = np.abs(expected).max()
    assert scale > 1e-4
    probe = Probe(model, x, needs=decomposition.NEEDS)
    for k in range(expected.shape[1]):
        full = decomposition.of_probe(probe, k)
        terms = {n: np.asarray(t) for n, t in full.bias_gradients.items()}
        total = sum(t.reshape(2, -1).sum(1) for t in terms.values())
        np.testing.assert_allclose(total, expected[:, k], rtol=0, atol=1e-9 * scale)
        if single:
            ((call, term),) = terms.items()
            assert call == model.operations[len(shapes)].name
            rest = np.delete(term.reshape(2, -1), k, axis=1)
            np.testing.assert_allclose(rest, 0, atol=1e-12 * scale)


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_homogeneous_layers_have_none_and_nothing_is_computed(name, float64):
    shapes, make = HOMOGENEOUS[name]
    model, x = network(shapes, make())
    # TensorFlow's bilinear kernel computes in float32.
    assert np.abs(by_definition(model, x)).max() < (
        1e-6 if name in ("bilinear", "resizing") else 1e-12
    )
    assert not tfgrad.full_gradients(model, x, 0).bias_gradients


def test_which_of_these_layers_have_a_closed_form():
    """A layer without one is differentiated, which is right but slower; it must be in this list."""
    differentiated = {
        *("group norm", "unit norm", "softmax", "dot, normalized", "lambda", "attention"),
        *("lstm", "gru, sequences", "simple rnn", "conv lstm", "bidirectional"),
        *("time distributed", "spectral norm", "subclass of conv", "block", "own tf.function"),
        "own tf.function inside",
    }
    without = set()
    for name, (shapes, make, _) in LAYERS.items():
        network(shapes, layer := make())  # some rules read what the layer has been built with
        if closed_forms.rule(layer) is None:
            without.add(name)
    assert without == differentiated


def test_an_array_below_a_threshold_is_differentiated():
    def rule(below):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.activations.threshold(inputs, 0.2, below))
        return closed_forms.rule(model.operations[-1])

    assert [rule(0.0), rule(0.5)] == ["homogeneous", "elementwise"]
    assert rule(np.zeros((2, 1))) is None  # its output could have another shape


def test_a_call_is_named_once_per_call_and_in_order():
    shared, inputs = L.Dense(3, "tanh", name="shared"), keras.Input((3,))
    h = shared(shared(inputs))
    inner = keras.Sequential([keras.Input((3,)), L.Dense(3, name="shared"), L.ELU(name="elu")])
    model = keras.Model(inputs, L.Dense(2, name="head")(inner(h)))
    full = tfgrad.full_gradients(model, tf.ones([1, 3]))
    assert list(full.bias_gradients) == [
        *("shared", "shared/activation", "shared:1", "shared:1/activation"),
        *("shared:2", "elu", "head"),
    ]
    assert [t.kind for t in full.intercepts] == ["affine", "activation"] * 3 + ["affine"]
    assert [t.operation.name for t in full.intercepts][-2:] == ["elu", "head"]


def test_several_outputs_of_one_call(float64):
    inputs = keras.Input(LINE)
    outputs, h, c = L.LSTM(3, return_sequences=True, return_state=True, name="lstm")(inputs)
    joined = L.Concatenate()([L.Flatten()(outputs), h, L.Activation("tanh")(c)])
    model = keras.Model(inputs, L.Dense(2, name="head")(joined))
    x = tf.random.normal([2, *LINE], dtype="float64")
    full = tfgrad.full_gradients(model, x)
    assert list(full.bias_gradients)[:3] == ["lstm", "lstm/1", "lstm/2"]
    assert np.max(full.completeness_error()) < 1e-12


@pytest.mark.parametrize("make", [lambda h: h + 1.0, lambda h: 2.0 - h, lambda h: h * 3.0 / 2.0])
def test_numbers_and_tensors_in_a_functional_graph_are_constants(make, float64):
    inputs, constant = keras.Input((3,)), tf.constant([1.0, 2.0, 3.0], tf.float64)
    h = keras.ops.maximum(make(inputs) + constant, keras.ops.sigmoid(inputs) * constant)
    model = keras.Model(inputs, L.Dense(2)(L.Add()([h, inputs])))
    x = tf.random.normal([4, 3], dtype="float64")
    assert np.max(np.abs(tfgrad.full_gradients(model, 0 * x).score)) > 1e-2
    assert np.max(tfgrad.full_gradients(model, x).completeness_error()) < 1e-12


def test_what_does_not_depend_on_the_input_counts_with_the_call_that_takes_it(float64):
    number, vector = keras.Input((), dtype="int32"), keras.Input((3,))
    embedded = L.Embedding(5, 3, name="embedding")(number)
    product = L.Multiply(name="product")([embedded, vector])
    model = keras.Model([number, vector], L.Dense(2)(L.Add(name="sum")([product, embedded])))
    model.trainable = False
    x = [tf.constant([1, 4]), tf.random.normal([2, 3], dtype="float64")]
    full = tfgrad.full_gradients(model, x, 1)
    assert np.max(full.completeness_error()) < 1e-12
    assert list(full.bias_gradients)[:2] == ["product", "sum"] and len(full.bias_gradients) == 3
    np.testing.assert_allclose(full.bias_gradients["product"], 0, atol=1e-15)  # linear in x
    table = model.get_layer("embedding").embeddings.numpy()
    slope = model.layers[-1].kernel.numpy()[:, 1]
    np.testing.assert_allclose(full.bias_gradients["sum"], table[[1, 4]] * slope, rtol=1e-12)
    (gradient,) = tf.nest.flatten(full.input_gradient)
    assert gradient.shape == (2, 3)


@pytest.mark.long
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", architectures.KINDS)
def test_recording_changes_no_logit_and_leaves_nothing_behind(name):
    model = architectures.randomised(architectures.KINDS[name]())
    x = architectures.random_inputs(model)
    weights = [w.copy() for w in model.get_weights()]
    plain = model(x, training=False)
    probe = Probe(model, x, needs=Needs(intercepts=True))
    np.testing.assert_array_equal(probe.logits, plain)
    assert (L.Layer.__call__, keras.Operation.__call__) == ORDINARY
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(t.name.startswith("lstm_cell") for t in probe.intercepts)


def test_masks_pass_through():
    inputs = keras.Input((4, 3))
    h = L.Dense(3, "elu")(L.Masking()(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.LSTM(4)(L.LayerNormalization()(h))))
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    x[:, 2:] = 0.0
    probe = Probe(model, x, needs=Needs(intercepts=True))
    np.testing.assert_array_equal(probe.logits, model(x))
    longer = np.concatenate([x[:, :2], 9.0 + 0 * x[:, 2:]], 1)
    assert np.abs(model(longer) - model(x)).max() > 1e-3
    assert np.max(tfgrad.full_gradients(model, x).completeness_error()) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(
    "kind",
    with_slow(["subclassed, bare arithmetic"], ["LSTM classifier", "vision transformer"]),
)
def test_eager_and_traced_name_the_same_calls(kind):
    model = architectures.KINDS[kind]()
    x = architectures.random_inputs(model)
    traced = tf.function(lambda m, x: tfgrad.full_gradients(m, x).bias_gradients, autograph=False)(
        model, x
    )
    eager = tfgrad.full_gradients(model, x).bias_gradients
    assert set(traced) == set(eager)
    for name, value in eager.items():
        np.testing.assert_allclose(traced[name], value, rtol=1e-4, atol=1e-6)


def test_threads_do_not_see_each_other():
    models = [architectures.randomised(_deep(n)) for n in (2, 5)]
    x = tf.random.normal([2, 6])
    expected = [len(tfgrad.full_gradients(m, x).bias_gradients) for m in models]
    seen, start = [[], []], threading.Barrier(2)

    def work(i):
        start.wait()
        for _ in range(5):
            seen[i].append(len(tfgrad.full_gradients(models[i], x).bias_gradients))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert seen == [[n] * 5 for n in expected]
    assert (L.Layer.__call__, keras.Operation.__call__) == ORDINARY


def _deep(depth):
    return keras.Sequential(
        [keras.Input((6,)), *[L.Dense(6, "gelu") for _ in range(depth)], L.Dense(2)]
    )


class Resized(L.Layer):
    def call(self, x):
        return tf.image.resize(x, (6, 6)) + 1.0


def test_a_lost_tangent_is_refused_with_the_layer_at_fault(monkeypatch):
    """Where the tangent of a resizing cannot be had, which TensorFlow would drop in silence."""
    model = keras.Sequential([keras.Input(IMAGE), Resized(name="mine"), L.Flatten(), L.Dense(2)])
    tfgrad.full_gradients(model, tf.ones([1, *IMAGE]))
    monkeypatch.setattr(derivatives, "KNOWN", frozenset())
    with pytest.raises(ModelError, match=r"layer 'mine'.*ResizeBilinearGrad"):
        tfgrad.full_gradients(model, tf.ones([1, *IMAGE]))


@tf.custom_gradient
def _tripled(x):
    return x * x, lambda upstream: 3.0 * upstream


@tf.custom_gradient
def _without_gradient(x):
    def backward(upstream):
        raise NotImplementedError("no derivative")

    return x * x, backward


def test_a_custom_gradient_is_taken_at_its_word(float64):
    model = keras.Sequential([keras.Input((3,)), L.Lambda(_tripled), L.Dense(2)])
    full = tfgrad.full_gradients(model, tf.random.normal([2, 3], dtype="float64"))
    assert np.max(full.completeness_error()) < 1e-12


def test_a_layer_that_cannot_be_differentiated_is_named():
    model = keras.Sequential([keras.Input((3,)), L.Lambda(_without_gradient, name="mine")])
    with pytest.raises(ModelError, match=r"layer 'mine' \(Lambda\).*NotImplementedError"):
        tfgrad.full_gradients(model, tf.ones([1, 3]))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_layers(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = architectures.randomised(
            architectures.KINDS["squeeze-and-excite, SiLU, transposed"]()
        )
    finally:
        keras.config.set_dtype_policy(before)
    full = tfgrad.full_gradients(model, architectures.random_inputs(model))
    assert all(t.dtype == tf.float32 for t in full.bias_gradients.values())
    rounding = {"mixed_float16": 1e-2, "mixed_bfloat16": 1e-1}[policy]
    assert np.max(full.completeness_error()) < rounding


def test_intercepts_alone_without_a_probe():
    dense = L.Dense(2, bias_initializer="ones", name="dense")
    dense.build((None, 3))
    with recorded_intercepts() as terms:
        dense(tf.ones([1, 3]))
    (term,) = terms
    assert (term.name, term.kind) == ("dense", "affine")
    np.testing.assert_array_equal(term.residue, [1.0, 1.0])
    assert (L.Layer.__call__, keras.Operation.__call__) == ORDINARY


def test_handlers_nest_and_the_last_is_outermost():
    said = []

    class Says(call_hooks.Handler):
        def __init__(self, word):
            self.word = word

        def layer(self, layer, proceed, args, kwargs):
            said.append(self.word)
            return proceed(*args, **kwargs)

    with call_hooks.handled(Says("inner")), call_hooks.handled(Says("outer")):
        L.Dense(1)(tf.ones([1, 1]))
    assert said == ["outer", "inner"]


def test_a_layer_without_its_activation_is_the_same_layer():
    dense = L.Dense(3, "relu")
    dense(x := tf.random.normal([4, 2]))
    z = L.Dense.call(call_hooks.without_activation(dense), x)
    assert np.min(z) < 0 and dense.activation is A.relu
    np.testing.assert_array_equal(dense(x), tf.nn.relu(z))
