"""`evaluation.compare`: numbers, failures, costs, what it refuses; and the page."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.comparing_cases import COUNT, FEW, digits, linear, network
from tfgrad import evaluation, saliency
from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation import Cost, Measurement, compare
from tfgrad.evaluation.comparison import cost
from tfgrad.evaluation.comparison.compared_model import ComparedModel
from tfgrad.evaluation.comparison.known_tests import TESTS
from tfgrad.evaluation.comparison.methods import candidates

L = keras.layers


@pytest.fixture(scope="module")
def batches():
    return digits()


@pytest.mark.slow
def test_the_truth_wins_and_random_loses():
    x = np.random.default_rng(1).uniform(0.1, 1, size=(24, 4, 4, 1)).astype("float32")
    stream = tf.data.Dataset.from_tensor_slices((x, np.ones(24, "int32"))).batch(10)
    methods = {
        "upside down": lambda images, y: -saliency.InputTimesGradient(model)(images, y),
        "truth": "input_times_gradient",
    }
    model, options = linear(), {"fill": 0.0, "fractions": (0.25, 0.5, 0.75)}
    asked = ["pixels", "pixels_most"]
    shared = dict.fromkeys(asked, options)
    found = compare(model, stream, methods, asked, options=shared, costs=False)
    assert found.methods == ("upside down", "truth", "random")
    assert not found.costs and "ms per map" not in found.markdown()
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


@pytest.mark.long
def test_each_test_is_its_function_s(batches):
    model, method = network(), saliency.InputTimesGradient
    asked = [*TESTS]
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
        "class_flip": evaluation.class_flip(model, batches, maps, 1, 7, seed=5),
        "randomisation": evaluation.randomisation(
            model, first, method, order="independent", seed=5
        ),
        "completeness": evaluation.completeness(model, first, method),
        "bias_sensitivity": evaluation.bias_sensitivity(model, first, method, seed=5),
        "weak_dependence": evaluation.weak_dependence(model, first, method, seed=5),
        "shift_agreement": evaluation.shift_agreement(model, first, method),
    }
    for test, one in expected.items():
        got = found.measurements[test]["m"]
        assert got.values == pytest.approx(one.values, rel=1e-4, abs=1e-5), test
        assert got.examples == one.examples and got.seed == one.seed, test
    # The control knows nothing: it keeps its maps whatever the weights, and flips by chance.
    control = {test: row["random"] for test, row in found.measurements.items()}
    assert control["randomisation"].values == (1.0,) * 3
    assert control["class_flip"].columns["pixels removed"][0] == pytest.approx(0.2, abs=0.01)


@pytest.mark.long
def test_a_function_is_asked_with_int32_whatever_the_labels(batches):
    """For its cost, too, and what fails there alone is said beside other failures."""
    model = network(False)

    def strict(x, classes):
        tf.stack([tf.range(len(x)), classes], 1)
        return tf.reduce_mean(x, -1)

    wide = batches.map(lambda x, y: (x, tf.cast(y, tf.int64)))
    options = {"class_flip": {"source": 1, "to": 7}}
    asked = ["pixels", "class_flip", "shift_agreement"]
    found = compare(model, wide, {"strict": strict}, asked, images=4, options=options)
    assert list(found.failures) == ["shift_agreement"] and "strict" in found.costs

    def costly(x, classes):
        if len(x) == 16:
            raise ValueError("too many")
        return strict(x, classes)

    found = compare(model, wide, {"m": costly}, ["shift_agreement"], images=4)
    assert found.failures["ms per map"] == {"m": "ValueError: too many"}
    assert found.failures["shift_agreement"]["m"].startswith("methods: 'm' is a function")


@pytest.mark.long
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


@pytest.mark.long
def test_an_exception_of_a_method_of_ones_own_loses_no_other_pair(batches):
    model, calls = network(False), []

    def fails(x, y):
        raise ValueError("no such thing,\nas expected")

    def fails_later(x, y):
        calls.append(len(x))
        if len(calls) > 3:  # the maps of three batches are had, their cost is not
            raise RuntimeError("tired")
        return x[..., 0]

    methods = {"first": fails, "later": fails_later, "sound": saliency.InputGradient(model)}
    found = compare(model, batches, methods, "pixels", options={"pixels": FEW})
    assert found.failures == {
        "pixels": {"first": "ValueError: no such thing,\nas expected"},
        "ms per map": {"later": "RuntimeError: tired"},
    }
    assert set(found.measurements["pixels"]) == {"later", "sound", "random"}
    assert set(found.costs) == {"sound", "random"}
    lines = found.markdown().splitlines()
    assert "- failed, pixels of first: ValueError: no such thing, as expected" in lines
    assert "- failed, ms per map of later: RuntimeError: tired" in lines

    def stopped(x, y):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(model, batches, {"stopped": stopped}, "pixels", options={"pixels": FEW})
    with pytest.raises(ZeroDivisionError):  # a test that fails for all
        compare(model, batches, "input_gradient", {"mine": lambda *_: 1 / 0})


@pytest.mark.long
def test_a_method_of_another_model_is_refused_where_that_is_asked(batches):
    model, method = network(False), saliency.InputGradient(network(True))
    of_maps, of_models = ["pixels", "class_flip"], ["randomisation", "completeness"]
    options = {"pixels": FEW, "class_flip": {"source": 1, "to": 7}}
    found = compare(
        model, batches, {"other": method}, of_maps + of_models, images=4, options=options
    )
    assert list(found.failures) == of_models
    for test in of_models:
        (sentence,) = found.failures[test].values()
        expected = (
            "methods: 'other' is built around another model than the .*; expected .* Pass its class"
        )
        assert re.match(expected, sentence)
    direct = evaluation.pixel_perturbation(
        model,
        batches,
        lambda x, y: method(x, np.argmax(model(x), -1)),
        FEW["fractions"],
        score="change of the top probability",
    )
    got = found.measurements["pixels"]["other"].values
    assert got == pytest.approx(direct.values, rel=1e-4)


@pytest.mark.long
def test_a_model_is_the_same_behind_its_penalties_or_a_dict_of_inputs(batches):
    inner = network(False)
    penalized = tfgrad.PenalizedModel(inner)
    image = keras.Input((8, 8, 1), name="image")
    named = keras.Model({"image": image}, inner(image))
    for model, around in ((penalized, inner), (inner, penalized), (named, named)):
        found = compare(
            model,
            batches,
            {"gradient": saliency.InputGradient(around)},
            "shift_agreement",
            images=4,
        )
        assert found.summary("shift_agreement", "gradient")[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.long
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


@pytest.mark.long
def test_constant_maps_are_counted_below_the_table(batches):
    def one_alone(x, y):
        maps = np.zeros(x.shape[:3])
        maps[0] = np.array(x[0, ..., 0])  # the first image of each of three batches
        return maps

    found = compare(
        network(False), batches, {"constant": one_alone}, "pixels", options={"pixels": FEW}
    )
    assert f"- pixels of constant: {COUNT - 3} constant maps" in found.markdown().splitlines()


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
        (
            {"tests": ["label_randomisation"]},
            r"'label_randomisation', which needs further networks; exp",
        ),
        ({"tests": {"mine": 3}}, r"tests: 'mine' is a int with options \{\}; expected a name, or"),
        ({"options": {"flip": {}}}, r"options: got 'flip'; expected one of 'pixels'"),
        (
            {"options": {"pixels": {"fil": 0}}},
            r"options\['pixels'\]: got 'fil'; did you mean 'fill'",
        ),
        ({"options": {"pixels": {"network": 0}}}, r"options\['pixels'\]: got 'network'; exp"),
        (
            {"tests": ["pixels_most"], "options": {"pixels_most": {"remove": "least"}}},
            r"options\['pixels_most'\]: got 'remove'; expected one of 'fractions', 'fill'",
        ),
        ({"options": {"pixels": {"fractions": [2]}}}, r"fractions: got \[2.0\]; expected numbers"),
        ({"images": 0}, r"images: got 0; expected an integer ≥ 1"),
        ({"data": iter([])}, r"batches: got an iterator, which can be read only once"),
    ],
)
def test_what_is_refused_before_anything_is_computed(batches, arguments, message):
    def maps(x, y):
        raise AssertionError("asked for maps")

    asked = {"data": batches, "methods": {"m": maps}, "tests": ["pixels"]} | arguments
    with pytest.raises(ArgumentError, match=message):
        compare(network(False), **asked)


def test_labels_that_do_not_fit():
    stream = tf.data.Dataset.from_tensors((np.zeros((2, 8, 8, 1), "float32"), np.array([0, 10])))
    with pytest.raises(DataError, match="labels from 0 to 10; the network has 10 logits"):
        compare(network(False), stream, ["input_gradient"], ["pixels"])


def test_a_cost_is_the_median_per_image(batches, monkeypatch):
    """Milliseconds of (method, input-gradient); the first pair warms up, 300 ms are enough."""
    monkeypatch.setattr(cost, "_SECONDS", 0.3)
    took = iter(ms / 1e3 for ms in (99, 9, 32, 16, 24, 8, 180, 45))
    monkeypatch.setattr(cost, "seconds_of", lambda function, x, y: next(took))
    model = network(False)
    compared = ComparedModel(model, batches.take(1), 4)  # one batch of 16, three times
    candidate, _ = candidates(["input_gradient"], model, 0)
    assert cost.measured_cost(compared, candidate) == Cost(pytest.approx(2.0), pytest.approx(3.0))
