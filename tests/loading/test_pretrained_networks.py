"""Trained networks by name: values, weights from files and Keras's cache, and what is refused."""

import sys
import types
import urllib.error

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.variants import with_slow
from tfgrad import loading
from tfgrad.errors import ArgumentError, ClassNamesWarning, DataError, ModelError
from tfgrad.loading import applications

SIDE = 32


def pixels(count=2, side=SIDE):
    return np.random.default_rng(0).uniform(0, 255, (count, side, side, 3)).astype("float32")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Keras without a connection, and with a cache of its own."""
    from keras.src.utils import file_utils

    def unreachable(*_):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(file_utils, "urlretrieve", unreachable)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path / "keras"))
    monkeypatch.setattr(keras.src.applications.imagenet_utils, "CLASS_INDEX", None)
    (tmp_path / "keras" / "models").mkdir(parents=True)
    return tmp_path / "keras" / "models"


@pytest.fixture
def index(monkeypatch):
    """Names of classes as if their file were there."""
    names = {str(k): (f"n{k:08}", f"class_{k}") for k in range(1000)}
    monkeypatch.setattr(keras.src.applications.imagenet_utils, "CLASS_INDEX", names)


@pytest.fixture(scope="module")
def mobilenet():
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNet(
        weights=None, classifier_activation=None, input_shape=(SIDE, SIDE, 3)
    )


@pytest.mark.long
def test_a_file_of_weights_and_the_preprocessing(mobilenet, index, tmp_path):
    mobilenet.save_weights(tmp_path / "its.weights.h5")
    found = loading.pretrained("MobileNet", tmp_path / "its.weights.h5", (SIDE, SIDE))
    assert (found.image_size, found.image_range) == ((SIDE, SIDE), (0.0, 255.0))
    assert found.class_names[:2] == ("class 0", "class 1") and len(found.class_names) == 1000
    expected = mobilenet(keras.applications.mobilenet.preprocess_input(pixels()), training=False)
    np.testing.assert_allclose(
        found.network(pixels(), training=False), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet121", "Xception"])
def test_every_kind_of_preprocessing_is_its_own_and_is_saved(name):
    """Zero-centred BGR, normalised RGB, and −1 to 1."""
    layer = applications.Preprocess(name)
    module = sys.modules[getattr(keras.applications, name).__module__]
    expected = module.preprocess_input(pixels().copy())
    np.testing.assert_allclose(layer(pixels()), expected, rtol=1e-5, atol=1e-4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    np.testing.assert_array_equal(again(pixels()), layer(pixels()))
    assert layer.get_config()["application"] == name


@pytest.mark.long
def test_weights_in_the_cache_of_keras(offline):
    """The dry run of a download: a file of Keras's name, in Keras's place."""
    keras.utils.set_random_seed(1)
    network = keras.applications.MobileNet(weights=None, classifier_activation=None)
    network.save(offline / "mobilenet_1_0_224_tf.h5")
    with pytest.warns(ClassNamesWarning, match="imagenet_class_index.json"):
        found = loading.pretrained("MobileNet")
    x = pixels(1, 224)
    expected = network(keras.applications.mobilenet.preprocess_input(x.copy()), training=False)
    np.testing.assert_allclose(found.network(x, training=False), expected, rtol=1e-5, atol=1e-5)
    assert found.class_names is None
    (offline / "mobilenet_1_0_224_tf.h5").write_bytes(b"HDF")
    with pytest.raises(ModelError, match="those that Keras keeps for MobileNet cannot be loaded"):
        loading.pretrained("MobileNet")


def test_without_a_connection_the_file_its_address_and_its_place_are_named(offline):
    with pytest.raises(ModelError) as error:
        loading.pretrained("MobileNetV3Small")
    file = "weights_mobilenet_v3_small_224_1.0_float.h5"
    assert str(error.value).startswith("weights: the weights of MobileNetV3Small cannot be")
    assert f"the file {offline / file}; try to download https://" in str(error.value)
    assert str(error.value).count("https://") == 1 and "no route" in str(error.value)


def test_photographs_as_the_network_takes_them(tmp_path):
    found = loading.pretrained("MobileNet", None, (SIDE, SIDE))
    white = tf.io.encode_png(tf.fill((40, 50, 3), tf.constant(255, tf.uint8)))
    tf.io.write_file(str(tmp_path / "white.png"), white)
    x = found.read(tmp_path / "white.png", tmp_path / "white.png")
    np.testing.assert_allclose(x, np.full((2, SIDE, SIDE, 3), 255.0), rtol=1e-6)
    with pytest.raises(ArgumentError, match="paths: got none"):
        found.read()
    with pytest.raises(DataError, match="nothing"):
        found.read(tmp_path / "nothing.png")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("mobilenet",), ArgumentError, "name: got 'mobilenet'; did you mean 'MobileNet'"),
        ((3,), ArgumentError, "name: got 3; expected one of"),
        (("MobileNet", None, (8, 8)), ArgumentError, "image_size: got \\(8, 8\\), which MobileNet"),
        (("MobileNet", None, (8.5, 8)), ArgumentError, "integers ≥ 1"),
        (("MobileNet", None, 32), ArgumentError, "image_size: got 32; expected"),
        (("MobileNet", "no.h5"), ModelError, "weights: got 'no.h5', which does not exist"),
        (("hf://x/y", "w.h5"), ArgumentError, "a preset of KerasHub; expected 'imagenet'"),
    ],
)
def test_refusals(arguments, kind, message):
    with pytest.raises(kind, match=message):
        loading.pretrained(*arguments)


@pytest.mark.long
def test_weights_of_another_network(mobilenet, tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save_weights(tmp_path / "a.weights.h5")
    (tmp_path / "b.weights.h5").write_bytes(b"HDF")
    mobilenet.weights[-1].assign(np.full(1000, np.nan))
    mobilenet.save_weights(tmp_path / "c.weights.h5")
    for name, message in (("a", "does not fit"), ("b", "does not fit"), ("c", "NaN or infinite")):
        with pytest.raises(ModelError, match=f"weights: .*{name}.weights.h5.*{message}"):
            loading.pretrained("MobileNet", tmp_path / f"{name}.weights.h5", (SIDE, SIDE))


class Converter(keras.layers.Layer):
    """Scales, as the image converters of KerasHub do."""

    image_size = (8, 8)

    def call(self, x):
        return x / 255.0 - 0.5


class Preprocessor(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.image_converter = Converter()

    def call(self, x):
        return self.image_converter(x)


class Task(keras.Model):
    """A classifier by KerasHub's protocol."""

    def __init__(self):
        super().__init__(name="task")
        self.preprocessor, self.head = Preprocessor(), keras.layers.Dense(3, name="head")
        self.head.build((None, 3))
        self.built = True

    def call(self, x):
        return self.head(keras.ops.mean(x, (1, 2)))

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return self.preprocessor(x)


