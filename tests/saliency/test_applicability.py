"""What `applicable` says of a model is what its methods do."""

import json

import keras
import numpy as np
import pytest

from tests.helpers.advice_cases import MODELS, batch_norm, table
from tests.helpers.variants import with_slow
from tfgrad import PenalizedModel, saliency
from tfgrad.errors import ArgumentError, ModelError, TfgradError
from tfgrad.saliency import applicable

pytestmark = pytest.mark.filterwarnings("ignore::tfgrad.errors.LogitsWarning")


def maps(model, kind, x):
    """Whether a method has finite maps of a batch."""
    try:
        found = kind(model)(x)
    except TfgradError:
        return False
    return np.isfinite(found).all()


EVERY = tuple(saliency.METHODS)
SOME = ("layer_map", "input_gradient", "gradcam", "scorecam", "guided_backprop", "random")


@pytest.mark.parametrize(
    ("name", "methods"),
    with_slow([("table", SOME)], [(n, tuple(saliency.METHODS)) for n in MODELS]),
)
def test_what_fits_has_maps_and_nothing_else_has(name, methods):
    model = MODELS[name]()
    rows = applicable(model, only=methods)
    assert [row.name for row in rows] == list(methods)
    shape, dtype = model.inputs[0].shape[1:], model.inputs[0].dtype
    x = np.random.default_rng(1).uniform(size=(3, *shape)).astype(dtype)
    for row in rows:
        assert bool(row.fits or row.reason)
        assert row.fits == maps(model, saliency.get(row.name), x), row


def test_grad_cam_names_its_layer_and_the_model_stays():
    model = PenalizedModel(batch_norm())
    before = [v.numpy() for v in model.variables]
    found = applicable(model, np.ones((2, 6, 6, 2), "float32"), only=["gradcam", "guided_backprop"])
    assert found["gradcam"].fits and found["gradcam"].reason == "reads 'norm'"
    guided = found["guided_backprop"]
    assert not guided.fits and guided.reason.endswith("defined for ReLUs")
    assert guided.advice.startswith("try 'input_gradient'")
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_targets_and_the_table():
    found = applicable(table(), only=["gradcam", '"predicted"', "Contrast", "Region", "Box"])
    assert found.fitting == ('"predicted"', "Contrast")
    assert "expected a dense output" in found["Region"].reason
    assert "no layer puts out feature maps" in found["gradcam"].reason
    assert str(found).split("\n")[1].startswith("gradcam      no   model ")
    assert "<table>" in found._repr_html_() and json.dumps(found.to_dict())


def test_wrong_arguments():
    with pytest.raises(ArgumentError, match="only: got 'grad_cam'; did you mean 'gradcam'"):
        applicable(table(), only=["grad_cam"])
    with pytest.raises(ArgumentError, match="only: got 'gradcam'; expected a list"):
        applicable(table(), only="gradcam")
    with pytest.raises(ModelError, match="it is not built"):
        applicable(keras.Sequential([keras.layers.Dense(2)]))


def test_one_number_of_several_outputs():
    inputs = keras.Input((4,))
    h = keras.layers.Dense(3, "tanh")(inputs)
    network = keras.Model(inputs, {"p": keras.layers.Dense(3)(h), "q": keras.layers.Dense(1)(h)})
    found = applicable(network, only=["Output"])["Output"]
    assert found.fits and found.tried.index == ("p", 0)
