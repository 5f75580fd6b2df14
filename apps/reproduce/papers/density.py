"""The implicit density model: Tables 5.1, 5.2 and 2.2, Figures 5.1 to 5.8."""

import dataclasses
from typing import Any

from tfgrad.evaluation.map_tests import pixel_perturbation
from tfgrad.evaluation.network_tests import noise_robustness
from tfgrad.penalties.fooling import corner

from ..examination import Examination, Examined
from ..schema import (
    ACCURACY,
    ACCURACY_COLUMN,
    CIFAR10_BESIDE_CIFAR100,
    FULL,
    Metric,
    Subject,
    Term,
    Training,
)

# Thesis §5.5: the text's weights. Its gradient norm is ½‖∇f‖², ours has no ½.
SCORE_MATCHING = Term("ScoreMatching", 1e-3, {"sigma": 0.01, "stability": 1e-4})
ANTI_SCORE_MATCHING = Term("AntiScoreMatching", 1e-4, {"sigma": 0.01, "threshold": 1000.0})
HALF_GRADIENT_NORM = Term("GradientNorm", 0.5e-3)
# What the one-sided estimator's variance adds to λμh²: λμ · 4/(Nσ²) ‖∇f‖² = 4e-3 ‖∇f‖².
STABILISER = 1e-3 * 1e-4 * 4 / 0.01**2
ANTITHETIC = Term(
    "ScoreMatching", 1e-3, {"sigma": 0.01, "stability": 1e-4, "estimator": "antithetic"}
)
# In training mode the trace is one over the batch, which batch norm couples.
UNCOUPLED = Term(
    ANTITHETIC.penalty, ANTITHETIC.weight, {**ANTITHETIC.options, "statistics": "running"}
)

BASELINE, ANTI, GRADIENT_NORM, SCORE = (
    "Baseline",
    "Anti-score-matching",
    "Gradient norm",
    "Score matching",
)
SIGMAS = tuple(round(10 ** (-4 + i / 4), 6) for i in range(13))
FRACTIONS, NOISE = pixel_perturbation.FRACTIONS, noise_robustness.SIGMAS
TEMPERATURE = 1e3
CORNER = corner(32, 32, side=15).tolist()
# About as many as the corner has pixels: the penalty is of the order of one over that.
FOOLING = 225.0

SAMPLES = Metric("gan_test", "GAN-test, samples (%)", 100.0, 1, " %")
DENOISED = Metric("gan_test_denoised", "GAN-test, denoised (%)", 100.0, 1, " %")


def subject(scale: str, label: str, *terms: Term, **changes: Any) -> Subject:
    """A network of Chapter 5: softplus β = 10, images in [0, 1]."""
    if scale == "paper":
        settings: dict[str, Any] = {
            "network": "resnet18",
            "width": 1.0,
            "dataset": "cifar100",
            "training": Training(200, (100, 150), 128, "sgd", 0.1, augment=True),
            "weight_decay": 2.5e-4,  # The code's decay 5e-4 is that of the gradient, 2 λ w.
        }
    else:
        settings = {
            "network": "vgg9",
            "width": 0.25,
            "dataset": "cifar10",
            "training": Training(12, (9,), 64, augment="flip"),
            "train_split": "train[:25000]",
        }
    settings |= {"label": label, "terms": terms, "activation": "softplus", "normalize": False}
    return Subject(**(settings | changes))


def judge(scale: str) -> Subject:
    """A VGG-11 with ReLU that saw none of the networks' images, where there are enough."""
    changes = {} if scale == "paper" else {"train_split": "train[25000:]"}
    training = subject(scale, "judge").training
    assert training is not None
    training = dataclasses.replace(training, augment=True)
    return subject(scale, "judge", network="vgg11", activation="relu", training=training, **changes)


def baseline(scale: str) -> Subject:
    """The network without a penalty; copies from its training are kept."""
    return subject(scale, BASELINE, keep=epochs(scale)[:-1])


