"""`evaluation.compare`: numbers, failures, costs, the table and its records; and the page."""

import csv
import json
import math
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tfgrad import data, evaluation, figures, saliency
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.evaluation import Comparison, Cost, Measurement, compare, comparing

L = keras.layers
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "faithfulness.md"
COUNT = 40
FEW = {"fractions": (0.2, 0.6)}


def network(feature_maps=True):
    keras.utils.set_random_seed(0)
    first = (
        [L.Conv2D(4, 3, activation="relu", bias_initializer="normal"), L.Flatten()]
        if feature_maps
        else [L.Flatten()]
    )
    return keras.Sequential([keras.Input((8, 8, 1)), *first, L.Dense(10)])


@pytest.fixture(scope="module")
def batches():
    return data.pipeline(data.load("digits", f"test[:{COUNT}]"), 16, training=False)


def linear():
    """f_1 = Σ wx, f_0 = 0, w ≥ 0: without pixels k, f_1 falls by their w x exactly."""
    weights = np.random.default_rng(0).uniform(size=(16, 1)).astype("float32")
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), L.Flatten(), L.Dense(2, use_bias=False, dtype="float32")]
    )
    model.set_weights([np.concatenate([0 * weights, weights], 1)])
    return model


def counted(function):
    """A function of (images, classes) that counts the images it is asked about."""

    def maps(x, y):
        maps.images += len(x)
        return function(x, y)

    maps.images = 0
    return maps


def test_the_truth_wins_and_random_loses():
    x = np.random.default_rng(1).uniform(0.1, 1, size=(24, 4, 4, 1)).astype("float32")
    stream = tf.data.Dataset.from_tensor_slices((x, np.ones(24, "int32"))).batch(10)
    methods = {
        "upside down": lambda images, y: -saliency.InputTimesGradient(model)(images, y),
        "truth": "input_times_gradient",
    }
    model, options = linear(), {"fill": 0.0, "fractions": (0.25, 0.5, 0.75)}
    asked = ["pixels", "pixels_most"]
    found = compare(model, stream, methods, asked, options=dict.fromkeys(asked, options))
    assert found.methods == ("upside down", "truth", "random")
    assert [found.best(test) for test in asked] == ["truth", "truth"]

    def value(test, method):
        return found.summary(test, method)[0]

    assert value("pixels", "truth") < value("pixels", "random") < value("pixels", "upside down")
    most = [value("pixels_most", m) for m in ("truth", "random", "upside down")]
    assert most == sorted(most, reverse=True)
    # By hand: least of w·x first, the fall of p = sigmoid(Σ w x) as a share of p.
    products = np.sort(x.reshape(24, 16) * model.get_weights()[0][:, 1], 1).astype("float64")
    p = 1 / (1 + np.exp(-products.sum(1)))
    falls = [1 - 1 / (1 + np.exp(-products[:, k:].sum(1))) / p for k in (4, 8, 12)]
    measured = found.measurements["pixels"]["truth"]
    assert measured.values == pytest.approx(np.mean(falls, 1), rel=2e-4)
    assert value("pixels", "truth") == pytest.approx(np.mean(falls), rel=2e-4)


