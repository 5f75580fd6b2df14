"""Tests of saliency maps on natural images: Figures 3.2 and 3.3, and label randomisation."""

import dataclasses

from ..schema import (
    BRIGHTNESS,
    CENTRE,
    FULL,
    RANDOM,
    Coarsened,
    Examination,
    ExaminedNetwork,
    Explained,
    Metric,
    Permuted,
    Training,
)
from .faithfulness_rows import SIGNED, WITHOUT_RESCALE, Methods, changes, explained_rows

PERTURBED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RETRAINED = (0.1, 0.3, 0.5, 0.7, 0.9)

_IMAGES: Methods = {
    "Random": (RANDOM, {}),
    "Input-gradient": ("input_gradient", {}),
    "Integrated gradients": ("integrated_gradients", {}),
    "SmoothGrad": ("smoothgrad", {}),
    "Grad-CAM": ("gradcam", {}),
    "FullGrad": ("fullgrad", {}),
}
_RETRAINED = {
    **{name: method for name, method in _IMAGES.items() if name != "SmoothGrad"},
    "SmoothGrad squared": ("smoothgrad_squared", {}),
}


def images(scale: str) -> ExaminedNetwork:
    """The network whose maps are evaluated on natural images in [0, 1], where black is 0."""
    paper = scale == "paper"
    training = Training(200, (100, 150), 128, "sgd", 0.1, augment=True)
    return ExaminedNetwork(
        label="saliency",
        network="vgg9",
        width=1.0 if paper else 0.25,
        dataset="cifar100" if paper else "cifar10",
        training=training if paper else Training(12, (9,), 64, augment=True),
        train_split="train" if paper else "train[:25000]",
        normalize=False,
    )


def retrained(scale: str) -> ExaminedNetwork:
    """The network that ROAR retrains; its first training is on complete images."""
    paper = scale == "paper"
    return dataclasses.replace(
        images(scale),
        label="roar",
        training=Training(100, (50, 75), 128) if paper else Training(12, (9,), 64, augment="flip"),
        train_split="train" if paper else "train[:10000]",
        test_split="test" if paper else "test[:2000]",
    )


def figure_3_2a(scale: str) -> Examination:
    """Figure 3.2a: pixel perturbation on natural images."""
    return Examination(
        name="f3.2a",
        title="Figure 3.2a: change of the output without the least salient pixels",
        scale=scale,
        tests={"perturbation": {"fractions": PERTURBED, "fill": 0.0}},
        metrics=changes("change", PERTURBED[::2]) + changes("accuracy", PERTURBED[::2]),
        rows=explained_rows(images(scale), _IMAGES),
        examples=10_000,
        note="the paper has VGG-16 on ImageNet and a curve without numbers: FullGrad is lowest",
    )


def figure_3_2b(scale: str) -> Examination:
    """Figure 3.2b: remove and retrain (ROAR)."""
    fractions = RETRAINED if scale == "paper" else RETRAINED[::2]
    return Examination(
        name="f3.2b",
        title="Figure 3.2b: accuracy after removing the most salient pixels and retraining",
        scale=scale,
        sizes=((FULL, 3 if scale == "paper" else 2),),
        tests={"retraining": {"fractions": fractions}},
        metrics=tuple(
            Metric(f"retrained_{fraction:g}", f"{fraction:.0%} removed (%)", 100.0, 2, " %")
            for fraction in (0.0, *fractions)
        ),
        rows=explained_rows(retrained(scale), _RETRAINED),
        examples=10_000 if scale == "paper" else 2_000,
        note="the paper has curves without numbers: FullGrad takes the accuracy down the most",
    )


def coarseness(scale: str) -> Examination:
    """How much of a method's rank in Figure 3.2a is due to maps that remove connected pixels."""
    figure = figure_3_2a(scale)
    coarser = [
        Coarsened.of(row, side)
        for row in figure.rows
        if row.label in ("Random", "Input-gradient", "FullGrad")
        for side in (2, 4, 8, 16)
    ]
    return dataclasses.replace(
        figure,
        name="coarseness",
        title="Figure 3.2a with maps averaged over squares of pixels, and interpolated",
        rows=(*figure.rows, *coarser, Explained("Centre", images(scale), method=CENTRE)),
        examples=2_000,
        note="",
    )


