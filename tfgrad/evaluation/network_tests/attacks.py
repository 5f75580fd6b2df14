"""Perturbations of bounded size that raise the loss of a classifier: FGSM and PGD."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import class_scores
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number, one_of
from tfgrad.internal.stateless_noise import Draws

FGSM, PGD = "fgsm", "pgd"
ATTACKS = (FGSM, PGD)
STEPS, STARTS = 10, 1
# The ball has a diameter of 2 ε, which all steps together exceed.
_PATH = 2.5


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack of size ε in the maximum norm.

    Attributes:
        name: `"fgsm"` or `"pgd"`.
        steps: Number of gradient steps.
        starts: Number of starting points.
        step_size: α, in the units of the images; None for 2.5 ε / steps.
    """

    name: str
    steps: int = 1
    starts: int = 1
    step_size: float | None = None

    def __str__(self) -> str:
        if self.name == FGSM:
            return "FGSM"
        size = f"{_PATH / self.steps:g} ε" if self.step_size is None else f"{self.step_size:g}"
        plural = "" if self.starts == 1 else "s"
        return f"PGD, {self.steps} steps of {size}, {self.starts} random start{plural}"

    def arguments(self) -> dict[str, Any]:
        """The arguments of `adversarial_robustness` that describe this attack."""
        if self.name == FGSM:
            return {"attack": FGSM}
        options = {"steps": self.steps, "starts": self.starts, "step_size": self.step_size}
        return {"attack": PGD, **options}


def chosen(attack: Any, steps: Any, starts: Any, step_size: Any) -> Attack:
    """The attack that arguments describe; None for an option stands for its default.

    Raises:
        ArgumentError: There is no such attack, an option is out of range, or FGSM, which has one
            step of ε from the image itself, is given one.
    """
    name = one_of("attack", attack, ATTACKS)
    if name == FGSM:
        given = {"steps": steps, "starts": starts, "step_size": step_size}
        for option, value in given.items():
            if value is not None:
                raise ArgumentError(
                    f"{option}: got {value!r} for attack='fgsm', which makes one step of ε from "
                    "the image itself; expected None; try attack='pgd'."
                )
        return Attack(FGSM)
    return Attack(
        PGD,
        STEPS if steps is None else integer("steps", steps),
        STARTS if starts is None else integer("starts", starts),
        None if step_size is None else number("step_size", step_size),
    )


class Attacked:
    """The images of a batch, and the perturbed ones.

    Args:
        network: A Keras model that returns logits.
        x: Images, float [batch, …].
        y: Labels, int32 [batch].
        first: Index of the first image in the data set.
        bounds: The least and the greatest image, each like one image; None if pixels have
            no bounds.
        seed: Seed of the starting points.
    """

    def __init__(
        self,
        network: Any,
        x: tf.Tensor,
        y: tf.Tensor,
        first: tf.Tensor,
        bounds: tuple[Any, Any] | None,
        seed: int,
    ) -> None:
        self._network, self._x, self._y, self._first = network, x, y, first
        self._bounds, self._seed = bounds, seed
        self.slope = self._slope(x)

    def examples(self, attack: Attack, epsilon: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        """Images within ε of x in every pixel, and within the range of the pixels; like x.

        Args:
            attack: The attack.
            epsilon: ε ≥ 0, a scalar.
            start: Number of the starting point, an integer scalar.
        """
        x, epsilon = self._x, tf.cast(epsilon, self._x.dtype)
        lowest, highest = x - epsilon, x + epsilon
        if self._bounds is not None:
            low, high = (tf.constant(bound, x.dtype) for bound in self._bounds)
            # x itself is always allowed, also if rounding has put it beside the range.
            lowest = tf.minimum(x, tf.maximum(lowest, low))
            highest = tf.maximum(x, tf.minimum(highest, high))

        def projected(z: tf.Tensor) -> tf.Tensor:
            return tf.clip_by_value(z, lowest, highest)

        if attack.name == FGSM:
            return projected(x + epsilon * tf.sign(self.slope))
        step = attack.step_size
        size = _PATH / attack.steps * epsilon if step is None else tf.constant(step, x.dtype)
        noise = Draws(start, self._first).uniform(x, self._seed)

        def ascend(i: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            moved = projected(z + size * tf.sign(self._slope(z)))
            return i + 1, tf.ensure_shape(moved, x.shape)

        begun = tf.ensure_shape(projected(x + epsilon * noise), x.shape)
        _, found = tf.while_loop(
            lambda i, z: i < attack.steps, ascend, [tf.constant(0), begun], parallel_iterations=1
        )
        return found

    def _slope(self, x: tf.Tensor) -> tf.Tensor:
        """∇x of log((1 − p_y) / p_y), which has the direction of ∇x of the cross-entropy."""
        probe = Probe(self._network, x).in_float32()

        def loss(probe: Probe) -> tf.Tensor:
            return class_scores.log_odds_against(probe.logits, self._y, probe.meaning)

        return tf.cast(probe.slope("log odds", loss), x.dtype)
