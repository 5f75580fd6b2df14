"""Fool a trained network's gradients, and measure the effect (thesis §5.7, Fig. 5.5).

    python -m apps.fool --model=runs/cifar --dataset=cifar10 --corner=15 --epochs=20 \\
        --work_dir=runs/fooled
    python -m apps.fool --model=my_model.keras --construction=shift --mask=smile.png
    python -m apps.fool --model=runs/cifar --dataset=cifar10 --construction=per_class --epsilon=0.1

The model is a .keras or .h5 file of a classifier, or a work directory of apps.train. The images
are normalised as the model's were if there is a results.json beside it, else as --normalize
says. The region is a square in the top left corner, of --corner pixels a side (default: 15/32 of
the image, as in the papers), or the pixels brighter than 0.5 in the picture --mask, a JPEG or PNG
file that is resized to the images.

--construction is one of
  fine_tune   continues training with the cross-entropy and --weight times Eq. 5.7, which
              concentrates the logit-gradients of --target in the region. All flags of training
              belong to it
  shift       adds scale · Σ pixels of the region to every logit: exact, no training. Predictions
              and losses do not change, logit-gradients show the region
  per_class   adds ½ε sin(±frequency · Σ pixels of the region), + and − in turn, to the logits: no
              loss changes by more than ε, and loss-gradients of unlikely classes show the region

Reports before and after, on the test images: accuracy, and the share of the unsigned gradient's
energy inside the region, of the label's logit, of its loss, and of its loss at temperature 1000.
The region's share of the image is the chance level.

The work directory receives run.json (flags, versions) and at the end network.keras (for
apps.explain), fooled.md (the table), fooled.png (--rows images, the region, gradients before and
after) and results.json; with fine_tune also what apps.train writes. An interrupted run resumes from
its last finished epoch when the same command is run again.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite, 73 a directory
that another process uses, 74 a full disk, 75 a lost worker.
"""

from .common import command, invocation, shared_flags

# isort: split
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad import data, evaluation, figures, fooling, images, penalties, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal import files

from .common import (
    compilation,
    run_report,
    teacher_flags,
    terminal,
    training_run,
    work_directory,
)
from .common.trained_networks import Learned, file_digest, image_size
from .common.training_run import Run

FLAGS = flags.FLAGS
CONSTRUCTIONS = ("fine_tune", "shift", "per_class")
# What is differentiated, and the temperature of the softmax (Fig. 5.5 b, c, d).
GRADIENTS: dict[str, dict[str, Any]] = {
    "logit": {"of": "logit"},
    "loss": {"of": "loss"},
    "loss, T = 1000": {"of": "loss", "temperature": 1e3},
}
PAPERS_CORNER = 15 / 32
BEFORE, AFTER = "before", "after"


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_string(
        "model", None, f"A .keras file, or a work directory of {invocation.named('train')}."
    )
    flags.DEFINE_enum("construction", "fine_tune", CONSTRUCTIONS, "How gradients are fooled.")
    flags.DEFINE_integer("corner", None, "Side of the region in the corner, in pixels.", 1)
    flags.DEFINE_string(
        "mask", None, "JPEG or PNG file whose bright part is the region, instead of --corner."
    )
    flags.DEFINE_float(
        "weight",
        None,
        "Weight of Eq. 5.7 in fine_tune; default: the number of pixels in the region.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "target", "label", "Class whose logit-gradients fine_tune moves: label or predicted."
    )
    flags.DEFINE_float("scale", 30.0, "Gradient that shift adds to every pixel of the region.")
    flags.DEFINE_float("epsilon", 0.1, "Largest change of a loss by per_class.", lower_bound=0)
    flags.DEFINE_float(
        "frequency", 100.0, "Radians of per_class's sine per unit of a pixel.", lower_bound=0
    )
    flags.DEFINE_integer("rows", 6, "Largest number of images in the picture.", lower_bound=1)
    shared_flags.define_data()
    training_run.define_flags("runs/fooled")
    flags.adopt_module_key_flags(training_run)


