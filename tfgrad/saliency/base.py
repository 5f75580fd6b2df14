"""The base class of saliency methods: one model, checked inputs, one compiled function, raw maps.

A method is built once for a model and called any number of times:

    method = InputGradient(model)
    maps = method(images)               # [B, H, W] float32, for the predicted classes
    maps = method(series)               # [B, T], of a model of series; [B, D, H, W] of volumes
    maps = method(images, target=3)     # for class 3

Maps are raw: signed where the method is signed, and never normalised, so that they can be added,
compared and measured. `tfgrad.figures` scales them for display.
"""

from __future__ import annotations

import dataclasses
import threading
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, AxesWarning, TfgradError
from tfgrad.gradients import axes, model_checks, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, one_of
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning
from tfgrad.saliency import inputs
from tfgrad.saliency.tracing import traced

CHANNELS = ("last", "first", "none")


@dataclasses.dataclass
class _KnownShape:
    """What is known of images of one shape.

    Attributes:
        returns_logits: Whether the network was checked to return logits for them.
        outputs: The shape of the network's output; None until it is asked for.
        function: The compiled method; None before the first eager call.
        axes_told: Whether a warning told that the network does not tell its axes.
    """

    returns_logits: bool = False
    outputs: tf.TensorShape | None = None
    function: Any = None
    axes_told: bool = False


