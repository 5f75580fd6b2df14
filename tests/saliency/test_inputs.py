"""What saliency methods refuse, and in which words."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.saliency_cases import images, network
from tfgrad import saliency
from tfgrad.errors import ArgumentError, DataError, ModelError


@pytest.fixture(scope="module")
def method():
    return saliency.InputGradient(network())


def bad_pixel(value):
    x = images()
    x[1, 2, 3, 0] = value
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ((255 * images()).astype("uint8"), r"x: got uint8 .*tf\.cast\(x, tf\.float32\) / 255"),
        (images() > 0.5, r"x: got bool images"),
        (images()[0], r"x: got shape \(6, 5, 2\); expected \(None, 6, 5, 2\).*pass x\[None\]"),
        (images()[:, :5], r"x: got shape \(3, 5, 5, 2\); expected \(None, 6, 5, 2\), [\w ]+\.$"),
        (images()[:0], r"x: got shape \(0, 6, 5, 2\); expected at least one"),
        ([images(1), images(2)], r"x: got a list .*A method takes one input"),
        (
            {"image": images()},
            r"x: got a dict of .*expected one tensor, as model .* takes one input; try x",
        ),
        (None, r"x: got a NoneType that is no array"),
        ("image.png", r"x: got string images"),
    ],
)
def test_images(method, x, words):
    with pytest.raises(ArgumentError, match=words):
        method(x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels(method, value):
    with pytest.raises(DataError, match=r"x: example 1 of 3 holds NaN or infinite pixels"):
        method(bad_pixel(value))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (3, r"target: got class 3; the model has 3 logits, so expected 0 to 2"),
        (-2, r"target: got class -2; expected an index from 0 up, or -1"),
        ([0, 1, 3], r"target: got classes from 0 to 3; expected -1 to 2"),
        ([0, 1], r"target: got 2 classes for a batch of 3"),
        ([[0, 1, 2]], r"target: got dtype int32, shape \(1, 3\)"),
        (1.0, r"target: got float64 values"),
        (True, r"target: got bool values"),
        ("label", r"target: got 'label'; expected one int, the classes as ints .*has no labels\."),
        ("all", r"target: got 'all'; expected .*a map explains one class"),
    ],
)
def test_targets(method, target, words):
    with pytest.raises(ArgumentError, match=words):
        method(images(), target)


class Counting(saliency.InputGradient):
    """Counts how often its attributions are computed or traced."""

    count = 0

    def attribute(self, probe, classes):
        self.count += 1
        return super().attribute(probe, classes)


@pytest.mark.parametrize("form", ["functional", "nested", "subclassed"])
def test_a_wrong_class_is_rejected_before_the_method_is_traced(form):
    method = Counting(network(form=form))
    for target in (3, [0, 1, 3], [0, 1]):
        with pytest.raises(ArgumentError, match=r"target: got"):
            method(images(), target)
    assert method.count == 0
    np.testing.assert_array_equal(method(images(), 2), method(images(), [2, 2, 2]))
    assert method.count == 1


class Tripled(keras.layers.Layer):
    """A derivative that does not fit, inside a layer that holds another one."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.squared(self.dense(x)) + 1.0

    @staticmethod
    @tf.custom_gradient
    def squared(x):
        return x * x, lambda upstream: 3.0 * upstream


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("smooth", [False, True])
def test_terms_that_do_not_add_up_are_reported_in_words_of_the_model(smooth):
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), Tripled(), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    method = saliency.FullGrad(model)
    with pytest.raises(ModelError, match=r"^model 'sequential.*miss the logit"):
        (saliency.Smooth(method, samples=2) if smooth else method)(np.ones((1, 4, 4, 1), "float32"))


def test_the_words_predicted_and_none_mean_the_same(method):
    np.testing.assert_array_equal(method(images(), "predicted"), method(images()))


def model_of(outputs, inputs=None):
    inputs = keras.Input([4]) if inputs is None else inputs
    return keras.Model(inputs, outputs(inputs))


def test_models():
    vectors = np.ones((1, 4), "float32")
    with pytest.raises(ArgumentError, match=r"model: got a function; expected a keras\.Model"):
        saliency.InputGradient(test_models)
    with pytest.raises(ModelError, match=r"'unborn': it is not built\. Call it on a batch"):
        saliency.InputGradient(keras.Sequential([keras.layers.Dense(2)], name="unborn"))
    one = model_of(keras.layers.Dense(1, activation="softmax", name="end"))
    with pytest.raises(ModelError, match=r"'end': got a softmax of one unit, which is 1 for every"):
        saliency.InputGradient(one)
    with pytest.raises(ModelError, match=r"it returns \[\(None, 2\), \(None, 3\)\]; expected one"):
        saliency.InputGradient(
            model_of(lambda x: [keras.layers.Dense(2)(x), keras.layers.Dense(3)(x)])
        )
    several = Several()
    several(vectors)
    with pytest.raises(ModelError, match=r"got 2 outputs"):
        saliency.InputGradient(several)(vectors)
    with pytest.raises(ModelError, match=r"it returns \[\(None, 2, 2\)\]; expected one"):
        saliency.InputGradient(model_of(keras.layers.Reshape((2, 2))))
    rounded = model_of(lambda x: keras.layers.Dense(2)(keras.ops.round(x)))
    for deaf in (rounded, Deaf().built_one()):
        with pytest.raises(ModelError, match=r"does not depend differentiably on its input"):
            saliency.InputGradient(deaf)(vectors)


