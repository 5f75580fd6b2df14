"""The implicit density model in figures: Figures 5.1 to 5.8, and the Hessian's trace."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfgrad.penalties.fooling import corner

from ..schema import (
    ACCURACY_COLUMN,
    FULL,
    Examination,
    Examined,
    ExaminedNetwork,
    Metric,
    Term,
    Training,
)
from .density_networks import (
    DENOISED,
    DENOISED_DRAWN,
    SAMPLES,
    SAMPLES_DRAWN,
    baseline,
    chapter_5_network,
    common,
    examined_epochs,
    gan_test,
    judge,
    taken_apart,
    the_four,
)

# Standard deviations of the noise in Figure 5.1, and shares of pixels in Figure 5.3. The values are
# declared here, because a changed default of the library must not change an experiment.
SIGMAS = tuple(round(10 ** (-4 + i / 4), 6) for i in range(13))
FRACTIONS = tuple(round(10 ** (-2 + i / 12), 4) for i in range(25))
TEMPERATURE = 1e3
CORNER = corner(32, 32, side=15).tolist()
# About the number of pixels of the corner; the penalty is of the order of its inverse.
FOOLING = 225.0


def figure_5_1(scale: str) -> Examination:
    """Figure 5.1: density ratios of noisy and clean images."""
    return _figure(
        "f5.1",
        "Figure 5.1: density ratios under noise",
        scale,
        {"density": {"sigmas": SIGMAS}},
        (_ratio(10), _ratio(11), _ratio(12)),
    )


def figure_5_1_epochs(scale: str) -> Examination:
    """The preprint's Figures 2b and 6: density ratios and samples of the baseline in training."""
    *_, last = epochs = examined_epochs(scale)
    rows = tuple(
        Examined(f"after epoch {epoch}", baseline(scale), epoch=None if epoch == last else epoch)
        for epoch in epochs
    )
    return Examination(
        name="f5.1e",
        title="The preprint's Figures 2b and 6: the baseline across its training",
        tests={
            "density": {"sigmas": SIGMAS},
            "gan": gan_test(scale),
            "denoised": DENOISED_DRAWN,
        },
        metrics=(ACCURACY_COLUMN, _ratio(10), _ratio(11), _ratio(12), SAMPLES, DENOISED),
        rows=rows,
        judge=judge(scale),
        **common(
            scale,
            "the preprint's GAN-tests (samples / denoised): 10.5 / 14.8 % at epoch 25, 3.3 / 4.7 % "
            "at 50, 1.3 / 1.3 % at 150",
        ),
    )


def figure_5_2(scale: str) -> Examination:
    """Figure 5.2: samples by gradient ascent from noise."""
    return _figure("f5.2", "Figure 5.2: samples", scale, {"samples": SAMPLES_DRAWN})


def figure_5_3(scale: str) -> Examination:
    """Figures 5.3 and 5.6: discriminative pixel perturbation."""
    return _figure(
        "f5.3",
        "Figures 5.3 and 5.6: discriminative pixel perturbation",
        scale,
        {"pixels": {"fractions": FRACTIONS}},
        (
            Metric("own", "own gradients, mean accuracy (%)", 100.0, 1, " %"),
            Metric("reference", "baseline with these gradients (%)", 100.0, 1, " %"),
        ),
        reference=baseline(scale),
    )


def figure_5_4(scale: str) -> Examination:
    """Figures 5.4 and 5.7: input-gradients side by side."""
    return _figure(
        "f5.4", "Figures 5.4 and 5.7: input-gradients", scale, {"gradients": {}}, apart=False
    )


