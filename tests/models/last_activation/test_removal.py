"""`tfgrad.models.logits`: the same layers and weights, without the last softmax or sigmoid."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.helpers.last_activation_cases import (
    EXCLUSIVE,
    SIGMOIDS,
    L,
    from_applications,
    functional,
    heads,
    images,
    subclassed,
    with_biases,
)
from tfgrad import models, second_order
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.models import output_meaning

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROUNDING = 1e-6


# One case of each way in which the new model is built.
SAVED = (
    *("fused", "layer as activation", "own head", "spectral", "nested", "shared", "quantised"),
    *("subclassed, fused", "subclassed, operation", "binary"),
)


def values(nest):
    return keras.tree.map_structure(lambda t: np.asarray(tf.cast(t, "float64")), nest)


def check(model, activation, tolerance=ROUNDING):
    """activation(logits(x)) = model(x), and nothing of the model changed."""
    x, before = images(), [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    p = model(x)
    network = models.logits(model)
    np.testing.assert_allclose(values(activation(network(x))), values(p), atol=tolerance)
    np.testing.assert_array_equal(values(model(x)), values(p))
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == before
    assert network.name == model.name
    assert keras.tree.map_structure(np.shape, values(network(x))) == np.shape(p)
    assert list(map(id, network.variables)) == list(map(id, model.variables))
    assert models.logits(model) is network and models.logits(network) is network
    spec = tf.TensorSpec((None, *x.shape[1:]), "float32")
    assert second_order.inspect(network, spec, training=False).probabilities is None
    return network


@pytest.mark.parametrize("case", EXCLUSIVE)
def test_a_softmax(case):
    model = with_biases(EXCLUSIVE[case]())
    network = check(model, tf.nn.softmax)
    assert output_meaning.known(network) == "exclusive"
    assert float(tf.reduce_max(tf.abs(network(images())))) > 0.1  # no log of rounded probabilities
    assert isinstance(network, models.LogitsOf) is case.startswith("subclassed")


@pytest.mark.parametrize("case", SIGMOIDS)
def test_a_sigmoid(case):
    build, meaning = SIGMOIDS[case]
    network = check(with_biases(build()), tf.nn.sigmoid)
    assert output_meaning.known(network) == meaning


@pytest.mark.parametrize("case", SAVED)
def test_a_saved_model_returns_logits(case, tmp_path):
    network = models.logits(with_biases((EXCLUSIVE | {"binary": SIGMOIDS["binary"][0]})[case]()))
    network.save(tmp_path / "logits.keras")
    loaded = keras.models.load_model(tmp_path / "logits.keras")
    np.testing.assert_array_equal(values(loaded(images())), values(network(images())))


@pytest.mark.parametrize("case", ["fused", "softmax layer", "own head", "subclassed, fused"])
def test_gradients_are_those_of_the_network_built_without_activation(case):
    """In float64 against central differences of log p_0 − log p_1 = f_0 − f_1."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model = with_biases(EXCLUSIVE[case]())
        network, x = models.logits(model), tf.constant(images(1), tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(x)
            f = network(x)
            difference = f[0, 0] - f[0, 1]
        gradient = tape.gradient(difference, x).numpy()
        step, at = 1e-5, (0, 2, 3, 1)
        moved = np.zeros(x.shape)
        moved[at] = step
        up, down = (np.log(model(x + sign * moved).numpy()[0]) for sign in (1, -1))
        expected = ((up[0] - up[1]) - (down[0] - down[1])) / (2 * step)
        np.testing.assert_allclose(gradient[at], expected, rtol=1e-6)
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def test_every_head_by_itself():
    for model in (heads(), subclassed("dict")()):
        network, p = models.logits(model), values(model(images()))
        f = network(images())
        assert set(f) == set(p)
        np.testing.assert_allclose(values(tf.nn.softmax(f["p"])), p["p"], atol=ROUNDING)
        np.testing.assert_allclose(values(tf.nn.sigmoid(f["b"])), p["b"], atol=ROUNDING)
        np.testing.assert_array_equal(values(f["z"]), p["z"])
        told = {head: output_meaning.known(network, head=head) for head in f}
        assert told == {"p": "exclusive", "b": "binary", "z": None}


def test_training_one_trains_both():
    model = functional(L.Dense(4, activation="softmax"))()
    network = models.logits(model)
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kernel = model.layers[-1].kernel.numpy()
    network.fit(images(4), np.array([0, 1, 2, 3]), verbose=0)
    assert not np.allclose(model.layers[-1].kernel.numpy(), kernel)
    np.testing.assert_allclose(values(tf.nn.softmax(network(images()))), values(model(images())))


def test_a_half_precision_network_keeps_its_output_dtype():
    network = models.logits(EXCLUSIVE["half, float32 softmax"]())
    assert network.outputs[0].dtype == "float32"


def test_the_result_follows_the_model():
    model = functional(L.Dense(4, activation="softmax"))()
    first = models.logits(model)
    model.layers[-1].activation = keras.activations.linear
    assert models.logits(model) is model
    model.layers[-1].activation = keras.activations.sigmoid
    second = models.logits(model)
    assert second is not first and output_meaning.known(second) == "independent"
    model.layers[-1].quantize("int8")
    assert models.logits(model) is not second


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "build",
    [EXCLUSIVE["fused"], EXCLUSIVE["subclassed, fused"], EXCLUSIVE["subclassed, operation"]],
)
def test_a_model_is_freed(build):
    model = build()
    alive = [weakref.ref(model), weakref.ref(models.logits(model))]
    del model
    keras.utils.clear_session()
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


