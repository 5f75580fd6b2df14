"""Maps of several inputs: images beside tables and token ids."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.question_cases import (
    TOKENS,
    batch,
    by_name,
    heads,
    of_form,
    randomised,
    several,
)
from tests.helpers.variants import with_slow
from tfgrad import saliency, targets
from tfgrad.errors import ArgumentError, DataError, LogitsWarning, ModelError

PLACES = {"image": [(0, 0, 1), (3, 2, 0)], "table": [(0,), (3,)]}


def moved(x, name, place, step):
    values = x[name].copy()
    values[(slice(None), *place)] += step
    return x | {name: values}


@pytest.mark.sample(2)
@pytest.mark.parametrize("form", ["functional", "subclassed", "branched"])
def test_each_gradient_is_that_of_its_input(form):
    model, x = several(form=form), batch(2)
    found = saliency.InputGradient(model).explain(of_form(x, form), 1)
    found = {key: by_name(found[key], form) for key in ("gradient", "saliency")}
    for name, places in PLACES.items():
        for place in places:
            step = 1e-6
            up, down = (model(of_form(moved(x, name, place, s), form))[:, 1] for s in (step, -step))
            got = found["gradient"][name].numpy()[(slice(None), *place)]
            np.testing.assert_allclose(got, (up - down) / (2 * step), rtol=1e-4, atol=1e-7)
    shapes = {name: tuple(m.shape) for name, m in found["saliency"].items()}
    assert shapes == {"image": (2, 6, 5), "table": (2, 4), "ids": (2, TOKENS)}


@pytest.mark.long
def test_structure_in_structure_out():
    x = batch(3, "float32")
    whole = saliency.InputTimesGradient(several("float32"))(x)
    listed = saliency.InputTimesGradient(several("float32", "list"), chunk_size=2)
    for got, name in zip(listed([x["image"], x["table"], x["ids"]]), x, strict=True):
        np.testing.assert_allclose(got, whole[name], rtol=1e-5, atol=1e-6)
    for got, name in zip(listed(tuple(x.values())), x, strict=True):
        np.testing.assert_allclose(got, whole[name], rtol=1e-5, atol=1e-6)
    only = saliency.InputTimesGradient(several("float32", "list"), inputs=[1])
    (table,) = only([*x.values()])
    np.testing.assert_allclose(table, whole["table"], rtol=1e-5, atol=1e-6)
    assert only.stated()["inputs"] == [1]
    traced = tf.function(saliency.InputTimesGradient(several("float32")))(x)
    assert list(traced) == list(x)
    np.testing.assert_allclose(traced["ids"], whole["ids"], rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_integrated_gradients_sum_to_the_change_from_the_baselines():
    model, x = several(), batch(2)
    own = {"image": 0.2, "table": [1.0, 0.0, -1.0, 0.5], "ids": 4}
    start = {name: np.broadcast_to(value, x[name].shape) for name, value in own.items()}
    rise = (model(x) - model(start)).numpy()[:, 2]
    found = tf.function(saliency.IntegratedGradients(model, own, steps=30).explain)(x, 2)
    total = sum(np.asarray(m).reshape(2, -1).sum(1) for m in found["saliency"].values())
    np.testing.assert_allclose(total, rise, atol=1e-3)
    np.testing.assert_allclose(found["convergence_gap"], np.abs(total - rise), atol=1e-5)
    held = saliency.IntegratedGradients(model, {"table": own["table"]}, 30, inputs="table")
    rise = (model(x) - model(x | {"table": start["table"]})).numpy()[:, 2]
    maps = held(x, 2)
    assert list(maps) == ["table"]
    np.testing.assert_allclose(maps["table"].numpy().sum(1), rise, atol=1e-3)
    assert held.options()["baseline"] == {"table": own["table"]}


def test_branches_of_inputs():
    """{"seen": {"image", "table"}, "ids"}."""
    model, x = several("float32", "branched"), of_form(batch(3, "float32"), "branched")
    whole = saliency.InputTimesGradient(model, chunk_size=2)(x)
    lists = x | {"seen": x["seen"] | {"table": x["seen"]["table"].tolist()}}
    got = tf.function(saliency.InputTimesGradient(model, inputs="seen"))(lists)
    assert list(got) == ["seen"] and list(got["seen"]) == ["image", "table"]
    for name in got["seen"]:
        np.testing.assert_allclose(got["seen"][name], whole["seen"][name], rtol=1e-5, atol=1e-6)
    seen = x["seen"]
    for part, words in (
        ({"image": seen["image"]}, r"got no input 'table' in input 'seen'"),
        (seen | {"more": X["table"]}, r"got an input 'more' in input 'seen'"),
        (seen["image"], r"got a ndarray in input 'seen'; expected the inputs \['image', 'table'\]"),
        (seen | {"table": seen["table"][:1]}, r"input 'seen'/'image': got 3 examples"),
    ):
        given = x | {"seen": part}
        if "3 examples" in words:
            given = given | {"ids": x["ids"][:1]}
        with pytest.raises(ArgumentError, match=words):
            saliency.InputGradient(model)(given)


def test_each_structure_has_maps_of_its_own():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = randomised(keras.Model({"a": a, "b": b}, keras.layers.Dense(2)(a * b)))
    method = saliency.InputGradient(model)
    x = {"a": X["table"][:, :3], "b": X["table"][:, 1:]}
    named = method(x, 1)
    with pytest.warns(UserWarning, match="structure of `inputs`"):  # of Keras
        listed = method([x["a"], x["b"]], 1)
    assert isinstance(named, dict) and isinstance(listed, list)
    np.testing.assert_array_equal(listed[1], named["b"])
    # Keras sorts some dicts and not others; a list for an unsorted one is no clear question.
    unsorted = keras.Model({"b": b, "a": a}, model.output)
    with pytest.raises(ArgumentError, match=r"got a list of 2; expected the inputs \['b', 'a'\]"):
        saliency.InputGradient(unsorted)([x["b"], x["a"]], 1)


def test_what_explains_one_scalar_of_several_outputs_is_told():
    words = r"it returns .*pass it to the method itself, as target="
    with pytest.warns(LogitsWarning), pytest.raises(ModelError, match=words):
        saliency.InputGradient(heads("float32"))(X["image"], targets.Output("price"))


def test_explain_names_what_does_not_fit():
    method = saliency.InputGradient(several("float32"))
    with pytest.raises(ArgumentError, match=r"x: input 'table': got 1 examples; expected 3"):
        method.explain(X | {"table": X["table"][:1]})
    with pytest.raises(ArgumentError, match=r"x: input 'image': got shape \(3, 5, 5, 2\)"):
        method.explain(X | {"image": X["image"][:, :5]})


def test_channels_of_an_input_that_is_not_there():
    with pytest.raises(ArgumentError, match=r"channels: got one for 'picture'; expected some of"):
        saliency.InputGradient(several("float32"), channels={"picture": "last"})(X)
    one = keras.Input((4, 4))
    model = keras.Model(one, keras.layers.Dense(2)(keras.layers.Flatten()(one)))
    with pytest.raises(ArgumentError, match=r"channels: got one for 'x'; expected a string, for"):
        saliency.InputGradient(model, channels={"x": "none"})(X["image"][:, :4, :4, 0])


def squares():
    """Σ image² + Σ table², whose gradient at x + n is 2 x + 2 n."""
    inputs = {
        "image": keras.Input((2, 2, 1), name="image"),
        "table": keras.Input((2,), name="table"),
    }
    sums = [keras.ops.sum(inputs["image"] ** 2, (1, 2, 3)), keras.ops.sum(inputs["table"] ** 2, 1)]
    return keras.Model(inputs, keras.ops.stack(sums, 1))


def test_noise_is_scaled_to_the_range_of_each_input():
    target = targets.Scalar(lambda outputs: outputs[:, 0] + outputs[:, 1])
    method = saliency.SmoothGrad(squares(), samples=3, reduce="sum", target=target)
    image = np.arange(4, dtype="float32").reshape(1, 2, 2, 1)
    small, large = ({"image": image, "table": np.array([[0.0, s]], "float32")} for s in (1, 10))
    of_small, of_large = method(small), method(large)
    np.testing.assert_array_equal(of_small["image"], of_large["image"])
    noises = [m["table"] - 2 * x["table"] for m, x in ((of_small, small), (of_large, large))]
    np.testing.assert_allclose(10 * noises[0], noises[1], rtol=1e-4, atol=1e-5)
    assert np.abs(noises[0]).max() > 1e-3
    table_only = saliency.SmoothGrad(
        squares(), samples=3, inputs="table", reduce="sum", target=target
    )
    assert list(table_only(small)) == ["table"]


@pytest.mark.long
def test_terms_of_layers_are_laid_on_the_image_and_each_input_has_its_own_term():
    model, x = several(), batch(2)
    plain = {"part": "signed", "rescale": None}
    found = saliency.FullGrad(model, **plain)(x, 0)
    times = saliency.InputTimesGradient(model)(x, 0)
    for name in ("table", "ids"):
        np.testing.assert_allclose(found[name], times[name], rtol=1e-5, atol=1e-7)
    assert np.abs(found["image"] - times["image"]).max() > 1e-2
    # Chosen alone, an input is the one that the terms are laid on; the sum stays complete.
    ids = tf.function(saliency.FullGrad(model, inputs="ids", **plain).explain)(x, 0)
    assert list(ids["saliency"]) == ["ids"] and np.max(ids["completeness_error"]) < 1e-8
    assert np.abs(ids["saliency"]["ids"] - times["ids"]).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "options"),
    with_slow(
        [("gradcam", {}), ("bias_map", {})],
        [("layer_map", {}), ("smooth_fullgrad", {"samples": 2, "inputs": ["image"]})],
    ),
)
def test_methods_of_feature_maps_explain_the_image(name, options):
    assert list(saliency.get(name)(several("float32"), **options)(batch(2, "float32"))) == ["image"]


X = batch(3, "float32")


@pytest.fixture(scope="module")
def method():
    return saliency.InputGradient(several("float32"))


def nan_in(name):
    values = X[name].copy()
    values[1] = np.nan
    return X | {name: values}


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (
            {"image": X["image"], "ids": X["ids"]},
            ArgumentError,
            r"x: got no input 'table'; expected",
        ),
        (
            X | {"more": X["table"]},
            ArgumentError,
            r"x: got an input 'more'; expected the inputs \[",
        ),
        (X["image"], ArgumentError, r"x: got a ndarray; expected the inputs .*as a dict or list"),
        ([X["image"], X["table"]], ArgumentError, r"x: got a list of 2; expected the inputs"),
        (
            X | {"table": X["table"][:2]},
            ArgumentError,
            r"input 'table': got 2 examples; expected 3",
        ),
        (X | {"table": X["table"][:, :3]}, ArgumentError, r"input 'table': got shape \(3, 3\)"),
        (
            X | {"ids": X["table"]},
            ArgumentError,
            r"got float32 values for input 'ids'; expected int",
        ),
        (
            X | {"image": X["ids"]},
            ArgumentError,
            r"got int32 images for input 'image'; expected fl",
        ),
        (nan_in("table"), DataError, r"x: input 'table' of example 1 of 3 holds NaN"),
    ],
)
def test_inputs_that_do_not_fit(method, x, error, words):
    with pytest.raises(error, match=words):
        method(x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": "sound"}, r"inputs: got 'sound'; expected some of \['image', 'table', 'ids'\]"),
        ({"inputs": 1.5}, r"inputs: got 1\.5; expected keys or positions"),
        ({"at": "nothing"}, r"at: .*'nothing'"),
        ({"at": 3.5}, r"at: got 3\.5; expected a layer's name"),
        ({"channels": {"image": "middle"}}, r"channels: got 'middle'"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ArgumentError, match=words):
        saliency.InputGradient(several("float32"), **options)(X)


@pytest.mark.long
@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ({"sound": 0.0}, r"baseline: got one for 'sound'; expected \['ids', 'image', 'table'\]"),
        ({"table": [0.0, 1.0]}, r"baseline: got shape \(2,\) for input 'table'"),
        ({"ids": 0.5}, r"baseline: got 0\.5 for input 'ids'; expected a token id"),
        ({"image": np.nan}, r"baseline: input 'image': got NaN"),
        ([0.0, [1.0]], r"baseline: got a list of arrays; expected a dict or a number"),
    ],
)
def test_baselines_that_do_not_fit(baseline, words):
    with pytest.raises(ArgumentError, match=words):
        saliency.IntegratedGradients(several("float32"), baseline, 1)(X)


def test_one_input_has_no_key():
    one = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ArgumentError, match=r"inputs: got 'x'; .*takes one tensor; expected None"):
        saliency.InputGradient(one, inputs="x")(np.ones((1, 2), "float32"))
    smooth = saliency.InputGradient(several("float32"))
    with pytest.raises(ArgumentError, match=r"inputs: got 'table'; expected None, as the noise"):
        saliency.Smooth(smooth, inputs="table")
