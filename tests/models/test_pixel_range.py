"""The range of pixels that a network takes, read from whatever it does first."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.task_model import task
from tfgrad import models
from tfgrad.errors import ModelError
from tfgrad.models import pixel_range

L = keras.layers
BYTES, UNIT, SIGNED = (0, 255), (0, 1), (-1, 1)
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def network(*first, shape=(16, 12, 3)):
    x = inputs = keras.Input(shape)
    for layer in first:
        x = layer(x)
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(2, 3)(x))))


def normalization(mean, deviation):
    return L.Normalization(mean=mean, variance=np.square(deviation))


def adapted(low, high, shift=0.0):
    layer = L.Normalization()
    pixels = np.random.default_rng(0).uniform(low, high, (20, 16, 12, 3))
    layer.adapt((pixels + shift).astype("float32"))
    return layer


def applied(module):
    return L.Lambda(module.preprocess_input)


APPLICATIONS = keras.applications
FIRST = {
    "to ±1": (lambda: [L.Rescaling(1 / 127.5, -1)], BYTES),
    "to 1": (lambda: [L.Rescaling(1 / 255)], BYTES),
    "by a power of two": (lambda: [L.Rescaling(1 / 256)], BYTES),
    "unit to ±1": (lambda: [L.Rescaling(2.0, -1)], UNIT),
    "±1 to unit": (lambda: [L.Rescaling(0.5, 0.5)], SIGNED),
    "unit to bytes": (lambda: [L.Rescaling(255.0), applied(APPLICATIONS.vgg16)], UNIT),
    "of caffe": (lambda: [applied(APPLICATIONS.resnet)], BYTES),
    "of tf": (lambda: [applied(APPLICATIONS.xception)], BYTES),
    "of torch": (lambda: [applied(APPLICATIONS.densenet)], BYTES),
    "normalised unit": (lambda: [normalization(MEAN, DEVIATION)], UNIT),
    "normalised bytes": (lambda: [normalization(255 * MEAN, 255 * DEVIATION)], BYTES),
    "both": (lambda: [L.Rescaling(1 / 255), normalization(MEAN, DEVIATION)], BYTES),
    "adapted to bytes": (lambda: [adapted(0, 255)], BYTES),
    "adapted to unit": (lambda: [adapted(0, 1)], UNIT),
    "adapted to ±1": (lambda: [adapted(-1, 1, -0.1)], SIGNED),
    "after augmentation": (
        lambda: [
            L.RandomFlip(),
            L.RandomRotation(0.1),
            L.RandomContrast(0.1),
            L.Rescaling(1 / 255),
        ],
        BYTES,
    ),
    "after a crop": (lambda: [L.Resizing(9, 9), L.CenterCrop(8, 8), L.Rescaling(1 / 255)], BYTES),
    "after padding": (lambda: [L.ZeroPadding2D(2), L.Rescaling(1 / 127.5, -1)], BYTES),
    "nested": (lambda: [keras.Sequential([L.RandomFlip(), L.Rescaling(1 / 255)])], BYTES),
    "bare": (lambda: [lambda x: (x - 127.5) / 127.5], BYTES),
    "of every use": (
        lambda: [lambda x: keras.ops.concatenate([x[..., ::-1] / 255, x / 255], -1)],
        BYTES,
    ),
    "nothing": (list, None),
    "only a shift of one": (lambda: [L.Rescaling(1.0, 1.0)], None),
    "digits of 0 to 16": (lambda: [L.Rescaling(1 / 16)], None),
    "normalised digits": (lambda: [normalization(4.9, 6.0)], None),
    "an untrained norm": (lambda: [L.BatchNormalization()], None),
    "per image": (lambda: [L.Lambda(tf.image.per_image_standardization)], None),
    "contradictory uses": (
        lambda: [lambda x: keras.ops.concatenate([L.Conv2D(1, 3)(x), L.Conv2D(1, 3)(x / 255)])],
        None,
    ),
}


@pytest.mark.parametrize("case", FIRST)
def test_what_first_operations_tell(case):
    first, expected = FIRST[case]
    assert models.image_range(network(*first())) == expected


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.features, self.last = L.Conv2D(2, 3), L.Dense(2)

    def call(self, x, training=False):
        x = (x / 255.0 - tf.constant(MEAN, "float32")) / tf.constant(DEVIATION, "float32")
        return self.last(tf.reduce_mean(self.features(x), [1, 2]))


def test_other_kinds_of_models():
    subclassed = Own()
    subclassed(np.zeros((1, 8, 8, 3), "float32"))
    assert models.image_range(subclassed) == BYTES
    late = keras.Sequential([L.Rescaling(1 / 255), L.Flatten(), L.Dense(2)])
    with pytest.raises(ModelError, match="not built; expected a built one"):
        models.image_range(late)
    late(np.zeros((1, 8, 8, 3), "float32"))
    assert models.image_range(late) == BYTES
    assert models.image_range(network(L.Rescaling(1 / 255), shape=(None, None, 1))) == BYTES
    image = keras.Input((8, 8, 3), name="image")
    assert models.image_range(keras.Model({"image": image}, late(image))) == BYTES
    assert models.image_range(keras.Sequential([keras.Input((8, 8, 3)), late])) == BYTES
    flat = keras.Sequential([keras.Input((8,)), L.Rescaling(1 / 255), L.Dense(2)])
    assert models.image_range(flat) is None  # no images
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    assert models.image_range(keras.Model(pixels, late(keras.ops.cast(pixels, "float32")))) == BYTES


def test_a_preprocessing_counts():
    plain = network()
    assert models.image_range(plain, lambda x: x / 127.5 - 1) == BYTES
    assert models.image_range(plain, L.Rescaling(2.0, -1)) == UNIT
    assert models.image_range(network(L.Rescaling(1 / 255)), lambda x: 255 * x) is None
    own = task()
    assert models.image_range(own) == BYTES
    own.preprocessor = None
    assert models.image_range(own) is None


def test_batch_norms_first_tell_only_large_scales():
    """Their scale and offset are trained, and say nothing of the data's mean."""
    for mean, expected in ((0.4, None), (120.0, BYTES)):
        norm = L.BatchNormalization()
        model = network(norm)
        norm.moving_mean.assign([mean] * 3)
        norm.moving_variance.assign([(mean / 2) ** 2] * 3)
        norm.beta.assign([0.1, 0.2, -0.1])
        assert models.image_range(model) == expected


