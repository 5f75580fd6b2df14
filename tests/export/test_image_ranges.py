"""Encoded images in the range that the exported network takes, and own preprocessors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.serving_cases import build, floats, signatures, targets
from tests.helpers.task_model import photographs, task
from tfgrad import export, saliency
from tfgrad.errors import ImageRangeWarning, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FIRST = {
    "rescaled to ±1": (lambda: keras.layers.Rescaling(1 / 127.5, -1), (0, 255)),
    "rescaled to 1": (lambda: keras.layers.Rescaling(1 / 255), (0, 255)),
    "normalised": (lambda: keras.layers.Normalization(mean=0.5, variance=0.06), (0, 1)),
    "normalised bytes": (lambda: keras.layers.Normalization(mean=120, variance=3600), (0, 255)),
}


def network(first, shape=(8, 9, 3)):
    inner = build(shape)
    return keras.Sequential([keras.Input(shape), first, inner])


def pngs(pixels):
    """PNG files of integer pixels from 0 to 255."""
    return tf.constant([tf.io.encode_png(p.astype("uint8")).numpy() for p in pixels])


@pytest.mark.long
@pytest.mark.sample(4, start=1)
@pytest.mark.parametrize("case", FIRST)
def test_encoded_images_get_the_logits_of_their_pixels(tmp_path, case):
    first, (low, high) = FIRST[case]
    model = network(first())
    loaded, served = signatures(export.save(model, tmp_path, ["input_gradient"]))
    assert loaded.metadata["image_range"] == [low, high]
    pixels = np.round(255 * floats(7))
    images = tf.constant(low + (high - low) * pixels / 255, tf.float32)
    by_pixels = served["serving_default"](image=images)["logits"]
    got = served["encoded"](image_bytes=pngs(pixels), target=tf.constant(targets(7)))
    np.testing.assert_allclose(got["logits"], by_pixels, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got["logits"], model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_accuracy_through_encoded_images_is_that_through_pixels(tmp_path):
    """Bright images against dark ones: in [0, 1], every image is as dark as −1."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    last = keras.layers.Dense(2)
    model = keras.Model(inputs, last(x))
    last.set_weights([np.array([[-1.0, 1.0]] * 3), np.zeros(2)])
    labels = np.arange(12) % 2
    random = np.random.default_rng(0)
    pixels = np.round(random.uniform(0, 100, (12, 16, 16, 3)) + 155 * labels[:, None, None, None])
    _, served = signatures(export.save(model, tmp_path, []))
    direct = served["serving_default"](image=tf.constant(pixels, tf.float32))
    coded = served["encoded"](image_bytes=pngs(pixels), target=tf.fill([12], -1))
    for outputs in (direct, coded):
        np.testing.assert_array_equal(np.argmax(outputs["logits"], -1), labels)


def test_a_range_that_nothing_tells_is_asked_for(tmp_path):
    with pytest.warns(ImageRangeWarning, match=r"image_range: got None .*'encoded' is left out"):
        path = export.save(build(), tmp_path, ["input_gradient"])
    loaded, served = signatures(path)
    assert set(served) == {"serving_default", "input_gradient"}
    assert loaded.metadata["image_range"] is None
    assert "image_range= of export.save tells it" in loaded.metadata["left_out"]["encoded"]


@pytest.mark.long
def test_a_range_that_contradicts_the_network_is_named_and_followed(tmp_path):
    model = network(keras.layers.Rescaling(1 / 255))
    with pytest.warns(ImageRangeWarning, match=r"got \(0.0, 1.0\) .* take pixels in \(0.0, 255.0"):
        path = export.save(model, tmp_path, [], image_range=(0, 1))
    loaded, served = signatures(path)
    assert loaded.metadata["image_range"] == [0, 1] and "encoded" in served
    export.save(model, tmp_path, [], image_range=(0, 256))  # nearly the same


@pytest.mark.long
def test_the_range_of_a_preprocessing_is_found(tmp_path):
    path = export.save(build(), tmp_path, [], preprocess=lambda x: x / 127.5 - 1)
    assert signatures(path)[0].metadata["image_range"] == [0, 255]


def first_channels(width):
    """A network of images [3, 8, width], and the same network of images [8, width, 3]."""
    convolution = keras.layers.Conv2D(2, 3, padding="same", activation="relu")
    last = [keras.layers.Flatten(), keras.layers.Dense(4)]
    inner = keras.Sequential([keras.Input((8, width, 3)), convolution, *last])
    first = [keras.Input((3, 8, width)), keras.layers.Permute((2, 3, 1))]
    return keras.Sequential([*first, inner]), inner


