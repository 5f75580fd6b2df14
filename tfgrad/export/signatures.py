"""The signatures of an exported model, including the checks of their inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad import images
from tfgrad.errors import ArgumentError
from tfgrad.export.custom_gradients import CustomGradients
from tfgrad.gradients import axes, class_scores, output_heads, targets
from tfgrad.internal import announced
from tfgrad.models.output_meaning import REGRESSION, class_count
from tfgrad.saliency import Method
from tfgrad.saliency.shared_passes import shared_passes


@dataclasses.dataclass(frozen=True)
class Served:
    """What signatures are built from.

    Attributes:
        network: The model that maps images to logits.
        dtype: The float type in which the network takes its input.
        image: The signatures' input, [None, …] float32, called `image` whatever it is.
        outputs: The number of outputs K.
        meaning: What the outputs mean, see `tfgrad.models.output_meaning`.
        preprocess: Function from float32 images to the network's input, of the same shape.
        image_range: The values that black and white of an encoded image take; None if unknown.
        size: (height, width) that encoded images are resized to; None for those of `image`.
        channel_axis: The channel axis of the inputs; None where they have no channels.
    """

    network: keras.Model
    dtype: str
    image: tf.TensorSpec
    outputs: int
    meaning: str
    preprocess: Callable[[tf.Tensor], tf.Tensor] = tf.identity
    image_range: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    channel_axis: int | None = 3

    @property
    def classes(self) -> int:
        """The number of classes: K, or two for one logit; of a regression the outputs."""
        return class_count(self.meaning, self.outputs) or self.outputs

    @property
    def lowest_target(self) -> int:
        """−1, the predicted class; 0 for several outputs of a regression, which predicts none."""
        return 0 if self.meaning == REGRESSION and self.outputs > 1 else -1

    @property
    def target(self) -> tf.TensorSpec:
        """The signatures' target input: one class per image, −1 for the predicted class."""
        return tf.TensorSpec([None], tf.int32, "target")

    def no_encoded(self) -> str | None:
        """Why there is no signature for encoded images; None if there is one."""
        shape = self.image.shape.as_list()
        if len(shape) != 4 or self.channel_axis is None:
            return f"the model takes {shape}, which are no images [None, height, width, channels]"
        if None not in self.encoded_shape and self.encoded_shape[-1] in (1, 3):
            return None
        layout = ["height", "width"]
        layout.insert(self.channel_axis - 1, "channels")
        return (
            f"the model takes {shape}; encoded images need [None, {', '.join(layout)}] with "
            "a fixed height and width and 1 or 3 channels"
        )

    @property
    def encoded_shape(self) -> list[Any]:
        """(height, width, channels) of a decoded image, of a model of images."""
        shape, axis = self.image.shape.as_list(), self.channel_axis
        size = self.size or _sides(self.image.shape, axis)
        return [*size, 1 if axis is None else shape[axis]]

    @property
    def black_is_zero(self) -> bool:
        """Whether a black encoded image is what an image of zeros is to the other signatures."""
        fixed = None not in self.image.shape[1:]
        return fixed and self.image_range is not None and self.image_range[0] == 0

    @property
    def decoded_image(self) -> tf.TensorSpec:
        """What `decoded` returns."""
        height, width, channels = self.encoded_shape
        sizes = [height, width]
        sizes.insert((self.channel_axis or 3) - 1, channels)
        return tf.TensorSpec([None, *sizes], self.image.dtype, self.image.name)

    def inputs(self, image: tf.Tensor) -> tf.Tensor:
        """The network's input for a batch of images."""
        return tf.cast(self.preprocess(image), self.dtype)

    def decoded(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Images as the signatures take them, decoded from JPEG or PNG."""
        height, width, channels = self.encoded_shape
        low, high = self.image_range or (0.0, 1.0)
        pixels = images.decode_batch(image_bytes, (height, width), channels)
        return low + (high - low) * axes.channels_at(pixels, self.channel_axis)

    def checked_images(self, image: tf.Tensor) -> tf.Tensor:
        """The images; none at all, or NaN and infinite pixels, fail the request."""

        def each() -> tf.Tensor:
            axes = list(range(1, image.shape.rank))
            finite = tf.reduce_all(tf.math.is_finite(image), axes)
            first = tf.strings.as_string(tf.argmin(tf.cast(finite, tf.int32)))
            words = ["image: got NaN or infinite pixels in image ", first, " of the batch; "]
            words += ["expected finite ones. Try to send what the network was trained on."]
            told = tf.strings.join(words)
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(finite), [told])]):
                return tf.constant(True)

        # A sum costs half of the test of every pixel. It is not finite if a pixel is not.
        one_sum = tf.math.is_finite(tf.reduce_sum(image))
        finite = tf.cond(one_sum, lambda: tf.constant(True), each)
        with tf.control_dependencies([_some("image", image), finite]):
            return tf.identity(image)

    def predictions(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Logits and, of a classifier, the probabilities of its classes."""
        answer = self.network(x, training=False)
        logits = tf.cast(output_heads.logits(self.network, answer), tf.float32)
        if self.meaning == REGRESSION:
            return {"logits": logits}
        return {
            "logits": logits,
            "probabilities": class_scores.probabilities(logits, self.meaning),
        }

    def checked(self, target: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """The targets; absent classes fail the request, or they would get maps of zeros."""
        lowest, highest = self.lowest_target, self.classes - 1
        known = f"0 to {highest}" + (", or -1 for the predicted class." if lowest else ".")
        with tf.control_dependencies(
            [
                tf.debugging.assert_equal(
                    tf.shape(target)[0],
                    tf.shape(batch)[0],
                    "target: got another number of targets than images; expected one class for "
                    f"each image, {known}",
                ),
                tf.debugging.Assert(
                    tf.reduce_all((target >= lowest) & (target <= highest)),
                    ["target: got", target, f"expected classes {known}"],
                ),
            ]
        ):
            return tf.identity(target)


def build_signatures(served: Served, methods: Sequence[Method]) -> dict[str, Any]:
    """Every signature by its name: a concrete function from named inputs to named outputs.

    Every output has the batch as its first axis, as TensorFlow Serving's row format requires.

    Args:
        served: The model and how its images come in.
        methods: The saliency methods, each of which gets a signature of its name; the first one
            also explains encoded images.
    """
    custom = CustomGradients()
    default = _serving_default(served)
    functions = {"serving_default": default}
    functions.update((method.name, _explanation(served, method, custom)) for method in methods)
    if served.no_encoded() is None and served.image_range is not None:
        explain = functions[methods[0].name] if methods else None
        if None in served.image.shape[1:]:
            # Encoded images have one size, of which more is known in a trace of their own.
            sized = dataclasses.replace(served, image=served.decoded_image)
            default = _serving_default(sized)
            explain = _explanation(sized, methods[0], custom) if methods else None
        functions["encoded"] = _encoded(served, default, explain)
    with shared_passes(custom.leave_out):
        return {
            name: function.get_concrete_function()
            for name, function in announced.each("tracing", functions)
        }


def _serving_default(served: Served) -> Any:
    @_signature(served.image)
    def predict(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return served.predictions(served.inputs(served.checked_images(image)))

    return predict


def _explanation(served: Served, method: Method, custom: CustomGradients) -> Any:
    @_signature(served.image, served.target)
    def explain(image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        image = served.checked_images(image)
        target = served.checked(target, image)
        return custom.finished(method.explain(served.inputs(image), target))

    return explain


def _encoded(served: Served, predict: Any, explain: Any) -> Any:
    """The signature of encoded images, which calls those of images, `explain` if there is one."""

    @_signature(tf.TensorSpec([None], tf.string, "image_bytes"), served.target)
    def explain_encoded(image_bytes: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([_some("image_bytes", image_bytes)]):
            image_bytes = tf.identity(image_bytes)
        target = served.checked(target, image_bytes)
        image = served.decoded(image_bytes)
        outputs = predict(image)
        if explain is None:
            chosen = targets.classes(target, outputs["logits"], meaning=served.meaning)
            score = class_scores.logit(outputs["logits"], chosen, served.meaning)
            return {**outputs, "class": chosen, "score": score}
        explained = explain(image, target)
        return {**outputs, **{key: explained[key] for key in ("class", "score", "saliency")}}

    return explain_encoded


def _some(name: str, batch: tf.Tensor) -> Any:
    """The check that a batch is not empty: networks reshape and average over it."""
    return tf.debugging.Assert(
        tf.shape(batch)[0] > 0, [f"{name}: got an empty batch; expected at least one image."]
    )


def _signature(*specs: tf.TensorSpec) -> Callable[[Callable[..., dict[str, Any]]], Any]:
    return tf.function(input_signature=specs, autograph=False)


def traced_preprocess(
    preprocess: Callable[..., tf.Tensor], image: tf.TensorSpec, channel_axis: int | None = 3
) -> tuple[Callable[[tf.Tensor], tf.Tensor], list[tf.Variable], tuple[int, int] | None]:
    """The preprocessing in inference mode, the variables it reads, and the size it resizes to.

    The size is None where the network's own is fixed, or where it resizes nothing.

    Raises:
        ArgumentError: It is no layer or function, cannot be traced, calls Python, or does not
            return one float tensor in the shape of `image`.
    """
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
            f"preprocess: got {name}, which cannot be traced ({type(error).__name__}: {error}); "
            "expected a function of tensors. Write it in TensorFlow operations, without NumPy."
        ) from error
    got = traced.structured_outputs
    if not isinstance(got, tf.Tensor | tf.TensorSpec) or not got.dtype.is_floating:
        raise ArgumentError(
            f"preprocess: got {name}, which returns {got}; expected one float tensor."
        )
    if not got.shape.is_compatible_with(image.shape):
        raise ArgumentError(
            f"preprocess: got {name}, which turns images {image.shape} into {got.shape}; expected "
            "the network's input, in the same shape. Put a change of shape into the network."
        )
    if operation := python_operation(traced):
        raise ArgumentError(
            f"preprocess: got {name}, which calls Python ({operation}); expected TensorFlow "
            "operations alone, as a server has no Python. Write it in TensorFlow operations."
        )
    size = None
    if image.shape.rank == 4 and channel_axis and None in _sides(image.shape, channel_axis):
        sides = _sides(got.shape, channel_axis)
        size = None if None in sides else sides
    return function, list(traced.variables), size


def _sides(shape: tf.TensorShape, channel_axis: int | None) -> tuple[Any, ...]:
    """(height, width) of images."""
    return tuple(n for axis, n in enumerate(shape) if axis not in (0, channel_axis))


def name_of(function: Any) -> str:
    """The name of a layer or function."""
    named = getattr(function, "name", None) or getattr(function, "__name__", None)
    return str(named or type(function).__name__)


def python_operation(function: Any) -> str | None:
    """The first operation of a traced function that calls Python; None if there is none."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return next((node.op for node in nodes if "PyFunc" in node.op), None)
