"""What each signature of an exported model computes, the checks of its inputs included."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad import images
from tfgrad.errors import ArgumentError
from tfgrad.gradients import targets
from tfgrad.saliency import Method


@dataclasses.dataclass(frozen=True)
class Served:
    """What signatures are built from.

    Attributes:
        network: the model that maps an image to logits.
        dtype: the float type in which the network takes its input.
        image: the signatures' image input, [None, …] float32.
        classes: the number of logits K.
        preprocess: float32 images to the network's input, of the same shape.
        image_range: the values that black and white of an encoded image take.
    """

    network: keras.Model
    dtype: str
    image: tf.TensorSpec
    classes: int
    preprocess: Callable[[tf.Tensor], tf.Tensor] = tf.identity
    image_range: tuple[float, float] = (0.0, 1.0)

    @property
    def target(self) -> tf.TensorSpec:
        """The signatures' target input: a class for each image, −1 for the predicted one."""
        return tf.TensorSpec([None], tf.int32, "target")

    def no_encoded(self) -> str | None:
        """Why there is no signature for encoded images; None where there is one."""
        shape = self.image.shape.as_list()
        if len(shape) == 4 and None not in shape[1:] and shape[-1] in (1, 3):
            return None
        return (
            f"the model takes {shape}; encoded images need [None, height, width, channels] with "
            "a fixed height and width and 1 or 3 channels"
        )

    def inputs(self, image: tf.Tensor) -> tf.Tensor:
        """What the network is fed for images."""
        return tf.cast(self.preprocess(image), self.dtype)

    def decoded(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Images of the signatures' kind from encoded ones."""
        _, height, width, channels = self.image.shape
        low, high = self.image_range
        return low + (high - low) * images.decode_batch(image_bytes, (height, width), channels)

    def predictions(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Logits and their softmax."""
        logits = tf.cast(self.network(x, training=False), tf.float32)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def checked(self, target: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """The targets, or a failure of the request: an absent class would get a map of zeros."""
        highest = self.classes - 1
        with tf.control_dependencies(
            [
                tf.debugging.assert_equal(
                    tf.shape(target)[0],
                    tf.shape(batch)[0],
                    f"target: expected one class for each image, 0 to {highest}, "
                    "or -1 for the predicted class.",
                ),
                tf.debugging.Assert(
                    tf.reduce_all((target >= -1) & (target <= highest)),
                    [
                        f"target: expected classes 0 to {highest}, or -1 for the predicted; got",
                        target,
                    ],
                ),
            ]
        ):
            return tf.identity(target)


def build(served: Served, methods: Sequence[Method]) -> dict[str, Any]:
    """Every signature by its name: a concrete function of named inputs to named outputs.

    Every output has the batch as its first axis, as TensorFlow Serving's row format needs it.
    """
    functions = {"serving_default": _serving_default(served)}
    functions.update((method.name, _explanation(served, method)) for method in methods)
    if served.no_encoded() is None:
        functions["encoded"] = _encoded(served, methods[0] if methods else None)
    return {name: function.get_concrete_function() for name, function in functions.items()}


def _serving_default(served: Served) -> Any:
    @_signature(served.image)
    def predict(image):
        return served.predictions(served.inputs(image))

    return predict


def _explanation(served: Served, method: Method) -> Any:
    @_signature(served.image, served.target)
    def explain(image, target):
        target = served.checked(target, image)
        return method.explain(served.inputs(image), target)

    return explain


def _encoded(served: Served, method: Method | None) -> Any:
    @_signature(tf.TensorSpec([None], tf.string, "image_bytes"), served.target)
    def explain_encoded(image_bytes, target):
        target = served.checked(target, image_bytes)
        x = served.inputs(served.decoded(image_bytes))
        outputs = served.predictions(x)
        if method is None:
            chosen = targets.classes(target, outputs["logits"])
            score = targets.select(outputs["logits"], chosen)
            return {**outputs, "class": chosen, "score": score}
        explained = method.explain(x, target)
        return {**outputs, **{key: explained[key] for key in ("class", "score", "saliency")}}

    return explain_encoded


def _signature(*specs: tf.TensorSpec) -> Callable[[Callable[..., dict[str, Any]]], Any]:
    return tf.function(input_signature=specs, autograph=False)


def traced_preprocess(
    preprocess: Callable[..., tf.Tensor], image: tf.TensorSpec
) -> tuple[Callable[[tf.Tensor], tf.Tensor], list[tf.Variable]]:
    """The preprocessing in inference mode and the variables it reads, once it is known to fit."""
    if not callable(preprocess):
        raise ArgumentError(
            f"preprocess: got a {type(preprocess).__name__}; expected a Keras layer or a function "
            "of images."
        )
    name, function = name_of(preprocess), preprocess
    try:
        if isinstance(preprocess, keras.Layer):
            if not preprocess.built:  # within a graph, what it builds would stay in there
                preprocess.build(tuple(image.shape))
            function = functools.partial(preprocess, training=False)  # random layers would augment
        traced = tf.function(function, autograph=False).get_concrete_function(image)
    except Exception as error:
        raise ArgumentError(
            f"preprocess: {name} cannot be traced ({type(error).__name__}: {error}). Write it in "
            "TensorFlow operations, without NumPy."
        ) from error
    got = traced.structured_outputs
    if not isinstance(got, tf.Tensor | tf.TensorSpec) or not got.dtype.is_floating:
        raise ArgumentError(f"preprocess: {name} returns {got}; expected one float tensor.")
    if not got.shape.is_compatible_with(image.shape):
        raise ArgumentError(
            f"preprocess: {name} turns images {image.shape} into {got.shape}; expected the "
            "network's input, in the same shape. Put a change of shape into the network."
        )
    if operation := python_in(traced):
        raise ArgumentError(
            f"preprocess: {name} calls Python ({operation}), which no server has. Write it in "
            "TensorFlow operations."
        )
    return function, list(traced.variables)


def name_of(function: Any) -> str:
    """What a layer or function is called."""
    named = getattr(function, "name", None) or getattr(function, "__name__", None)
    return str(named or type(function).__name__)


def python_in(function: Any) -> str | None:
    """An operation that calls back into this process, if a traced function has one."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return next((node.op for node in nodes if "PyFunc" in node.op), None)