def test_each_test_is_its_function_s(batches):
    model, method = network(), saliency.InputTimesGradient
    asked = [*comparing.TESTS]
    options = {"pixels": FEW, "pixels_most": FEW, "randomisation": {"order": "independent"}}
    options["class_flip"] = {"source": 1, "to": 7}
    found = compare(model, batches, {"m": method(model)}, asked, images=20, options=options, seed=5)
    assert not found.failures and found.tests == tuple(asked)
    first = np.concatenate([np.asarray(x) for x, _ in batches])[:20]
    change = {"score": "change of the top probability", "seed": 5}
    maps, fractions = method(model), FEW["fractions"]

    def of_predicted(x, y):
        return maps(x)

    expected = {
        "pixels": evaluation.pixel_perturbation(model, batches, of_predicted, fractions, **change),
        "pixels_most": evaluation.pixel_perturbation(
            model, batches, of_predicted, fractions, remove="most", **change
        ),
        "class_flip": comparing.class_flip(model, batches, maps, 1, 7, seed=5),
        "randomisation": comparing.randomisation(model, first, method, order="independent", seed=5),
        "completeness": comparing.completeness(model, first, method),
        "bias_sensitivity": comparing.bias_sensitivity(model, first, method, seed=5),
        "weak_dependence": comparing.weak_dependence(model, first, method, seed=5),
        "shift_agreement": comparing.shift_agreement(model, first, method),
    }
    for test, one in expected.items():
        got = found.measurements[test]["m"]
        assert got.values == pytest.approx(one.values, rel=1e-4, abs=1e-5), test
        assert got.examples == one.examples and got.seed == one.seed, test
    # The control knows nothing: it keeps its maps whatever the weights, and flips by chance.
    control = {test: row["random"] for test, row in found.measurements.items()}
    assert control["randomisation"].values == (1.0,) * 3
    assert control["class_flip"].columns["pixels removed"][0] == pytest.approx(0.2, abs=0.01)


def test_maps_that_tests_share_are_computed_once(batches):
    model, timed = network(False), 16 + (16 + 16 + 8)  # one that warms up and three
    gradient = saliency.InputGradient(model)
    for tests in (["pixels", "pixels_most"], ["pixels"]):
        maps = counted(gradient)
        options = dict.fromkeys(tests, FEW)
        found = compare(model, batches, {"counted": maps}, tests, options=options)
        assert maps.images == COUNT + timed
    direct = evaluation.pixel_perturbation(
        model,
        batches,
        lambda x, y: gradient(x),
        (0.2, 0.6),
        score="change of the top probability",
    )
    assert found.measurements["pixels"]["counted"].values == pytest.approx(direct.values)


def test_tests_and_methods_of_ones_own(batches):
    asked = []

    def images_seen(model, stream, maps):
        asked.append(maps)
        seen = sum(len(maps(x, y)) for x, y in stream)
        return Measurement("mine", "images", "higher", (float(seen),), (0.0,))

    said = []
    model = network(False)
    smooth = saliency.Smooth(saliency.InputGradient(model), samples=2)
    found = compare(
        tfgrad.PenalizedModel(model),
        batches,
        {"smooth": smooth, "noise": "random"},
        {"mine": images_seen, "kept": "shift_agreement"},
        images=4,
        on_progress=lambda *progress: said.append(progress),
    )
    assert found.summary("mine", "smooth") == (COUNT, 0.0) and smooth in asked
    assert found.best("mine") is None  # all have seen all
    assert found.measurements["kept"]["smooth"].value == pytest.approx(1, abs=1e-3)
    assert [done for done, _, _ in said] == list(range(6)) and {n for _, n, _ in said} == {6}
    assert said[-1][2] == "kept of smooth"
    assert found.methods == ("smooth", "noise", "random")


def test_a_pair_that_fails_is_reported_and_the_rest_goes_on(batches):
    methods = {"cam": "gradcam", "pixels themselves": lambda x, y: x[..., 0]}
    tests = ["pixels", "randomisation"]
    found = compare(network(False), batches, methods, tests, images=4, options={"pixels": FEW})
    assert set(found.failures["pixels"]) == {"cam"}
    assert set(found.failures["randomisation"]) == {"cam"} and "cam" not in found.costs
    assert math.isnan(found.summary("pixels", "cam")[0])
    text = found.markdown()
    assert "| cam | failed | failed |  |  |" in text
    (why,) = [line for line in text.splitlines() if line.startswith("- failed")]
    assert "failed, pixels of cam, randomisation of cam: model" in why
    assert why.count("no layer puts out feature maps") == 1
    record = [row for row in found.rows() if row["method"] == "cam"]
    assert [row["test"] for row in record] == tests and "feature maps" in record[0]["failed"]
    # Maps of the image alone survive every layer, as random ones do.
    assert found.summary("randomisation", "pixels themselves")[0] == pytest.approx(1)
    shifted = compare(network(False), batches, methods, ["shift_agreement"], images=4)
    assert "which explains one model" in shifted.failures["shift_agreement"]["pixels themselves"]


