"""Accuracy of a network under noise and under attack, as flags describe them."""

from fractions import Fraction

from absl import flags

from tfgrad import data, evaluation
from tfgrad.errors import ArgumentError
from tfgrad.evaluation import Measurement
from tfgrad.evaluation.network_tests import adversarial_robustness, noise_robustness
from tfgrad.evaluation.network_tests.attacks import FGSM, PGD, STARTS, STEPS, Attack

from . import shared_flags
from .tested_networks import TestedNetwork

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the noise and the attacks."""
    flags.DEFINE_list(
        "noise_sigmas",
        list(map(str, noise_robustness.SIGMAS)),
        "Standard deviations of the noise in the noise test.",
    )
    flags.DEFINE_integer("repeats", 3, "Noise samples per image in the noise test.", lower_bound=1)
    flags.DEFINE_list(
        "epsilons",
        list(map(str, adversarial_robustness.EPSILONS)),
        "Sizes of adversarial perturbations, of pixels in 0 to 1; also fractions such as 8/255.",
    )
    flags.DEFINE_integer("attack_steps", STEPS, "Steps of the attack PGD.", lower_bound=1)
    flags.DEFINE_integer(
        "attack_starts", STARTS, "Random starting points of the attack PGD.", lower_bound=1
    )
    flags.DEFINE_float(
        "attack_step_size",
        None,
        "Size of a step of the attack PGD, of pixels in 0 to 1; default: 2.5 ε / --attack_steps.",
    )


def check() -> None:
    """Check the flags before anything is computed."""
    sigmas()
    epsilons()
    attacks()


def sigmas() -> list[float]:
    """The numbers of --noise_sigmas."""
    return shared_flags.numbers("noise_sigmas", float, empty=False)


def epsilons() -> list[float]:
    """The numbers of --epsilons.

    Raises:
        ArgumentError: There is none, or one is no number ≥ 0.
    """
    try:
        values = [float(Fraction(text)) for text in FLAGS.epsilons]
    except (ValueError, ZeroDivisionError):
        values = []
    if not values or min(values) < 0:
        raise ArgumentError(
            f"--epsilons: got {','.join(FLAGS.epsilons) or 'none'}; expected one or more numbers "
            "or fractions ≥ 0; try 0,0.01,8/255."
        )
    return values


def attacks() -> list[Attack]:
    """The attacks of the flags, the weakest first."""
    options = (FLAGS.attack_steps, FLAGS.attack_starts, FLAGS.attack_step_size)
    return [adversarial_robustness.described(FGSM), adversarial_robustness.described(PGD, *options)]


def under_noise(tested: TestedNetwork, images: data.Dataset) -> Measurement:
    """Accuracy under the noise of the flags; σ is in the units of the network's own images."""
    return evaluation.noise_robustness(
        tested.network, tested.batches(images), sigmas(), FLAGS.repeats, FLAGS.seed
    )


def under_attack(tested: TestedNetwork, images: data.Dataset) -> dict[str, Measurement]:
    """{attack: accuracy under it}; ε is in units of pixels in [0, 1], to which they are clipped."""
    on_pixels = tested.on_pixels()
    return {
        str(attack): evaluation.adversarial_robustness(
            on_pixels.network,
            on_pixels.batches(images),
            epsilons(),
            seed=FLAGS.seed,
            **attack.arguments(),
        )
        for attack in attacks()
    }
