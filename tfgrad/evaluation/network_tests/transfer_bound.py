"""How far matching a teacher on one data set bounds the mismatch on another (thesis Prop. 3)."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.batches import check_end
from tfgrad.evaluation.network_tests.transfer_terms import distance_and_slope, mismatch_and_points
from tfgrad.gradients import model_checks
from tfgrad.internal.arguments import integer

_COLUMNS = ("mean ρ source", "mean ρ target", "max ρ target", "H_a", "K", "K∇", "bound", "holds")


@dataclasses.dataclass(frozen=True)
class TransferBound:
    """The two sides of mean_source ρ ≤ max_target ρ + K · H_a(source, target).

    ρ(x) = ‖student(x) − teacher(x)‖₁ over the logits, ψ the ℓ1 distance of pixels or features.

    Attributes:
        source_mean: The left side, the distillation loss on the source.
        target_mean: The loss that learning without forgetting minimises.
        target_max: The maximum in place of that mean, which the proposition needs.
        hausdorff: H_a = max over the source of the ψ to the nearest target image.
        lipschitz: K; infinite if ρ differs between images at distance ψ = 0.
        empirical: Whether K was computed from these images, as the largest |Δρ| / ψ over all their
            pairs. The inequality then holds by construction, and only the bound's size is
            informative.
        gradient: The largest ‖∇x ρ‖_∞ at any of the images, which is K in an infinitesimal
            neighbourhood; None in feature space. The networks' true constant is no less than this,
            nor than the empirical K, which often is far smaller.
        space: Where ψ is measured: "pixels", or the name of the layer or model of the features.
        images: Number of images of source and target, duplicates counted.
    """

    source_mean: float
    target_mean: float
    target_max: float
    hausdorff: float
    lipschitz: float
    empirical: bool
    gradient: float | None
    space: str
    images: tuple[int, int]

    @property
    def bound(self) -> float:
        """The right side, max_target ρ + K · H_a."""
        slack = self.lipschitz * self.hausdorff if self.hausdorff else 0.0
        return self.target_max + slack

    @property
    def holds(self) -> bool:
        """Whether the left side is at most the right one, up to rounding."""
        return self.source_mean <= self.bound * (1 + 1e-9)

    @staticmethod
    def markdown(rows: Mapping[str, TransferBound]) -> str:
        """A Markdown table with one row per pair of networks or of data sets.

        Args:
            rows: {name of the pair: its bound}.

        Raises:
            ArgumentError: There is no row.
        """
        if not rows:
            raise ArgumentError("rows: got none; expected {name: TransferBound}.")
        lines = ["| | ψ | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 2) + "|"]
        for name, row in rows.items():
            values: list[float | None] = [row.source_mean, row.target_mean, row.target_max]
            values += [row.hausdorff, row.lipschitz, row.gradient, row.bound]
            cells = ["–" if n is None else f"{n:.4g}" for n in values]
            cells.append("yes" if row.holds else "no")
            lines.append(f"| {name} | {row.space} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def transfer_bound(
    student: Any,
    teacher: Any,
    source: Any,
    target: Any,
    features: Any = None,
    lipschitz: float | None = None,
    batch_size: int = 256,
) -> TransferBound:
    """Both sides of Prop. 3's bound for two networks and two sets of images.

    Learning without forgetting matches the teacher on the *target* images in the hope to match it
    on the *source*. The bound states by how much that can fail: at most by the distance between the
    sets times how fast the mismatch can change. More target images, noisy copies for instance,
    never increase H_a.

    The time is quadratic in the number of images (all pairs; 4 s per million pairs of 32 × 32 × 3
    pixels on one core), or proportional to source × target if K is given; memory is linear in the
    number of images.

    Args:
        student: A Keras model from images to logits of the source's classes; for a two-headed one
            `tfgrad.models.one_head(student, "source")`.
        teacher: A Keras model from images to logits of the same classes.
        source: Images as the networks take them: an array, or a finite `tf.data.Dataset` of
            batches, which are images or tuples that begin with them.
        target: Images of the target, in the same form.
        features: Where ψ is measured: None for pixels, a layer's name in the teacher, or a Keras
            model of images.
        lipschitz: K, if it is known; None for the smallest number for which the assumption of
            Prop. 3 holds on these images.
        batch_size: Number of images per forward pass.

    Raises:
        ArgumentError: The networks differ in classes, the sets in shape, a set is empty, there is
            no such layer, or K is not a number ≥ 0.
        NonFiniteError: ρ or a feature is NaN or infinite.

    Source: Srinivas, *Gradient-based Methods for Deep Model Interpretability*, §2.5.1, Eqs. 2.4
    to 2.6, which leave the loss ρ and the distance ψ open: here both are ℓ1 distances.
    """
    student, teacher = map(model_checks.returning_logits, (student, teacher))
    size = integer("batch_size", batch_size)
    if lipschitz is not None and not (
        isinstance(lipschitz, numbers.Real) and float(lipschitz) >= 0
    ):
        raise ArgumentError(f"lipschitz: got {lipschitz!r}; expected a number ≥ 0, or None.")
    for network in (student, teacher):
        if getattr(network, "inputs", None):
            model_checks.input_dtype(network)  # raises where it is no float
    sets = [_images(name, s) for name, s in (("source", source), ("target", target))]
    if sets[0].shape[1:] != sets[1].shape[1:]:
        raise ArgumentError(
            f"source, target: got images of shape {sets[0].shape[1:]} and {sets[1].shape[1:]}; "
            "expected one shape, that of the networks' input."
        )
    images, places = _distinct(np.concatenate(sets))
    in_source, in_target = places[: len(sets[0])], places[len(sets[0]) :]
    loss, points, gradient = mismatch_and_points(student, teacher, features, images, size)
    distance, slope = distance_and_slope(points, loss, in_source, in_target, lipschitz is None)
    return TransferBound(
        source_mean=float(np.mean(loss[in_source])),
        target_mean=float(np.mean(loss[in_target])),
        target_max=float(np.max(loss[in_target])),
        hausdorff=distance,
        lipschitz=slope if lipschitz is None else float(lipschitz),
        empirical=lipschitz is None,
        gradient=gradient,
        space="pixels" if features is None else getattr(features, "name", features),
        images=(len(in_source), len(in_target)),
    )


def _images(name: str, data: Any) -> np.ndarray:
    """Float images [n, …] from an array, or from one pass over a data set."""
    if isinstance(data, tf.data.Dataset):
        check_end(name, data)
        batches = [b[0] if isinstance(b, tuple) else b for b in data]
        for batch in batches[:1]:
            _check_single(name, batch)
        parts = list(map(np.asarray, batches))
        data = np.concatenate(parts) if parts else np.zeros(0)
    _check_single(name, data)
    images = np.asarray(data)
    if images.ndim < 2 or not len(images):
        raise ArgumentError(
            f"{name}: got shape {images.shape}; expected images [batch, …], one or more."
        )
    # Adding zero gives −0 and 0 the same bytes.
    return (images if images.dtype.kind == "f" else images.astype("float32")) + 0


def _check_single(name: str, data: Any) -> None:
    if isinstance(data, Mapping) or (tf.is_tensor(data) and data.dtype == tf.string):
        raise ArgumentError(
            f"{name}: got a {type(data).__name__}; expected images [batch, …], one float input, as "
            "the bound has a distance between images; try a model with the other inputs held."
        )


def _distinct(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct images, and the index of every image among them; equal ones have equal ρ."""
    known: dict[bytes, int] = {}
    places = np.array([known.setdefault(i.tobytes(), len(known)) for i in images])
    first = np.unique(places, return_index=True)[1]
    return images[first], places
