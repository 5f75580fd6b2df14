"""Put trained networks to tests side by side: a table a test, curves, and every number.

    python -m apps.evaluate --models=plain=runs/plain,score=runs/score --dataset=cifar10 \\
        --tests=noise,density,pixels,energy --out=runs/evaluated

A model is NAME=PATH: a finished run of apps.train, or a .keras file of a network that returns
logits. Images are normalised as each network's record says (--normalize where there is none), and
σ is in the units of these images.

Tests:
  noise    accuracy under Gaussian noise (thesis Table 2.2)
  density  E p(x+η|y) / p(x|y): does the implicit density prefer noise? (Fig. 5.1)
  pixels   accuracy without the least salient pixels, by each network's own maps; with --baseline
           also that of one network by everybody's maps (Fig. 5.3)
  energy   the share of logit-, loss- and high-temperature loss-gradients that falls into the upper
           left corner, which is where the papers fool gradients into (Fig. 5.5)

The directory --out appears when everything is done, and never half. It holds
  tables.md     a table for each test, value ± deviation
  TEST.png      a curve for each model; tests of a single number have none
  TEST.csv      a row for each model and point, with all columns
  results.json  all of it, with flags and versions
An earlier result there is replaced; a directory with anything else in it is not touched.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a logit that is not finite.
"""

from apps import entry, settings

# isort: split
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tfgrad
from apps import measured, outputs, runs
from apps.experiments import teachers
from tfgrad import data, evaluation, saliency, targets
from tfgrad.arguments import number
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.evaluation import Measurement, density, noise, pixels

FLAGS = flags.FLAGS
BY_BASELINE = "pixels_of_baseline"
# The papers' 15×15 corner of 32×32 pixels.
CORNER = 15 / 32
REFERENCES = {"density": (1.0, "noise as likely as images")}


def define_flags():
    """All flags of this app."""
    flags.DEFINE_list("models", [], "NAME=PATH,…: directories of runs, or .keras files.")
    settings.define_dataset()
    flags.DEFINE_string("split", "test", "Split or slice to test on.")
    flags.DEFINE_integer("count", None, "Only the first so many images of it.", lower_bound=1)
    flags.DEFINE_bool(
        "normalize", False, "Where no record tells: normalise by --train_split's statistics."
    )
    flags.DEFINE_string("train_split", "train", "Of --normalize.")
    flags.DEFINE_list("tests", list(TESTS), f"Of {', '.join(TESTS)}.")
    flags.DEFINE_list("noise_sigmas", list(map(str, noise.SIGMAS)), "Noise levels of noise.")
    flags.DEFINE_integer("repeats", 3, "Draws per image of noise.", lower_bound=1)
    flags.DEFINE_list("density_sigmas", [f"{s:.3g}" for s in density.SIGMAS], "Those of density.")
    flags.DEFINE_integer("draws", 1, "Draws per image of density.", lower_bound=1)
    flags.DEFINE_string(
        "target", "label", "Class of density and energy: label, predicted, a number."
    )
    flags.DEFINE_string("method", "input_gradient", f"Maps: {', '.join(saliency.METHODS)}.")
    flags.DEFINE_list("fractions", list(map(str, pixels.FRACTIONS)), "Shares of pixels to remove.")
    flags.DEFINE_enum("remove", "least", ("least", "most"), "Which pixels first.")
    flags.DEFINE_enum("score", "accuracy", list(pixels.SCORES), "What is left, for pixels.")
    flags.DEFINE_float("fill", None, "Value of removed pixels; default: each image's mean colour.")
    flags.DEFINE_string("baseline", None, "Of --models: judged by everybody's maps too, in pixels.")
    flags.DEFINE_list(
        "corner", None, "HEIGHT,WIDTH of energy's region; default: 15/32 of each side."
    )
    flags.DEFINE_float("temperature", 1e3, "The high one of energy.", lower_bound=0)
    flags.DEFINE_integer("batch_size", 256, "Images at a time: bounds memory.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the noise, the same for every model.")
    flags.DEFINE_string("out", "runs/evaluated", "Directory for the result.")


def main():
    """Load, test, tabulate, draw."""
    paths = _paths()
    _check_tests()
    _check_numbers()
    images = _images()
    _check_region_and_target(images)
    subjects = {name: _subject(name, path, images) for name, path in paths.items()}
    for subject in subjects.values():
        _rehearse(subject, images)
    files = {"tables.md", "results.json"}
    files |= {f"{test}.{suffix}" for test in (*TESTS, BY_BASELINE) for suffix in ("png", "csv")}
    with outputs.written_aside(FLAGS.out, files) as directory:
        print(f"{len(images)} images of {images.name!r}, {len(subjects)} model(s)", flush=True)
        tables = _tables(subjects, images)
        titled = {test: (_title(test, rows), rows) for test, rows in tables.items()}
        text = "\n\n".join(measured.text(*table) for table in titled.values())
        runs.write_text(os.path.join(directory, "tables.md"), text + "\n")
        for test, table in titled.items():
            path = os.path.join(directory, test)
            measured.write_rows(f"{path}.csv", table[1])
            measured.draw(f"{path}.png", *table, REFERENCES.get(test))
        record = {
            "flags": settings.resolved(),
            "versions": runs.versions(),
            "tests": {
                test: {name: found.to_json() for name, found in rows.items()}
                for test, rows in tables.items()
            },
        }
        runs.write_json(os.path.join(directory, "results.json"), record)
    print(f"\n{text}\n\nwritten to {FLAGS.out}")