class Method:
    """A function from images and classes to saliency maps of the classes' logits.

    A subclass computes the raw attributions of one forward pass in `attribute` and turns them into
    a map in `assemble`. It may override `needs` (what the probe must record), `extras` (additional
    outputs), `options` (its configuration) and `translated` (its run-time errors). All of these
    consist of TensorFlow operations, so that `explain` can be traced and exported.

    The target's class is fixed on the clean image, before any noise or path. The model runs in
    inference mode and is not modified. A map follows the weights as they are at the call; after a
    change of the model's *structure*, build a new method.

    Args:
        model: A built Keras model with one float input [B, …] that returns logits [B, K], or a
            `PenalizedModel` of one.
        chunk_size: Number of examples of an eager call that are processed at once; None processes
            all. It bounds memory and does not change the maps.
        outputs: What the outputs mean: `"exclusive"`, `"binary"` (one logit f of class 1, −f of
            class 0), `"independent"` or `"regression"`; None for what the compiled loss says. See
            `tfgrad.models.output_meaning`.
        channels: Where the channels of an input are: `"last"`, `"first"` or `"none"`, as in grey
            images [B, H, W]; None for what the model's layers tell, see `axes.of_input`.

    Warns:
        AxesWarning: At the first call, if inputs have three axes and the model does not tell
            whether they are [B, T, C] or [B, H, W]; they are taken for the first.
        OutputMeaningWarning: The model has one output, and nothing says what it means; it is taken
            for a logit of two classes.

    Raises:
        ArgumentError: The model is not a Keras model, or has several inputs or an integer one, or
            `channels` does not fit its input.
        ModelError: The model is not built, returns probabilities, or does not return one tensor
            [B, K].
    """

    name: str = ""

    def __init__(
        self,
        model: Any,
        *,
        chunk_size: int | None = None,
        outputs: Any = None,
        channels: str | None = None,
    ) -> None:
        self.channels = None if channels is None else one_of("channels", channels, CHANNELS)
        self.network = model_checks.network(model)
        self.chunk_size = None if chunk_size is None else integer("chunk_size", chunk_size)
        self.outputs = output_meaning.check(outputs)
        self.input_shape = model_checks.input_shape(self.network)
        self.dtype = model_checks.input_dtype(self.network)
        model_checks.check_outputs(self.network)
        self._shapes: dict[tuple[int | None, ...], _KnownShape] = {}
        self._lock = threading.RLock()
        if self.input_shape is not None and None not in self.input_shape[1:]:
            self._check_logits(self.input_shape)

    # What a subclass provides

    def needs(self) -> Needs:
        """What the probe of one forward pass must record."""
        return Needs()

    def attribute(self, probe: Probe, classes: tf.Tensor) -> Any:
        """The raw attributions at the probe's input; see `terms`."""
        raise NotImplementedError(f"{type(self).__name__} has no attribute(probe, classes).")

    def assemble(self, terms: Any, x: tf.Tensor) -> tf.Tensor:
        """One map [B, H, W] from the terms at x, in the terms' dtype; [B, T], [B, D, H, W], ….

        Args:
            terms: What `attribute` returned.
            x: The inputs as [B, *positions, C], whatever the model takes: images [B, H, W, C],
                series [B, T, C] and volumes [B, D, H, W, C], with C = 1 if they have no channels.
        """
        raise NotImplementedError(f"{type(self).__name__} has no assemble(terms, x).")

    def extras(self, probe: Probe, classes: tf.Tensor, terms: Any) -> dict[str, tf.Tensor]:
        """Additional outputs of `explain`, batch first."""
        return {}

    def options(self) -> dict[str, Any]:
        """The constructor's arguments other than the model, JSON-serialisable."""
        return {}

    def stated(self) -> dict[str, Any]:
        """`options`, and `outputs` and `channels` if they were given."""
        said = {"outputs": self.outputs, "channels": self.channels}
        return {
            **self.options(),
            **{name: value for name, value in said.items() if value is not None},
        }

    def translated(self, error: tf.errors.InvalidArgumentError) -> TfgradError | None:
        """The error to raise instead of one of the compiled function; None raises that one."""
        return None

    # The public interface

    @tf.autograph.experimental.do_not_convert
    def __call__(self, x: Any, target: Any = None) -> tf.Tensor:
        """The maps of a batch.

        Args:
            x: Float images [B, H, W, C] as the model takes them, array or tensor; [B, C, H, W] for
                a model that has channels first, [B, H, W] for one that adds the channels. A model
                of series takes [B, T, C] or [B, T], one of volumes [B, D, H, W, C] or [B, D, H, W],
                one of tables [B, F]. Which it is, its layers tell (`axes.of_input`).
            target: The class whose logit is explained: an int for every example, ints [B], or None
                for the predicted classes. Among ints, −1 stands for the predicted class.

        Returns:
            [B, H, W] float32, raw: the input's axes without the channels, so [B, T] for series,
            [B, D, H, W] for volumes and [B, F] for tables. Differentiable with respect to x and to
            the model's weights where the method is.

        Raises:
            ArgumentError: The images are integers, lack the batch axis, have the wrong shape, or
                there are none; the target is not a class of the model.
            DataError: An image holds NaN or infinite pixels.
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
        """The map with its class and score, in TensorFlow operations only.

        Args:
            x: Float images [B, …].
            target: As for a call; in a graph, a class the model does not have fails at run time.

        Returns:
            `saliency` [B, H, W] float32; `score` [B] float32, the target's logit at x; `class` [B]
            int32; and the method's own extras. Every output has the batch first.
        """
        x = inputs.float_tensor(x)
        self._check_logits(tuple(x.shape))
        probe = self.probe(x)
        self._warn_if_assumed(probe.logits.shape[-1])
        classes = probe.classes(inputs.validated_target(target))
        terms = self.attribute(probe, classes)
        return {
            "saliency": tf.cast(
                self.assemble(terms, self.channels_last(self.image(probe))), tf.float32
            ),
            "score": tf.cast(probe.score(classes), tf.float32),
            "class": classes,
            **self.extras(probe, classes, terms),
        }

    def terms(self, x: tf.Tensor, classes: tf.Tensor) -> Any:
        """The raw attributions of one forward pass, which `Smooth` averages before `assemble`.

        Args:
            x: Float images [B, …].
            classes: The explained classes, int32 [B].

        Returns:
            A nest of tensors, batch first, in the dtype of the network.
        """
        return self.attribute(self.probe(x), classes)

    def probe(self, x: tf.Tensor) -> Probe:
        """A probe of the network at x in inference mode, which changes no state of the model."""
        # Losses that layers add to a call would stay behind in the model as tensors of a graph.
        with unchanged_state():
            return Probe(
                self.network,
                tf.cast(x, self.dtype),
                training=False,
                needs=self.needs(),
                outputs=self.outputs,
            )

    def image(self, probe: Probe) -> tf.Tensor:
        """The one input of a probe."""
        return tf.nest.flatten(probe.x)[0]

    def layout(self, x: tf.Tensor) -> axes.InputAxes:
        """Which axes of inputs shaped like x are positions, and which are channels."""
        shape = tuple(x.shape)
        if self.channels is not None:
            return self._said(len(shape))
        found = axes.of_input(self.network, self._spec(shape))
        if not found.certain:
            self._warn_of_axes(shape)
        return found

    def channels_last(self, values: tf.Tensor) -> tf.Tensor:
        """Values shaped like the model's inputs as [B, *positions, C]."""
        return self.layout(values).channels_last(values)

    def input_gradient(self, probe: Probe, classes: tf.Tensor, **scalar: Any) -> tf.Tensor:
        """∇x of the classes' scalar, shaped like the one input.

        Args:
            probe: A probe of the network.
            classes: The explained classes, int32 [B].
            **scalar: The arguments `of` and `temperature` of `Probe.input_gradient`.
        """
        return tf.nest.flatten(probe.input_gradient(classes, **scalar))[0]

    def __repr__(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.stated().items())
        return f"{type(self).__name__}({self.network.name!r}{options})"

    # Inside

    def _said(self, rank: int) -> axes.InputAxes:
        """The axes that the argument `channels` states."""
        axis = {"last": rank - 1, "first": 1, "none": None}[str(self.channels)]
        if rank == 2 and axis is not None:
            raise ArgumentError(
                f"channels: got {self.channels!r} for inputs of two axes, [batch, positions]; "
                "expected 'none' or None."
            )
        return axes.InputAxes(rank, axis)

    def _warn_of_axes(self, shape: tuple[int | None, ...]) -> None:
        with self._lock:
            known = self._known(shape)
            if known.axes_told:
                return
            known.axes_told = True
        sizes = ", ".join(str(n or "any") for n in shape[1:])
        warnings.warn(
            f"model {self.network.name!r}: got inputs [batch, {sizes}], of which its layers do not "
            "tell whether they are series with channels or images without; taken for series "
            "[batch, time, channels]; expected an argument that says it; try channels='none' for "
            "images [batch, height, width], or channels='last' for series.",
            AxesWarning,
            stacklevel=2,
        )

    def _run(self, x: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        try:
            return self._function(x)(x, classes)
        except tf.errors.InvalidArgumentError as error:
            translated = self.translated(error)
            if translated is None:
                raise
            raise translated from error

    def _known(self, shape: tuple[int | None, ...]) -> _KnownShape:
        """The record of images of this shape, whatever the batch; to be used under the lock."""
        return self._shapes.setdefault((None, *shape[1:]), _KnownShape())

    def _spec(self, shape: tuple[int | None, ...]) -> tf.TensorSpec:
        return tf.TensorSpec((None, *shape[1:]), self.dtype)

    def _function(self, x: tf.Tensor) -> Any:
        """The compiled method for inputs of this size; any batch size uses the same trace."""
        with self._lock:
            known = self._known(tuple(x.shape))
            if known.function is None:
                known.function = tf.function(
                    lambda images, classes: self.explain(images, classes)["saliency"],
                    autograph=False,
                ).get_concrete_function(self._spec(x.shape), tf.TensorSpec([None], tf.int32))
            return known.function

    def _check_logits(self, shape: tuple[int | None, ...]) -> None:
        """Reject a network that does not return logits for images of this shape."""
        with self._lock:
            known = self._known(shape)
            if not known.returns_logits:
                model_checks.check_logits(self.network, self._spec(shape))
                known.returns_logits = True

    def _class_count(self, shape: tuple[int | None, ...]) -> int | None:
        """The number of logits K; None where the network leaves it open."""
        declared = keras.tree.flatten(getattr(self.network, "outputs", None) or [])
        if declared and declared[0].shape[-1] is not None:
            return declared[0].shape[-1]
        self._check_logits(shape)
        with self._lock:
            known = self._known(shape)
            if known.outputs is None:
                # A forward pass alone, which takes far less time to trace than the method.
                graph = traced(self.network, self._spec(shape))
                known.outputs = tf.nest.flatten(graph.structured_outputs)[0].shape
            return known.outputs[-1] if known.outputs.rank else None

    def _warn_if_assumed(self, count: int | None) -> None:
        output_meaning.warn_if_assumed(self.network, self.outputs, count)

    def _validated(self, x: Any) -> tf.Tensor:
        images = inputs.float_tensor(x)
        inputs.check_shape(images, self.input_shape)
        images = tf.cast(images, self.dtype)
        inputs.check_finite(images)
        return images

    def _resolved(self, target: Any, images: tf.Tensor) -> tf.Tensor:
        """The classes of a validated batch, int32 [B], −1 for the predicted one."""
        target, batch = inputs.validated_target(target), images.shape[0]
        count = self._class_count(tuple(images.shape))
        self._warn_if_assumed(count)
        if count is not None:
            # Raises if the target does not fit the batch or the classes.
            meaning = output_meaning.meaning(self.network, self.outputs, count)
            targets.classes(target, tf.zeros([batch, count]), meaning=meaning)
        if isinstance(target, str):
            return tf.fill([batch], -1)
        return tf.broadcast_to(tf.cast(target, tf.int32), [batch])