def test_images_without_a_map_are_counted_below_the_table(batches):
    def holed(x, y):
        maps = np.array(x[..., 0])
        maps[0] = np.nan  # the first image of each of three batches
        return maps

    with pytest.warns(UserWarning, match="left out"):
        found = compare(
            network(False), batches, {"holed": holed}, "pixels", options={"pixels": FEW}
        )
    assert "- pixels of holed: 3 maps left out" in found.markdown()
    assert found.measurements["pixels"]["holed"].examples == COUNT - 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["fullgradd"]}, r"method: got 'fullgradd'; did you mean 'fullgrad'\?"),
        ({"methods": []}, r"methods: got none; expected names of tfgrad.saliency"),
        ({"methods": 3}, r"methods: got a int; expected names"),
        ({"methods": {"m": 3}}, r"methods: 'm' is a int; expected a name of tfgrad.saliency"),
        ({"methods": {"random": "fullgrad"}}, r"by the name of 'random', which is the control's"),
        ({"methods": [saliency.FullGrad]}, r"methods: got <class .* for a name; expected names"),
        ({"tests": ["pixel"]}, r"tests: got 'pixel'; did you mean 'pixels'\?"),
        ({"tests": {"mine": 3}}, r"tests: 'mine' is a int with options \{\}; expected a name, or"),
        ({"options": {"flip": {}}}, r"options: got 'flip'; expected one of 'pixels'"),
        (
            {"options": {"pixels": {"fil": 0}}},
            r"options\['pixels'\]: got 'fil'; did you mean 'fill'",
        ),
        ({"options": {"pixels": {"fractions": [2]}}}, r"fractions: got \[2.0\]; expected numbers"),
        ({"images": 0}, r"images: got 0; expected a whole number from 1 up"),
        ({"data": iter([])}, r"batches: got an iterator, which can be read only once"),
    ],
)
def test_what_is_refused_before_anything_is_computed(batches, arguments, message):
    def maps(x, y):
        raise AssertionError("asked for maps")

    asked = {"data": batches, "methods": {"m": maps}, "tests": ["pixels"]} | arguments
    with pytest.raises(ArgumentError, match=message):
        compare(network(False), **asked)


def test_a_model_or_labels_that_do_not_fit(batches):
    softmax = keras.Sequential([network(False), L.Softmax()])
    softmax.build((None, 8, 8, 1))
    stream = tf.data.Dataset.from_tensors((np.zeros((2, 8, 8, 1), "float32"), np.array([0, 10])))
    with pytest.raises(DataError, match="labels from 0 to 10; the network has 10 logits"):
        compare(network(False), stream, ["input_gradient"], ["pixels"])
    with pytest.raises(ModelError, match="probabilities"):
        compare(softmax, batches, ["input_gradient"], ["completeness"])


# The result


def made(values, deviations=None, *, direction="higher", **more):
    fields = {"along": "k", "points": tuple(range(len(values)))} if len(values) > 1 else {}
    return Measurement(
        name="n",
        score="s",
        direction=direction,
        values=values,
        deviations=deviations or (0.0,) * len(values),
        **(fields | more),
    )