def coarseness_retrained(scale: str) -> Examination:
    """The same for Figure 3.2b, and whether the noise of SmoothGrad squared lowers its rank."""
    figure = figure_3_2b(scale)
    rows = {row.label: row for row in figure.rows}
    squares = {
        "Random": (4, 16),
        "Input-gradient": (4,),
        "FullGrad": (4,),
        "SmoothGrad squared": (4,),
    }
    return dataclasses.replace(
        figure,
        name="coarseness-roar",
        title="Figure 3.2b with maps averaged over squares, or of less noise",
        rows=(
            *(Coarsened.of(rows[label], side) for label in squares for side in squares[label]),
            _of_less_noise(rows["SmoothGrad squared"]),
            Explained("Centre", retrained(scale), method=CENTRE),
        ),
    )


def _of_less_noise(row: Explained) -> Explained:
    return dataclasses.replace(
        row, label=f"{row.label}, a third of the noise", options={"noise": 0.05}
    )


def masks(scale: str) -> Examination:
    """Figure 3.2b on images that show only which pixels are removed: how much masks reveal."""
    figure = figure_3_2b(scale)
    rows = {row.label: row for row in figure.rows}
    methods = ("Input-gradient", "SmoothGrad squared", "Grad-CAM", "FullGrad")
    return dataclasses.replace(
        figure,
        name="masks",
        title="Figure 3.2b with images that are black, and white where pixels are removed",
        tests={"retraining": {**figure.tests["retraining"], "blank": True}},
        rows=(
            Coarsened.of(rows["Random"], 4),
            *(rows[label] for label in methods),
            _of_less_noise(rows["SmoothGrad squared"]),
            Explained("Brightness", retrained(scale), method=BRIGHTNESS),
        ),
    )


def labels(scale: str) -> Examination:
    """Adebayo et al.'s label randomisation: maps of networks with true and with permuted labels."""
    true = dataclasses.replace(
        images(scale),
        label="true labels",
        training=Training(60, (45,), 64),
        train_split="train[:2000]",
    )
    fields = {field.name: getattr(true, field.name) for field in dataclasses.fields(true)}
    methods = {
        **_IMAGES,
        "FullGrad, not rescaled": ("fullgrad", WITHOUT_RESCALE),
        "FullGrad (no abs)": ("fullgrad", SIGNED),
        "Guided backpropagation": ("guided_backprop", {}),
    }
    rows = explained_rows(true, methods)
    coarse = [Coarsened.of(row, 4) for row in rows if row.label == "Input-gradient"]
    return Examination(
        name="labels",
        title="Label randomisation: rank correlation of maps with a network of permuted labels",
        scale=scale,
        sizes=((FULL, 3),),
        tests={"labels": {}},
        metrics=(
            Metric("alike", "rank correlation, absolute", 1.0, 2),
            Metric("alike_signed", "with its sign", 1.0, 2),
            Metric("alike_sizes", "of sizes", 1.0, 2),
            Metric("alike_structure", "structural similarity", 1.0, 2),
            Metric("alike_apart", "rank correlation of other images", 1.0, 2),
            Metric("by_heart", "permuted labels learned (%)", 100.0, 1, " %"),
        ),
        rows=(*rows, *coarse),
        examples=256,
        reference=Permuted(**fields | {"label": "permuted labels", "seed": true.seed + 1}),
    )


def figure_3_3(scale: str) -> Examination:
    """Figure 3.3: maps side by side."""
    return Examination(
        name="f3.3",
        title="Figure 3.3: saliency maps",
        scale=scale,
        tests={"maps": {"count": 8}},
        metrics=(),
        rows=explained_rows(images(scale), {k: v for k, v in _IMAGES.items() if k != "Random"}),
        examples=10_000,
    )