@pytest.mark.long
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("width", [9, 3])
def test_encoded_images_reach_a_network_with_channels_first(tmp_path, width):
    model, inner = first_channels(width)
    path = export.save(model, tmp_path, ["input_gradient"], image_range=(0, 1))
    _, served = signatures(path)
    pixels, target = np.round(255 * floats(5, (8, width, 3))), tf.constant(targets(5))
    got = served["encoded"](image_bytes=pngs(pixels), target=target)
    images = (pixels / 255).astype("float32")
    np.testing.assert_allclose(got["logits"], inner(images), rtol=1e-5, atol=1e-5)
    live = saliency.InputGradient(inner)(images, target)
    np.testing.assert_allclose(got["saliency"], live, rtol=1e-5, atol=1e-6)


def test_columns_are_no_channels(tmp_path):
    inputs = keras.Input((5, 8, 3))
    maps = keras.layers.Permute((2, 3, 1))(inputs)
    x = keras.layers.Conv2D(2, 3, padding="same")(maps)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    loaded, served = signatures(export.save(model, tmp_path, [], image_range=(0, 1)))
    assert "encoded" not in served
    told = loaded.metadata["left_out"]["encoded"]
    assert "[None, 5, 8, 3]; encoded images need [None, channels, height, width]" in told


@pytest.mark.long
def test_a_preprocessing_that_resizes_channels_first(tmp_path):
    def resized(x):
        return keras.ops.image.resize(x, (8, 9), data_format="channels_first")

    inputs = keras.Input((3, None, None))
    maps = keras.layers.Permute((2, 3, 1))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(maps))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    path = export.save(model, tmp_path, [], preprocess=resized, image_range=(0, 1))
    pixels = np.round(255 * floats(5, (8, 9, 3)))
    got = signatures(path)[1]["encoded"](image_bytes=pngs(pixels), target=tf.fill([5], -1))
    images = (pixels / 255).astype("float32").transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got["logits"], model(images), rtol=1e-5, atol=1e-5)


# Own preprocessors


@pytest.mark.long
@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.filterwarnings("ignore:model 'task':tfgrad.errors.LogitsWarning")
def test_a_served_task_predicts_as_the_task_does(tmp_path, activation):
    model, pixels = task(activation=activation), np.round(photographs(size=(8, 9)))
    expected = model.predict(pixels, verbose=0)
    loaded, served = signatures(export.save(model, tmp_path, ["fullgrad"]))
    assert loaded.metadata["image_range"] == [0, 255]
    assert loaded.metadata["preprocess"].startswith("converter")
    image, target = tf.constant(pixels, tf.float32), tf.constant(targets(5))
    key = "logits" if activation is None else "probabilities"
    direct = served["serving_default"](image=image)
    coded = served["encoded"](image_bytes=pngs(pixels), target=target)
    for outputs in (direct, coded):
        np.testing.assert_allclose(outputs[key], expected, rtol=1e-5, atol=1e-5)
    maps = served["fullgrad"](image=image, target=target)["saliency"]
    x, model.preprocessor = model.preprocessor(pixels), None
    np.testing.assert_allclose(maps, saliency.FullGrad(model)(x, target), rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_task_of_any_size_takes_encoded_images_in_its_preprocessors(tmp_path):
    model = task(shape=(None, None, 3))
    _, served = signatures(export.save(model, tmp_path, []))
    pixels = np.round(photographs())
    got = served["serving_default"](image=tf.constant(pixels))["logits"]
    np.testing.assert_allclose(got, model.predict(pixels, verbose=0), rtol=1e-5, atol=1e-5)
    small = np.round(photographs(size=(8, 9)))
    got = served["encoded"](image_bytes=pngs(small), target=tf.fill([5], -1))["logits"]
    np.testing.assert_allclose(got, model.predict(small, verbose=0), rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_a_subclassed_model_with_a_preprocessor_is_rejected(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.preprocessor = task(), keras.layers.Rescaling(1 / 255)

        def call(self, x, training=False):
            return self.body(x)

        def predict(self, x, **kwargs):
            return super().predict(self.preprocessor(x), **kwargs)

    model, images = Own(), np.zeros((1, 8, 9, 3), "float32")
    model(model.preprocessor(images))
    with pytest.raises(ModelError, match=r"preprocessor 'rescaling.*'.*pass it as preprocess="):
        export.save(model, tmp_path / "model")
    preprocessor, model.preprocessor = model.preprocessor, None
    export.save(model, tmp_path / "model", [], preprocess=preprocessor)
