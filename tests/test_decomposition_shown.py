"""The result of `full_gradients` as a table, a figure, a page and JSON."""

import json

import keras
import numpy as np
import pytest

import tfgrad
from tests.helpers.pages import Page
from tfgrad.errors import ArgumentError

X = np.float32([[1, 2, -1], [0.5, -1, 2]])


@pytest.fixture(scope="module")
def model():
    """f = W₂ relu(W₁ x + b₁) + b₂, whose terms are known in closed form."""
    given = keras.Input([3])
    hidden = keras.layers.Dense(2, activation="relu", name="first")(given)
    network = keras.Model(given, keras.layers.Dense(2, name="second")(hidden), name="net")
    network.set_weights(
        [
            np.float32([[1, 0], [0, 1], [0, 1]]),
            np.float32([1, 2]),
            np.float32([[2, 1], [-1, 3]]),
            np.float32([0.5, -4]),
        ]
    )
    return network


@pytest.fixture(scope="module")
def full(model):
    return tfgrad.full_gradients(model, X, 0)


def test_shares_in_closed_form(full):
    # Example 0: z = (2, 3), f = 2·2 − 3 + 0.5; example 1: z = (1.5, 3), f = 3 − 3 + 0.5.
    shares = full.shares()
    assert shares.names == ("input", "first", "second")
    assert shares.kinds == ("input", "affine", "affine")
    assert shares.shapes == ((3,), (2,), (2,))
    np.testing.assert_allclose(shares.sums, [[1, 0, 0.5], [0, 0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(shares.shares[0], [2 / 3, 0, 1 / 3], atol=1e-6)
    total = shares.shares.sum(1) + shares.error / shares.score
    np.testing.assert_allclose(total, 1, atol=1e-12)
    rows = shares.rows(0)
    assert [row.name for row in rows] == ["input", "second", "first"]
    assert [row.cumulated for row in rows] == pytest.approx([2 / 3, 1, 1], abs=1e-6)
    # Means of the sums add up to the mean logit, 1, of which the shares are.
    assert [row.share for row in shares.rows()] == pytest.approx([0.5, 0.5, 0], abs=1e-6)


def test_a_table_of_text(full):
    text = full.summary(0)
    assert repr(text) == str(text)
    (line,) = [line for line in text.split("\n") if line.startswith("input")]
    assert line.split() == ["input", "input", "3", "1", "66.67", "%", "66.67", "%"]
    assert "terms sum to 1.5, logit 1.5, error " in text
    assert "(means over the batch)" in full.summary() and "mean" not in text
    for wrong in (2, -3, "a"):
        with pytest.raises(ArgumentError, match=r"example: got .*; expected an int from 0 to 1"):
            full.summary(wrong)


def test_a_logit_of_zero_has_no_shares(model):
    full = tfgrad.full_gradients(model, np.float32([[0, -2, 0]]), lambda y: 0 * y[:, 0])
    assert np.isnan(full.shares().shares).all() and "–" in full.summary()
    content = json.loads(json.dumps(full.to_dict(), allow_nan=False))
    assert content["terms"]["shares"][0][0] is None and content["classes"] is None
    assert "score 0" in full.summary() and "logit" not in full._repr_html_()


def test_a_round_trip_through_json(full):
    content = json.loads(json.dumps(full.to_dict(), allow_nan=False))
    assert content["score"] == pytest.approx([1.5, 0.5]) and content["classes"] == [0, 0]
    assert content["terms"]["names"] == ["input", "first", "second"]
    assert max(content["completeness_error"]) < 1e-5


def test_a_page(full):
    content = full._repr_html_(["<script>", "other"])
    page = Page(content)
    assert "<script" not in content and "<script>" in page.text
    assert page.text.count("terms by share of the logit") == 2 and "66.67 %" in page.text
    assert "1 of 2 examples, 1 left out" in Page(full._repr_html_(count=1)).text
    with pytest.raises(ArgumentError, match=r"class_names: got \[\]; expected a list of texts"):
        full._repr_html_([])


def test_bars_of_terms(full, tmp_path):
    figure = full.plot(tmp_path / "bars.png", class_names=["a", "b"], terms=1)
    assert [axes.get_title() for axes in figure.axes] == [
        "example 0\nlogit 1.5, of class 0 (a)",
        "example 1\nlogit 0.5, of class 0 (a)",
    ]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["input", "2 others", "second"]
    assert (tmp_path / "bars.png").stat().st_size > 0
    with pytest.raises(ArgumentError, match="terms: got 0"):
        full.plot(terms=0)


def test_the_input_is_drawn_as_what_it_is():
    given = keras.Input([3, 4, 5])
    last = keras.layers.Permute([2, 3, 1])(given)
    features = keras.layers.Flatten()(keras.layers.Conv2D(2, 2)(last))
    model = keras.Model(given, keras.layers.Dense(2)(features))
    x = np.random.default_rng(0).uniform(size=(1, 3, 4, 5)).astype("float32")
    full = tfgrad.full_gradients(model, x)
    (one,) = full.explained_inputs()
    assert one.kind == "image" and one.values.shape == (1, 4, 5, 3)
    np.testing.assert_allclose(one.maps, np.sum(full.input_term, 1), rtol=1e-5)
    assert Page(full._repr_html_()).tags.count("img") == 2


def test_ids_and_several_inputs_are_named():
    ids = keras.Input([4], dtype="int32", name="ids")
    table = keras.Input([2], name="table")
    features = keras.layers.Flatten()(keras.layers.Embedding(5, 3)(ids))
    both = keras.layers.Concatenate()([features, table])
    model = keras.Model({"ids": ids, "table": table}, keras.layers.Dense(2)(both))
    full = tfgrad.full_gradients(model, {"ids": np.ones([1, 4], int), "table": X[:1, :2]})
    assert full.shares().names[0] == "input 'table'"
    assert [one.name for one in full.explained_inputs()] == ["table"]
    assert "table" in Page(full._repr_html_()).text
    text = keras.Model(ids, keras.layers.Dense(2)(features))
    (one,) = tfgrad.full_gradients(text, np.ones([1, 4], int)).explained_inputs()
    assert (one.name, one.kind, one.maps.shape) == ("input", "series", (1, 4))