@pytest.fixture
def result():
    curves = {
        "a": made((0.5, 1.0), (0.1, 0.3)),
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
    assert result.summary("curve", "a") == pytest.approx((0.75, 0.2))
    assert result.summary("curve", "b") == (0.25, 0.0)  # where it is known
    assert math.isnan(result.summary("curve", "c")[0])
    with pytest.raises(ArgumentError, match="test: got 'curves'; did you mean 'curve'"):
        result.summary("curves", "a")
    with pytest.raises(ArgumentError, match="method: got 'd'"):
        result.summary("curve", "d")


def test_the_best_is_more_than_an_error_away(result):
    assert result.best("curve") == "a"
    assert result.best("single") == "a"  # by the standard error, not by ± 9 over images
    close = {"a": made((1.0,), (0.2,)), "b": made((0.9,), (0.0,)), "c": made((math.nan,))}
    assert Comparison(("a", "b", "c"), {"t": close}).best("t") is None
    assert Comparison(("a", "c"), {"t": {m: close[m] for m in "ac"}}).best("t") == "a"
    assert Comparison(("a",), {"t": {}}).best("t") is None


def test_markdown(result):
    assert result.markdown().splitlines() == [
        "| method | curve ↑ | single ↓ | ms per map | input-gradients |",
        "| --- | --- | --- | --- | --- |",
        "| a | **0.75** ± 0.2 | **-3** ± 9 | 2 | 1.5 |",
        "| b | 0.25 | -1 ± 9 | 1.23e+03 | 10 |",
        "| c | failed | failed |  |  |",
        "| random | 0.5 | 0 ± 9 |  |  |",
        "",
        "- curve: n: s, mean along k at 2 points, 0 to 1; higher is better; seed 0",
        "- single: n: s; lower is better; seed 0",
        "- bold: the best, where the next is further away than an error",
        "- failed, curve of c, single of c: no.",
        "- curve of b: 1 of 2 points unknown",
    ]
    percent = Comparison(("a",), {"t": {"a": made((0.5,), (0.25,), percent=True)}})
    assert "| a | **50.00** ± 25.00 |" in percent.markdown() and "t (%) ↑" in percent.markdown()


def test_records_and_json(result, tmp_path):
    path = tmp_path / "all.csv"
    result.to_csv(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 + 1 + 3 + 1
    assert [rows[1][k] for k in ("test", "method", "point", "value", "deviation")] == [
        *("curve", "a", "1", "1.0", "0.3")
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


def test_the_picture(result, tmp_path):
    path = tmp_path / "bars.png"
    assert result.draw(path, title="title") == str(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(result.panels()) == ["curve\nhigher is better", "single\nlower is better"]
    assert list(result.panels()["curve\nhigher is better"]) == ["a", "b", "random"]
    many = {f"test {i}": {"a": (i, 0.1), "random": (0.5, 0.0)} for i in range(6)}
    figures.bars(path, many, control="random")
    with pytest.raises(ArgumentError, match=r"panels: got nothing to draw in \{\}"):
        Comparison(("a",), {"t": {}}).draw(path)
    with pytest.raises(ArgumentError, match=r"panels\['t'\]\['a'\]: got NaN"):
        figures.bars(path, {"t": {"a": (math.nan, 0)}})


def test_a_cost_is_the_median_per_image(batches, monkeypatch):
    """Milliseconds of (method, input-gradient); the first pair warms up."""
    took = iter(ms / 1e3 for ms in (99, 9, 32, 16, 24, 8, 160, 16))
    monkeypatch.setattr(comparing, "_seconds", lambda function, x, y: next(took))
    model = network(False)
    task = comparing._Task(model, batches.take(1), 4)  # one batch of 16, three times
    candidate, _ = comparing._candidates(["input_gradient"], model, 0)
    assert comparing._cost(task, candidate) == Cost(pytest.approx(2.0), pytest.approx(3.0))


# The page


def test_the_page_runs(batches, tmp_path, monkeypatch, capsys):
    """All of its blocks, on a network of ours and digits."""
    monkeypatch.chdir(tmp_path)
    namespace = {"tfgrad": tfgrad, "network": network(False), "batches": batches}
    page = PAGE.read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for code in blocks:
        exec(compile(code, "faithfulness.md", "exec"), namespace)
    assert len(blocks) == 2 and not namespace["table"].failures
    assert {path.name for path in tmp_path.iterdir()} == {"faithfulness.png", "faithfulness.csv"}
    assert "| random |" in capsys.readouterr().out
    named = set(re.findall(r"^\| `(\w+)`", page, flags=re.MULTILINE))
    assert named == {*comparing.TESTS, "remove_and_retrain", "label_randomisation"}


def test_links_on_the_page_lead_somewhere():
    prose = re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        assert target.startswith("http") or (PAGE.parent / target).exists(), target
