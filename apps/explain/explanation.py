"""Maps and scores of images, batch by batch."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad.errors import DataError, ModelError
from tfgrad.gradients import class_scores, targets
from tfgrad.models.output_meaning import REGRESSION

from ..common.output_directory import GrowingArrays
from ..common.progress import Progress
from .explainers import Explainer
from .input_images import Images

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Explained:
    """Explained images.

    Attributes:
        rows: What is known of each image, with its scores.
        skipped: Files that could not be read, and why.
        pixels: The first --rows images [rows, H, W, C] in [0, 1].
        x: The same as the model takes them.
        maps: {method: their maps [rows, H, W]}.
    """

    rows: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    pixels: np.ndarray
    x: np.ndarray
    maps: dict[str, np.ndarray]

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The rows of the images in the picture."""
        return self.rows[: len(self.pixels)]


def explain(explainer: Explainer, images: Images, arrays: GrowingArrays) -> Explained:
    """Explain all images.

    Args:
        explainer: Model.
        images: Images.
        arrays: Where images and maps are written.

    Raises:
        DataError: No image can be read.
        ModelError: The model fails, or its logits are not finite.
    """
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    parts: list[dict[str, np.ndarray]] = []
    clock = Progress(images.count)
    for known, pixels in images.batches(FLAGS.batch_size, skipped):
        low, high = explainer.image_range
        x = tf.constant(low + (high - low) * pixels)
        target = tf.fill([len(known)], -1 if FLAGS.target is None else FLAGS.target)
        try:
            logits = np.asarray(explainer.logits(x))
            answer, error = explainer.answer(x, target)
        except tf.errors.OpError as failure:
            raise ModelError(
                f"{explainer.name}: it fails on images {pixels.shape} ({failure.message}); if "
                "memory ran out, try a smaller --batch_size."
            ) from failure
        maps = {name: np.asarray(m) for name, m in answer.items()}
        for i, about in enumerate(known):
            rows.append(about | _scores(explainer, logits[i], None if error is None else error[i]))
        arrays.add({"images": pixels, **maps})
        if len(rows) - len(known) < FLAGS.rows:
            parts.append({"images": pixels, "x": x.numpy(), **maps})
        clock.done(len(rows) + len(skipped))
    if not rows:
        reasons = "; ".join(s["reason"] for s in skipped[:3])
        raise DataError(
            f"--images: got {images.count} files, none of which can be used; expected JPEG and PNG "
            f"images: {reasons}"
        )
    names = [str(row.get("file", row.get("index"))) for row in rows]
    arrays.save(names=np.array(names), classes=np.array([row["class"] for row in rows]))
    shown = {k: np.concatenate([p[k] for p in parts])[: FLAGS.rows] for k in parts[0]}
    return Explained(rows, skipped, shown.pop("images"), shown.pop("x"), shown)


def _scores(explainer: Explainer, logits: np.ndarray, error: Any) -> dict[str, Any]:
    if not np.isfinite(logits).all():
        raise ModelError(
            f"{explainer.name}: got NaN or infinite logits; expected finite ones; check "
            "its weights."
        )
    found, meaning = tf.constant(logits[None], tf.float64), explainer.meaning
    target = targets.validated(FLAGS.target, allow_all=False)
    explained = int(targets.classes(target, found, meaning=meaning)[0])
    predicted, probability = explained, None  # a regression predicts no class
    if meaning != REGRESSION:
        predicted = int(class_scores.predicted(found, meaning)[0])
        probability = float(class_scores.probabilities(found, meaning)[0, explained])
    return {
        "class": explained,
        "class_name": explainer.class_name(explained),
        "score": float(class_scores.logit(found, tf.constant([explained]), meaning)[0]),
        "probability": probability,
        "predicted": predicted,
        "predicted_name": explainer.class_name(predicted),
        "completeness_error": None if error is None else float(error),
    }
