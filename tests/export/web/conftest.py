"""What the tests in a browser share: the browser, exported models and their pages."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export.web import browser
from tfgrad import export
from tfgrad.export import web

CLASSES = (
    "daisy",
    "<b>rose</b>",
    "tulip",
    "sunflower",
    "dandelion",
    "<img src=x onerror=alert(1)>",
)
SAMPLES = ((3, "a sample"), (4, CLASSES[-1]))  # (seed, name)
METHODS = ("fullgrad", "input_gradient", "integrated_gradients")
METHODS_OF_IMAGES = (*METHODS, "gradcam")


def _network(kind):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    if kind == "channels_first":  # convolutions of such images do not run on a CPU
        shape = (3, 9, 7)
        rest = [layers.Flatten(), layers.Dense(8, "relu"), layers.Dense(4)]
    else:
        shape = (12, 16, 1) if kind == "gray" else (24, 20, 3)
        rest = [
            layers.Conv2D(6, 3, activation="relu", padding="same", bias_initializer="uniform"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, activation="relu", bias_initializer="uniform"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1 if kind == "regression" else len(CLASSES), kernel_initializer="normal"),
        ]
    return keras.Sequential([keras.Input(shape), *rest], name=kind)


# Of `export.save`, beside the model.
OPTIONS = {
    "colour": {"methods": METHODS_OF_IMAGES, "classes": CLASSES, "image_range": (0, 1)},
    "gray": {"methods": METHODS, "image_range": (-1, 1), "batch_size": 2},
    "channels_first": {"methods": ("input_gradient",), "image_range": (0, 255)},
    "regression": {"methods": ("input_gradient",), "image_range": (0, 1), "outputs": "regression"},
}


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Function from a kind of model to the version that was exported of it."""
    for package in ("tf2onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.fail(f"the package {package} is missing; run make test-web, which installs it")
    made = {}

    def version(kind):
        if kind not in made:
            directory = tmp_path_factory.mktemp(kind)
            options = {"formats": ("saved_model", "onnx"), "warmup": False, **OPTIONS[kind]}
            made[kind] = export.save(_network(kind), directory, **options)
        return made[kind]

    return version


def photograph(height=40, width=30, channels=3, seed=0):
    """Pixels with smooth and rough parts, uint8."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (1, 5, 4, channels)).astype("float32")
    smooth = tf.image.resize(coarse, (height, width), "bicubic")[0].numpy()
    rough = random.normal(0, 12, (height, width, channels))
    return np.clip(smooth + rough, 0, 255).astype(np.uint8)


def in_layout(kind, image):
    """An image [height, width, channels] as a kind of model takes it."""
    return np.moveaxis(image, -1, 0) if kind == "channels_first" else image


def png(pixels):
    return tf.io.encode_png(pixels).numpy()


def jpeg(pixels, quality=95):
    return tf.io.encode_jpeg(pixels, quality=quality).numpy()


@pytest.fixture(scope="session")
def chromium():
    with browser.chromium() as started:
        yield started


@pytest.fixture(scope="session")
def address(exported, tmp_path_factory):
    """Function from a kind of model to the address of its page."""
    with browser.contextlib.ExitStack() as stack:
        known = {}

        def served(kind):
            if kind not in known:
                folder = web.write(
                    exported(kind),
                    tmp_path_factory.mktemp("page") / kind,
                    samples={name: in_layout(kind, photograph(seed=i)) for i, name in SAMPLES},
                    title="A title",
                    runtime=browser.package("onnxruntime-web"),
                )
                known[kind] = stack.enter_context(browser.served(folder))
            return known[kind]

        yield served


@pytest.fixture
def exported_page(tmp_path, monkeypatch):
    """The page that `export.save` writes, with the npm package that it finds."""
    monkeypatch.chdir(browser.package("onnxruntime-web").parents[1])
    version = export.save(
        _network("colour"),
        tmp_path / "model",
        ("fullgrad",),
        image_range=(0, 1),
        formats=("web",),
        example=photograph(24, 20)[np.newaxis] / 255,
    )
    return f"{version}/web"


@pytest.fixture
def visit(chromium, address):
    """Function that opens the page of a kind of model; every tab is checked at the end."""
    opened = []

    def visited(kind="colour", **options):
        opened.append(browser.Visit(chromium, address(kind), **options))
        return opened[-1]

    yield visited
    for one in opened:
        one.close()
