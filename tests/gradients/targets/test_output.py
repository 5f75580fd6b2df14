"""One number of a network's outputs as a target."""

import keras
import numpy as np
import pytest

from tests.helpers import target_cases
from tests.helpers.target_cases import images, probe, slope_error
from tfgrad.errors import ArgumentError
from tfgrad.targets import Output


def value(network, target):
    return probe(network, images()).score(target).numpy()


def test_numbers_of_a_dict(float64):
    network = target_cases.heads()
    outputs = network(images())
    np.testing.assert_array_equal(value(network, Output("price")), outputs["price"][:, 0])
    np.testing.assert_array_equal(value(network, Output(("pair", 1))), outputs["pair"][:, 1])
    np.testing.assert_array_equal(value(network, Output(["class", -1])), outputs["class"][:, 3])
    assert slope_error(network, images(), Output("price")) < 1e-7


def test_numbers_of_a_list_and_of_one_output(float64):
    several = target_cases.heads()
    network = keras.Model(several.input, [several.output[k] for k in ("price", "pair")])
    price, pair = network(images())
    np.testing.assert_array_equal(value(network, Output(0)), price[:, 0])
    np.testing.assert_array_equal(value(network, Output((1, 0))), pair[:, 0])
    one = keras.Model(several.input, several.output["pair"])
    np.testing.assert_array_equal(value(one, Output(1)), pair[:, 1])


def test_an_output_without_an_axis_of_numbers(float64):
    several = target_cases.heads()
    flat = keras.layers.Reshape(())(several.output["price"])
    network = keras.Model(several.input, flat)
    np.testing.assert_array_equal(value(network, Output()), network(images()))


def test_a_softmax_is_kept(float64):
    network = target_cases.classifier(last="softmax")
    np.testing.assert_array_equal(value(network, Output(2)), network(images())[:, 2])
    assert not Output().of_logits


@pytest.mark.parametrize("index", [None, 0.5, (), ("a", 0, 1), (1.5, 0), True])
def test_no_index(index):
    with pytest.raises(ArgumentError, match=r"index: got .*; expected the key or position of an"):
        Output(index)


@pytest.mark.parametrize(
    ("make", "index", "message"),
    [
        (target_cases.classifier, 4, r"Output\(4\) on an output of shape \(3, 4\) of network 'cl"),
        (target_cases.classifier, "price", r"Output\('price'\); network 'classifier' has 1 outp"),
        (target_cases.heads, "prices", r"Output\('prices'\); network 'heads' has \['price', 'pa"),
        (target_cases.heads, "pair", r"Output\('pair'\) on an output of shape \(3, 2\)"),
        (target_cases.heads, "map", r"Output\('map'\) on an output of shape \(3, 6, 6, 3\)"),
        (target_cases.unet, 0, r"Output\(0\) on an output of shape \(3, 6, 6, 3\).*try a pair"),
    ],
)
def test_there_is_no_such_number(make, index, message):
    with pytest.raises(ArgumentError, match=message):
        value(make(), Output(index))
