"""`evaluation.Comparison`: the score of a curve, what is best, the table, records and picture."""

import csv
import json
import math

import numpy as np
import pytest

from tests.helpers.pages import Page
from tfgrad import figures
from tfgrad.errors import ArgumentError
from tfgrad.evaluation import Comparison, Cost, Measurement


def made(values, deviations=None, *, direction="higher", **more):
    fields = {"along": "k", "points": tuple(range(len(values)))} if len(values) > 1 else {}
    return Measurement(
        name="n",
        score="s",
        direction=direction,
        values=values,
        deviations=deviations or (0.0,) * len(values),
        **({"examples": 40} | fields | more),
    )


@pytest.fixture
def result():
    curves = {
        "a": made((0.5, 1.0), (0.05, 0.15)),
        "b": made((0.25, math.nan)),
        "random": made((0, 1)),
    }
    single = {
        name: made((value,), (9.0,), direction="lower", columns={"standard error": (error,)})
        for name, value, error in (("a", -3.0, 0.5), ("b", -1.0, 0.1), ("random", 0.0, 0.1))
    }
    return Comparison(
        ("a", "b", "c", "random"),
        {"curve": curves, "single": single},
        {"curve": {"c": "no."}, "single": {"c": "no."}},
        {"a": Cost(2.0, 1.5), "b": Cost(1234.5, 10.0)},
    )


def test_a_curve_is_its_mean(result):
    assert result.summary("curve", "a") == pytest.approx((0.75, 0.1))
    assert np.isnan([result.summary("curve", method) for method in "bc"]).all()
    with pytest.raises(ArgumentError, match="test: got 'curves'; did you mean 'curve'"):
        result.summary("curves", "a")
    with pytest.raises(ArgumentError, match="method: got 'd'"):
        result.summary("curve", "d")


def test_points_of_reference_are_no_part_of_the_mean():
    curve = made((1.0, 0.5, 0.3), (0.0, 0.1, 0.3), reference=1, labels=("none", "b", "a"))
    found = Comparison(("a",), {"t": {"a": curve}})
    assert found.summary("t", "a") == pytest.approx((0.4, 0.2))
    assert "mean along k at 2 points, b to a" in found.markdown()
    assert Measurement.from_json(curve.to_json()) == curve


def test_one_known_point_is_no_score():
    """The easiest point of one method against the whole curves of the others."""
    lucky = made((1.0, math.nan, math.nan))
    whole = {"a": made((1.0, 0.5, 0.1)), "b": made((1.0, 0.4, 0.0))}
    found = Comparison(("lucky", "a", "b"), {"t": {"lucky": lucky, **whole}})
    assert found.best("t") == "a"
    lines = found.markdown().splitlines()
    assert "| lucky | unknown |" in lines and "- t of lucky: 2 of 3 points unknown" in lines
    assert list(found.panels()["t\nhigher is better"]) == ["a", "b"]


def best(*pairs, direction="higher", **more):
    """Of methods m0, m1, … with such (score, error)."""
    row = {
        f"m{i}": made((score,), (error,), direction=direction, **more)
        for i, (score, error) in enumerate(pairs)
    }
    return Comparison(tuple(row), {"t": row}).best("t")


def test_the_best_is_further_away_than_twice_the_error_of_the_difference(result):
    assert result.best("curve") == "a"
    assert result.best("single") == "a"  # by the standard error, not by ± 9 over images
    # 2 √(0.3² + 0.4²) = 1
    assert best((0.0, 0.3), (1.01, 0.4)) == "m1" and best((0.0, 0.3), (0.99, 0.4)) is None
    assert best((0.0, 0.3), (1.01, 0.4), direction="lower") == "m0"
    # One that is further down, and less sure.
    assert best((0.0, 0.01), (1.0, 0.01)) == "m1"
    assert best((0.0, 0.01), (1.0, 0.01), (-0.1, 0.6)) is None
    assert best((1.0, 0.0), (1.0, 0.0)) is None
    assert best((0.0, math.nan), (1.0, 0.0)) is None
    assert best((0.5, 0.1), (math.nan, 0.1)) == best((0.5, 0.1), (math.inf, 0.1))
    assert best((0.5, 0.1), (math.nan, 0.1)) is None  # nothing to be better than
    assert best((1.0, 0.0), (1.0 - 4e-16, 0.0)) is best((1.0, 0.0), (1.0 - 4e-7, 0.0)) is None
    assert best((1.0, 0.0), (1.0 - 4e-6, 0.0)) == "m0"
    assert best((0.5, 0.1), (math.nan, 0.1), (0.0, 0.1)) == "m0"
    assert Comparison(("a",), {"t": {}}).best("t") is None


def test_nothing_is_best_of_a_single_image():
    """Its error is 0, which says nothing."""
    assert best((0.0, 0.0), (1.0, 0.0), examples=2) == "m1"
    assert best((0.0, 0.0), (1.0, 0.0), examples=1) is None
    row = {"a": made((0.0,)), "b": made((1.0,), examples=1)}
    assert Comparison(("a", "b"), {"t": row}).best("t") is None


