"""A run of many small steps from start images, whatever the rule that makes a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError, NonFiniteError
from tfgrad.gradients import class_scores, masks, model_checks, targets
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.internal.stateless_noise import Draws
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning
from tfgrad.sampling.bounds import check_inside, clipped, limits, warn_of_range
from tfgrad.sampling.starting_images import float_images

# (x, ∇x f, random numbers of the step and batch) → the next x, before clipping.
Rule = Callable[[tf.Tensor, tf.Tensor, Draws], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Samples:
    """The result of a run from n start images, with the traces of its steps.

    Attributes:
        images: The last iterates, [n, …]; float64 where the model takes that, else float32.
        classes: The class whose logit each image followed, int32 [n].
        scores: f_y of every iterate, that of the start image first, [n, steps + 1].
        gradient_norms: ‖∇x f_y‖ at every iterate but the last, [n, steps].
        outputs: Number of classes of the model: its logits, or two for one logit of two classes.
        settings: The rule and its options, JSON-serialisable.
    """

    images: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    gradient_norms: np.ndarray
    outputs: int
    settings: Mapping[str, Any]


class Chain:
    """Start images, checked against a network, and the compiled functions that move them.

    Args:
        model: See `gradient_ascent`.
        start: See `gradient_ascent`.
        bounds: See `gradient_ascent`.
        outputs: See `gradient_ascent`.

    Raises:
        ArgumentError, DataError, ModelError: See `gradient_ascent`.
    """

    def __init__(self, model: Any, start: Any, bounds: Any, outputs: Any = None) -> None:
        self.outputs = output_meaning.check(outputs)
        self.network = model_checks.network(model)
        expected = tf.TensorShape(model_checks.input_shape(self.network))
        self.dtype = model_checks.input_dtype(self.network)
        model_checks.check_outputs(self.network)
        images = float_images("start", start)
        if not expected.is_compatible_with(images.shape):
            raise ArgumentError(
                f"start: got shape {images.shape}; expected {expected}, as the model takes. A "
                "single image needs the batch axis: pass start[None]."
            )
        self.shape = images.shape[1:]
        self.limits = limits(bounds, self.shape)
        check_inside("start", images, self.limits)
        model_checks.check_logits(self.network, tf.TensorSpec([None, *self.shape], self.dtype))
        warn_of_range(self.network, self.limits)
        # In half precision, steps that are small relative to the pixels would be rounded away.
        self.images = images.astype(np.float64 if self.dtype == "float64" else np.float32)
        self.spec = tf.TensorSpec([None, *self.shape], self.images.dtype)
        self.logits = tf.function(
            lambda x: self._probe(x).logits, input_signature=[self.spec], autograph=False
        )

    def run(
        self,
        rule: Rule,
        target: Any,
        steps: int,
        batch_size: int,
        every: int,
        on_step: Callable[[int, np.ndarray], None] | None,
        progress: Callable[[int, int], None] | None,
        settings: Mapping[str, Any],
    ) -> Samples:
        """All steps of a rule; the other arguments are those of `gradient_ascent`."""
        steps, every = integer("steps", steps), integer("every", every)
        size, count = integer("batch_size", batch_size), len(self.images)
        parts = [slice(a, min(a + size, count)) for a in range(0, count, size)]
        classes, outputs = self._resolved(target, parts)
        advance = self._advance(rule)
        images, step_size = self.images.copy(), settings["step_size"]
        scores = np.empty((count, steps + 1), images.dtype)
        norms = np.empty((count, steps), images.dtype)
        for first in range(0, steps, every):
            done = min(first + every, steps)
            for part in parts:
                moved = advance(images[part], classes[part], first, done - first, part.start)
                x, f, g = (tensor.numpy() for tensor in moved)
                _check_finite(x, f, g, first, step_size)
                images[part], scores[part, first:done], norms[part, first:done] = x, f, g
                if progress is not None:
                    progress(count * first + part.stop * (done - first), count * steps)
            if on_step is not None:
                on_step(done, images.copy())
        last = tf.constant(self._all_logits(images, parts))
        scores[:, -1] = class_scores.logit(last, tf.constant(classes), self._meaning(last)).numpy()
        _check_finite(images, scores[:, -1:], norms[:, :0], steps, step_size)
        bounds = None if self.limits is None else [limit.tolist() for limit in self.limits]
        described = {**settings, "steps": steps, "bounds": bounds}
        return Samples(images, classes, scores, norms, outputs, described)

    def _probe(self, x: tf.Tensor) -> Probe:
        """A probe of the network at x in inference mode, in float32 or wider."""
        with unchanged_state():
            x = tf.cast(x, self.dtype)
            return Probe(self.network, x, training=False, outputs=self.outputs).in_float32()

    def _meaning(self, logits: Any) -> str:
        """What the logits mean; see `tfgrad.models.output_meaning`."""
        return output_meaning.meaning(self.network, self.outputs, logits.shape[-1])

    def _all_logits(self, images: np.ndarray, parts: list[slice]) -> np.ndarray:
        """[n, classes], computed batch by batch."""
        return np.concatenate([self.logits(images[part]) for part in parts])

    def _resolved(self, target: Any, parts: list[slice]) -> tuple[np.ndarray, int]:
        """The classes of the start images, int32 [n], and the number of logits."""
        if isinstance(target, str) and target != "predicted":
            raise ArgumentError(
                f"target: got {target!r}; expected an int, the classes as ints [n], or "
                "'predicted', as a sample follows one class."
            )
        logits = self._all_logits(self.images, parts)
        if not np.isfinite(logits).all():
            raise ModelError(
                f"model {self.network.name!r}: its logits at the start images are NaN or infinite; "
                "expected finite ones. Check its weights, and that the images are scaled as in "
                "training."
            )
        count, meaning = logits.shape[-1], self._meaning(logits)
        output_meaning.warn_if_assumed(self.network, self.outputs, count)
        target = targets.validated(target, allow_all=False)
        classes = targets.classes(target, tf.constant(logits), meaning=meaning)
        return classes.numpy(), 2 if meaning == output_meaning.BINARY else count

    def _advance(self, rule: Rule) -> Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        """A function that makes several steps, each by a function compiled once for all batches.

        It takes images, classes, the number of the first step, the number of steps and the position
        of the first image, and returns images, scores and gradient norms [batch, steps]. Nothing
        is copied to the host between steps. A loop inside the graph takes a quarter longer.
        """

        def step(
            x: tf.Tensor, classes: tf.Tensor, i: tf.Tensor, offset: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            probe = self._probe(x)
            gradient = tf.cast(probe.input_gradient(classes), x.dtype)
            score = tf.cast(probe.score(classes), x.dtype)
            norm = tf.sqrt(tf.reduce_sum(gradient**2, range(1, x.shape.rank)))
            moved = clipped(rule(x, gradient, Draws(i, offset)), self.limits)
            visible = masks.visible(self.network, tf.cast(x, self.dtype))
            if visible is not None:  # a masked step would become visible
                moved = tf.where(visible, moved, x)
            return moved, score, norm

        scalars = [tf.TensorSpec([], tf.int32) for _ in range(2)]
        signature = [self.spec, tf.TensorSpec([None], tf.int32), *scalars]
        compiled = tf.function(step, input_signature=signature, autograph=False)

        def advance(
            images: np.ndarray, classes: np.ndarray, first: int, count: int, offset: int
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            x, y, position = (tf.constant(value) for value in (images, classes, offset))
            traces = []
            for i in range(first, first + count):
                x, *trace = compiled(x, y, tf.constant(i), position)
                traces.append(trace)
            scores, norms = (tf.stack(trace, axis=1) for trace in zip(*traces, strict=True))
            return x, scores, norms

        return advance


def _check_finite(
    images: np.ndarray, scores: np.ndarray, norms: np.ndarray, first: int, step_size: float
) -> None:
    """Reject steps that diverged; clipping hides that in the images, but not in the traces.

    Raises:
        NonFiniteError: An image, score or norm is NaN or infinite.
    """
    fine = np.isfinite(scores).all(axis=0)
    fine[: norms.shape[1]] &= np.isfinite(norms).all(axis=0)
    if fine.all() and np.isfinite(images).all():
        return
    step = first + (norms.shape[1] if fine.all() else int(fine.argmin()))
    raise NonFiniteError(
        f"step_size: got {step_size:g}; at step {step} an image, its score or its gradient is NaN "
        "or infinite; expected finite ones; try a smaller step_size, or bounds=(0.0, 1.0)."
    )
