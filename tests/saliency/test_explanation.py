"""`Method.explain`: maps with what belongs to them, and how they show themselves."""

import functools
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.pages import Page
from tests.helpers.saliency_cases import CLASSES, images, network
from tfgrad import saliency, targets
from tfgrad.errors import ArgumentError, DataError

HOSTILE = ["<script>alert(1)</script>", 'a"b', "&amp;"]


@functools.cache
def classifier():
    return network("relu")


@functools.cache
def fullgrad():
    return saliency.FullGrad(classifier())


def head(inputs, features, count=3):
    return keras.Model(inputs, keras.layers.Dense(count, name="head")(features))


@functools.cache
def several():
    """A network of an image, token ids, a table, a series and a volume."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    given = {
        "image": keras.Input([4, 5, 3], name="image"),
        "ids": keras.Input([4], name="ids", dtype="int32"),
        "table": keras.Input([3], name="table"),
        "series": keras.Input([6, 2], name="series"),
        "volume": keras.Input([2, 3, 3, 1], name="volume"),
    }
    found = [
        layers.Flatten()(layers.Conv2D(2, 2)(given["image"])),
        layers.Flatten()(layers.Embedding(7, 2)(given["ids"])),
        layers.Dense(2, activation="tanh")(given["table"]),
        layers.Flatten()(layers.Conv1D(2, 2)(given["series"])),
        layers.Flatten()(layers.Conv3D(2, 2)(given["volume"])),
    ]
    return head(given, layers.Concatenate()(found))


def inputs(batch=2):
    numbers = np.random.default_rng(0)
    shapes = {"image": (4, 5, 3), "table": (3,), "series": (6, 2), "volume": (2, 3, 3, 1)}
    x = {k: numbers.uniform(size=(batch, *s)).astype("float32") for k, s in shapes.items()}
    return x | {"ids": numbers.integers(0, 7, (batch, 4))}


def test_what_belongs_to_the_maps():
    model, method, x = classifier(), fullgrad(), images()
    found, logits = method.explain(x), model(x).numpy()
    np.testing.assert_array_equal(found.maps, method(x))
    np.testing.assert_array_equal(found.classes, logits.argmax(1))
    np.testing.assert_array_equal(found.scores, logits.max(1))
    np.testing.assert_allclose(found.probabilities, tf.nn.softmax(logits), rtol=1e-6)
    assert found.completeness_error.shape == (3,) and found.completeness_error.max() < 1e-5
    np.testing.assert_array_equal(found.inputs, x)
    # By name, what a graph returns.
    graph = tf.function(method.explain)(x)
    assert [*found.keys()] == [*graph] and isinstance(graph, dict)
    for name, value in found.items():
        np.testing.assert_allclose(value, graph[name], rtol=1e-5, atol=1e-6)
    assert "gradient" not in found and found.get("gradient") is None and "class" in found
    assert {**found}.keys() == found.keys()
    assert repr(found) == f"Explanation('fullgrad' of {model.name!r}, maps: [3, 6, 5])"


@pytest.mark.parametrize(
    "name",
    [
        "input_gradient",
        pytest.param("gradcam", marks=pytest.mark.slow),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in saliency.METHODS
            if name not in ("fullgrad", "input_gradient", "gradcam")
        ),
    ],
)
def test_maps_are_those_of_a_call(name):
    method, x = saliency.get(name)(classifier()), images()
    found = method.explain(x, [0, 2, 1])
    np.testing.assert_array_equal(found.maps, method(x, [0, 2, 1]))
    logits = classifier()(x).numpy()
    np.testing.assert_allclose(found.scores, logits[np.arange(3), [0, 2, 1]], rtol=1e-6)
    assert found.classes.tolist() == [0, 2, 1] and len(found.probabilities[0]) == CLASSES


def test_one_trace_whatever_the_batch_and_the_class():
    model = network("relu")
    traces = []

    class Counted(saliency.InputGradient):
        def attribute(self, probe, target):
            traces.append(1)
            return super().attribute(probe, target)

    method, x = Counted(model), images()
    first = method.explain(x)
    assert len(traces) == 1
    for again in (method.explain(x[:2]), method.explain(x, 1), method.explain(x, [0, 1, -1])):
        assert len(again) in (2, 3)
    assert len(traces) == 1
    method(x)
    assert len(traces) == 2  # maps alone have a graph without the rest
    chunks = Counted(model, chunk_size=2).explain(x)
    np.testing.assert_allclose(chunks.maps, first.maps, rtol=1e-5)
    np.testing.assert_allclose(chunks.probabilities, first.probabilities, rtol=1e-5)


def test_shares_of_chunks_add_up_to_the_logit():
    found = saliency.FullGrad(classifier(), chunk_size=2).explain(images())
    shares = found.shares
    full = tfgrad.full_gradients(classifier(), images())
    names = ("input", *full.bias_gradients)
    assert shares.names == names
    np.testing.assert_allclose(shares.shares.sum(1) + shares.error / shares.score, 1, atol=1e-12)
    expected = np.stack(
        [np.sum(full.input_term, (1, 2, 3))]
        + [
            np.sum(term, axis=tuple(range(1, term.ndim)))
            for term in map(np.asarray, full.bias_gradients.values())
        ],
        1,
    )
    np.testing.assert_allclose(shares.sums, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(shares.score, found.scores)
    assert saliency.InputGradient(classifier()).explain(images()).shares is None


def test_one_example_is_a_batch_of_one():
    method, x = fullgrad(), images()
    found = method.explain(x, class_names=["a", "b", "c"])
    assert len(found) == 3 and [len(one) for one in found] == [1, 1, 1]
    for i, one in ((1, found[1]), (2, found[-1])):
        np.testing.assert_array_equal(one.maps, found.maps[i : i + 1])
        np.testing.assert_array_equal(one["score"], found.scores[i : i + 1])
        np.testing.assert_array_equal(one.probabilities[0], found.probabilities[i])
        np.testing.assert_array_equal(one.shares.sums[0], found.shares.sums[i])
        assert one.to_dict()["examples"] == [i]
        assert f"Terms of the logit of example {i}" in one.summary()
        assert f"example {i}" in Page(one._repr_html_()).text
        assert found.summary(i) == one.summary()
    assert found[1:].classes.tolist() == found.classes[1:].tolist()
    with pytest.raises(IndexError):
        found[3]
    with pytest.raises(ArgumentError, match=r"explanation: got the index 1\.5; expected an int"):
        found[1.5]
    with pytest.raises(ArgumentError, match="example: got 3; expected an int from 0 to 2"):
        found.summary(3)


def test_a_page_escapes_and_loads_nothing():
    found = fullgrad().explain(images(), class_names=HOSTILE)
    content = found._repr_html_()
    page = Page(content)
    assert "<script" not in content and "script" not in page.tags
    assert any(name in page.text for name in HOSTILE)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 6 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert page.tags.count("details") == 3  # the terms of each example
    row = f"{found.probabilities[0].max():.3f}"
    assert row in page.text and f"{found.scores[0]:.4g}" in page.text


def test_large_batches_say_what_is_left_out(tmp_path):
    found = fullgrad().explain(np.repeat(images(), 4, 0))
    page = Page(found._repr_html_())
    assert page.tags.count("img") == 2 * 8 and "8 of 12 examples, 4 left out" in page.text
    assert "left out" not in Page(found._repr_html_(count=12)).text
    figure = found.plot(tmp_path / "a.png", count=2)
    texts = [text.get_text() for text in figure.texts]
    assert any("2 of 12 examples, 10 left out" in text for text in texts)
    assert len(figure.axes) == 2 * 3 and (tmp_path / "a.png").stat().st_size > 0
    with pytest.raises(ArgumentError, match="count: got 0"):
        found.plot(count=0)


def test_a_round_trip_through_json():
    found = fullgrad().explain(images(), 1, class_names=["a", "b", "c"])
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    np.testing.assert_array_equal(np.float32(content["maps"]), found.maps)
    np.testing.assert_array_equal(np.float32(content["scores"]), found.scores)
    assert content["classes"] == [1, 1, 1] and content["class_names"] == ["a", "b", "c"]
    assert content["method"] == "fullgrad" and content["target"] is None
    np.testing.assert_allclose(content["terms"]["sums"], found.shares.sums)


def test_without_matplotlib_only_figures_are_missing(monkeypatch):
    found = fullgrad().explain(images())
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert "img" in Page(found._repr_html_()).tags and "fullgrad" in found.summary()
    with pytest.raises(ImportError, match=r"pip install 'tfgrad\[figures\]'"):
        found.plot()


def test_class_names_are_checked():
    method, x = fullgrad(), images()
    for names, words in (
        (["a", "b"], "got 2 names; expected 3, one for each class"),
        ("abc", "got 'abc'; expected a list of texts"),
        ([1, 2, 3], r"got \[1, 2, 3\]; expected a list of texts"),
    ):
        with pytest.raises(ArgumentError, match=f"class_names: {words}"):
            method.explain(x, class_names=names)
    found = method.explain(x)
    with pytest.raises(ArgumentError, match="class_names: got 2 names"):
        found.plot(class_names=["a", "b"])
    assert "(third)" in found._repr_html_(["first", "second", "third"])
    with pytest.raises(DataError, match="x: example 1 of 3 holds NaN"):
        method.explain(np.where(np.arange(3)[:, None, None, None] == 1, np.nan, x))


def test_one_logit_and_a_regression():
    given = keras.Input([3])
    model = keras.Model(given, keras.layers.Dense(1)(given))
    x = np.float32([[1, 2, 3], [-1, -2, 1]])
    kinds = {}
    for outputs in ("binary", "regression"):
        method = saliency.InputTimesGradient(model, outputs=outputs)
        kinds[outputs] = method.explain(x, class_names=["no", "yes"])
    logits = model(x).numpy()[:, 0]
    binary, regression = kinds["binary"], kinds["regression"]
    np.testing.assert_allclose(binary.probabilities[:, 1], tf.sigmoid(logits), rtol=1e-6)
    np.testing.assert_allclose(binary.scores, np.abs(logits), rtol=1e-6)
    assert "logit" in binary.summary() and "yes" in binary._repr_html_()
    assert regression.probabilities is None and regression.scalar == "output"
    np.testing.assert_allclose(regression.scores, logits, rtol=1e-6)
    text = regression.summary()
    assert "value" in text and "logit" not in text and "0 (no)" in text
    assert Page(regression._repr_html_()).tags.count("table") == 2
    regression.plot()


def test_another_target():
    method = fullgrad()
    found = method.explain(images(), targets.Contrast(0, 1))
    logits = classifier()(images()).numpy()
    np.testing.assert_allclose(found.scores, logits[:, 0] - logits[:, 1], rtol=1e-5, atol=1e-6)
    assert found.classes is None and found.probabilities is None and found.scalar == "score"
    assert "Contrast" in found.summary() and "Contrast" in found._repr_html_()
    assert found.to_dict()["target"] == found.target
    found.plot()


def test_every_kind_of_input_is_drawn_or_named(tmp_path):
    texts = {"ids": [["<b>", "x", "y", "z"]] * 2}
    method = saliency.InputTimesGradient(several())
    found = method.explain(inputs(), tokens=texts)
    assert {k: m.shape for k, m in found.maps.items()} == {
        "image": (2, 4, 5),
        "ids": (2, 4),
        "table": (2, 3),
        "series": (2, 6),
        "volume": (2, 2, 3, 3),
    }
    content = found._repr_html_()
    page = Page(content)
    assert page.tags.count("svg") == 2 and page.tags.count("img") == 2 * 4
    assert "<b>" in page.text and "<b>" not in content and "slice" in page.text
    figure = found[1].plot(tmp_path / "all.png")
    written = " ".join(t.get_text() for t in figure.texts).replace("\n", " ")
    assert "volume: Not drawn: a volume beside others." in written
    json.dumps(found.to_dict(), allow_nan=False)
    for wrong, words in (
        ({"ids": texts["ids"][:1]}, "for input 'ids'; expected a list of texts for each of 2"),
        ({"image": texts["ids"]}, "belong to no explained input of token ids"),
    ):
        with pytest.raises(ArgumentError, match=f"tokens: .*{words}"):
            method.explain(inputs(), tokens=wrong)


@pytest.mark.parametrize(
    ("shape", "layer", "tag"),
    [
        ([6, 2], keras.layers.Conv1D, "svg"),
        ([2, 4, 4, 1], keras.layers.Conv3D, "img"),
        ([5, 5, 4], keras.layers.Conv2D, "img"),
    ],
    ids=["series", "volume", "channels"],
)
def test_series_volumes_and_many_channels(shape, layer, tag):
    given = keras.Input(shape)
    model = head(given, keras.layers.Flatten()(layer(2, 2)(given)))
    x = np.random.default_rng(2).normal(size=(2, *shape)).astype("float32")
    found = saliency.InputTimesGradient(model).explain(x)
    page = Page(found._repr_html_())
    assert tag in page.tags and ("mean of 4 channels" in page.text) == (shape[-1] == 4)
    headings = [axes.get_title() for axes in found.plot().axes]
    assert ("mean of 4 channels" in headings) == (shape[-1] == 4)


@pytest.mark.slow
def test_several_inputs_have_a_term_each():
    found = saliency.FullGrad(several()).explain(inputs())
    names = {f"input '{name}'" for name in inputs()}
    assert names <= set(found.shares.names) and found.completeness_error.max() < 1e-4
    assert all(
        name.replace("'", "") in Page(found._repr_html_()).text.replace("'", "") for name in names
    )
    only = saliency.GradCAM(several()).explain(inputs())
    (one,) = only.explained_inputs()
    assert (one.name, one.kind) == ("image", "image") and list(only.maps) == ["image"]
    only.plot()


def test_a_map_of_a_layer_is_said_in_words():
    given = keras.Input([5, 5, 1])
    hidden = keras.layers.Conv2D(2, 2, name="hidden")(given)
    model = head(given, keras.layers.Flatten()(hidden))
    found = saliency.InputGradient(model, at="hidden").explain(images()[:, :5, :5, :1])
    assert found.maps.shape == (3, 4, 4)
    words = "Not drawn: got an input [3, 5, 5, 1] with maps [3, 4, 4]."
    assert words in Page(found._repr_html_()).text
    assert words in found.plot().texts[0].get_text()


def test_channels_first():
    given = keras.Input([3, 4, 5])
    last = keras.layers.Permute([2, 3, 1])(given)
    model = head(given, keras.layers.Flatten()(keras.layers.Conv2D(2, 2)(last)))
    x = np.random.default_rng(3).uniform(size=(2, 3, 4, 5)).astype("float32")
    found = saliency.InputGradient(model).explain(x)
    (one,) = found.explained_inputs()
    assert one.kind == "image"
    np.testing.assert_allclose(one.values, x.transpose(0, 2, 3, 1))


def one_channel(kernel, bias):
    """f = the sum of one convolution's positive part, of which kernel and bias are given."""
    inputs = keras.Input([4, 4, 1])
    conv = keras.layers.Conv2D(1, 1, activation="relu", name="conv")
    head = keras.layers.Dense(2, name="head")
    model = keras.Model(inputs, head(keras.layers.GlobalAveragePooling2D()(conv(inputs))))
    conv.set_weights([np.full((1, 1, 1, 1), kernel, "float32"), np.full(1, bias, "float32")])
    head.set_weights([np.array([[1.0, -1.0]], "float32"), np.zeros(2, "float32")])
    return model


