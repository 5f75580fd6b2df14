"""Tests of networks of several inputs: noise and gradients of some, and what is refused."""

import keras
import numpy as np
import pytest

from tfgrad import evaluation, targets
from tfgrad.errors import ArgumentError

L = keras.layers
RNG = np.random.default_rng(0)
IDS = np.array([[3, 4, 5, 0, 0], [7, 8, 9, 1, 2], [5, 2, 0, 0, 0], [9, 1, 4, 0, 0]])
Y = np.arange(4) % 3


def network():
    """Logits of a table, and of tables and ids that count for nothing."""
    keras.utils.set_random_seed(0)
    given = {"a": keras.Input((3,), name="a"), "b": keras.Input((4,), name="b")}
    given["ids"] = keras.Input((5,), dtype="int32", name="ids")
    own = L.Dense(3, bias_initializer="normal")
    words = L.GlobalAveragePooling1D()(L.Embedding(10, 3, mask_zero=True)(given["ids"]))
    others = 0 * L.Dense(3)(given["b"]) + 0 * words
    alone = keras.Sequential([keras.Input((3,)), own])
    return keras.Model(given, own(given["a"]) + others), alone


def data():
    x = {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(4, 4)), "ids": IDS}
    x = {key: v.astype("int32" if key == "ids" else "float32") for key, v in x.items()}
    return [(x, Y)], [(x["a"], Y)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("test", "sigmas"),
    [
        (evaluation.noise_robustness, (0.0, 2.0)),
        pytest.param(evaluation.density_ratios, (0.1, 0.5), marks=pytest.mark.slow),
    ],
)
def test_noise_is_on_the_inputs_that_are_named(test, sigmas):
    (whole, alone), (several, one) = network(), data()
    expected = test(alone, one, sigmas)
    found = test(whole, several, sigmas, inputs="a")
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)
    still = test(whole, several, sigmas, inputs=["b"])
    unmoved = found.values[0] if test is evaluation.noise_robustness else 1
    np.testing.assert_allclose(still.values, unmoved, rtol=1e-5)
    for inputs, words in (
        ("ids", "inputs: got 'ids', which holds int32 values; expected an input of floats"),
        ("c", r"inputs: got 'c'; expected some of \['a', 'b', 'ids'\]"),
    ):
        with pytest.raises(ArgumentError, match=words):
            test(whole, several, sigmas, inputs=inputs)


@pytest.mark.long
def test_the_energy_of_one_input_and_of_any_target():
    (whole, alone), (several, one) = network(), data()
    mask = [1, 0, 1]
    for target in (2, targets.Output(1), targets.Contrast()):
        expected = evaluation.energy_share(alone, one, mask, target=target)
        found = evaluation.energy_share(whole, several, mask, target=target, inputs="a")
        assert found.value == pytest.approx(expected.value, rel=1e-6)
    kernel = alone.layers[0].kernel.numpy()
    share = abs(kernel[[0, 2], 1]).sum() / abs(kernel[:, 1]).sum()
    by_hand = evaluation.energy_share(
        whole, [several[0][0]], mask, target=targets.Output(1), inputs="a"
    )
    assert by_hand.value == pytest.approx(share, rel=1e-6)
    with pytest.raises(ArgumentError, match="inputs: got None, and maps of"):
        evaluation.energy_share(whole, several, mask)


def test_the_energy_of_tokens():
    ids = keras.Input((5,), dtype="int32")
    words = L.GlobalAveragePooling1D()(L.Embedding(10, 3, mask_zero=True)(ids))
    reader = keras.Model(ids, L.Dense(3)(words))
    # Of a mean, every visible token has the same gradient.
    found = evaluation.energy_share(reader, [(IDS, Y)], [0, 1, 1, 0, 0])
    assert found.value == pytest.approx(np.mean([2 / 3, 2 / 5, 1 / 2, 2 / 3]), rel=1e-5)
    for test in (evaluation.noise_robustness, evaluation.density_ratios):
        with pytest.raises(ArgumentError, match="batches: got integers alone, such as token ids"):
            test(reader, [(IDS, Y)])
    with pytest.raises(ArgumentError, match="its input is int32, and only a float"):
        evaluation.transfer_bound(reader, reader, IDS, IDS)


def test_what_is_of_one_float_input():
    (whole, _), (several, _) = network(), data()
    x = several[0][0]
    with pytest.raises(ArgumentError, match="source: got a dict; expected images"):
        evaluation.transfer_bound(whole, whole, x, x)
    with pytest.raises(ArgumentError, match="images: got a dict; expected float images"):
        evaluation.gan_test(whole, x, Y)
    with pytest.raises(ArgumentError, match=r"target: got Contrast.*; expected a class, as the"):
        evaluation.density_ratios(whole, several, target=targets.Contrast())
