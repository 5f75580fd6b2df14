"""Fool a trained network's gradients, and measure what was fooled (thesis §5.7, Fig. 5.5).

    python -m apps.fool --model=runs/cifar --dataset=cifar10 --corner=15 --epochs=20 \\
        --work_dir=runs/fooled
    python -m apps.fool --model=my_model.keras --construction=shift --mask=smile.png
    python -m apps.fool --model=runs/cifar --dataset=cifar10 --construction=per_class --epsilon=0.1

The model is a .keras file of a network that returns logits, or a work directory of apps.train. The
images are normalised as the model's were if a results.json beside it tells, else as --normalize
says. The region is a square in the top left corner, of --corner pixels a side (default: 15/32 of
the image, as in the papers), or what is brighter than half in the picture --mask, a JPEG or PNG
file that is resized to the images.

--construction is one of
  fine_tune   trains on with the cross-entropy and --weight times Eq. 5.7, which pulls the logit-
              gradients of --target into the region. All flags of training belong to it
  shift       adds scale · Σ pixels of the region to every logit: exact, no training. Predictions
              and losses stay, logit-gradients show the region
  per_class   adds ½ε sin(±frequency · Σ pixels of the region), + and − in turn, to the logits: no
              loss moves by more than ε, and loss-gradients of unlikely classes show the region

Before and after, on the test images: accuracy, and the share of the unsigned gradient's energy
inside the region, of the label's logit, of its loss, and of its loss at temperature 1000. The
region's area is what chance gives.

The work directory receives run.json (flags, versions) and at the end network.keras (for
apps.explain), fooled.md (the table), fooled.png (--rows images, the region, gradients before and
after) and results.json; with fine_tune also what apps.train writes. The same command run again
after a kill goes on from the last finished epoch.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite.
"""

from .common import command, shared_flags

# isort: split
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad import data, evaluation, figures, fooling, images, penalties, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal import files

from .common import compilation, teacher_flags, training_run, work_directory
from .common.trained_networks import Learned, file_digest

FLAGS = flags.FLAGS
CONSTRUCTIONS = ("fine_tune", "shift", "per_class")
# What is differentiated, and at which temperature of the softmax (Fig. 5.5 b, c, d).
GRADIENTS: dict[str, dict[str, Any]] = {
    "logit": {"of": "logit"},
    "loss": {"of": "loss"},
    "loss, T = 1000": {"of": "loss", "temperature": 1e3},
}
PAPERS_CORNER = 15 / 32
BEFORE, AFTER = "before", "after"


def define_flags():
    """All flags of this app."""
    flags.DEFINE_string("model", None, "A .keras file, or a work directory of apps.train.")
    flags.DEFINE_enum("construction", "fine_tune", CONSTRUCTIONS, "How to fool it.")
    flags.DEFINE_integer("corner", None, "Side of the region in the corner.", lower_bound=1)
    flags.DEFINE_string("mask", None, "Or: a JPEG or PNG file whose bright part is the region.")
    flags.DEFINE_float(
        "weight",
        None,
        "Of fine_tune: weight of Eq. 5.7; default: the region's pixels.",
        lower_bound=0,
    )
    flags.DEFINE_string("target", "label", "Of fine_tune: whose logit, label or predicted.")
    flags.DEFINE_float("scale", 30.0, "Of shift: the gradient that every pixel of the region gets.")
    flags.DEFINE_float("epsilon", 0.1, "Of per_class: what a loss may move by.", lower_bound=0)
    flags.DEFINE_float(
        "frequency", 100.0, "Of per_class: radians that a pixel turns the sine by.", lower_bound=0
    )
    flags.DEFINE_integer("rows", 6, "At most so many images in the picture.", lower_bound=1)
    shared_flags.define_data()
    training_run.define_flags("runs/fooled")
    flags.adopt_module_key_flags(training_run)


def main():
    """Load, look, fool, look again, report."""
    if not FLAGS.model:
        raise ArgumentError("--model: not given; name a .keras file or a work directory.")
    if FLAGS.corner and FLAGS.mask:
        raise ArgumentError("--corner, --mask: give one of the two.")
    run = training_run.begin({"model_digest": file_digest(FLAGS.model)})
    if run.results is not None:
        return run.results
    train, test = shared_flags.load_splits()
    train = shared_flags.chosen_from(train)
    network, learned = _load(run, train)
    run = dataclasses.replace(run, statistics=teacher_flags.statistics(learned, train))
    mask = _region(train.image_shape)
    looks = {BEFORE: Look.at(run, network, test, mask)}
    print(f"{learned}\n{_table(looks)}", flush=True)
    if FLAGS.construction == "fine_tune":
        model, history = _fine_tuned(run, network, train, test, mask)
        looks[AFTER] = Look.at(run, network, test, mask)
        more = _record(run, learned, looks, test, mask)
        return training_run.report(run, model, network, history, test, FLAGS.construction, **more)
    network = _built(network, mask)
    looks[AFTER] = Look.at(run, network, test, mask)
    return _save(run, network, test, _record(run, learned, looks, test, mask))