# What is asked


def _paths():
    """{name: path} of --models."""
    pairs = [text.partition("=") for text in FLAGS.models]
    names = [name for name, _, _ in pairs]
    if not pairs or not all(name and path for name, _, path in pairs):
        raise ArgumentError(
            f"--models: got {','.join(FLAGS.models) or 'none'}; expected NAME=PATH,…, such as "
            "plain=runs/plain,score=runs/score."
        )
    if len(set(names)) < len(names):
        raise ArgumentError(f"--models: got the names {', '.join(names)}; expected different ones.")
    if FLAGS.baseline is not None and FLAGS.baseline not in names:
        raise ArgumentError(
            f"--baseline: got {FLAGS.baseline!r}; expected one of {', '.join(names)}."
        )
    return {name: path for name, _, path in pairs}


def _check_tests():
    """What is wrong with flags must not wait for the test that reads them."""
    for test in FLAGS.tests or [""]:
        if test not in TESTS:
            raise ArgumentError(f"--tests: got {test!r}; expected some of {', '.join(TESTS)}.")
    if FLAGS.baseline is not None and "pixels" not in FLAGS.tests:
        raise ArgumentError("--baseline: belongs to --tests=pixels.")
    saliency.get(FLAGS.method)
    targets.validated(settings.target(), allow_all=False)


def _check_numbers():
    _numbers("noise_sigmas")
    _numbers("density_sigmas")
    _numbers("fractions", highest=1)
    number("--temperature", FLAGS.temperature)
    if FLAGS.fill is not None and not math.isfinite(FLAGS.fill):
        raise ArgumentError(f"--fill: got {FLAGS.fill}; expected a finite number.")


def _check_region_and_target(images):
    if "energy" in FLAGS.tests:
        _corner(images)
    target, classes = settings.target(), len(images.classes)
    if isinstance(target, int) and target >= classes:
        raise ArgumentError(
            f"--target: got class {target}; {images.name!r} has {classes}, so expected 0 to "
            f"{classes - 1}."
        )


def _rehearse(subject, images):
    """See on one batch whether noise is large enough for its pixels, and whether maps exist."""
    x, y = next(iter(subject.batches(images).batches))
    if "density" in FLAGS.tests:
        density.check_moves(min(_numbers("density_sigmas")), x)
    if "pixels" in FLAGS.tests:
        subject.maps(x[:1], y[:1])


def _numbers(name, highest=math.inf):
    """What a list flag holds: numbers from 0 up to the highest, at least one."""
    values = settings.numbers(name, float)
    if not values or max(values) > highest:
        bound = "up" if highest == math.inf else f"to {highest}"
        raise ArgumentError(
            f"--{name}: got {','.join(getattr(FLAGS, name)) or 'none'}; expected one or more "
            f"numbers from 0 {bound}."
        )
    return values


def _images():
    """The images to test on: the first --count of --split."""
    whole = FLAGS.count is None or "[" in FLAGS.split
    images = _load(FLAGS.split if whole else f"{FLAGS.split}[:{FLAGS.count}]")
    return dataclasses.replace(
        images, images=images.images[: FLAGS.count], labels=images.labels[: FLAGS.count]
    )


