"""How far matching a teacher on one data set vouches for another (thesis Prop. 3)."""

import dataclasses
import numbers
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation.batches import check_end
from tfgrad.gradients import call_hooks
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.internal.precision import at_least_float32

_BLOCK = 256  # images to a block of pairs: 0.5 MB of distances at a time
_COLUMNS = ("mean ρ source", "mean ρ target", "max ρ target", "H_a", "K", "K∇", "bound", "holds")


@dataclasses.dataclass(frozen=True)
class TransferBound:
    """The two sides of mean_source ρ ≤ max_target ρ + K · H_a(source, target).

    ρ(x) = ‖student(x) − teacher(x)‖₁ over the logits, ψ the ℓ1 distance of pixels or features.

    Attributes:
        source_mean: the left side, the distillation loss on the source.
        target_mean: the loss that learning without forgetting makes small.
        target_max: the same with the maximum instead, which the proposition needs.
        hausdorff: H_a = max over the source of the ψ to the nearest target image.
        lipschitz: K; infinite where ρ tells images apart that ψ does not.
        empirical: whether K was taken from these images, the largest |Δρ| / ψ over all their pairs.
            The inequality then holds by construction, and the bound's size is what it says.
        gradient: the largest ‖∇x ρ‖_∞ at any of the images, K in the smallest of neighbourhoods;
            None in feature space. The networks' true constant is no less than this, nor than the
            empirical K, which often is far smaller.
        space: of ψ: "pixels", or the name of the layer or model that gives the features.
        images: of source and target, duplicates counted.
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
        """Whether the left side is below the right one, to rounding."""
        return self.source_mean <= self.bound * (1 + 1e-9)

    @staticmethod
    def markdown(rows: Mapping[str, "TransferBound"]) -> str:
        """A table with a row per pair of networks or of data sets.

        Raises:
            ArgumentError: there is no row.
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
    student, teacher, source, target, features=None, lipschitz=None, batch_size=256
) -> TransferBound:
    """Both sides of Prop. 3's bound for two networks and two sets of images.

    Learning without forgetting matches the teacher on the *target* images in the hope to match it
    on the *source*. The bound says by how much that can fail: by no more than the distance between
    the sets times how fast the mismatch can change. More target images, noisy copies for instance,
    never raise H_a.

    The time goes by the square of the number of images (all pairs; 4 s per million pairs of 32 × 32
    × 3 pixels on one core), or by source × target where K is given; memory by the images.

    Args:
        student: a Keras model from images to logits of the source's classes; of a two-headed one
            `tfgrad.models.one_head(student, "source")`.
        teacher: another, of the same classes.
        source: images, an array, or a finite `tf.data.Dataset` of batches: images, or tuples that
            begin with them. As the networks take them.
        target: the same.
        features: where ψ is measured: None for pixels, a layer's name in the teacher, or a Keras
            model of images.
        lipschitz: K, where you know one; None takes the smallest for which the assumption of
            Prop. 3 is true of these images.
        batch_size: images per forward pass.

    Raises:
        ArgumentError: the networks differ in classes, the sets in shape, a set is empty, there is
            no such layer, or K is not a number from 0 up.
        NonFiniteError: ρ or a feature is NaN or infinite.

    Source: Srinivas, *Gradient-based Methods for Deep Model Interpretability*, §2.5.1, Eqs. 2.4
    to 2.6, which leave the loss ρ and the distance ψ open: here both are ℓ1 distances.
    """
    size = integer("batch_size", batch_size)
    if lipschitz is not None and not (
        isinstance(lipschitz, numbers.Real) and float(lipschitz) >= 0
    ):
        raise ArgumentError(f"lipschitz: got {lipschitz!r}; expected a number from 0 up, or None.")
    sets = [_images(name, s) for name, s in (("source", source), ("target", target))]
    if sets[0].shape[1:] != sets[1].shape[1:]:
        raise ArgumentError(
            f"source, target: got images of shape {sets[0].shape[1:]} and {sets[1].shape[1:]}; "
            "expected one shape, that of the networks' input."
        )
    images, places = _distinct(np.concatenate(sets))
    in_source, in_target = places[: len(sets[0])], places[len(sets[0]) :]
    loss, points, gradient = _evaluate(student, teacher, features, images, size)
    distance, slope = _pairs(points, loss, in_source, in_target, lipschitz is None)
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


def _images(name, data):
    """Floating images [n, …] from an array or one pass over a data set."""
    if isinstance(data, tf.data.Dataset):
        check_end(name, data)
        parts = [np.asarray(b[0] if isinstance(b, tuple) else b) for b in data]
        data = np.concatenate(parts) if parts else np.zeros(0)
    images = np.asarray(data)
    if images.ndim < 2 or not len(images):
        raise ArgumentError(
            f"{name}: got shape {images.shape}; expected images [batch, …], one or more."
        )
    # Adding zero makes −0 and 0 the same bytes.
    return (images if images.dtype.kind == "f" else images.astype("float32")) + 0