class Several(keras.Model):
    """Returns its input twice."""

    def call(self, x):
        return x, x


class Deaf(keras.Model):
    """Ignores its input."""

    def built_one(self):
        self.dense = keras.layers.Dense(2)
        self(np.ones((1, 4), "float32"))
        return self

    def call(self, x):
        return self.dense(tf.ones_like(x))


def test_a_wrapper_is_unwrapped_and_a_model_that_has_a_network_is_not():
    class Doubled(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = network()

        def call(self, x):
            return 2 * self.network(x)

    x, doubled = images(), Doubled()
    doubled(x)
    maps = saliency.InputGradient(doubled.network)(x)
    wrapper = tfgrad.PenalizedModel(doubled.network)
    np.testing.assert_array_equal(saliency.InputGradient(wrapper)(x), maps)
    np.testing.assert_allclose(saliency.InputGradient(doubled)(x), 2 * maps, rtol=1e-5)


def test_dicts_of_one_tensor_go_in_and_out():
    model = network()
    image = keras.Input(model.input_shape[1:], name="image")
    dicts = keras.Model({"image": image}, {"logits": model(image)})
    for name in ("input_gradient", "gradcam"):
        maps = saliency.get(name)(dicts)(images())
        np.testing.assert_allclose(maps, saliency.get(name)(model)(images()), rtol=1e-5)
    with pytest.raises(ModelError, match=r"holds the model"):
        saliency.LayerCAM(dicts)


def test_a_subclassed_model_takes_other_sizes_and_checks_channels():
    class Pooled(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.head = keras.layers.Conv2D(2, 3), keras.layers.Dense(2)

        def call(self, x):
            return self.head(tf.reduce_mean(self.conv(x), [1, 2]))

    model = Pooled()
    model(np.zeros((1, 8, 8, 3), "float32"))
    method = saliency.GradCAM(model)
    for size in (8, 6):
        assert method(np.ones((2, size, 5, 3), "float32")).shape == (2, size, 5)
    with pytest.raises(ArgumentError, match=r"expected \(None, None, None, 3\), as the model"):
        method(np.ones((2, 8, 8, 1), "float32"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("input_gradient", {"of": "logits"}, r"of: got 'logits'; did you mean 'logit'\?"),
        ("input_gradient", {"reduce": "mean"}, r"reduce: got 'mean'; expected one of 'abs_sum'"),
        ("input_gradient", {"of": "loss", "temperature": 0.0}, r"temperature: got 0\.0; .*above 0"),
        ("input_gradient", {"temperature": 2.0}, r"temperature: got 2\.0 with of='logit'"),
        ("input_gradient", {"chunk_size": 0}, r"chunk_size: got 0; expected an integer ≥ 1"),
        ("integrated_gradients", {"steps": 1.5}, r"steps: got 1\.5; expected an integer ≥ 1"),
        ("integrated_gradients", {"baseline": np.nan}, r"baseline: got NaN"),
        ("integrated_gradients", {"baseline": "black"}, r"baseline: got 'black'; expected a numb"),
        ("smoothgrad", {"samples": 0}, r"samples: got 0; expected an integer ≥ 1"),
        ("smoothgrad", {"noise": -0.1}, r"noise: got -0\.1; expected a finite number from 0 up"),
        ("smoothgrad", {"seed": None}, r"seed: got None; expected an integer ≥ 0"),
        ("guided_backprop", {"reduce": None}, r"reduce: got None; expected one of"),
    ],
)
def test_options(name, options, words):
    with pytest.raises(ArgumentError, match=words):
        saliency.get(name)(network(), **options)


def test_a_baseline_must_fit_one_image():
    for shape in ((3, 6, 5, 2), (5, 3), (4, 5, 2)):
        method = saliency.IntegratedGradients(network(), baseline=np.zeros(shape), steps=1)
        with pytest.raises(ArgumentError, match=r"baseline: got shape .*one image \(6, 5, 2\)"):
            method(images())


def test_get():
    assert saliency.get("gradcam") is saliency.GradCAM
    with pytest.raises(ArgumentError, match=r"method: got 'grad_cam'; did you mean 'gradcam'\?"):
        saliency.get("grad_cam")
    with pytest.raises(ArgumentError, match=r"method: got 7; expected one of '"):
        saliency.get(7)
