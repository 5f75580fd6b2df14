"""The networks of the implicit density model, and the settings that its experiments share."""

import dataclasses
from typing import Any

from ..schema import CIFAR10_BESIDE_CIFAR100, ExaminedNetwork, Metric, Term, Training

# Thesis §5.5, the weights in the text. Its gradient norm is ½‖∇f‖²; `GradientNorm` has no ½.
SCORE_MATCHING = Term("ScoreMatching", 1e-3, {"sigma": 0.01, "stability": 1e-4})
ANTI_SCORE_MATCHING = Term("AntiScoreMatching", 1e-4, {"sigma": 0.01, "threshold": 1000.0})
HALF_GRADIENT_NORM = Term("GradientNorm", 0.5e-3)
# What the one-sided estimator's variance adds to λμh²: λμ · 4/(Nσ²) ‖∇f‖² = 4e-3 ‖∇f‖².
STABILISER = 1e-3 * 1e-4 * 4 / 0.01**2
ANTITHETIC = Term(
    "ScoreMatching", 1e-3, {"sigma": 0.01, "stability": 1e-4, "estimator": "antithetic"}
)
# In training mode the trace is that of the whole batch, whose images batch normalisation couples.
UNCOUPLED = Term(
    ANTITHETIC.penalty, ANTITHETIC.weight, {**ANTITHETIC.options, "statistics": "running"}
)

BASELINE, ANTI, GRADIENT_NORM, SCORE = (
    "Baseline",
    "Anti-score-matching",
    "Gradient norm",
    "Score matching",
)

SAMPLES = Metric("gan_test", "GAN-test, samples (%)", 100.0, 1, " %")
DENOISED = Metric("gan_test_denoised", "GAN-test, denoised (%)", 100.0, 1, " %")


def chapter_5_network(scale: str, label: str, *terms: Term, **changes: Any) -> ExaminedNetwork:
    """A network of Chapter 5: softplus with β = 10, images in [0, 1]."""
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
    return ExaminedNetwork(**(settings | changes))


def judge(scale: str) -> ExaminedNetwork:
    """A VGG-11 with ReLU; at the small scale it is trained on other images than the networks."""
    changes = {} if scale == "paper" else {"train_split": "train[25000:]"}
    training = chapter_5_network(scale, "judge").training
    assert training is not None
    training = dataclasses.replace(training, augment=True)
    return chapter_5_network(
        scale, "judge", network="vgg11", activation="relu", training=training, **changes
    )


def baseline(scale: str) -> ExaminedNetwork:
    """The network without a penalty; copies from its training are kept."""
    return chapter_5_network(scale, BASELINE, keep=examined_epochs(scale)[:-1])


def examined_epochs(scale: str) -> tuple[int, ...]:
    """The epochs after which the baseline is examined."""
    return (1, 50, 100, 200) if scale == "paper" else (1, 3, 6, 12)


def the_four(scale: str) -> dict[str, ExaminedNetwork]:
    """The four models of Chapter 5."""
    return {
        BASELINE: baseline(scale),
        ANTI: chapter_5_network(scale, ANTI, ANTI_SCORE_MATCHING),
        GRADIENT_NORM: chapter_5_network(scale, GRADIENT_NORM, HALF_GRADIENT_NORM),
        SCORE: chapter_5_network(scale, SCORE, SCORE_MATCHING),
    }


def taken_apart(scale: str) -> dict[str, ExaminedNetwork]:
    """Networks that separate what score matching owes to its parts.

    The parts are the noise of its estimator, the gradient norm in its stabiliser, and the coupling
    of the images in a batch.
    """
    norm = Term("GradientNorm", STABILISER)
    both = Term("GradientNorm", STABILISER + HALF_GRADIENT_NORM.weight)
    parts = {
        "Score matching, antithetic": (ANTITHETIC,),
        "Score matching, antithetic, and the stabiliser's gradient norm": (ANTITHETIC, norm),
        "Gradient norm of the same weight alone": (both,),
        "Score matching, antithetic, with running statistics": (UNCOUPLED,),
    }
    return {label: chapter_5_network(scale, label, *terms) for label, terms in parts.items()}


def common(scale: str, *notes: str) -> dict[str, Any]:
    """Arguments of every `Examination` of Chapter 5."""
    small = scale == "small"
    notes = (*notes, *[CIFAR10_BESIDE_CIFAR100] * small)
    return {"scale": scale, "examples": 5000 if small else 10_000, "note": "; ".join(notes)}


def gan_test(scale: str) -> dict[str, Any]:
    """Arguments of the GAN-test."""
    small = scale == "small"
    return {"count": 500 if small else 1000, "steps": 200 if small else 500, "denoise": True}


# Arguments of the tests that only draw pictures.
SAMPLES_DRAWN = {"count": 10, "steps": 1000}
DENOISED_DRAWN = {"count": 10, "steps": 200}
