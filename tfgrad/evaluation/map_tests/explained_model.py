"""A network with images and a class for each: the input of tests of a method's maps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError, TfgradError
from tfgrad.evaluation.batches import check_finite, check_of_classes, class_count, input_axes
from tfgrad.evaluation.map_tests.pixel_removal import comparable
from tfgrad.evaluation.measurement import counted, over_draws
from tfgrad.gradients import class_scores, model_checks, output_heads, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning
from tfgrad.saliency import Method


class ExplainedModel:
    """A network, images in batches, and the class of each that is explained.

    Args:
        model: A built Keras model from images to logits, or a `PenalizedModel` of one.
        images: Images, float [n, H, W, C], series [n, time, C], volumes [n, D, H, W, C] or tables
            [n, features], as the model takes them.
        target: None or `"predicted"`, an int, or ints [n]; −1 means the predicted class.
        batch_size: Number of images per call.

    Attributes:
        network: The model.
        batches: Its images, [b, …] each.
        logits: The logits of all images, [n, classes].
        meaning: What the logits mean, see `tfgrad.models.output_meaning`.
        classes: The classes of all images, int32 [n], fixed on the network as it came.

    Raises:
        ArgumentError: The images or the target do not fit the model.
        DataError: An image holds NaN or infinite pixels.
        ModelError: The model is not built, or returns no logits.
        NonFiniteError: A logit is NaN or infinite.
    """

    def __init__(self, model: Any, images: Any, target: Any, batch_size: int) -> None:
        self.network = model_checks.network(model)
        images = _checked_images(images, self.network)
        class_count(self.network, images, "images", "model")
        self._spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
        model_checks.check_logits(self.network, self._spec)
        size = integer("batch_size", batch_size)
        self.batches = [images[i : i + size] for i in range(0, images.shape[0], size)]
        self._logits = self.compiled(lambda x, classes, first: self._called(x))
        self.classes = tf.zeros([images.shape[0]], tf.int32)
        self.logits = self.forward()
        check_finite(self.logits, "model: the logits")
        self.meaning = output_meaning.meaning(self.network, count=self.logits.shape[-1])
        self.classes = _classes(target, self.logits, self.meaning)

    def __len__(self) -> int:
        return self.classes.shape[0]

    def _called(self, x: tf.Tensor) -> tf.Tensor:
        return output_heads.logits(self.network, self.network(x, training=False))

    def forward(self, batches: Any = None) -> np.ndarray:
        """The logits [n, classes] under the current weights; see `each`."""
        return self.each(self._logits, batches)

    def compiled(self, function: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]) -> Any:
        """A function of (images, classes, index of the first), traced once for all batches."""
        traced = tf.function(function, autograph=False)
        return traced.get_concrete_function(
            self._spec, tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int64)
        )

    def probe(self, x: tf.Tensor, needs: Needs | None = None) -> Probe:
        """The probe of the network at x; the network's state does not change."""
        # Losses that layers add during a call would otherwise stay in the model.
        with unchanged_state():
            return Probe(self.network, x, needs=needs, outputs=self.meaning)

    def gradient(self, x: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """∇x of each image's logit, shaped like x; to be compiled."""
        return tf.nest.flatten(self.probe(x).input_gradient(classes))[0]

    def of_class(self, logits: np.ndarray) -> np.ndarray:
        """The logit of each image's class, [n, classes] → float64 [n]."""
        found = tf.constant(logits.astype("float64"))
        return class_scores.logit(found, self.classes, self.meaning).numpy()

    def each(self, function: Callable[..., Any], batches: Any = None) -> np.ndarray:
        """The results [n, …] of a function of (images, classes, index of the first) per image.

        Args:
            function: Returns a result with the batch axis first.
            batches: Other images in the place of the own ones, in batches of the same sizes.
        """
        parts, start = [], 0
        for x in batches or self.batches:
            stop = start + x.shape[0]
            index = tf.constant(start, tf.int64)
            parts.append(np.asarray(function(x, self.classes[start:stop], index)))
            start = stop
        return np.concatenate(parts)

    def maps(self, function: Callable[..., Any], batches: Any = None) -> np.ndarray:
        """The maps [n, *positions] of a function of (images, classes); see `each`.

        Raises:
            ArgumentError: The function returns something else.
        """

        def checked(x: tf.Tensor, classes: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
            found = comparable(function(x, classes))
            axes = input_axes(self.network, x, found)
            expected = (x.shape[0], *axes.sizes(x.shape))
            if tuple(found.shape) != expected:
                raise ArgumentError(
                    f"method: got maps of shape {tuple(found.shape)} for images {tuple(x.shape)}; "
                    f"expected {expected}. Sum a gradient over its channels first."
                )
            return found

        return self.each(checked, batches)


def built(method: Any, network: Any) -> Callable[[tf.Tensor, tf.Tensor], Any]:
    """The map function of a method around a network.

    Raises:
        ArgumentError: The method is no function from a model to a function.
    """
    advice = "Try tfgrad.saliency.get('fullgrad'), or lambda m: FullGrad(m, resize=…)."
    if not callable(method) or isinstance(method, Method):
        raise ArgumentError(
            f"method: got {method!r}; expected a function from a model to a function of (images, "
            f"classes) that returns maps. {advice}"
        )
    try:
        found = method(network)
    except TfgradError:
        raise
    except TypeError as error:
        if _takes_one(method):
            raise  # an error of the function's own code
        raise ArgumentError(
            f"method: got {method!r}, which does not take a model alone; expected a function from "
            f"a model to a function of (images, classes). {advice}"
        ) from error
    if not callable(found):
        raise ArgumentError(
            f"method: got one that returns a {type(found).__name__} for a model; expected a "
            f"function of (images, classes). {advice}"
        )
    check_of_classes("method", found)
    return found


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument, as far as it tells."""
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def summary(values: np.ndarray, drawn: str = "") -> dict[str, Any]:
    """Mean and standard error of numbers as fields of a `Measurement`; NaN ones are left out.

    Args:
        values: Numbers, [n] or [draws, n].
        drawn: Noun for what was drawn, such as "signs".

    Raises:
        DataError: All are NaN.
    """
    rows = np.atleast_2d(values)
    count = int((~np.isnan(rows)).any(0).sum())
    if not count:
        raise DataError(
            f"maps: those of all {rows.shape[1]} images are constant, zero, NaN or infinite; "
            "expected some that rank pixels. Look at the network's weights, or try another method."
        )
    mean, error = over_draws(rows)
    several = f" and {len(rows)} draws of {drawn}" if len(rows) > 1 else ""
    return {
        "values": (mean,),
        "deviations": (error,),
        "over": f"{counted(count, 'image')}{several} (standard error)",
        "examples": count,
    }


def _checked_images(images: Any, network: Any) -> tf.Tensor:
    dtype, shape = model_checks.input_dtype(network), model_checks.input_shape(network)
    try:
        found = images if tf.is_tensor(images) else tf.convert_to_tensor(np.asarray(images))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"images: got a {type(images).__name__} that is no array of numbers; expected float "
            "images [n, H, W, C]."
        ) from error
    rank = found.shape.rank
    fits = rank >= 2 if shape is None else rank == len(shape)
    if not found.dtype.is_floating or not fits or not found.shape[0]:
        raise ArgumentError(
            f"images: got {found.dtype.name} of shape {tuple(found.shape)}; expected float images "
            f"{shape or '[n, …]'}, at least one, as the model takes them."
        )
    finite = np.asarray(tf.reduce_all(tf.math.is_finite(found), range(1, found.shape.rank)))
    if not finite.all():
        raise DataError(
            f"images: number {int(finite.argmin())} of {len(finite)} holds NaN or infinite pixels; "
            "expected finite ones. Look for a division by zero in the preprocessing."
        )
    return tf.cast(found, dtype)


def _classes(target: Any, logits: np.ndarray, meaning: str) -> tf.Tensor:
    """The class of each image, int32 [n]."""
    named = targets.validated(target, allow_all=False)
    if isinstance(named, str) and named == "label":
        raise ArgumentError(
            "target: got 'label', but there are no labels here; expected the classes as ints [n], "
            "one int, or None for the predicted class."
        )
    return targets.classes(named, tf.constant(logits), meaning=meaning)
