"""Inputs in another structure than the network's: taken as Keras takes them, or refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.question_cases import TOKENS, batch, several
from tfgrad.errors import ArgumentError
from tfgrad.gradients import input_structure

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


@pytest.mark.parametrize("make", [tf.constant, np.asarray])
def test_ids_that_come_as_floats_get_the_type_of_their_own_input(make):
    """By position, and by the names of a list's inputs, whose order is not that of their names."""
    table, ids = keras.Input((2,), name="z"), keras.Input((3,), dtype="int32", name="a")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(ids))
    outputs = keras.layers.Dense(1)(keras.layers.Concatenate()([table, embedded]))
    network = keras.Model([table, ids], outputs)
    x = [make(np.ones((1, 2), "float32")), make(np.array([[4, 0, 2]], "float32"))]
    for given, where in ((x, 1), ({"z": x[0], "a": x[1]}, "a")):
        got = input_structure.as_declared(network, given)
        assert tf.as_dtype(got[where].dtype) == tf.int32
        np.testing.assert_array_equal(got[where], [[4, 0, 2]])
        assert tf.as_dtype(got[0 if where == 1 else "z"].dtype) == tf.float32
