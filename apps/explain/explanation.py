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
# Number of likeliest classes that are recorded.
LIKELIEST = 5


@dataclasses.dataclass(frozen=True)
class Explained:
    """Explained images.

    Attributes:
        images: Number of images.
        rows: What is known of each image and explained class, with its scores.
        skipped: Files that could not be read, and why.
        pixels: The images of the first rows [shown, H, W, C] in [0, 1]: of --rows images.
        x: The same as the model takes them.
        maps: {method: their maps [rows, H, W]}.
    """

    images: int
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
    top, most = FLAGS.top_maps, FLAGS.rows * FLAGS.top_maps
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    parts: list[dict[str, np.ndarray]] = []
    clock: Progress | None = None
    for known, pixels in images.batches(FLAGS.batch_size, skipped):
        low, high = explainer.image_range
        x = tf.constant(low + (high - low) * pixels)
        try:
            logits = np.asarray(explainer.logits(x))
            target = _explained_classes(explainer, logits)
            if top > 1:
                known = [about for about in known for _ in range(top)]
                pixels, logits = np.repeat(pixels, top, 0), np.repeat(logits, top, 0)
                x = tf.repeat(x, top, 0)
            answer, error = explainer.answer(x, target)
        except tf.errors.OpError as failure:
            raise ModelError(
                f"{explainer.name}: it fails on images {pixels.shape} ({failure.message}); if "
                "memory ran out, try a smaller --batch_size."
            ) from failure
        maps = {name: np.asarray(m) for name, m in answer.items()}
        for i, about in enumerate(known):
            found = _scores(explainer, logits[i], int(target[i]))
            found["zero_maps"] = [name for name, m in maps.items() if not m[i].any()]
            found["completeness_error"] = None if error is None else float(error[i])
            rows.append(about | found)
        arrays.add({"images": pixels, **maps})
        if len(rows) - len(known) < most:
            parts.append({"images": pixels, "x": x.numpy(), **maps})
        done = len(rows) // top + len(skipped)
        if clock is None:  # the first batch, which traces each method, tells no speed
            clock = Progress(images.count, start=done)
        clock.done(done)
    if not rows:
        reasons = "; ".join(s["reason"] for s in skipped[:3])
        raise DataError(
            f"--images: got {images.count} files, none of which can be used; expected JPEG and PNG "
            f"images: {reasons}"
        )
    names = [str(row.get("file", row.get("index"))) for row in rows]
    arrays.save(names=np.array(names), classes=np.array([row["class"] for row in rows]))
    shown = {k: np.concatenate([p[k] for p in parts])[:most] for k in parts[0]}
    return Explained(len(rows) // top, rows, skipped, shown.pop("images"), shown.pop("x"), shown)


def _explained_classes(explainer: Explainer, logits: np.ndarray) -> tf.Tensor:
    """Classes [B·top]: of each image --target, or its --top_maps likeliest ones; −1: the predicted.

    A model that has no more to tell than one output explains that.
    """
    if FLAGS.top_maps > 1:
        likeliest = np.argsort(-_probabilities(explainer, logits), -1)[:, : FLAGS.top_maps]
        return tf.constant(likeliest.ravel(), tf.int32)
    return tf.fill([len(logits)], -1 if FLAGS.target is None else FLAGS.target)


def _probabilities(explainer: Explainer, logits: np.ndarray) -> np.ndarray:
    found = tf.constant(logits, tf.float64)
    return np.asarray(class_scores.probabilities(found, explainer.meaning))


def _scores(explainer: Explainer, logits: np.ndarray, target: int) -> dict[str, Any]:
    if not np.isfinite(logits).all():
        raise ModelError(
            f"{explainer.name}: got NaN or infinite logits; expected finite ones; check "
            "its weights."
        )
    found, meaning = tf.constant(logits[None], tf.float64), explainer.meaning
    chosen = targets.validated(None if target < 0 else target, allow_all=False)
    explained = int(targets.classes(chosen, found, meaning=meaning)[0])
    predicted, probability, likeliest = explained, None, []  # a regression predicts no class
    if meaning != REGRESSION:
        predicted = int(class_scores.predicted(found, meaning)[0])
        probabilities = _probabilities(explainer, logits[None])[0]
        probability = float(probabilities[explained])
        likeliest = [
            {
                "class": int(k),
                "class_name": explainer.class_name(int(k)),
                "probability": float(probabilities[k]),
            }
            for k in np.argsort(-probabilities, kind="stable")[:LIKELIEST]
        ]
    return {
        "class": explained,
        "class_name": explainer.class_name(explained),
        "score": float(class_scores.logit(found, tf.constant([explained]), meaning)[0]),
        "probability": probability,
        "predicted": predicted,
        "predicted_name": explainer.class_name(predicted),
        "likeliest": likeliest,
    }