def main() -> dict[str, Any]:
    """Load, measure, fool, measure again and report."""
    if not FLAGS.model:
        raise ArgumentError("--model: got none; expected a .keras file or a work directory.")
    if FLAGS.corner and FLAGS.mask:
        raise ArgumentError("--corner, --mask: got both; expected one of the two.")
    run = training_run.begin({"model_digest": file_digest(FLAGS.model)}, _check_flags)
    if run.results is not None:
        return run.results
    train, test = shared_flags.load_splits(lambda: image_size(FLAGS.model))
    train = shared_flags.chosen_from(train)
    learned = _load(run, train)
    network = learned.network
    run = dataclasses.replace(run, statistics=teacher_flags.statistics(learned, train))
    mask = _region(train.image_shape)
    looks = {BEFORE: Look.at(run, network, test, mask)}
    terminal.show(f"{learned}\n{_table(looks)}")
    if FLAGS.construction == "fine_tune":
        model, history = _fine_tuned(run, network, train, test, mask)
        looks[AFTER] = Look.at(run, network, test, mask)
        more = _record(run, learned, looks, test, mask)
        return run_report.write(run, model, network, history, test, FLAGS.construction, **more)
    network = _built(network, mask)
    looks[AFTER] = Look.at(run, network, test, mask)
    return _save(run, network, test, _record(run, learned, looks, test, mask))


def _check_flags() -> None:
    """Check what --target and --mask are, before anything is written."""
    penalties.SaliencyFooling(1.0, penalties.fooling.corner(2, 2, 1), shared_flags.target())
    if FLAGS.mask:
        images.read(FLAGS.mask, channels=1)