def test_the_saved_original_is_unchanged(tmp_path):
    keras.utils.set_random_seed(0)
    model = functional(L.Dense(4, activation="softmax"))()
    model.save(tmp_path / "before.keras")
    models.logits(model)
    model.save(tmp_path / "after.keras")
    sizes = [(tmp_path / f"{name}.keras").stat().st_size for name in ("before", "after")]
    assert sizes[0] == sizes[1]


def attention(h):
    weights = ops.softmax(L.Dense(32)(h))
    return L.Dense(4)(h * weights)


@pytest.mark.parametrize(
    "end",
    [
        L.Dense(4),
        attention,
        lambda h: L.Dense(4, activation="log_softmax")(h),
        lambda h: L.Dense(4, activation="relu")(h),
        lambda h: L.Softmax(axis=1)(L.Reshape((4, 8))(h)),
    ],
)
def test_what_returns_logits_comes_back_itself(end):
    model = functional(end)()
    assert models.logits(model) is model


def test_a_log_sigmoid_is_left_out():
    check(functional(lambda h: L.Dense(1, activation="log_sigmoid")(h))(), tf.math.log_sigmoid)


REFUSED = {
    "one unit": (lambda h: L.Dense(1, activation="softmax")(h), "a softmax of one unit, which is"),
    "one unit, layer": (lambda h: L.Softmax()(L.Dense(1)(h)), "a softmax of one unit"),
    "classes reshaped": (
        lambda h: L.Flatten()(L.Softmax()(L.Reshape((8, 4))(h))),
        r"got \(None, 32\) made of the softmax \(None, 8, 4\)",
    ),
    "hard sigmoid": (
        lambda h: L.Dense(1, activation="hard_sigmoid")(h),
        "got the activation hard_sigmoid; expected softmax or sigmoid",
    ),
    "sparsemax": (lambda h: L.Dense(4, activation="sparsemax")(h), "the activation sparsemax"),
    "mean of two": (
        lambda h: L.Average()([L.Dense(4, activation="softmax")(h) for _ in range(2)]),
        "outputs in .0, 1. that sum to 1.*mean of several.*keras.ops.log",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_logits(case):
    end, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        models.logits(functional(end)())


def test_what_is_no_built_model():
    with pytest.raises(ArgumentError, match=r"model: got a Dense; expected a keras\.Model"):
        models.logits(L.Dense(2))
    with pytest.raises(ModelError, match="'unborn': it is not built"):
        models.logits(keras.Sequential([L.Dense(2)], name="unborn"))


def test_an_application():
    model = from_applications()
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    p = model(x)
    np.testing.assert_allclose(tf.nn.softmax(models.logits(model)(x)), p, atol=ROUNDING)
