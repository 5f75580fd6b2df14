"""Accuracy under adversarial perturbations of bounded size: FGSM and PGD."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.batches import (
    Placed,
    check_finite,
    one_by_one,
    per_image,
    placed,
    where_finite,
)
from tfgrad.evaluation.map_tests.axioms import broadcast_to_image
from tfgrad.evaluation.measurement import HIGHER, Measurement, standard_error
from tfgrad.evaluation.network_tests.attacks import PGD, Attack, Attacked, chosen
from tfgrad.gradients import class_scores, model_checks, output_heads
from tfgrad.models import output_meaning

EPSILONS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)
# By how much of the range pixels may miss it, as after a normalisation in float32.
_ROUNDING = 1e-5

# Makes a measurement of this test, from new numbers or from those of a record.
measured = functools.partial(
    Measurement,
    name="accuracy under adversarial perturbations",
    score="accuracy",
    direction=HIGHER,
    along="size ε",
    percent=True,
)


@output_meaning.takes_outputs("network")
def adversarial_robustness(
    network: Any,
    batches: Any,
    epsilons: Iterable[float] = EPSILONS,
    *,
    attack: str = PGD,
    steps: int | None = None,
    starts: int | None = None,
    step_size: float | None = None,
    value_range: tuple[Any, Any] | None = (0.0, 1.0),
    seed: int = 0,
    outputs: Any = None,
) -> Measurement:
    """Accuracy of a classifier under perturbations that raise its loss; higher is better.

        FGSM:  x′ = P(x + ε sign ∇x ℓ(x, y))
        PGD:   x₀ = P(x + ε u),  x_{t+1} = P(x_t + α sign ∇x ℓ(x_t, y)),  u ~ U(−1, 1)

    ℓ is the cross-entropy of the logits, of independent labels that of the label's sigmoid, and P
    the projection on the ball max abs(x′ − x) ≤ ε and on the range of the pixels. An image counts
    as right if the network classifies x itself and the last point from every start rightly: x
    belongs to the ball, so that no accuracy is above that at ε = 0.

    It is an upper bound of the accuracy in the worst case, which a stronger attack may show to be
    lower. Attacks follow the gradient and find nothing where there is none: see the column.

    Args:
        network: A Keras model from images [batch, …] to logits [batch, classes].
        batches: A data set of (images, integer labels), as the network takes them: ε and
            `step_size` are in the units of these images.
        epsilons: Sizes ε ≥ 0.
        attack: `"fgsm"` (one step of ε from x) or `"pgd"`.
        steps: Number of steps of PGD; None for 10.
        starts: Number of random starting points of PGD; None for 1.
        step_size: The step α > 0 of PGD; None for 2.5 ε / steps.
        value_range: The least and the greatest value of a pixel, numbers or arrays that broadcast
            to one image, as [channels] of normalised images; None for values without bounds.
        seed: Seed of the starting points; the same points for every model and batch size.
        outputs: What the network's outputs mean: `"exclusive"`, `"binary"` (one logit of two
            classes) or `"independent"`; None for what its compiled loss says. See
            `tfgrad.models.output_meaning`.

    Returns:
        The accuracy in [0, 1] at each ε and its standard error over the images. Columns: "without
        gradient", the share of images at which every entry of ∇x ℓ is zero in float32.

    Raises:
        ArgumentError: There is no such attack, an option or ε is out of range, FGSM is given an
            option of PGD, or batches are no pairs of images that the network takes and integer
            labels; or it takes several inputs, or integers.
        DataError: A label is no class of the network, or a pixel lies outside `value_range`.
        NonFiniteError: A logit or gradient is NaN or infinite.

    Source: Goodfellow, Shlens and Szegedy, *Explaining and Harnessing Adversarial Examples*, ICLR
    2015, section 4; Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*,
    ICLR 2018, section 2.1.
    """
    network = model_checks.returning_logits(network)
    method, sizes = chosen(attack, steps, starts, step_size), checked_sizes(epsilons)
    limits = _Limits(value_range)
    levels = tf.constant(sizes, tf.float32)

    def correct(x: Any, y: Any, first: tf.Tensor) -> tf.Tensor:
        """1 where an image stays right, else 0, and whether it has no gradient: [batch, ε + 1]."""
        attacked = Attacked(network, x, y, first, limits.bounds, seed)
        clean = _hits(network, x, y)

        def at(epsilon: tf.Tensor) -> tf.Tensor:
            def from_start(start: tf.Tensor) -> tf.Tensor:
                return _hits(network, attacked.examples(method, epsilon, start), y)

            starts = one_by_one(from_start, tf.range(method.starts), tf.float32)
            return clean * tf.reduce_prod(starts, 0)

        still = tf.reduce_all(tf.equal(attacked.slope, 0), range(1, x.shape.rank))
        hits = tf.transpose(one_by_one(at, levels, tf.float32))
        return tf.concat([hits, tf.cast(still, tf.float32)[:, tf.newaxis]], -1)

    found = per_image(correct, limits.checked(placed(batches, network)))
    check_finite(found, "network: the logits or gradients")
    hits, still = found[:, :-1].astype(np.float64), float(found[:, -1].mean(dtype=np.float64))
    return measured(
        values=tuple(hits.mean(0).tolist()),
        deviations=tuple(standard_error(hits).tolist()),
        over=f"{len(hits)} images (standard error)",
        points=sizes,
        columns={"without gradient": (still,) * len(sizes)},
        examples=len(hits),
        seed=seed,
    )


def described(attack: str, steps: Any = None, starts: Any = None, step_size: Any = None) -> Attack:
    """The attack of these options of `adversarial_robustness`; `str` names it in a table."""
    return chosen(attack, steps, starts, step_size)


def checked_sizes(epsilons: Iterable[float]) -> tuple[float, ...]:
    """Sizes ε ≥ 0 as floats.

    Raises:
        ArgumentError: There is none, or one is negative, NaN or infinite.
    """
    sizes = list(epsilons)
    if not sizes or not all(0 <= size < float("inf") for size in sizes):
        raise ArgumentError(f"epsilons: got {sizes}; expected finite numbers ≥ 0, at least one.")
    return tuple(float(size) for size in sizes)


def _hits(network: Any, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """1 where an image is classified correctly, else 0; NaN where a logit is not finite: [batch]"""
    logits = output_heads.logits(network, network(x, training=False))
    meaning = output_meaning.meaning(network, count=logits.shape[-1])
    hit = tf.cast(tf.equal(class_scores.predicted(logits, meaning), y), tf.float32)
    return where_finite(hit, logits)


class _Limits:
    """The range of the pixels, checked on every batch.

    Args:
        value_range: See `adversarial_robustness`.

    Attributes:
        bounds: The least and the greatest image, once the first batch has been read; or None.

    Raises:
        ArgumentError: It is no pair.
    """

    def __init__(self, value_range: Any) -> None:
        self._given = value_range
        self.bounds: tuple[np.ndarray, np.ndarray] | None = None
        if value_range is not None and (
            not hasattr(value_range, "__len__") or len(value_range) != 2
        ):
            raise ArgumentError(_wrong_range(value_range))

    def checked(self, batches: Iterator[Placed]) -> Iterator[Placed]:
        """The batches.

        Raises:
            ArgumentError: The network takes something else than one input of floats, or the range
                does not broadcast to an image or is empty.
            DataError: A pixel lies outside the range.
        """
        for x, y, first in batches:
            if tf.nest.is_nested(x) or not x.dtype.is_floating:
                raise ArgumentError(
                    "batches: got several inputs, or integers such as token ids; expected one "
                    "input of floats, because one ε is the size of one kind of value; try "
                    "tfgrad.evaluation.noise_robustness."
                )
            if self._given is not None:
                self.bounds = self.bounds or self._bounds_of(x)
                self._check(x)
            yield x, y, first

    def _bounds_of(self, x: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        low, high = (broadcast_to_image("value_range", bound, x) for bound in self._given)
        if not (low < high).all():
            raise ArgumentError(_wrong_range(self._given))
        return low, high

    def _check(self, x: tf.Tensor) -> None:
        assert self.bounds is not None
        low, high = self.bounds
        pixels, slack = x.numpy(), _ROUNDING * (high - low)
        if (pixels < low - slack).any() or (pixels > high + slack).any():
            raise DataError(
                f"batches: got pixels from {pixels.min():.4g} to {pixels.max():.4g}; expected "
                f"value_range={self._given!r}, to which perturbed images are clipped; try the "
                "least and the greatest value that a pixel can have, or None for no bounds."
            )


def _wrong_range(given: Any) -> str:
    return (
        f"value_range: got {given!r}; expected the least and the greatest value of a pixel, the "
        "lower first; try (0, 1), or None for values without bounds."
    )