def test_a_map_of_zeros_says_so_and_why():
    x = np.ones([2, 4, 4, 1], "float32")
    x[1] *= -1  # all ReLUs are inactive for example 1 alone
    found = saliency.InputGradient(one_channel(1.0, 0.0)).explain(x, 0)
    assert found.maps[0].all() and not found.maps[1].any()
    summary = " ".join(found.summary().split())
    assert (
        "input_gradient is 0 everywhere for 1: the score does not change with the input" in summary
    )
    assert max(map(len, found.summary().splitlines())) <= 100
    assert "0 everywhere" not in found[0].summary() and "for 1:" in found[1].summary()
    page = found._repr_html_()
    assert page.count("input_gradient is 0 everywhere: the score does not change") == 1
    assert page.index("example 1") < page.index("0 everywhere")
    pytest.importorskip("matplotlib")
    texts = found.plot().findobj(lambda artist: hasattr(artist, "get_text"))
    assert sum("map 0 everywhere" in text.get_text() for text in texts) == 1


def test_grad_cam_of_a_class_that_is_argued_against_names_the_negative_values():
    found = saliency.GradCAM(one_channel(1.0, 0.0)).explain(np.ones([1, 4, 4, 1], "float32"), 1)
    assert not found.maps.any() and found.scores[0] == -1
    assert "gradcam is 0 everywhere for 0: negative values are left out" in found.summary()


def test_a_bias_map_without_biases_says_that_there_are_none():
    found = saliency.BiasMap(one_channel(1.0, 0.0)).explain(np.ones([1, 4, 4, 1], "float32"), 0)
    assert not found.maps.any() and "the network adds no constants" in found.summary()
