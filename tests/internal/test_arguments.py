"""Checks of arguments: what passes, what each turns it into, and what the error says."""

import fractions

import numpy as np
import pytest

from tfgrad.errors import ArgumentError
from tfgrad.internal import arguments


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_integers_become_int(value):
    assert arguments.is_integer(value)
    assert type(arguments.integer("steps", value)) is int
    assert arguments.integer("steps", value, lowest=3) == 3


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float32(3), "3", None, [3]])
def test_what_is_no_integer(value):
    assert not arguments.is_integer(value)
    with pytest.raises(ArgumentError, match=r"^steps: got .*; expected an integer ≥ 1\.$"):
        arguments.integer("steps", value)


def test_integers_have_a_lowest_value():
    assert arguments.integer("seed", 0, lowest=0) == 0
    with pytest.raises(ArgumentError, match=r"^steps: got 0; expected an integer ≥ 1\.$"):
        arguments.integer("steps", 0)
    with pytest.raises(ArgumentError, match=r"^seed: got -1; expected an integer ≥ 0\.$"):
        arguments.integer("seed", -1, lowest=0)


@pytest.mark.parametrize("value", [0.5, np.float16(0.5), np.float64(0.5), fractions.Fraction(1, 2)])
def test_numbers_become_float(value):
    assert type(arguments.number("sigma", value)) is float
    assert arguments.number("sigma", value) == 0.5
    assert arguments.number("sigma", 2) == 2.0


@pytest.mark.parametrize("value", [True, "0.5", None, 1j, -0.1, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("zero", "expected"), [(False, "above 0"), (True, "from 0 up")])
def test_what_is_no_number(value, zero, expected):
    message = rf"^sigma: got .*; expected a finite number {expected}\.$"
    with pytest.raises(ArgumentError, match=message):
        arguments.number("sigma", value, zero=zero)


def test_zero_is_a_number_where_it_is_allowed():
    assert arguments.number("weight", 0, zero=True) == 0.0
    with pytest.raises(ArgumentError, match=r"^sigma: got 0; expected a finite number above 0\.$"):
        arguments.number("sigma", 0)


def test_one_of_several_names():
    choices = ("taylor", "hutchinson")
    assert arguments.one_of("estimator", "taylor", choices) == "taylor"
    with pytest.raises(
        ArgumentError,
        match=r"^estimator: got 'tailor'; did you mean 'taylor'\? Expected one of 'taylor', 'hut",
    ):
        arguments.one_of("estimator", "tailor", choices)
    with pytest.raises(
        ArgumentError, match=r"^estimator: got 3; expected one of 'taylor', 'hutchinson'\.$"
    ):
        arguments.one_of("estimator", 3, choices)
    with pytest.raises(ArgumentError, match=r"got \['taylor'\]; expected one of"):
        arguments.one_of("estimator", ["taylor"], dict.fromkeys(choices))
