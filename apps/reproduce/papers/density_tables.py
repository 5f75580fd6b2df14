"""The implicit density model in numbers: Tables 5.1, 5.2 and 2.2."""

from typing import Any

from ..schema import (
    ACCURACY,
    ACCURACY_COLUMN,
    FULL,
    Examination,
    Examined,
    Metric,
    Term,
    Training,
    numbers_by,
)
from .density_networks import (
    ANTI,
    BASELINE,
    DENOISED,
    GRADIENT_NORM,
    SAMPLES,
    SCORE,
    chapter_5_network,
    common,
    gan_test,
    judge,
    taken_apart,
    the_four,
)

# Standard deviations of the noise in Table 2.2.
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4)


def table_5_1(scale: str) -> Examination:
    """Table 5.1 and the preprint's Table 1: the accuracy of another network on samples."""
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
        tests={"gan": gan_test(scale)},
        metrics=(ACCURACY_COLUMN, SAMPLES, DENOISED),
        rows=tuple(rows),
        judge=judge(scale),
        **common(
            scale,
            "the paper's samples are the thesis's Table 5.1, its denoised samples the preprint's "
            "Table 1, whose samples have 1.3, 1.3, 32.7 and 57.7 %",
        ),
    )


def table_5_2(scale: str) -> Examination:
    """Table 5.2: the sweep over λ and μ."""
    stabilities = ("1e-2", "1e-3", "1e-4", "1e-5")
    # {λ: accuracy/GAN-test for each μ}.
    published = {
        "1e-2": "48.68/51.60 64.57/58.90 64.75/76.46 9.08/0.97",
        "1e-3": "64.64/56.78 71.37/40.72 72.34/73.39 34.46/3.3",
        "1e-4": "69.85/41.30 73.97/72.07 75.65/79.39 72.97/61.52",
        "1e-5": "73.29/68.94 75.37/85.64 76.40/63.96 74.80/78.41",
        "1e-6": "75.43/82.81 75.90/66.11 76.77/65.91 75.91/65.52",
    }
    small = scale == "small"
    shorter = Training(8, (6,), 64, augment="flip")
    changes = {"train_split": "train[:10000]", "training": shorter} if small else {}
    rows = []
    for weight, entries in list(published.items())[1:4] if small else published.items():
        for stability, entry in zip(stabilities, entries.split(), strict=True):
            if small and stability == "1e-2":
                continue
            label = f"λ = {weight}, μ = {stability}"
            options = {"sigma": 0.01, "stability": float(stability)}
            term = Term("ScoreMatching", float(weight), options)
            network = chapter_5_network(scale, label, term, **changes)
            accuracy, samples = map(float, entry.split("/"))
            numbers = {ACCURACY: {FULL: (accuracy, None)}, SAMPLES.key: {FULL: (samples, None)}}
            rows.append(Examined(label, network, paper=numbers))
    return Examination(
        name="t5.2",
        title="Table 5.2: score matching, λ against μ",
        tests={"gan": gan_test(scale) | {"count": 256, "denoise": False}},
        metrics=(ACCURACY_COLUMN, SAMPLES),
        rows=tuple(rows),
        judge=judge(scale),
        **common(scale),
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
        network = chapter_5_network(
            scale,
            label,
            *terms,
            **({"network": "vgg9", "activation": "relu", "normalize": True} | changes),
        )
        paper = {f"noise_{s:g}": {FULL: pair} for s, pair in numbers_by(NOISE, numbers).items()}
        rows.append(Examined(label, network, paper=paper))
    return Examination(
        name="t2.2",
        title="Table 2.2: accuracy under input noise",
        tests={"noise": {"sigmas": NOISE, "repeats": 3}},
        metrics=tuple(Metric(f"noise_{s:g}", f"σ = {s:g} (%)", 100.0, 2, " %") for s in NOISE),
        rows=tuple(rows),
        **common(scale),
    )