def epochs(scale: str) -> tuple[int, ...]:
    """After how many epochs the baseline is looked at."""
    return (1, 50, 100, 200) if scale == "paper" else (1, 3, 6, 12)


def the_four(scale: str) -> dict[str, Subject]:
    """The models of Chapter 5."""
    return {
        BASELINE: baseline(scale),
        ANTI: subject(scale, ANTI, ANTI_SCORE_MATCHING),
        GRADIENT_NORM: subject(scale, GRADIENT_NORM, HALF_GRADIENT_NORM),
        SCORE: subject(scale, SCORE, SCORE_MATCHING),
    }


def taken_apart(scale: str) -> dict[str, Subject]:
    """Score matching taken apart: its noise, the norm in its stabiliser, the batch's coupling."""
    norm = Term("GradientNorm", STABILISER)
    both = Term("GradientNorm", STABILISER + HALF_GRADIENT_NORM.weight)
    labels = (
        "Score matching, antithetic",
        "Score matching, antithetic, and the stabiliser's gradient norm",
        "Gradient norm of the same weight alone",
        "Score matching, antithetic, with running statistics",
    )
    terms = ((ANTITHETIC,), (ANTITHETIC, norm), (both,), (UNCOUPLED,))
    return {label: subject(scale, label, *t) for label, t in zip(labels, terms, strict=True)}


def table_5_1(scale: str) -> Examination:
    """Table 5.1 and the preprint's Table 1: are samples what they were made to be?"""
    thesis = {BASELINE: 59.47, ANTI: 16.40, GRADIENT_NORM: 80.07, SCORE: 72.75}
    preprint = {BASELINE: 1.5, ANTI: 1.3, GRADIENT_NORM: 37.8, SCORE: 64.9}
    accuracy = {BASELINE: 78.01, ANTI: 74.87, GRADIENT_NORM: 76.60, SCORE: 72.20}
    rows = [
        Examined(
            label,
            network,
            paper={
                key: {FULL: (numbers[label], None)}
                for key, numbers in (
                    (ACCURACY, accuracy),
                    (SAMPLES.key, thesis),
                    (DENOISED.key, preprint),
                )
            },
        )
        for label, network in the_four(scale).items()
    ]
    rows += [Examined(label, network) for label, network in taken_apart(scale).items()]
    return Examination(
        name="t5.1",
        title="Table 5.1: the GAN-test of samples",
        tests={"gan": _sampling(scale)},
        metrics=(ACCURACY_COLUMN, SAMPLES, DENOISED),
        rows=tuple(rows),
        judge=judge(scale),
        **_common(
            scale,
            "the paper's samples are the thesis's Table 5.1, its denoised samples the preprint's "
            "Table 1, whose samples have 1.3, 1.3, 32.7 and 57.7 %",
        ),
    )


def table_5_2(scale: str) -> Examination:
    """Table 5.2: the sweep over λ and μ."""
    weights, stabilities = (
        ("1e-2", "1e-3", "1e-4", "1e-5", "1e-6"),
        ("1e-2", "1e-3", "1e-4", "1e-5"),
    )
    published = {
        "1e-2": "48.68/51.60 64.57/58.90 64.75/76.46 9.08/0.97",
        "1e-3": "64.64/56.78 71.37/40.72 72.34/73.39 34.46/3.3",
        "1e-4": "69.85/41.30 73.97/72.07 75.65/79.39 72.97/61.52",
        "1e-5": "73.29/68.94 75.37/85.64 76.40/63.96 74.80/78.41",
        "1e-6": "75.43/82.81 75.90/66.11 76.77/65.91 75.91/65.52",
    }
    small = scale == "small"
    rows = []
    for weight in weights[1:4] if small else weights:
        for stability, entry in zip(stabilities, published[weight].split(), strict=True):
            if small and stability == "1e-2":
                continue
            label = f"λ = {weight}, μ = {stability}"
            options = {"sigma": 0.01, "stability": float(stability)}
            changes = {}
            if small:
                changes = {
                    "train_split": "train[:10000]",
                    "training": Training(8, (6,), 64, augment="flip"),
                }
            network = subject(
                scale, label, Term("ScoreMatching", float(weight), options), **changes
            )
            accuracy, samples = map(float, entry.split("/"))
            numbers = {ACCURACY: {FULL: (accuracy, None)}, SAMPLES.key: {FULL: (samples, None)}}
            rows.append(Examined(label, network, paper=numbers))
    return Examination(
        name="t5.2",
        title="Table 5.2: score matching, λ against μ",
        tests={"gan": _sampling(scale) | {"count": 256, "denoise": False}},
        metrics=(ACCURACY_COLUMN, SAMPLES),
        rows=tuple(rows),
        judge=judge(scale),
        **_common(scale),
    )


