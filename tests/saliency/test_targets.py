"""Maps of any scalar of the outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.question_cases import heads, randomised
from tests.helpers.saliency_cases import images, network, policy
from tfgrad import saliency, targets
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.saliency import compiled

PRICE = targets.Output("price")


def better(outputs):
    """A scalar of two outputs that is no linear function of them."""
    return outputs["price"][:, 0] * outputs["rating"][:, 1]


def differences(score, x, places, step=1e-6):
    """∂ score / ∂ x of each example at some places, by central differences."""
    found = []
    for place in places:
        moved = np.zeros_like(x)
        moved[(slice(None), *place)] = step
        found.append((np.asarray(score(x + moved)) - np.asarray(score(x - moved))) / (2 * step))
    return np.stack(found, 1)


PLACES = [(0, 0, 1), (2, 3, 0), (5, 4, 1)]


def at(values):
    return np.stack([np.asarray(values)[(slice(None), *p)] for p in PLACES], 1)


@pytest.mark.parametrize("target", [PRICE, better], ids=["output", "function"])
def test_gradients_are_differences_of_the_scalar(target):
    model, x = heads(), images(2, "float64")
    method = saliency.InputGradient(model, target=target)
    explained = method.explain(x)
    expected = differences(
        lambda v: targets.validated(target).compute(_outputs(model, v)), x, PLACES
    )
    np.testing.assert_allclose(at(explained["gradient"]), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        explained["score"], targets.validated(target).compute(_outputs(model, x)), rtol=1e-6
    )
    assert "class" not in explained
    np.testing.assert_allclose(method(x), np.abs(explained["gradient"]).sum(-1), rtol=1e-5)


def _outputs(model, x):
    nest = model(x)
    return targets.Outputs(nest, lambda: None, None, lambda: "regression", model.name)


def test_a_function_of_the_outputs_reads_probabilities_where_the_model_returns_them():
    with policy("float64"):
        logits = network()
        model = keras.Model(logits.inputs[0], keras.layers.Softmax()(logits.outputs[0]))
    x = images(2, "float64")
    method = saliency.InputGradient(model, target=lambda p: p[:, 1])
    expected = differences(lambda v: model(v)[:, 1], x, PLACES)
    np.testing.assert_allclose(at(method.explain(x)["gradient"]), expected, rtol=1e-4, atol=1e-8)
    # A class of the same method is one of the logits.
    with pytest.warns(match="is left out here"):
        of_class = method(x, 1)
    np.testing.assert_allclose(of_class, saliency.InputGradient(logits)(x, 1), rtol=1e-5)


@pytest.mark.sample(3, start=1)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("input_gradient", {"reduce": "sum"}),
        ("input_times_gradient", {}),
        ("integrated_gradients", {"steps": 3}),
        ("smoothgrad", {"samples": 2, "reduce": "sum"}),
        ("fullgrad", {"part": "signed", "rescale": None}),
        ("layer_map", {}),
    ],
)
def test_signed_maps_of_a_contrast_are_differences_of_maps(name, options):
    method, x = saliency.get(name)(network(), **options), images()
    expected = method(x, 2) - method(x, 0)
    got = method(x, targets.Contrast(2, 0))
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_choices_are_made_once_at_the_clean_images():
    model, x = network(), images()
    logits = model(x).numpy()
    first, second = np.argsort(-logits, -1)[:, :2].T
    method = saliency.SmoothGrad(model, samples=4, noise=3.0, reduce="sum")
    named = targets.Contrast(first, second)
    np.testing.assert_allclose(method(x, targets.Contrast()), method(x, named), atol=1e-6)


def test_other_values_are_no_reason_to_trace_again():
    method, x = saliency.InputTimesGradient(network(), chunk_size=2), images()
    first = method(x, targets.Contrast([0, 1, 2], [1, 2, 0]))
    traced = dict(method._shapes.functions())
    assert len(traced) == 1
    second = method(x, targets.Contrast([1, 1, 1], [2, 2, 2]))
    assert method._shapes.functions() == traced
    assert np.abs(first - second).max() > 1e-3
    for i, (a, b) in enumerate([(0, 1), (1, 2), (2, 0)]):  # each chunk has its own values
        alone = method(x[i : i + 1], targets.Contrast([a], [b]))
        np.testing.assert_allclose(alone[0], first[i], atol=1e-6)
    assert method._shapes.functions() == traced
    method(x, targets.Contrast(0, 1))
    method(x, targets.Contrast(0, 1))  # an equal one
    method(x, targets.Contrast(0, 2))
    assert len(method._shapes.functions()) == 3
    method(x, 1)
    assert len(method._shapes.functions()) == 4


def test_functions_that_are_made_anew_for_every_call_are_dropped(monkeypatch):
    monkeypatch.setattr(compiled, "_KEPT", 2)
    method, x = (
        saliency.Random(randomised(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))),
        np.ones((1, 2), "float32"),
    )
    for _ in range(5):
        method(x, lambda outputs: outputs[:, 0])
    assert len(method._shapes.functions()) == 2


def test_options_state_the_target():
    model = heads("float32")
    method = saliency.InputGradient(model, target=PRICE)
    stated = method.stated()
    again = saliency.InputGradient(model, **stated)
    assert again.stated() == stated and repr(again) == repr(method)
    assert "target=Output('price')" in repr(method)
    smooth = saliency.Smooth(method, samples=2)
    assert smooth.target is PRICE and smooth(images()).shape == (3, 6, 5)
    unnamed = saliency.InputGradient(model, target=lambda o: o["price"][:, 0])
    assert "target=Scalar('scalar')" in repr(unnamed)
    with pytest.raises(ArgumentError, match=r"function: got a lambda"):
        unnamed.stated()
    assert "target" not in saliency.InputGradient(network()).stated()


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (targets.Contrast([0, 1]), ArgumentError, r"got 2 values 'a' of .* for a batch of 3"),
        (
            targets.Contrast([0, 1, 7]),
            ArgumentError,
            r"a: got class indices from 0 to 7; expected 0 to 2",
        ),
        (targets.Contrast(0, 5), ArgumentError, r"b: got class 5; expected 0 to 2"),
        (targets.Output(4), ArgumentError, r"Output\(4\) on an output of shape .*, 3\)"),
        (lambda o: o, ArgumentError, r"expected floats \[batch\], one number for each example"),
        (lambda o: tf.random.normal([3]), ArgumentError, r"draws random numbers"),
    ],
)
def test_targets_that_do_not_fit(target, error, words):
    with pytest.raises(error, match=words):
        saliency.InputGradient(network())(images(), target)


def test_what_is_defined_for_classes_only_refuses_other_targets():
    model, target = network(), targets.Contrast(0, 1)
    with pytest.raises(ArgumentError, match=r"gradient of a log_probability, which belongs to a"):
        saliency.InputGradient(model, of="loss")(images(), target)
    with pytest.raises(ArgumentError, match=r"'layercam' of tf-keras-vis explains classes only"):
        saliency.LayerCAM(model)(images(), target)
    with pytest.raises(ArgumentError, match=r"explains classes only; try 'gradcam'"):
        saliency.LayerCAM(model, target=target)
    maps = keras.Sequential([keras.Input((2,)), keras.layers.Reshape((2, 1))])
    method = saliency.InputGradient(maps, target=lambda o: o[:, 0, 0], outputs="binary")
    np.testing.assert_array_equal(method(np.ones((1, 2), "float32")), [[1.0, 0.0]])
    with pytest.raises(ModelError, match=r"expected one tensor of logits"):
        method(np.ones((1, 2), "float32"), 1)