@dataclasses.dataclass(frozen=True)
class Look:
    """A network seen from outside.

    Attributes:
        accuracy: on the test images.
        shares: the gradient energy inside the region, for each of `GRADIENTS`.
        maps: of the images in the picture, [rows, height, width] for each of `GRADIENTS`.
    """

    accuracy: evaluation.Measurement
    shares: dict[str, evaluation.Measurement]
    maps: dict[str, np.ndarray]

    @classmethod
    def at(cls, run, network, test, mask):
        """Look at a network now."""
        batches = training_run.images(run, test)
        x, y = next(iter(training_run.images(run, _shown(test))))
        shares, maps = {}, {}
        for name, options in GRADIENTS.items():
            shares[name] = evaluation.energy_share(network, batches, mask, **options)
            method = saliency.InputGradient(network, **options)
            maps[name] = np.asarray(method(x, tf.cast(y, tf.int32)))
        return cls(evaluation.noise_robustness(network, batches, [0.0]), shares, maps)

    @property
    def chance(self):
        """The region's share of the image."""
        return next(iter(self.shares.values())).columns["chance"][0]

    def to_json(self):
        """The numbers, as JSON can hold them."""
        shares = {name: share.to_json() for name, share in self.shares.items()}
        return {"accuracy": self.accuracy.value, "shares": shares}


# The network and the region


def _load(run, train):
    """The network, and what is known of it."""
    with run.strategy.scope():
        learned = Learned(FLAGS.model)
    network = learned.network
    if isinstance(network, tfgrad.PenalizedModel):
        network = network.network
    shapes = network.input_shape, network.output_shape
    expected = (None, *train.image_shape), (None, len(train.classes))
    plain = all(isinstance(shape, tuple) for shape in shapes)
    pairs = zip(shapes, expected, strict=True)
    if not plain or not all(tf.TensorShape(s).is_compatible_with(e) for s, e in pairs):
        raise ModelError(
            f"--model: takes {shapes[0]} and returns {shapes[1]}; {train.name!r} has images and "
            f"classes {expected[0]} and {expected[1]}. Try --image_size, or the --dataset it was "
            "trained on."
        )
    return network, learned


def _region(image_shape):
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
            "some, and not all."
        )
    return mask


# The constructions


def _fine_tuned(run, network, train, test, mask):
    """(the trained PenalizedModel, its history); the network is changed."""
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


def _built(network, mask):
    """The exact construction around the network."""
    if FLAGS.construction == "shift":
        return fooling.shared_shift(network, fooling.Picture(mask, FLAGS.scale))
    signs = np.where(np.arange(network.output_shape[-1]) % 2, -1.0, 1.0)
    waves = fooling.Picture(mask, FLAGS.frequency * signs)
    return fooling.per_class_shift(network, waves, FLAGS.epsilon)


# The report


def _shown(test):
    """One image of each class, at most --rows."""
    chosen = np.unique(test.labels, return_index=True)[1][: FLAGS.rows]
    return dataclasses.replace(test, images=test.images[chosen], labels=test.labels[chosen])


def _record(run, learned, looks, test, mask):
    """Write the table and the picture; return what results.json says of the fooling."""
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
    print(f"\naccuracy and share of gradient energy inside the region (%)\n{table}", flush=True)
    return {
        "source": {"path": learned.path, "accuracy": learned.accuracy},
        "construction": FLAGS.construction,
        "chance": looks[BEFORE].chance,
        **{when: look.to_json() for when, look in looks.items()},
    }


def _table(looks):
    """A row before, a row after, and one of chance, in %."""
    lines = [f"| | accuracy | {' | '.join(GRADIENTS)} |", "|---" * (len(GRADIENTS) + 2) + "|"]
    for when, look in looks.items():
        numbers = [look.accuracy.value, *(share.value for share in look.shares.values())]
        lines.append(f"| {when} | " + " | ".join(f"{100 * n:.2f}" for n in numbers) + " |")
    chance = f" | {100 * looks[BEFORE].chance:.2f}" * len(GRADIENTS)
    return "\n".join([*lines, f"| chance | {chance} |"])


def _save(run, network, test, record):
    """Write the network and, last, results.json."""
    with files.replaced(run.path("network.keras"), ".keras") as unfinished:
        network.save(unfinished)
    results = {
        "label": FLAGS.construction,
        "test": {"val_accuracy": record[AFTER]["accuracy"]},
        "classes": list(test.classes),
        "input_shape": list(test.image_shape),
        "normalize": None if run.statistics is None else [s.tolist() for s in run.statistics],
        **record,
        "versions": work_directory.versions(),
    }
    files.write_json(run.path("results.json"), results)
    print(f"\nwritten to {run.directory}")
    return results


if __name__ == "__main__":
    define_flags()
    command.run(main)