def table_2_2(scale: str) -> Examination:
    """Table 2.2: accuracy under input noise, seven networks."""
    published = {
        "λ = 0": "64.78 61.9±0.07 47.53±0.23 29.63±0.16 17.69±0.17",
        "λ = 0.01": "64.67 61.85±0.15 49.47±0.07 32.24±0.28 19.63±0.17",
        "λ = 0.1": "65.62 63.36±0.18 53.57±0.23 37.38±0.18 23.99±0.19",
        "λ = 1": "63.59 62.66±0.13 57.53±0.17 47.48±0.14 35.43±0.11",
        "λ = 10": "61.37 60.78±0.05 58.28±0.13 52.82±0.10 44.96±0.19",
        "ℓ2, γ = 1e-3": "66.92 60.41±0.27 39.93±0.28 23.32±0.25 13.76±0.16",
        "dropout, p = 0.25": "66.8 61.53±0.10 44.34±0.19 26.70±0.24 15.77±0.11",
    }
    rows = []
    for label, numbers in published.items():
        weight = float(label.removeprefix("λ = ")) if label.startswith("λ") else 0.0
        changes: dict[str, Any] = {"weight_decay": 0.0}
        if "ℓ2" in label:
            changes = {"weight_decay": 1e-3}
        elif "dropout" in label:
            changes = {"dropout": 0.25}
        terms = (Term("GradientNorm", weight),) if weight else ()
        network = subject(
            scale,
            label,
            *terms,
            **({"network": "vgg9", "activation": "relu", "normalize": True} | changes),
        )
        rows.append(Examined(label, network, paper=_by_noise(numbers)))
    return Examination(
        name="t2.2",
        title="Table 2.2: accuracy under input noise",
        tests={"noise": {"sigmas": NOISE, "repeats": 3}},
        metrics=tuple(Metric(f"noise_{s:g}", f"σ = {s:g} (%)", 100.0, 2, " %") for s in NOISE),
        rows=tuple(rows),
        **_common(scale),
    )


def figure_5_1(scale: str) -> Examination:
    """Figure 5.1: does the density prefer noise?"""
    return _figure(
        "f5.1",
        "Figure 5.1: density ratios under noise",
        scale,
        {"density": {"sigmas": SIGMAS}},
        (_ratio(10), _ratio(11), _ratio(12)),
    )


def figure_5_1_epochs(scale: str) -> Examination:
    """The preprint's Figures 2b and 6: the same of the baseline, across its training."""
    rows = tuple(
        Examined(
            f"after epoch {epoch}",
            baseline(scale),
            epoch=None if epoch == epochs(scale)[-1] else epoch,
        )
        for epoch in epochs(scale)
    )
    return Examination(
        name="f5.1e",
        title="The preprint's Figures 2b and 6: the baseline across its training",
        tests={
            "density": {"sigmas": SIGMAS},
            "gan": _sampling(scale),
            "denoised": _pictures(scale)["denoised"],
        },
        metrics=(ACCURACY_COLUMN, _ratio(10), _ratio(11), _ratio(12), SAMPLES, DENOISED),
        rows=rows,
        judge=judge(scale),
        **_common(
            scale,
            "the preprint's GAN-tests (samples / denoised): 10.5 / 14.8 % at epoch 25, 3.3 / 4.7 % "
            "at 50, 1.3 / 1.3 % at 150",
        ),
    )