def test_a_preset_of_keras_hub(monkeypatch):
    task = Task()

    def from_preset(name, load_weights):
        if name != "small":
            raise RuntimeError("no connection")
        return task

    classifier = types.SimpleNamespace(presets={"small": {}, "gone": {}}, from_preset=from_preset)
    models = types.SimpleNamespace(ImageClassifier=classifier)
    monkeypatch.setitem(sys.modules, "keras_hub", types.SimpleNamespace(models=models))
    found = loading.pretrained("small")
    x = pixels(2, 8)
    expected = task.predict(task.preprocessor(x), verbose=0)
    np.testing.assert_allclose(found.network.predict(x, verbose=0), expected, rtol=1e-5)
    assert found.image_size == (8, 8) and found.class_names is None
    with pytest.raises(ModelError, match="the preset 'gone' cannot be had \\(no connection\\)"):
        loading.pretrained("gone")
    with pytest.raises(ArgumentError, match="did you mean 'small'"):
        loading.pretrained("smal")


def test_without_keras_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ModelError, match="pip install keras-hub"):
        loading.pretrained("hf://someone/something")


OTHERS = [name for name in applications.APPLICATIONS if name != "MobileNetV3Small"]


@pytest.mark.parametrize("name", with_slow(["MobileNetV3Small"], OTHERS))
def test_every_architecture_has_a_size(name):
    found = loading.pretrained(name, None)
    assert found.image_size is not None and found.network.input_shape[1:3] == found.image_size
    assert found.network.output_shape == (None, 1000)
