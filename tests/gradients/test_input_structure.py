"""Inputs in another structure than the network's: taken as Keras takes them, or refused."""

import keras
import numpy as np
import pytest

import tfgrad
from tests.helpers.question_cases import TOKENS, batch, several
from tfgrad.errors import ArgumentError

X = batch(3)


def test_a_dict_stands_for_a_list_by_the_names_of_the_inputs():
    """Whose order is not that of their names."""
    model, keys = several(form="list"), ["image", "table", "ids"]
    found = tfgrad.full_gradients(
        model, {"ids": X["ids"], "table": X["table"], "image": X["image"]}
    )
    expected = tfgrad.full_gradients(model, [X[key] for key in keys])
    np.testing.assert_array_equal(found.score, expected.score)
    for key, gradient in zip(keys, expected.input_gradient, strict=False):
        np.testing.assert_array_equal(found.input_gradient[key], gradient)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": None, "words": X["ids"]}, r"x: got no input 'ids'; expected the inputs \['image"),
        ({"table": None}, r"x: got no input 'table'; expected the inputs"),
        ({"more": X["table"]}, r"x: got an input 'more'; expected the inputs"),
        ({"table": X["table"][:2]}, r"x: input 'image': got 3 examples|input 'table': got 2 ex"),
        ({"table": np.ones((3, 4), int)}, r"x: got int64 values for input 'table', which have no"),
        ({"ids": X["ids"] * 1.0}, r"x: got float64 values for input 'ids'; expected int32, such"),
    ],
)
def test_what_is_refused(changes, words):
    x = {key: value for key, value in (X | changes).items() if value is not None}
    with pytest.raises(ArgumentError, match=words):
        tfgrad.full_gradients(several(), x)


def test_one_input_of_ids_that_are_floats():
    ids = keras.Input((TOKENS,), dtype="int32")
    flat = keras.layers.Flatten()(keras.layers.Embedding(9, 2)(ids))
    model = keras.Model(ids, keras.layers.Dense(2)(flat))
    with pytest.raises(ArgumentError, match=r"x: got float64 values; expected int32, such as tok"):
        tfgrad.full_gradients(model, X["ids"] * 1.0)