def test_nothing_reads_the_pixels():
    image = keras.Input((8, 8, 1))
    for outputs in (image * 2, L.Flatten()(L.Rescaling(1 / 255)(image))):
        assert models.image_range(keras.Model(image, outputs)) is None


def test_nothing_is_changed_by_looking():
    model = network(L.RandomFlip(), L.Rescaling(1 / 255), L.BatchNormalization(), L.Dropout(0.5))
    before = [np.array(v) for v in model.variables]
    models.image_range(model)
    for got, expected in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(got, expected)
    with tf.GradientTape() as tape:  # also inside of a trace, a tape and a strategy
        assert tf.function(lambda: models.image_range(model) == BYTES, autograph=False)()
    assert tape.watched_variables() == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EfficientNetB0", BYTES),
        ("EfficientNetV2B0", BYTES),
        ("MobileNetV3Small", BYTES),
        ("ConvNeXtTiny", BYTES),
        ("MobileNetV2", None),
        ("VGG16", None),
    ],
)
def test_keras_applications(name, expected):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3))
    assert tfgrad.models.image_range(model) == expected


def test_a_functional_network_is_read_as_far_as_its_first_kernels():
    x = keras.Input((8, 8, 3))
    scaled = keras.layers.Rescaling(1 / 255)(x)
    y = keras.layers.Conv2D(3, 3, padding="same")(scaled)
    for _ in range(3):
        y = keras.layers.Conv2D(3, 3, padding="same")(y)
    whole = keras.Model(x, keras.layers.GlobalAveragePooling2D()(y))
    read = pixel_range._beginning(whole)
    assert [type(layer).__name__ for layer in read.layers] == ["InputLayer", "Rescaling", "Conv2D"]
    assert models.image_range(whole) == (0.0, 255.0)


def test_pixels_that_go_past_the_first_kernel_are_read_too():
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(3, 3, padding="same")(keras.layers.Rescaling(1 / 255)(x))
    joined = keras.layers.Concatenate()([y, keras.layers.Rescaling(1 / 127.5, offset=-1)(x)])
    y = keras.layers.Conv2D(3, 3)(joined)
    whole = keras.Model(x, keras.layers.GlobalAveragePooling2D()(y))
    read = pixel_range._beginning(whole)
    assert len(read.layers) == len(whole.layers) - 1
    assert models.image_range(whole) == (0.0, 255.0)
