"""Tests of saliency maps on digits: Tables 3.1 and 3.2."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..schema import (
    BRIGHTNESS,
    FULL,
    LOGIT,
    RANDOM,
    Examination,
    ExaminedNetwork,
    Explained,
    Metric,
    Training,
    numbers_by,
)
from .faithfulness_rows import SIGNED, WITHOUT_RESCALE, Methods, changes, explained_rows

REMOVED = (0.5, 0.7, 0.9)
# The mean colour of MNIST's training images, which becomes 0 where images are normalised.
MEAN = 0.1307
_DIGITS: Methods = {
    "Random": (RANDOM, {}),
    "Gradient": ("input_gradient", {"reduce": "sum"}),
    "Integrated gradients": ("integrated_gradients", {}),
    "FullGrad": ("fullgrad", WITHOUT_RESCALE),
    "FullGrad (no abs)": ("fullgrad", SIGNED),
    "Integrated gradients, from the mean": ("integrated_gradients", {"baseline": MEAN}),
}


def digits(scale: str) -> ExaminedNetwork:
    """The network of §3.10; its images are full-resolution digits in [0, 1], where black is 0."""
    training = Training(20, (15,), 128) if scale == "paper" else Training(4, (3,), 64)
    return ExaminedNetwork(
        label="digits",
        network="vgg4",
        width=1.0 if scale == "paper" else 0.5,
        dataset="mnist",
        training=training,
        normalize=False,
    )


def table_3_1(scale: str) -> Examination:
    """Table 3.1: an 8 is changed into a 3 by removing pixels."""
    published = {
        "Random": (1.41, 8.21),
        "Gradient": (11.92, 17.99),
        "Integrated gradients": (10.81, 20.11),
        "FullGrad": (8.26, 21.44),
        "FullGrad (no abs)": (12.93, 18.20),
    }
    rows = explained_rows(
        digits(scale), _DIGITS, {name: {"flip": {FULL: n}} for name, n in published.items()}
    )
    return Examination(
        name="t3.1",
        title="Table 3.1: Δ log-odds of 8 against 3, without the pixels that argue for 8",
        scale=scale,
        tests={"flip": {"source": 8, "to": 3, "fraction": 0.2, "fill": 0.0}},
        metrics=(
            Metric("flip", "Δ log-odds", 1.0, 2),
            Metric("flip_error", "standard error", 1.0, 2),
            Metric("turned", "now a 3 (%)", 100.0, 1, " %"),
            Metric("removed", "pixels removed (%)", 100.0, 1, " %"),
        ),
        rows=rows,
        examples=10_000,
        note="the paper's ± are standard deviations over images; the paper's network is unknown",
    )


def table_3_2(scale: str) -> Examination:
    """Table 3.2: change of the output when the least salient pixels of a digit are removed."""
    published = {
        "Random": "0.82±0.28 0.98±0.34 1.12±0.42",
        "Gradient": "0.29±0.22 0.52±0.27 0.88±0.34",
        "Integrated gradients": "0±0 0.004±0.06 0.44±0.33",
        "FullGrad": "0.06±0.13 0.08±0.11 0.55±0.30",
        "FullGrad (no abs)": "0.19±0.19 0.34±0.23 0.63±0.27",
    }
    columns = [f"logit_{fraction:g}" for fraction in REMOVED]
    paper = {
        label: {key: {FULL: pair} for key, pair in numbers_by(columns, numbers).items()}
        for label, numbers in published.items()
    }
    return Examination(
        name="t3.2",
        title="Table 3.2: change of the output without the least salient pixels of a digit",
        scale=scale,
        **_perturbation(fill=0.0),
        rows=_perturbed_digits(scale, paper),
        examples=10_000,
        note=(
            "the paper's numbers exceed 1, so they are changes of a logit, relative to it: of a "
            "density, not of the decision (§5.4.2), which the probability shows"
        ),
    )


def fills(scale: str) -> Examination:
    """Whether integrated gradients win Table 3.2 because removed pixels equal their baseline."""
    return Examination(
        name="fills",
        title="Table 3.2 with pixels replaced by the mean colour, which is not black",
        scale=scale,
        **_perturbation(fill=MEAN),
        rows=_perturbed_digits(scale, {}),
        examples=2_000,
    )


def _perturbation(fill: float) -> dict[str, Any]:
    """The test of Table 3.2 and its columns."""
    return {
        "tests": {"perturbation": {"fractions": REMOVED, "fill": fill, "score": LOGIT}},
        "metrics": (*changes("logit", REMOVED), *changes("change", REMOVED)),
    }


def _perturbed_digits(scale: str, paper: Mapping[str, Any]) -> tuple[Explained, ...]:
    *rows, from_mean = explained_rows(digits(scale), _DIGITS, paper)
    # The thesis does not say whether the least salient pixel is the smallest or the most negative.
    signed = dataclasses.replace(rows[-1], label="FullGrad (no abs), by sign", magnitude=False)
    brightness = Explained("Brightness", digits(scale), method=BRIGHTNESS)
    return (*rows, signed, from_mean, brightness)
