"""Tests of networks, a row for each network: noise, adversarial, density, pixels, energy."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from tfgrad import data, evaluation, saliency
from tfgrad.errors import ArgumentError
from tfgrad.evaluation import Measurement
from tfgrad.evaluation.network_tests import density_ratios
from tfgrad.gradients import targets
from tfgrad.internal.arguments import number

from ..common import robustness, shared_flags
from . import removal_flags
from .networks import NetworkUnderTest
from .report import Report, Rows
from .suite import Networks, Suite

FLAGS = flags.FLAGS
BY_BASELINE = "pixels_of_baseline"
REFERENCES = {"density": (1.0, "noise as likely as images")}
# The papers' 15×15 corner of 32×32 pixels.
CORNER = 15 / 32


def define_flags() -> None:
    """Define the flags of these tests."""
    robustness.define_flags()
    flags.adopt_module_key_flags(robustness)  # for --help
    flags.DEFINE_list(
        "density_sigmas",
        [f"{s:.3g}" for s in density_ratios.SIGMAS],
        "Standard deviations of the noise in the density test.",
    )
    flags.DEFINE_integer(
        "draws",
        None,
        "Noise samples per image in the density test, default: 1; with --methods, samples to "
        "average over, of weights in randomisation (default: 1) and of signs in bias_sensitivity "
        "(default: 5).",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "target", "label", "Class of density and energy: label, predicted, or a class's number."
    )
    flags.DEFINE_string(
        "method",
        "input_gradient",
        f"Saliency method that ranks pixels: {', '.join(saliency.METHODS)}.",
    )
    flags.DEFINE_string(
        "baseline",
        None,
        "Network among --models that the pixels test also evaluates by the maps of all others.",
    )
    flags.DEFINE_list(
        "corner", None, "HEIGHT,WIDTH of the energy test's region; default: 15/32 of each side."
    )
    flags.DEFINE_float(
        "temperature",
        1e3,
        "Softmax temperature of the energy test's high-temperature loss.",
        lower_bound=0,
    )


# What is checked before a test begins


def check(tests: Sequence[str], names: Collection[str]) -> None:
    """Check the flags before a test that reads them has begun.

    Args:
        tests: Names among `TESTS`.
        names: Names of the networks.
    """
    if FLAGS.baseline is not None and FLAGS.baseline not in names:
        raise ArgumentError(
            f"--baseline: got {FLAGS.baseline!r}; expected one of {', '.join(names)}."
        )
    if FLAGS.baseline is not None and "pixels" not in tests:
        raise ArgumentError(
            f"--baseline: got {FLAGS.baseline!r} without the pixels test; expected it among "
            "--tests; try --tests=pixels."
        )
    saliency.get(FLAGS.method)
    targets.validated(shared_flags.target(), allow_all=False)
    robustness.check()
    _sigmas("density_sigmas")
    number("--temperature", FLAGS.temperature)


def check_images(tests: Sequence[str], images: data.Dataset) -> None:
    """Check that the images have the region and the class that flags name."""
    if "energy" in tests:
        _corner(images)
    target, classes = shared_flags.target(), len(images.classes)
    if isinstance(target, int) and target >= classes:
        raise ArgumentError(
            f"--target: got class {target}; expected 0 to {classes - 1}, the classes of "
            f"{images.name!r}."
        )


def rehearse(tests: Sequence[str], networks: Networks, images: data.Dataset) -> None:
    """Check on a first batch that noise changes the pixels, and that maps can be computed."""
    for tested in networks.values():
        x, y = next(iter(tested.batches(images).batches))
        if "density" in tests:
            density_ratios.check_moves(min(_sigmas("density_sigmas")), x)
        if "pixels" in tests:
            tested.maps(x[:1], y[:1])


def _sigmas(name: str) -> list[float]:
    return shared_flags.numbers(name, float, empty=False)


def _baseline(networks: Networks) -> NetworkUnderTest | None:
    """The network of --baseline, whose images must be normalised as those of all others."""
    if FLAGS.baseline is None:
        return None
    baseline = networks[FLAGS.baseline]
    for name, tested in networks.items():
        if not np.array_equal(tested.statistics, baseline.statistics):
            raise ArgumentError(
                f"--baseline: got {FLAGS.baseline!r}, whose images are normalised differently from "
                f"those of {name!r}; expected networks trained on the same images."
            )
    return baseline


def _corner(images: data.Dataset) -> np.ndarray:
    """The region of energy, [height, width]."""
    height, width = images.image_shape[:2]
    asked = FLAGS.corner and shared_flags.numbers("corner", int)
    asked = asked or [round(CORNER * height), round(CORNER * width)]
    mask = np.zeros((height, width))
    if len(asked) == 2:
        mask[: asked[0], : asked[1]] = 1
    if not 0 < mask.mean() < 1:
        raise ArgumentError(
            f"--corner: got {','.join(map(str, asked))}; expected HEIGHT,WIDTH of a part of the "
            f"{height}×{width} images; try {round(CORNER * height)},{round(CORNER * width)}."
        )
    return mask


# The tests: each yields (table, row, measurement)

Tested = NetworkUnderTest
Found = Iterator[tuple[str, str, Measurement]]


def _noise(tested: Tested, images: data.Dataset, baseline: Tested | None) -> Found:
    yield "noise", tested.name, robustness.under_noise(tested, images)


def _adversarial(tested: Tested, images: data.Dataset, baseline: Tested | None) -> Found:
    for attack, found in robustness.under_attack(tested, images).items():
        yield "adversarial", f"{tested.name}, {attack}", found


def _density(tested: Tested, images: data.Dataset, baseline: Tested | None) -> Found:
    found = evaluation.density_ratios(
        tested.network,
        tested.batches(images),
        _sigmas("density_sigmas"),
        target=shared_flags.target(),
        draws=FLAGS.draws or 1,
        seed=FLAGS.seed,
    )
    yield "density", tested.name, found


def _pixels(tested: Tested, images: data.Dataset, baseline: Tested | None) -> Found:
    evaluated = {"pixels": tested}
    if baseline is not None:
        evaluated[BY_BASELINE] = baseline
    for table, one in evaluated.items():
        found = evaluation.pixel_perturbation(
            one.network,
            one.batches(images),
            tested.maps,
            removal_flags.fractions(),
            remove=FLAGS.remove,
            fill=removal_flags.fill(),
            score=FLAGS.score or "accuracy",
            seed=FLAGS.seed,
        )
        yield table, tested.name, found


def _energy(tested: Tested, images: data.Dataset, baseline: Tested | None) -> Found:
    asked: dict[str, dict[str, Any]] = {
        "logit": {},
        "loss": {"of": "loss"},
        f"loss at T = {FLAGS.temperature:g}": {"of": "loss", "temperature": FLAGS.temperature},
    }
    mask = _corner(images)
    for what, options in asked.items():
        found = evaluation.energy_share(
            tested.network,
            tested.batches(images),
            mask,
            target=shared_flags.target(),
            **options,
        )
        yield "energy", f"{tested.name}, {what}", found


TESTS: dict[str, Callable[[Tested, data.Dataset, Tested | None], Found]] = {
    "noise": _noise,
    "adversarial": _adversarial,
    "density": _density,
    "pixels": _pixels,
    "energy": _energy,
}


# The result


def run(tests: Sequence[str], networks: Networks, images: data.Dataset) -> Report:
    """Run the tests on all networks."""
    tables: dict[str, dict[str, Measurement]] = {}
    baseline = _baseline(networks)
    pairs = [(test, tested) for test in tests for tested in networks.values()]
    for i, (test, tested) in enumerate(pairs):
        print(f"{i + 1} of {len(pairs)}: {test} of {tested.name}", flush=True)
        for table, row, measured in TESTS[test](tested, images, baseline):
            tables.setdefault(table, {})[row] = measured
    content = {
        test: {name: measured.to_json() for name, measured in rows.items()}
        for test, rows in tables.items()
    }
    return Report(
        tables=tables,
        titles={test: _title(test, rows) for test, rows in tables.items()},
        content={"tests": content},
        references=REFERENCES,
    )


def _title(test: str, rows: Rows) -> str:
    """The test's name, and the baseline's where it is evaluated by the maps of others."""
    name = next(iter(rows.values())).name
    return f"{name} by other maps, of {FLAGS.baseline}" if test == BY_BASELINE else name


SUITE = Suite(
    tests=tuple(TESTS),
    default=tuple(TESTS),
    files=(f"{BY_BASELINE}.png", f"{BY_BASELINE}.csv"),
    choose="networks; try without --methods",
    check=check,
    check_images=check_images,
    rehearse=rehearse,
    run=run,
)
