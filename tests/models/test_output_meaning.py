"""What a network's outputs mean: which source tells it, and which comes first."""

import functools
import gc
import weakref

import keras
import pytest

import tfgrad
from tfgrad import errors, loading
from tfgrad.models import one_head, output_meaning

L = keras.layers
LOGITS = {"from_logits": True}


def network(count=3, loss=None):
    made = keras.Sequential([keras.Input((2,)), L.Dense(count)])
    if loss is not None:
        made.compile("sgd", loss)
    return made


def custom(y, outputs):
    return keras.ops.mean(outputs)


class OwnCrossentropy(keras.losses.BinaryCrossentropy):
    pass


SIGMOIDS = [
    "bce",
    "binary_crossentropy",
    "BinaryCrossentropy",
    "hinge",
    keras.losses.BinaryCrossentropy,
    keras.losses.BinaryCrossentropy(**LOGITS),
    keras.losses.BinaryFocalCrossentropy(**LOGITS),
    keras.losses.SquaredHinge(),
    keras.losses.binary_crossentropy,
    functools.partial(keras.losses.binary_crossentropy, **LOGITS),
    OwnCrossentropy(**LOGITS),
]
EXCLUSIVE = [
    "sparse_categorical_crossentropy",
    "kld",
    keras.losses.CategoricalCrossentropy(**LOGITS),
    keras.losses.SparseCategoricalCrossentropy(**LOGITS),
    keras.losses.CategoricalFocalCrossentropy(**LOGITS),
    keras.losses.CategoricalHinge(),
    keras.losses.categorical_crossentropy,
]
NUMBERS = ["mse", "mae", "MeanSquaredError", keras.losses.Huber(), keras.losses.Poisson()]


@pytest.mark.parametrize("loss", SIGMOIDS)
def test_losses_on_sigmoids(loss):
    assert output_meaning.known(network(1, loss)) == "binary"
    assert output_meaning.known(network(3, loss)) == "independent"


@pytest.mark.parametrize("loss", EXCLUSIVE)
def test_losses_on_a_softmax(loss):
    assert output_meaning.known(network(3, loss)) == "exclusive"
    assert output_meaning.known(network(1, loss)) is None  # its softmax would be 1


@pytest.mark.parametrize("loss", NUMBERS)
def test_losses_of_regressions(loss):
    assert {output_meaning.known(network(n, loss)) for n in (1, 3)} == {"regression"}


@pytest.mark.parametrize("loss", [None, custom, keras.losses.Dice()])
def test_what_nothing_tells(loss):
    assert output_meaning.known(network(3, loss)) is None
    assert [output_meaning.meaning(network(n, loss)) for n in (1, 3)] == ["binary", "exclusive"]


def test_the_order_of_what_tells():
    one = network(3, "mse")
    model = tfgrad.PenalizedModel(one)
    model.compile("sgd", keras.losses.BinaryCrossentropy(**LOGITS))
    assert output_meaning.known(one) == "independent"
    output_meaning.remember(one, "exclusive")
    assert output_meaning.known(one) == "exclusive"
    with output_meaning.told(one, "regression"):
        assert output_meaning.known(one) == "regression"
        assert output_meaning.known(one, "independent") == "independent"
    assert output_meaning.known(one) == "exclusive"


def test_heads():
    x = keras.Input((2,))
    heads = keras.Model(x, {"a": L.Dense(1)(x), "b": L.Dense(4)(x), "c": L.Dense(3)(x)})
    heads.compile("sgd", {"a": "bce", "b": "mse"})
    assert output_meaning.stated(heads) == {"a": "binary", "b": "regression", "c": None}
    assert output_meaning.known(one_head(heads, "b")) == "regression"
    model = tfgrad.PenalizedModel(heads, outputs={"c": "independent"})
    assert output_meaning.known(heads, head="c") == "independent"
    config = model.get_config()
    assert config["outputs"] == {"c": "independent"}
    assert "outputs" not in tfgrad.PenalizedModel(network()).get_config()
    pair = keras.Model(x, [L.Dense(1)(x), L.Dense(4)(x)])
    pair.compile("sgd", ["bce", None])
    assert output_meaning.stated(pair) == {0: "binary", 1: None}


def test_arguments_that_do_not_fit():
    with pytest.raises(errors.ArgumentError, match=r"outputs: got .binary. for network .* 3 outp"):
        output_meaning.known(network(3), "binary")
    with pytest.raises(errors.ArgumentError, match=r"outputs: got .exclusive. for network .* one"):
        output_meaning.known(network(1), "exclusive")
    with pytest.raises(errors.ArgumentError, match="outputs: got 'logit'; expected one of"):
        output_meaning.check("logit")


def test_one_warning_per_network():
    one = network(1)
    with pytest.warns(errors.OutputMeaningWarning, match="outputs='regression'"):
        output_meaning.warn_if_assumed(one)
    output_meaning.warn_if_assumed(one)
    output_meaning.warn_if_assumed(network(1, "bce"))
    output_meaning.warn_if_assumed(network(3))


def test_nothing_keeps_a_network_alive():
    one = network(1)
    output_meaning.remember(one, "binary", "bce")
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_file_tells_what_it_was_compiled_with(tmp_path, suffix):
    sigmoid = keras.losses.BinaryCrossentropy(**LOGITS)
    for loss, meaning in ((sigmoid, "independent"), (keras.losses.Huber(), "regression")):
        path = str(tmp_path / f"{meaning}{suffix}")
        network(3, loss).save(path)
        for compiled in (True, False):
            assert output_meaning.known(loading.load(path, compile=compiled)) == meaning
    path = str(tmp_path / f"plain{suffix}")
    network(3).save(path)
    assert output_meaning.known(loading.load(path)) is None