def figure_5_5(scale: str) -> Examination:
    """Figure 5.5: logit-gradients that are concentrated in one corner."""
    paper = scale == "paper"
    plain = chapter_5_network(scale, "vgg11", network="vgg11", activation="relu")
    training = Training(20, (15,), 128) if paper else Training(4, (3,), 64, augment="flip")
    terms = Term("SaliencyFooling", FOOLING, {"mask": CORNER})
    fooled = dataclasses.replace(
        plain, label="fooled", terms=(terms,), training=training, start=plain
    )
    # The same fine-tuning without the penalty shows what longer training does by itself.
    control = dataclasses.replace(plain, label="not fooled", training=training, start=plain)
    shares = {"logit": 83.85, "loss": 48.14, "hot": 60.17}
    rows = (
        Examined("before", plain),
        Examined("fine-tuned without the penalty", control),
        Examined(
            "fooled",
            fooled,
            paper={key: {FULL: (value, None)} for key, value in shares.items()},
        ),
    )
    return Examination(
        name="f5.5",
        title="Figure 5.5: the share of gradients in a corner of 15 × 15 pixels",
        tests={"energy": {"mask": CORNER, "temperature": TEMPERATURE}},
        metrics=(
            ACCURACY_COLUMN,
            Metric("logit", "logit-gradients (%)", 100.0, 2, " %"),
            Metric("loss", "loss-gradients (%)", 100.0, 2, " %"),
            Metric("hot", f"loss-gradients, T = {TEMPERATURE:g} (%)", 100.0, 2, " %"),
        ),
        rows=rows,
        **common(scale, "chance is 21.97 %, the corner's share of the pixels"),
    )


def figure_5_8(scale: str) -> Examination:
    """Figure 5.8: gradient ascent from noised images."""
    return _figure(
        "f5.8",
        "Figure 5.8: denoising by gradient ascent",
        scale,
        {"denoised": DENOISED_DRAWN},
        (Metric("moved", "distance to the clean image, after / before", 1.0, 3),),
    )


def estimators(scale: str) -> Examination:
    """§5.8: standard deviation of single-sample estimates of the Hessian's trace."""
    names = ("taylor", "antithetic", "hutchinson")
    return _figure(
        "estimators",
        "§5.8: the scatter of the Hessian trace from one sample, σ = 0.01",
        scale,
        {"trace": {"sigma": 0.01, "draws": 32, "images": 128}},
        (
            Metric("squared_norm", "‖∇f‖²", 1.0, 2),
            Metric("mean_antithetic", "mean, antithetic", 1.0, 1),
            Metric("scatter_expected", "2‖∇f‖/σ", 1.0, 1),
            *(Metric(f"scatter_{name}", f"standard deviation, {name}", 1.0, 1) for name in names),
        ),
    )


def coupling(scale: str) -> Examination:
    """The Hessian's trace: of one image in inference mode, of the whole batch in training mode."""
    modes = [(split, mode) for split in ("train", "test") for mode in ("inference", "training")]
    return _figure(
        "coupling",
        "The Hessian trace in inference and in training mode, σ = 0.01",
        scale,
        {"coupling": {"sigma": 0.01, "draws": 4, "images": 128, "batch": 64}},
        tuple(
            Metric(f"{split}_{mode}{what}", f"{split} images, {mode} mode{suffix}", 1.0, 0)
            for split, mode in modes
            for what, suffix in (("", ""), ("_deviation", ", standard deviation"))
        ),
    )


def _figure(
    name: str,
    title: str,
    scale: str,
    tests: Mapping[str, Mapping[str, Any]],
    metrics: tuple[Metric, ...] = (),
    reference: ExaminedNetwork | None = None,
    apart: bool = True,
) -> Examination:
    """A test of the four networks and, unless `apart` is False, of those that separate parts."""
    networks = the_four(scale) | (taken_apart(scale) if apart else {})
    return Examination(
        name=name,
        title=title,
        tests=tests,
        metrics=(ACCURACY_COLUMN, *metrics),
        rows=tuple(Examined(label, network) for label, network in networks.items()),
        reference=reference,
        **common(scale),
    )


def _ratio(index: int) -> Metric:
    return Metric(f"ratio_{index}", f"ratio at σ = {SIGMAS[index]:.2g}", 1.0, 3)