def _distinct(images):
    """The different images, and where each of all is among them: equal ones have equal ρ."""
    known: dict[bytes, int] = {}
    places = np.array([known.setdefault(i.tobytes(), len(known)) for i in images])
    first = np.unique(places, return_index=True)[1]
    return images[first], places


def _evaluate(student, teacher, features, images, batch_size):
    """ρ [n], the points between which ψ is measured [n, d], and max ‖∇x ρ‖_∞ or None."""
    layer = features if isinstance(features, str) else None
    if layer is not None:
        call_hooks.check_names(teacher, [layer])
    elif features is not None and not isinstance(features, keras.Model):
        raise ArgumentError(
            f"features: got {type(features).__name__}; expected a layer's name in the teacher or a "
            "keras.Model of images."
        )
    mismatch = _Mismatch(student, teacher)

    @tf.function(reduce_retracing=True, autograph=False)
    def of(x):
        if features is None:
            probe = Probe(mismatch, x)
            return probe.logits[:, 0], tf.reduce_max(tf.abs(probe.input_gradient(0)))
        loss = mismatch(x, training=False)[:, 0]
        if layer is None:
            points = features(x, training=False)
        else:  # in a pass of its own: the student may have a layer of the same name
            with call_hooks.recorded([layer]) as outputs:
                teacher(x, training=False)
            if layer not in outputs:
                raise ArgumentError(f"features: the teacher never calls its layer {layer!r}.")
            points = outputs[layer]
        return loss, tf.reshape(points, [tf.shape(x)[0], -1])

    parts = [of(tf.constant(images[i : i + batch_size])) for i in range(0, len(images), batch_size)]
    loss = np.concatenate([loss.numpy() for loss, _ in parts]).astype("float64")
    if features is None:
        points, gradient = images.reshape(len(images), -1), float(max(g.numpy() for _, g in parts))
    else:
        points, gradient = np.concatenate([p.numpy() for _, p in parts]), None
    if not (np.isfinite(loss).all() and np.isfinite(points).all()):
        raise NonFiniteError(
            "source, target: a pixel, a feature or a logit is NaN or infinite, and so no distance "
            "exists. Look at the images first, then at the weights."
        )
    return loss, points, gradient


class _Mismatch(keras.Model):
    """ρ as a network with one logit, so that a probe can differentiate it."""

    def __init__(self, student, teacher):
        super().__init__(name="mismatch")
        self.student, self.teacher = student, teacher

    def call(self, x, training=None):
        """‖student(x) − teacher(x)‖₁, [batch, 1]."""
        both = self.student(x, training=training), self.teacher(x, training=training)
        for name, logits in zip(("student", "teacher"), both, strict=True):
            if tf.nest.is_nested(logits) or logits.shape.rank != 2:
                raise ArgumentError(f"{name}: expected a model with one output [batch, classes].")
        a, b = map(at_least_float32, both)
        if a.shape[-1] != b.shape[-1]:
            raise ArgumentError(
                f"student, teacher: got {a.shape[-1]} and {b.shape[-1]} logits; expected the same "
                "classes, those of the source. Of a two-headed student take "
                "tfgrad.models.one_head(student, 'source')."
            )
        return tf.reduce_sum(tf.abs(a - tf.cast(b, a.dtype)), axis=-1, keepdims=True)


def _pairs(points, loss, in_source, in_target, all_pairs):
    """H_a, and the largest |Δρ| / ψ over all pairs (0 where that is not asked), block by block."""
    from sklearn.metrics import pairwise_distances  # Slow to import, and only needed here.

    is_source, is_target = (np.isin(np.arange(len(loss)), s) for s in (in_source, in_target))
    nearest = np.where(is_target, 0.0, np.inf)
    rounding, slope = 1e-5 * np.max(loss), 0.0
    starts = range(0, len(loss), _BLOCK)
    for i in starts:
        for j in starts[i // _BLOCK :]:
            a, b = slice(i, i + _BLOCK), slice(j, j + _BLOCK)
            crossing = (is_source[a].any() and is_target[b].any()) or (
                is_target[a].any() and is_source[b].any()
            )
            if not (all_pairs or crossing):
                continue
            distance = pairwise_distances(points[a], points[b], metric="l1")
            for one, other, table in ((a, b, distance), (b, a, distance.T)):
                reach = np.where(is_target[other], table, np.inf).min(1)
                nearest[one] = np.minimum(nearest[one], reach)
            if all_pairs:
                change = np.abs(loss[a, None] - loss[b])
                # Where ψ does not tell two images apart, a change is rounding or there is no K.
                change[(distance == 0) & (change <= rounding)] = 0.0
                slope = max(slope, _largest_ratio(change, distance))
    return float(np.max(nearest[is_source])), slope


def _largest_ratio(change, distance):
    ratio = np.divide(change, distance, out=np.zeros_like(change), where=distance > 0)
    return np.inf if np.any((distance == 0) & (change > 0)) else float(np.max(ratio))
