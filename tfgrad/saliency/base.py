"""What every saliency method shares: one model, checked inputs, one compiled function, raw maps.

A method is built once around a model and called as often as one likes:

    method = InputGradient(model)
    maps = method(images)               # [B, H, W] float32, for the predicted classes
    maps = method(images, target=3)     # for class 3

Maps are raw: signed where the method is signed, never normalised, so that they can be added,
compared and measured. Whoever draws them scales them.
"""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.gradients import model_checks, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer


class Method:
    """A function from images and classes to maps of what the classes' logits depend on.

    A subclass says what one pass gives in `attribute`, and how that becomes a map in `assemble`;
    what its probe must prepare in `needs`; what else it reports in `extras`; its options in
    `options`. Everything in these is TensorFlow, so `explain` can be traced and exported.

    The target's class is fixed on the clean image, before any noise or path. The model runs in
    inference mode and nothing of it changes. A map follows the model's weights as they are at the
    call; who changes the model's *structure* builds the method anew.

    Args:
        model: a built Keras model with one float input [B, …] that returns logits [B, K], or a
            `PenalizedModel` of one.
        chunk_size: how many examples of an eager call are processed at once; None takes all. It
            bounds memory and changes no number.

    Raises:
        ArgumentError: the model is not a Keras model, or has several inputs or an integer one.
        ModelError: the model is not built, returns probabilities, or returns something else than
            one tensor [B, K].
    """

    name: str = ""

    def __init__(self, model: Any, *, chunk_size: int | None = None) -> None:
        self.network = model_checks.network(model)
        self.chunk_size = None if chunk_size is None else integer("chunk_size", chunk_size)
        self.input_shape = model_checks.input_shape(self.network)
        self.dtype = model_checks.input_dtype(self.network)
        model_checks.check_outputs(self.network)
        self._checked: set[tuple[int | None, ...]] = set()
        self._logits: dict[tuple[int | None, ...], int | None] = {}
        self._functions: dict[tuple[int | None, ...], Any] = {}
        self._lock = threading.RLock()
        if self.input_shape is not None and None not in self.input_shape[1:]:
            self._check(self.input_shape)

    # What a subclass provides

    def needs(self) -> Needs:
        """What the probe of one pass must prepare."""
        return Needs()

    def attribute(self, probe: Probe, classes: tf.Tensor) -> Any:
        """The raw attributions at a probe's point; see `terms`."""
        raise NotImplementedError(f"{type(self).__name__} has no attribute(probe, classes).")

    def assemble(self, terms: Any, x: tf.Tensor) -> tf.Tensor:
        """One map [B, H, W] from the terms at x, in the terms' dtype."""
        raise NotImplementedError(f"{type(self).__name__} has no assemble(terms, x).")

    def extras(self, probe: Probe, classes: tf.Tensor, terms: Any) -> dict[str, tf.Tensor]:
        """Further outputs of `explain`, batch first."""
        return {}

    def options(self) -> dict[str, Any]:
        """What the method was built with besides the model, as JSON can hold it."""
        return {}

    # What everybody calls

    @tf.autograph.experimental.do_not_convert
    def __call__(self, x: Any, target: Any = None) -> tf.Tensor:
        """The maps of a batch.

        Args:
            x: float images [B, H, W, C] as the model takes them, array or tensor; a model of
                sequences takes [B, T, F], one of vectors [B, D].
            target: the class whose logit is explained: an int for every example, ints [B], or None
                for the predicted class (−1 stands for it among ints).

        Returns:
            [B, H, W] float32, raw; [B, T] for sequences and [B, D] for vectors. Differentiable
            with respect to x and to the model's weights where the method is.

        Raises:
            ArgumentError: images are integers, lack the batch axis, have the wrong shape or are
                none at all; the target is no class of the model.
            DataError: an image holds NaN or infinite pixels.
        """
        if not tf.executing_eagerly():
            return self.explain(x, target)["saliency"]
        images = self._validated(x)
        classes = self._resolved(target, images)
        size = self.chunk_size or images.shape[0]
        maps = [
            self._run(images[start : start + size], classes[start : start + size])
            for start in range(0, images.shape[0], size)
        ]
        return maps[0] if len(maps) == 1 else tf.concat(maps, 0)

    @tf.autograph.experimental.do_not_convert
    def explain(self, x: tf.Tensor, target: Any = None) -> dict[str, tf.Tensor]:
        """The map with its class and score: pure TensorFlow, to be traced or exported.

        Args:
            x: float images [B, …].
            target: as for a call; in a graph, a class the model does not have fails at run time.

        Returns:
            `saliency` [B, H, W] float32; `score` [B] float32, the target's logit at x; `class` [B]
            int32; and the method's own extras. Every output has the batch first.
        """
        x = self._converted(x)
        self._check(tuple(x.shape))
        probe = self.probe(x)
        self._logits[(None, *x.shape[1:])] = probe.logits.shape[-1]
        classes = probe.classes(_named(target))
        terms = self.attribute(probe, classes)
        return {
            "saliency": tf.cast(self.assemble(terms, self.image(probe)), tf.float32),
            "score": tf.cast(probe.score(classes), tf.float32),
            "class": classes,
            **self.extras(probe, classes, terms),
        }

    def terms(self, x: tf.Tensor, classes: tf.Tensor) -> Any:
        """The raw attributions of one pass, which smoothing averages before any map is made.

        Args:
            x: float images [B, …].
            classes: int32 [B], fixed.

        Returns:
            A nest of tensors, batch first, in the dtype of the network.
        """
        return self.attribute(self.probe(x), classes)

    def probe(self, x: tf.Tensor) -> Probe:
        """The network at x in inference mode, with nothing of the model moved."""
        # Losses that layers add to a call would stay behind in the model as tensors of a graph.
        with keras.StatelessScope(collect_losses=True):
            return Probe(self.network, tf.cast(x, self.dtype), training=False, needs=self.needs())

    def image(self, probe: Probe) -> tf.Tensor:
        """The one input of a probe."""
        return tf.nest.flatten(probe.x)[0]

    def __repr__(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.options().items())
        return f"{type(self).__name__}({self.network.name!r}{options})"

    # Inside

    def _run(self, x: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        try:
            return self._function(x)(x, classes)
        except tf.errors.InvalidArgumentError as error:
            if decomposition.MISSES not in error.message:
                raise
            raise ModelError(decomposition.misses(self.network)) from error

    def _function(self, x: tf.Tensor) -> Any:
        """The compiled method for images of this size; the batch is free, so no size retraces."""
        shape = (None, *x.shape[1:])
        with self._lock:
            if shape not in self._functions:
                self._functions[shape] = tf.function(
                    lambda images, classes: self.explain(images, classes)["saliency"],
                    autograph=False,
                ).get_concrete_function(
                    tf.TensorSpec(shape, self.dtype), tf.TensorSpec([None], tf.int32)
                )
            return self._functions[shape]

    def _check(self, shape: tuple[int | None, ...]) -> None:
        """Refuse a network that returns no logits for images of this shape."""
        shape = (None, *shape[1:])
        with self._lock:
            if shape not in self._checked:
                model_checks.check_logits(self.network, tf.TensorSpec(shape, self.dtype))
                self._checked.add(shape)

    def _count(self, x: tf.Tensor) -> int | None:
        """The number of logits K, which the trace has seen."""
        self._function(x)
        return self._logits[(None, *x.shape[1:])]

    def _converted(self, x: Any) -> tf.Tensor:
        """A float tensor, whatever holds the numbers."""
        if not isinstance(x, tf.Tensor | tf.Variable):
            try:
                numbers = tf.convert_to_tensor(np.asarray(x))
            except (TypeError, ValueError) as error:
                raise ArgumentError(
                    f"x: got a {type(x).__name__} that is no array of numbers; expected float "
                    "images [batch, height, width, channels]. A method takes one input."
                ) from error
            x = numbers
        if not x.dtype.is_floating:
            raise ArgumentError(
                f"x: got {x.dtype.name} images; a gradient needs float ones, scaled as in "
                "training. Cast them: tf.cast(x, tf.float32) / 255."
            )
        return tf.convert_to_tensor(x)

    def _validated(self, x: Any) -> tf.Tensor:
        images = self._converted(x)
        expected, got = self.input_shape, images.shape
        if expected is None:
            if got.rank < 2:
                raise ArgumentError(f"x: got shape {got}; expected a batch of images [batch, …].")
        elif not got.is_compatible_with(expected):
            single = got.is_compatible_with(expected[1:])
            hint = " The batch axis is missing: pass x[None]." if single else ""
            raise ArgumentError(f"x: got shape {got}; the model takes {expected}.{hint}")
        if 0 in got:
            raise ArgumentError(f"x: got shape {got}; expected at least one image.")
        images = tf.cast(images, self.dtype)
        finite = tf.math.is_finite(tf.reshape(images, [got[0], -1]))
        finite = np.asarray(tf.reduce_all(finite, -1))
        if not finite.all():
            raise DataError(
                f"x: example {int(finite.argmin())} of {got[0]} holds NaN or infinite pixels; "
                "expected finite ones. Look for a division by zero in the preprocessing."
            )
        return images

    def _resolved(self, target: Any, images: tf.Tensor) -> tf.Tensor:
        """The classes of a validated batch, int32 [B], −1 for the predicted one."""
        target, batch = _named(target), images.shape[0]
        if isinstance(target, str):
            target = -1
        count = self._count(images)
        if count is not None:
            targets.classes(target, tf.zeros([batch, count]))  # says what is wrong with it
        return tf.broadcast_to(tf.cast(target, tf.int32), [batch])


def over_channels(values: tf.Tensor, reduce: Any) -> tf.Tensor:
    """The last axis reduced, if it is one of channels: [B, H, W, C] → [B, H, W], [B, D] stays."""
    return reduce(values if values.shape.rank > 2 else values[..., tf.newaxis], axis=-1)


def _named(target: Any) -> Any:
    if isinstance(target, str) and target != "predicted":
        raise ArgumentError(
            f"target: got {target!r}; a map explains one class, and a method knows no labels. "
            "Pass the classes as ints [batch], one int, or None for the predicted class."
        )
    return targets.validated(target, allow_all=False)