def test_of_two_that_are_equally_good_one_is_rarely_the_best():
    """400 pairs with normal errors: expected are 4.6 % ± 1 %, of one error alone half of them."""
    draws = np.random.default_rng(0)
    errors = draws.uniform(0.1, 1, size=(400, 2))
    scores = 3 + errors * draws.normal(size=errors.shape)
    pairs = [list(zip(*pair, strict=True)) for pair in zip(scores, errors, strict=True)]
    share = np.mean([best(*pair) is not None for pair in pairs])
    assert 0.01 < share < 0.07
    # And it is, where there is a difference.
    apart = [[first, (score + 6, error)] for first, (score, error) in pairs]
    assert np.mean([best(*pair) == "m1" for pair in apart]) > 0.95


def test_names_do_not_break_the_table():
    row = {"a|b\nc": made((1.0,)), "random": made((0.0,))}
    failed = {"x|y": {"a|b\nc": "one.\nTwo."}}
    found = Comparison(tuple(row), {"x|y": {"random": row["random"]}, "t\nu": row}, failed)
    title, rule, first, second, empty, *notes = found.markdown().split("\n")
    assert title == r"| method | x\|y ↑ | t u ↑ |"
    assert first == r"| a\|b c | failed | **1** |"
    assert second.startswith("| random |") and not empty and rule.count("---") == 3
    assert all(note.startswith("- ") for note in notes)
    assert "- failed, x|y of a|b c: one. Two." in notes


def test_markdown(result):
    assert result.markdown().splitlines() == [
        "| method | curve ↑ | single ↓ | ms per map | input-gradients |",
        "| --- | --- | --- | --- | --- |",
        "| a | **0.75** ± 0.1 | **-3** ± 9 | 2 | 1.5 |",
        "| b | unknown | -1 ± 9 | 1.23e+03 | 10 |",
        "| c | failed | failed |  |  |",
        "| random | 0.5 | 0 ± 9 |  |  |",
        "",
        "- curve: n: s, mean along k at 2 points, 0 to 1; higher is better; seed 0",
        "- single: n: s; lower is better; seed 0",
        "- bold: the best, if every other score is further away than twice the error of the "
        "difference, 2·√(e₁² + e₂²), e being the standard error or else the ±, each of at least "
        "two images",
        "- failed, curve of c, single of c: no.",
        "- curve of b: 1 of 2 points unknown",
    ]
    percent = Comparison(("a",), {"t": {"a": made((0.5,), (0.25,), percent=True)}})
    assert "| a | 50.00 ± 25.00 |" in percent.markdown() and "t (%) ↑" in percent.markdown()


def test_records_and_json(result, tmp_path):
    path = tmp_path / "all.csv"
    result.to_csv(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 + 1 + 3 + 1
    assert [rows[1][k] for k in ("test", "method", "point", "value", "deviation")] == [
        *("curve", "a", "1", "1.0", "0.15")
    ]
    assert rows[1]["milliseconds per map"] == "2.0" and rows[-1]["milliseconds per map"] == ""
    (failed, _) = (row for row in rows if row["failed"])
    assert failed["method"] == "c" and failed["failed"] == "no." and failed["value"] == ""
    named = Comparison(("a",), {"t": {"a": made((1.0, 2.0), labels=("none", "dense"))}})
    assert [row["point"] for row in named.rows()] == ["none", "dense"]
    assert "none to dense" in named.markdown()

    text = json.dumps(result.to_json(), allow_nan=False)
    again = Comparison.from_json(json.loads(text))
    assert again.markdown() == result.markdown() and again.costs == result.costs
    assert Comparison.from_json(json.loads(json.dumps(named.to_json()))) == named


@pytest.mark.long
def test_the_picture(result, tmp_path):
    path = tmp_path / "bars.png"
    assert result.draw(path, title="title") == str(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(result.panels()) == ["curve\nhigher is better", "single\nlower is better"]
    assert list(result.panels()["curve\nhigher is better"]) == ["a", "random"]
    many = {f"test {i}": {"a": (i, 0.1), "random": (0.5, 0.0)} for i in range(6)}
    figures.bars(path, many, control="random")
    with pytest.raises(ArgumentError, match=r"panels: got nothing to draw in \{\}"):
        Comparison(("a",), {"t": {}}).draw(path)
    with pytest.raises(ArgumentError, match=r"panels\['t'\]\['a'\]: got NaN"):
        figures.bars(path, {"t": {"a": (math.nan, 0)}})


def test_a_page_for_notebooks(result):
    assert repr(result) == "Comparison(methods: a, b, c, random; tests: curve, single)"
    found = Comparison(("<script>", *result.methods[1:]), {"<b>": {}}, {"<b>": {"b": "<i>no</i>."}})
    content = found._repr_html_()
    assert not any(tag in content for tag in ("<script", "<b>", "<i>"))
    assert all(text in Page(content).text for text in ("<script>", "<b>", "<i>no</i>."))
    content = result._repr_html_()
    page = Page(content)
    # The row of "a" with its mean, its deviation and its cost; the best of a column is bold.
    assert "0.75 ± 0.1" in page.text and "2" in page.text and "failed" in page.text
    assert result.best("single") == "a" and "<strong>-3 ± 9</strong>" in content
    assert page.tags.count("strong") == sum(result.best(test) is not None for test in result.tests)
    assert page.tags.count("tr") == 1 + len(result.methods)


def test_bars_and_numbers(result, tmp_path):
    figure = result.plot(tmp_path / "bars.png", title="t")
    assert len(figure.axes) == 2 and (tmp_path / "bars.png").stat().st_size > 0
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    nothing = Comparison(("a",), {"t": {}}).plot()
    assert "there is no finite score" in nothing.texts[0].get_text()