def _load(split):
    size = settings.image_size()
    return data.load(FLAGS.dataset, split, FLAGS.data_dir, FLAGS.download, size)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network under test.

    Attributes:
        name: in tables.
        network: images to logits.
        statistics: (mean, std) of the channels its images are normalised by, or None.
    """

    name: str
    network: keras.Model
    statistics: Any

    @functools.cached_property
    def maps(self) -> Any:
        """What ranks pixels by this network: --method."""
        return saliency.get(FLAGS.method)(self.network)

    def batches(self, images: data.Dataset) -> Any:
        """Images as this network takes them, with labels."""
        stream = data.pipeline(images, FLAGS.batch_size, training=False, normalize=self.statistics)
        return _Watched(stream, len(images))


class _Watched:
    """A stream of batches that says how far it has been read, and how long the rest will take."""

    def __init__(self, batches: tf.data.Dataset, count: int):
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[Any]:
        clock, done = outputs.Progress(self.count), 0
        for batch in self.batches:
            yield batch
            done += len(batch[1])
            clock.done(done)


def _subject(name, path, images):
    learned = teachers.Learned(path)
    network = learned.network
    if isinstance(network, tfgrad.PenalizedModel):
        network = network.network
    given, expected = network.input_shape, (None, *images.image_shape)
    if not isinstance(given, tuple) or not tf.TensorShape(given).is_compatible_with(expected):
        raise ModelError(
            f"--models: {name!r} takes inputs {given}; the images of {images.name!r} are "
            f"{expected}. Try --image_size, or another --dataset."
        )
    if network.output_shape != (None, len(images.classes)):
        raise ModelError(
            f"--models: {name!r} returns {network.output_shape}; {images.name!r} has "
            f"{len(images.classes)} classes, so expected logits (None, {len(images.classes)})."
        )
    known = "normalize" in learned.record
    statistics = None
    if known or FLAGS.normalize:
        statistics = learned.statistics(images if known else _load(FLAGS.train_split))
    print(f"{name}: {learned}", flush=True)
    return Subject(name, network, statistics)


def _baseline(subjects):
    """The network of --baseline, which must take the images that every other one takes."""
    if FLAGS.baseline is None:
        return None
    baseline = subjects[FLAGS.baseline]
    for name, subject in subjects.items():
        if not np.array_equal(subject.statistics, baseline.statistics):
            raise ArgumentError(
                f"--baseline: {FLAGS.baseline!r} and {name!r} take differently normalised images; "
                "expected networks trained on the same ones."
            )
    return baseline


def _corner(images):
    """The region of energy, [height, width]."""
    height, width = images.image_shape[:2]
    asked = FLAGS.corner and settings.numbers("corner", int)
    asked = asked or (round(CORNER * height), round(CORNER * width))
    mask = np.zeros((height, width))
    if len(asked) == 2:
        mask[: asked[0], : asked[1]] = 1
    if not 0 < mask.mean() < 1:
        raise ArgumentError(
            f"--corner: got {','.join(map(str, asked))}; expected HEIGHT,WIDTH of a part of the "
            f"{height}×{width} images, e.g. {round(CORNER * height)},{round(CORNER * width)}."
        )
    return mask


# The tests: (table, row, measurement)

Found = Iterator[tuple[str, str, Measurement]]


def _noise(subject: Subject, images: data.Dataset, baseline: Subject | None) -> Found:
    levels = _numbers("noise_sigmas")
    found = evaluation.noise_robustness(
        subject.network, subject.batches(images), levels, FLAGS.repeats, FLAGS.seed
    )
    yield "noise", subject.name, found


def _density(subject: Subject, images: data.Dataset, baseline: Subject | None) -> Found:
    found = evaluation.density_ratios(
        subject.network,
        subject.batches(images),
        _numbers("density_sigmas"),
        target=settings.target(),
        draws=FLAGS.draws,
        seed=FLAGS.seed,
    )
    yield "density", subject.name, found


def _pixels(subject: Subject, images: data.Dataset, baseline: Subject | None) -> Found:
    judged = {"pixels": subject}
    if baseline is not None:
        judged[BY_BASELINE] = baseline
    for table, one in judged.items():
        found = evaluation.pixel_perturbation(
            one.network,
            one.batches(images),
            subject.maps,
            _numbers("fractions", highest=1),
            remove=FLAGS.remove,
            fill=pixels.IMAGE_MEAN if FLAGS.fill is None else FLAGS.fill,
            score=FLAGS.score,
            seed=FLAGS.seed,
        )
        yield table, subject.name, found


def _energy(subject: Subject, images: data.Dataset, baseline: Subject | None) -> Found:
    asked: dict[str, dict[str, Any]] = {
        "logit": {},
        "loss": {"of": "loss"},
        f"loss at T = {FLAGS.temperature:g}": {"of": "loss", "temperature": FLAGS.temperature},
    }
    mask = _corner(images)
    for what, options in asked.items():
        found = evaluation.energy_share(
            subject.network,
            subject.batches(images),
            mask,
            target=settings.target(),
            **options,
        )
        yield "energy", f"{subject.name}, {what}", found


TESTS: dict[str, Callable[[Subject, data.Dataset, Subject | None], Found]] = {
    "noise": _noise,
    "density": _density,
    "pixels": _pixels,
    "energy": _energy,
}


# The result


def _tables(subjects, images):
    """{table: {row: measurement}} of all that is asked."""
    tables: dict[str, dict[str, Measurement]] = {}
    baseline = _baseline(subjects)
    asked = [
        (test, subject) for test in dict.fromkeys(FLAGS.tests) for subject in subjects.values()
    ]
    for i, (test, subject) in enumerate(asked):
        print(f"{i + 1} of {len(asked)}: {test} of {subject.name}", flush=True)
        for table, row, found in TESTS[test](subject, images, baseline):
            tables.setdefault(table, {})[row] = found
    return tables


def _title(test, rows):
    """Of a table: the test's name, and whose predictions are judged where those are one model's."""
    name = next(iter(rows.values())).name
    return f"{name} by other maps, of {FLAGS.baseline}" if test == BY_BASELINE else name


if __name__ == "__main__":
    define_flags()
    entry.run(main)