def figure_5_2(scale: str) -> Examination:
    """Figure 5.2: samples by gradient ascent from noise."""
    return _figure("f5.2", "Figure 5.2: samples", scale, {"samples": _pictures(scale)["samples"]})


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
    """Figure 5.5: a corner that all logit-gradients point to."""
    paper = scale == "paper"
    plain = subject(scale, "vgg11", network="vgg11", activation="relu")
    training = Training(20, (15,), 128) if paper else Training(4, (3,), 64, augment="flip")
    terms = Term("SaliencyFooling", FOOLING, {"mask": CORNER})
    fooled = dataclasses.replace(
        plain, label="fooled", terms=(terms,), training=training, start=plain
    )
    # Fine-tuned as long without the penalty: what is due to training on alone.
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
        **_common(scale, "chance is 21.97 %, the corner's share of the pixels"),
    )


def figure_5_8(scale: str) -> Examination:
    """Figure 5.8: gradient ascent from noised images."""
    return _figure(
        "f5.8",
        "Figure 5.8: denoising by gradient ascent",
        scale,
        {"denoised": _pictures(scale)["denoised"]},
        (Metric("moved", "distance to the clean image, after / before", 1.0, 3),),
    )


def estimators(scale: str) -> Examination:
    """§5.8: how far estimates of the Hessian's trace from one sample scatter."""
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
            *(Metric(f"scatter_{name}", f"deviation, {name}", 1.0, 1) for name in names),
        ),
    )


def coupling(scale: str) -> Examination:
    """Whose trace it is: an image's own in inference mode, the batch's in training mode."""
    modes = [(split, mode) for split in ("train", "test") for mode in ("inference", "training")]
    return _figure(
        "coupling",
        "The Hessian trace in inference and in training mode, σ = 0.01",
        scale,
        {"coupling": {"sigma": 0.01, "draws": 4, "images": 128, "batch": 64}},
        tuple(
            Metric(f"{split}_{mode}{what}", f"{split} images, {mode} mode{said}", 1.0, 0)
            for split, mode in modes
            for what, said in (("", ""), ("_deviation", ", deviation"))
        ),
    )


def _figure(name, title, scale, tests, metrics=(), reference=None, apart=True) -> Examination:
    networks = the_four(scale) | (taken_apart(scale) if apart else {})
    return Examination(
        name=name,
        title=title,
        tests=tests,
        metrics=(ACCURACY_COLUMN, *metrics),
        rows=tuple(Examined(label, network) for label, network in networks.items()),
        reference=reference,
        **_common(scale),
    )


def _common(scale: str, *notes: str) -> dict[str, Any]:
    small = scale == "small"
    notes = (*notes, *[CIFAR10_BESIDE_CIFAR100] * small)
    return {"scale": scale, "examples": 5000 if small else 10_000, "note": "; ".join(notes)}


def _sampling(scale: str) -> dict[str, Any]:
    small = scale == "small"
    return {"count": 500 if small else 1000, "steps": 200 if small else 500, "denoise": True}


def _pictures(scale: str) -> dict[str, dict[str, Any]]:
    return {"samples": {"count": 10, "steps": 1000}, "denoised": {"count": 10, "steps": 200}}


def _ratio(index: int) -> Metric:
    return Metric(f"ratio_{index}", f"ratio at σ = {SIGMAS[index]:.2g}", 1.0, 3)


def _by_noise(numbers: str) -> dict[str, Any]:
    told = {}
    for sigma, entry in zip(NOISE, numbers.split(), strict=False):
        mean, _, deviation = entry.partition("±")
        told[f"noise_{sigma:g}"] = {FULL: (float(mean), float(deviation) if deviation else None)}
    return told
