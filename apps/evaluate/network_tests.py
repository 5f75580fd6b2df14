"""Tests of networks, side by side: noise, density, pixels, energy."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags

from tfgrad import data, evaluation, saliency, targets
from tfgrad.errors import ArgumentError
from tfgrad.evaluation import Measurement
from tfgrad.evaluation.map_tests import pixel_perturbation
from tfgrad.evaluation.network_tests import density_ratios, noise_robustness
from tfgrad.internal.arguments import number

from ..common import shared_flags
from .networks import Subject

FLAGS = flags.FLAGS
BY_BASELINE = "pixels_of_baseline"
# The papers' 15×15 corner of 32×32 pixels.
CORNER = 15 / 32


def define_flags():
    """What these tests take."""
    flags.DEFINE_list(
        "noise_sigmas", list(map(str, noise_robustness.SIGMAS)), "Noise levels of noise."
    )
    flags.DEFINE_integer("repeats", 3, "Draws per image of noise.", lower_bound=1)
    flags.DEFINE_list(
        "density_sigmas", [f"{s:.3g}" for s in density_ratios.SIGMAS], "Those of density."
    )
    flags.DEFINE_integer(
        "draws",
        None,
        "Draws per image of density, default: 1; of --methods: of weights in randomisation and of "
        "signs in bias_sensitivity, averaged, default: 1 and 5.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "target", "label", "Class of density and energy: label, predicted, a number."
    )
    flags.DEFINE_string("method", "input_gradient", f"Maps: {', '.join(saliency.METHODS)}.")
    flags.DEFINE_string("baseline", None, "Of --models: judged by everybody's maps too, in pixels.")
    flags.DEFINE_list(
        "corner", None, "HEIGHT,WIDTH of energy's region; default: 15/32 of each side."
    )
    flags.DEFINE_float("temperature", 1e3, "The high one of energy.", lower_bound=0)


# What is asked


def check(tests, names):
    """Refuse wrong flags before a test that reads them has begun.

    Args:
        tests: of `TESTS`.
        names: of the models.
    """
    if FLAGS.baseline is not None and FLAGS.baseline not in names:
        raise ArgumentError(
            f"--baseline: got {FLAGS.baseline!r}; expected one of {', '.join(names)}."
        )
    if FLAGS.baseline is not None and "pixels" not in tests:
        raise ArgumentError("--baseline: belongs to --tests=pixels.")
    saliency.get(FLAGS.method)
    targets.validated(shared_flags.target(), allow_all=False)
    numbers("noise_sigmas")
    numbers("density_sigmas")
    number("--temperature", FLAGS.temperature)


def numbers(name, highest=math.inf):
    """What a list flag holds: numbers from 0 up to the highest, at least one."""
    values = shared_flags.numbers(name, float)
    if not values or max(values) > highest:
        bound = "up" if highest == math.inf else f"to {highest}"
        raise ArgumentError(
            f"--{name}: got {','.join(getattr(FLAGS, name)) or 'none'}; expected one or more "
            f"numbers from 0 {bound}."
        )
    return values


def check_images(tests, images):
    """Refuse a region or a class that these images do not have."""
    if "energy" in tests:
        _corner(images)
    target, classes = shared_flags.target(), len(images.classes)
    if isinstance(target, int) and target >= classes:
        raise ArgumentError(
            f"--target: got class {target}; {images.name!r} has {classes}, so expected 0 to "
            f"{classes - 1}."
        )


def rehearse(tests, subject, images):
    """See on one batch whether noise is large enough for its pixels, and whether maps exist."""
    x, y = next(iter(subject.batches(images).batches))
    if "density" in tests:
        density_ratios.check_moves(min(numbers("density_sigmas")), x)
    if "pixels" in tests:
        subject.maps(x[:1], y[:1])


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
    asked = FLAGS.corner and shared_flags.numbers("corner", int)
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
    levels = numbers("noise_sigmas")
    found = evaluation.noise_robustness(
        subject.network, subject.batches(images), levels, FLAGS.repeats, FLAGS.seed
    )
    yield "noise", subject.name, found


def _density(subject: Subject, images: data.Dataset, baseline: Subject | None) -> Found:
    found = evaluation.density_ratios(
        subject.network,
        subject.batches(images),
        numbers("density_sigmas"),
        target=shared_flags.target(),
        draws=FLAGS.draws or 1,
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
            numbers("fractions", highest=1),
            remove=FLAGS.remove,
            fill=pixel_perturbation.IMAGE_MEAN if FLAGS.fill is None else FLAGS.fill,
            score=FLAGS.score or "accuracy",
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
            target=shared_flags.target(),
            **options,
        )
        yield "energy", f"{subject.name}, {what}", found


TESTS: dict[str, Callable[[Subject, data.Dataset, Subject | None], Found]] = {
    "noise": _noise,
    "density": _density,
    "pixels": _pixels,
    "energy": _energy,
}
DEFAULT = tuple(TESTS)


# The result


def run(tests, subjects, images):
    """{table: {row: measurement}} of all that is asked."""
    found: dict[str, dict[str, Measurement]] = {}
    baseline = _baseline(subjects)
    asked = [(test, subject) for test in tests for subject in subjects.values()]
    for i, (test, subject) in enumerate(asked):
        print(f"{i + 1} of {len(asked)}: {test} of {subject.name}", flush=True)
        for table, row, measured in TESTS[test](subject, images, baseline):
            found.setdefault(table, {})[row] = measured
    return found


def title(test, rows):
    """Of a table: the test's name, and whose predictions are judged where those are one model's."""
    name = next(iter(rows.values())).name
    return f"{name} by other maps, of {FLAGS.baseline}" if test == BY_BASELINE else name
