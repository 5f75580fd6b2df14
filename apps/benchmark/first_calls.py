"""What --suite=start measures: first calls, each made once in a process of its own.

Networks are built before the clock starts. What is measured includes the construction of a method
or of a `PenalizedModel`, the trace of its graph, and its first run.
"""

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad import export, penalties, saliency
from tfgrad.errors import ImageRangeWarning, PlacementWarning

FIVE = ("fullgrad", "input_gradient", "integrated_gradients", "smoothgrad", "gradcam")
# Of the gradient norm; costs do not depend on it.
_WEIGHT = 1e-3


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a process measures with.

    Attributes:
        build: Builds the network.
        images: A batch of images, float32 [B, H, W, C].
        path: Where an export is written, or what is loaded.
    """

    build: Callable[[], keras.Model]
    images: tf.Tensor
    path: str


Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """Ways to do one thing, which are compared with the first of them.

    Attributes:
        title: What is done, as the table calls it.
        ways: {name: function that does it and returns its figures}.
        bounds: {name: ratio that should not be exceeded}, of the first figure.
        seconds: What a process of it takes on two idle cores, for the estimate of the time left.
        repeats: Whether the figures differ between processes.
    """

    title: str
    ways: Mapping[str, Callable[[Setting], Figures]]
    bounds: Mapping[str, float]
    seconds: float
    repeats: bool = True


def timed(function: Callable[[], Any]) -> tuple[Figures, Any]:
    """Seconds and CPU seconds of one call, and what it returned."""
    start, cpu = time.perf_counter(), time.process_time()
    found = function()
    figures = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
    }
    return figures, found


def nodes(function: Any) -> int:
    """The number of nodes in the graph of a traced function and in the functions that it calls."""
    graph = function.graph.as_graph_def()
    return len(graph.node) + sum(len(one.node_def) for one in graph.library.function)


def stock_gradient(network: keras.Model) -> Any:
    """∇x of the largest logit, by a gradient tape in a `tf.function` of any batch size."""

    @tf.function(input_signature=[tf.TensorSpec([None, *network.input_shape[1:]])])
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_max(network(x, training=False), -1)
        return tape.gradient(score, x)

    return gradient


def _stock_nodes(setting: Setting) -> Figures:
    return {"nodes": nodes(stock_gradient(setting.build()).get_concrete_function())}


def _fullgrad_nodes(setting: Setting) -> Figures:
    network = setting.build()
    method = saliency.FullGrad(network)

    @tf.function(autograph=False)
    def maps(x: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        return method.explain(x, classes)["saliency"]

    image = tf.TensorSpec([None, *network.input_shape[1:]])
    return {"nodes": nodes(maps.get_concrete_function(image, tf.TensorSpec([None], tf.int32)))}


def _stock_map(setting: Setting) -> Figures:
    network = setting.build()
    return timed(lambda: stock_gradient(network)(setting.images).numpy())[0]


def _fullgrad_map(setting: Setting) -> Figures:
    network = setting.build()
    return timed(lambda: saliency.FullGrad(network)(setting.images).numpy())[0]


def _keras_export(setting: Setting) -> Figures:
    network = setting.build()
    figures, _ = timed(lambda: network.export(setting.path, verbose=False))
    return _written(figures, setting.path)


def _export(setting: Setting, methods: tuple[str, ...] | None) -> Figures:
    network = setting.build()
    # A range, for there to be a signature of encoded images; costs do not depend on which.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageRangeWarning)
        warnings.simplefilter("ignore", PlacementWarning)
        figures, path = timed(
            lambda: export.save(network, setting.path, methods, image_range=(0, 255))
        )
    return _written(figures, path)


def _written(figures: Figures, path: str) -> Figures:
    size = os.path.getsize(os.path.join(path, "saved_model.pb"))
    return figures | {"graph_megabytes": size / 1e6, "path": path}


def _load(setting: Setting) -> Figures:
    return timed(lambda: tf.saved_model.load(setting.path))[0]


class DoubleBackward(keras.Model):
    """A gradient norm of the label's logit in a training step written by hand, for comparison."""

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on (x, y)."""
        x, y = data
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                logits = self(x, training=True)
                score = tf.gather(logits, y, batch_dims=1)
            norms = tf.reduce_sum(tf.square(inner.gradient(score, x)), [1, 2, 3])
            loss = self.compute_loss(x, y, logits) + _WEIGHT * tf.reduce_mean(norms)
        gradients = outer.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def _fit(setting: Setting, wrapped: Callable[[keras.Model], keras.Model]) -> Figures:
    """Construction of a model around the network, `compile`, and the first step of `fit`."""
    network = setting.build()
    images = setting.images.numpy()
    labels = np.arange(len(images), dtype=np.int32) % network.output_shape[-1]

    def first_step() -> None:
        model = wrapped(network)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, jit_compile=False)
        model.fit(images, labels, batch_size=len(images), verbose=0)

    return timed(first_step)[0]


def _penalized(network: keras.Model) -> keras.Model:
    return tfgrad.PenalizedModel(network, [penalties.GradientNorm(_WEIGHT)])


# In the order in which they are measured; the names are those of --parts.
PARTS = {
    "nodes": Part(
        "nodes of the graph",
        {"input-gradient": _stock_nodes, "FullGrad": _fullgrad_nodes},
        {"FullGrad": 1.6},
        seconds=12,
        repeats=False,
    ),
    "maps": Part(
        "first map",
        {"input-gradient": _stock_map, "FullGrad": _fullgrad_map},
        {"FullGrad": 1.6},
        seconds=14,
    ),
    "export": Part(
        "export",
        {
            "Keras": _keras_export,
            "tfgrad": lambda setting: _export(setting, None),
            "tfgrad, five methods": lambda setting: _export(setting, FIVE),
        },
        {"tfgrad": 1.8, "tfgrad, five methods": 3.0},
        seconds=25,
    ),
    "load": Part(
        "load",
        {"Keras": _load, "tfgrad": _load, "tfgrad, five methods": _load},
        {"tfgrad": 2.0},
        seconds=12,
    ),
    "fit": Part(
        "first step of fit",
        {
            "Keras": lambda setting: _fit(setting, lambda network: network),
            "by hand": lambda setting: _fit(
                setting, lambda network: DoubleBackward(network.inputs, network.outputs)
            ),
            "GradientNorm": lambda setting: _fit(setting, _penalized),
        },
        {"GradientNorm": 1.7},
        seconds=25,
    ),
}
