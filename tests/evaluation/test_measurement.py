"""The one form of what a test found: its table, its records and its JSON."""

import dataclasses
import json
import math

import pytest

from tfgrad.errors import ArgumentError
from tfgrad.evaluation import Measurement


def measurement(values=(0.99, 0.5), deviations=(0.0, 0.0123), **more):
    fields = {
        "name": "accuracy under input noise",
        "score": "accuracy",
        "direction": "higher",
        "along": "noise σ",
        "points": (0.0, 0.1),
        "percent": True,
    }
    return Measurement(values=values, deviations=deviations, **(fields | more))


def single(value=0.25, **columns):
    return measurement(
        (value,),
        (0.125,),
        along="",
        points=(0.0,),
        columns={name: (number,) for name, number in columns.items()},
    )


def test_a_curve_and_its_rows():
    one = measurement(columns={"mean probability": (0.5, 0.25)})
    assert one.curve() == {0.0: (0.99, 0.0), 0.1: (0.5, 0.0123)}
    assert one.rows() == [
        {"noise σ": 0.0, "accuracy": 0.99, "deviation": 0.0, "mean probability": 0.5},
        {"noise σ": 0.1, "accuracy": 0.5, "deviation": 0.0123, "mean probability": 0.25},
    ]


def test_a_single_number():
    assert single().value == 0.25
    assert single(chance=0.5).rows() == [{"accuracy": 0.25, "deviation": 0.125, "chance": 0.5}]
    with pytest.raises(
        ArgumentError, match=r"has 2 values along 'noise σ'; expected .* Try \.values or"
    ):
        _ = measurement().value


def test_markdown_along_an_axis():
    rows = {
        "plain": measurement(),
        "gradient norm 0.1": measurement((1.0, 0.75), (0.0, 0.0)),
    }
    assert Measurement.markdown(rows) == (
        "| noise σ → | 0 | 0.1 |\n"
        "|---|---|---|\n"
        "| plain | 99.00 | 50.00 ± 1.23 |\n"
        "| gradient norm 0.1 | 100.00 | 75.00 |"
    )
    ratios = measurement((1.5, 1e40), (0.25, 0.0), percent=False)
    assert "| a | 1.5 ± 0.25 | 1e+40 |" in Measurement.markdown({"a": ratios})


def test_markdown_of_single_numbers_shows_the_columns():
    assert Measurement.markdown({"a": single(chance=0.5), "b": single(1.0, chance=0.5)}) == (
        "| model | accuracy (%) | chance (%) |\n"
        "|---|---|---|\n"
        "| a | 25.00 ± 12.50 | 50.00 |\n"
        "| b | 100.00 ± 12.50 | 50.00 |"
    )


def test_markdown_says_what_deviations_are_over_where_rows_differ():
    rows = {n: dataclasses.replace(single(), over=f"{n} images") for n in ("360", "351")}
    assert Measurement.markdown(rows) == (
        "| model | accuracy (%) | ± over |\n"
        "|---|---|---|\n"
        "| 360 | 25.00 ± 12.50 | 360 images |\n"
        "| 351 | 25.00 ± 12.50 | 351 images |"
    )
    assert "over" not in Measurement.markdown({"a": rows["360"], "b": rows["360"]})


def test_points_may_have_names():
    named = measurement(along="layer", points=(0.0, 1.0), labels=("none", "block/conv"))
    assert [row["layer"] for row in named.rows()] == ["none", "block/conv"]
    assert Measurement.markdown({"plain": named}) == (
        "| layer → | none | block/conv |\n|---|---|---|\n| plain | 99.00 | 50.00 ± 1.23 |"
    )
    assert named.curve() == {0.0: (0.99, 0.0), 1.0: (0.5, 0.0123)}
    content = json.loads(json.dumps(named.to_json()))
    assert content["labels"] == ["none", "block/conv"]
    assert Measurement.from_json(content) == named
    content = measurement().to_json()
    del content["labels"]  # as written before points had names
    assert Measurement.from_json(content) == measurement()
    other = dataclasses.replace(named, labels=("none", "dense"))
    with pytest.raises(ArgumentError, match=r"'b', which is .* at \['none', 'dense'\], after"):
        Measurement.markdown({"a": named, "b": other})
    with pytest.raises(ArgumentError, match=r"labels: got 1 names for 2 points; expected one for"):
        measurement(labels=("none",))


def test_json_and_back():
    one = measurement((math.inf, 2.0), columns={"log": (900.0, math.nan)}, examples=7, seed=3)
    text = json.dumps(one.to_json(), allow_nan=False)
    again = Measurement.from_json(json.loads(text))
    assert math.isnan(again.values[0]) and again.values[1] == 2.0
    assert again.columns["log"][0] == 900.0 and math.isnan(again.columns["log"][1])
    finite = measurement(columns={"log": (900.0, -1.0)}, over="3 noise draws")
    assert Measurement.from_json(json.loads(json.dumps(finite.to_json()))) == finite


def test_what_is_refused():
    with pytest.raises(ArgumentError, match=r"direction: got 'up'; expected 'higher' or 'lower'"):
        measurement(direction="up")
    with pytest.raises(ArgumentError, match=r"values: got 1 numbers for 2 points"):
        measurement((1.0,))
    with pytest.raises(ArgumentError, match=r"chance: got 1 numbers for 2 points; expected one"):
        measurement(columns={"chance": (1.0,)})
    with pytest.raises(ArgumentError, match=r"rows: got none; expected \{name: Measurement\}"):
        Measurement.markdown({})
    for other in (measurement(points=(0.0, 0.2)), measurement(name="another")):
        with pytest.raises(
            ArgumentError, match=r"rows: got 'b', which is .* the same test at the same"
        ):
            Measurement.markdown({"a": measurement(), "b": other})


def test_a_notebook_shows_the_table_of_markdown():
    table = Measurement.markdown({"a": measurement()})
    assert table._repr_markdown_() == str(table) and "| a | 99.00 |" in table
