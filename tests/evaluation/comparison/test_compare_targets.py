"""`evaluation.compare` of a target, of several inputs and of token ids."""

import keras
import numpy as np
import pytest

from tfgrad import evaluation, saliency, targets
from tfgrad.errors import ArgumentError
from tfgrad.evaluation import Comparison, compare

L = keras.layers
RNG = np.random.default_rng(0)
PRICE = targets.Output("price")
IDS = np.array([[3, 4, 5, 0, 0], [7, 8, 9, 1, 2], [5, 2, 0, 0, 0], [9, 1, 4, 0, 0]])


def network():
    keras.utils.set_random_seed(0)
    given = {"table": keras.Input((4,), name="table")}
    given["ids"] = keras.Input((5,), dtype="int32", name="ids")
    words = L.GlobalAveragePooling1D()(L.Embedding(10, 3, mask_zero=True)(given["ids"]))
    hidden = L.Dense(6, "relu", bias_initializer="normal")(L.Concatenate()([given["table"], words]))
    return keras.Model(given, {"price": L.Dense(1)(hidden), "class": L.Dense(2)(hidden)})


def data():
    x = {"table": RNG.normal(size=(4, 4)).astype("float32"), "ids": IDS}
    return [{key: value[:3] for key, value in x.items()}, {k: v[3:] for k, v in x.items()}]


@pytest.mark.long
@pytest.mark.parametrize(
    ("key", "fill"), [pytest.param("table", 0.5, marks=pytest.mark.slow), ("ids", 2)]
)
def test_numbers_are_those_of_the_tests(key, fill):
    model, batches = network(), data()
    pixels = {"fill": fill, "fractions": (0.5,)}
    found = compare(
        *(model, batches, ["input_times_gradient"], ["pixels", "pixels_most", "completeness"]),
        target=PRICE,
        inputs=key,
        images=3,
        options={"pixels": pixels, "pixels_most": pixels},
    )
    assert not found.failures and found.target == "Output('price')"
    assert "- target: Output('price')" in found.markdown()
    assert Comparison.from_json(found.to_json()) == found
    method = saliency.InputTimesGradient(model, target=PRICE, inputs=key)
    for title, remove in (("pixels", "least"), ("pixels_most", "most")):
        own = evaluation.pixel_perturbation(model, batches, method, remove=remove, **pixels)
        measured = found.measurements[title]["input_times_gradient"]
        assert measured.score == "size of the change"
        np.testing.assert_allclose(measured.values, own.values, rtol=1e-5)
    whole = evaluation.completeness(
        model, batches[0], saliency.InputTimesGradient, inputs=key, target=PRICE
    )
    measured = found.measurements["completeness"]["input_times_gradient"]
    assert measured.value == pytest.approx(whole.value, rel=1e-5)
    assert set(found.costs) == {"input_times_gradient", "random"}


@pytest.mark.long
def test_methods_tell_the_target_and_agree_on_it():
    model, batches = network(), data()
    method = saliency.InputTimesGradient(model, target=lambda o: o["price"][:, 0], inputs="table")
    methods = {"gradient": method, "size": lambda x, target: np.abs(x["table"])}
    tests = {"pixels": "pixels", "shift": "shift_agreement"}
    options = {"pixels": {"fractions": (0.5,)}}
    found = compare(model, batches, methods, tests, inputs="table", images=4, options=options)
    assert found.target == "Scalar('scalar')"
    assert [*found.failures["shift"]] == ["size"]  # a function cannot be built again
    other = {**methods, "other": saliency.InputGradient(model, target=PRICE)}
    with pytest.raises(ArgumentError, match=r"methods: 'other' is built with target=Output\('pr"):
        compare(model, batches, other, tests, inputs="table")
    with pytest.raises(ArgumentError, match=r"options.*'target'; "):
        compare(model, batches, methods, ["pixels"], options={"pixels": {"target": PRICE}})


def test_a_regression_is_compared_without_a_word():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), L.Dense(1, bias_initializer="normal")])
    model.compile("sgd", "mse")
    x = RNG.normal(size=(8, 6)).astype("float32")
    found = compare(
        *(model, [(x, x[:, 0])], ["input_times_gradient"], ["pixels", "weak_dependence"]),
        images=4,
        options={"pixels": {"fill": 0.0, "fractions": (0.5,)}},
    )
    assert not found.failures and found.target == "Output(0)"
    worth = abs(x * model.get_weights()[0][:, 0])
    signed = x * model.get_weights()[0][:, 0]
    gone = np.take_along_axis(signed, np.argsort(worth, 1)[:, :3], 1).sum(1)
    measured = found.measurements["pixels"]
    assert measured["input_times_gradient"].value == pytest.approx(abs(gone).mean(), rel=1e-4)
    assert measured["input_times_gradient"].value < measured["random"].value