@dataclasses.dataclass(frozen=True)
class Look:
    """What is measured of a network before and after it is fooled.

    Attributes:
        accuracy: Accuracy on the test images.
        shares: Shares of the gradient energy inside the region, for each of `GRADIENTS`.
        maps: Maps of the images in the picture, [rows, height, width], for each of `GRADIENTS`.
    """

    accuracy: evaluation.Measurement
    shares: dict[str, evaluation.Measurement]
    maps: dict[str, np.ndarray]

    @classmethod
    def at(cls, run: Run, network: keras.Model, test: data.Dataset, mask: np.ndarray) -> Self:
        """Measure a network now."""
        batches = run.images(test)
        x, y = next(iter(run.images(_shown(test))))
        shares, maps = {}, {}
        for name, options in GRADIENTS.items():
            shares[name] = evaluation.energy_share(network, batches, mask, **options)
            method = saliency.InputGradient(network, **options)
            maps[name] = np.asarray(method(x, tf.cast(y, tf.int32)))
        return cls(evaluation.noise_robustness(network, batches, [0.0]), shares, maps)

    @property
    def chance(self) -> float:
        """The region's share of the image."""
        return next(iter(self.shares.values())).columns["chance"][0]

    def to_json(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        shares = {name: share.to_json() for name, share in self.shares.items()}
        return {"accuracy": self.accuracy.value, "shares": shares}


# The network and the region


def _load(run: Run, train: data.Dataset) -> Learned:
    """The trained network, once it is known to classify the images."""
    with run.strategy.scope():
        learned = Learned(FLAGS.model)
    shapes = learned.network.input_shape, learned.network.output_shape
    expected = (None, *train.image_shape), (None, len(train.classes))
    plain = all(isinstance(shape, tuple) for shape in shapes)
    pairs = zip(shapes, expected, strict=True)
    if not plain or not all(tf.TensorShape(s).is_compatible_with(e) for s, e in pairs):
        raise ModelError(
            f"--model: got one that takes {shapes[0]} and returns {shapes[1]}; expected "
            f"{expected[0]} and {expected[1]}, the images and classes of {train.name!r}; try "
            "--image_size, or the --dataset that the model was trained on."
        )
    return learned


def _region(image_shape: Sequence[int]) -> np.ndarray:
    """1 inside the region and 0 outside, [height, width]."""
    height, width = image_shape[:2]
    if FLAGS.mask:
        bright = images.read(FLAGS.mask, (height, width), channels=1).numpy()[..., 0]
        mask = (bright > 0.5).astype(np.float64)
        flag, what = "--mask", FLAGS.mask
    else:
        side = FLAGS.corner or max(1, round(PAPERS_CORNER * min(height, width)))
        mask = penalties.fooling.corner(height, width, min(side, height, width))
        flag, what = "--corner", str(side)
    if not 0 < mask.mean() < 1:
        raise ArgumentError(
            f"{flag}: got {what}, a region of {mask.sum():.0f} pixels among {mask.size}; expected "
            "some of the pixels, and not all."
        )
    return mask


# The constructions


def _fine_tuned(
    run: Run, network: keras.Model, train: data.Dataset, test: data.Dataset, mask: np.ndarray
) -> tuple[tfgrad.PenalizedModel, list[dict[str, Any]]]:
    """(the trained PenalizedModel, its history); the network's weights are changed."""
    weight = float(mask.sum()) if FLAGS.weight is None else FLAGS.weight
    with run.strategy.scope():
        model = compilation.compiled_model(
            training_run.regularised(network),
            [penalties.SaliencyFooling(weight, mask, shared_flags.target())],
            training_run.optimizer(run, train),
            jit_compile=FLAGS.jit_compile,
        )
    training_run.introduce(run, model, train, test)
    return model, training_run.fit(run, model, train, test)


def _built(network: keras.Model, mask: np.ndarray) -> keras.Model:
    """The exact construction around the network."""
    if FLAGS.construction == "shift":
        return fooling.shared_shift(network, fooling.Picture(mask, FLAGS.scale))
    signs = np.where(np.arange(network.output_shape[-1]) % 2, -1.0, 1.0)
    waves = fooling.Picture(mask, FLAGS.frequency * signs)
    return fooling.per_class_shift(network, waves, FLAGS.epsilon)


# The report


def _shown(test: data.Dataset) -> data.Dataset:
    """One image of each class, at most --rows."""
    chosen = np.unique(test.labels, return_index=True)[1][: FLAGS.rows]
    return dataclasses.replace(test, images=test.images[chosen], labels=test.labels[chosen])


def _record(
    run: Run,
    learned: Learned,
    looks: Mapping[str, Look],
    test: data.Dataset,
    mask: np.ndarray,
) -> dict[str, Any]:
    """Write the table and the picture; return what results.json holds of them."""
    table = _table(looks)
    files.write_text(run.path("fooled.md"), table + "\n")
    shown = _shown(test)
    pixels, _ = next(iter(data.pipeline(shown, len(shown), training=False)))
    maps = {"region": np.broadcast_to(mask, (len(shown), *mask.shape))}
    for name in GRADIENTS:
        maps |= {f"{name}, {when}": look.maps[name] for when, look in looks.items()}
    figures.saliency_grid(
        run.path("fooled.png"),
        pixels,
        maps,
        labels=[test.classes[label] for label in shown.labels],
        title=f"{FLAGS.construction}: gradients before and after",
    )
    terminal.show(f"\naccuracy and share of gradient energy inside the region (%)\n{table}")
    return {
        "source": {"path": learned.path, "accuracy": learned.accuracy},
        "construction": FLAGS.construction,
        "chance": looks[BEFORE].chance,
        **{when: look.to_json() for when, look in looks.items()},
    }


def _table(looks: Mapping[str, Look]) -> str:
    """Rows of the network before and after, and of chance, in %."""
    lines = [f"| | accuracy | {' | '.join(GRADIENTS)} |", "|---" * (len(GRADIENTS) + 2) + "|"]
    for when, look in looks.items():
        numbers = [look.accuracy.value, *(share.value for share in look.shares.values())]
        lines.append(f"| {when} | " + " | ".join(f"{100 * n:.2f}" for n in numbers) + " |")
    chance = f" | {100 * looks[BEFORE].chance:.2f}" * len(GRADIENTS)
    return "\n".join([*lines, f"| chance | {chance} |"])


def _save(
    run: Run, network: keras.Model, test: data.Dataset, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the network and, last, results.json."""
    files.write_model(run.path("network.keras"), network)
    results = {
        "label": FLAGS.construction,
        "test": {"val_accuracy": record[AFTER]["accuracy"]},
        **run_report.images_record(run, test),
        **record,
        "versions": work_directory.versions(),
    }
    files.write_json(run.path("results.json"), results)
    print(f"\nwritten to {run.directory}")
    return results


if __name__ == "__main__":
    define_flags()
    command.run(main)
