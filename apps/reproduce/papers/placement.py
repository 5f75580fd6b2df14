"""Whether maps are better if feature maps lie where their cells look, or stretched to the image."""

import dataclasses

from ..schema import RANDOM, Examination, ExaminedNetwork, Training
from .faithfulness import figure_3_2a, images
from .faithfulness_digits import REMOVED, digits, table_3_2
from .faithfulness_rows import WITHOUT_RESCALE, Methods, changes, explained_rows

_STRETCHED = {"placement": "stretch"}
_HALF_PIXEL = {"placement": "stretch", "resize": "bilinear_half_pixel"}
_PLACED = {"placement": "cells"}
_FRACTIONS = (0.1, 0.5, 0.9)


def on_digits(scale: str) -> Examination:
    """The test and the network of Table 3.2."""
    return _compared(
        table_3_2(scale), "placement-digits", digits(scale), "logit", REMOVED, **WITHOUT_RESCALE
    )


def on_photographs(scale: str) -> Examination:
    """The test and the network of Figure 3.2a."""
    return _compared(
        figure_3_2a(scale), "placement-photographs", images(scale), "change", _FRACTIONS
    )


def on_flowers(scale: str) -> Examination:
    """The test of Figure 3.2a on larger photographs, of which the papers have none."""
    network = ExaminedNetwork(
        label="flowers",
        network="vgg4",
        width=1.0 if scale == "paper" else 0.25,
        dataset="tf_flowers",
        image_size=(48, 48),
        training=Training(15, (12,), 32, augment="flip"),
        train_split="train[:85%]",
        test_split="train[85%:]",
        normalize=False,
    )
    figure = dataclasses.replace(figure_3_2a(scale), examples=550)
    return _compared(figure, "placement-flowers", network, "change", _FRACTIONS)


def _compared(
    table: Examination,
    name: str,
    network: ExaminedNetwork,
    score: str,
    fractions: tuple[float, ...],
    **options: None,
) -> Examination:
    """The test of a table for methods with feature maps, each stretched and placed."""
    methods: Methods = {
        "Random": (RANDOM, {}),
        "FullGrad, aligned corners": ("fullgrad", {**options, **_STRETCHED}),
        "FullGrad, half-pixel centres": ("fullgrad", {**options, **_HALF_PIXEL}),
        "FullGrad, placed": ("fullgrad", {**options, **_PLACED}),
        "Grad-CAM, half-pixel centres": ("gradcam", _STRETCHED),
        "Grad-CAM, placed": ("gradcam", _PLACED),
    }
    return dataclasses.replace(
        table,
        name=name,
        title=f"{table.title}, by where feature maps lie",
        tests={"perturbation": {**table.tests["perturbation"], "fractions": fractions}},
        metrics=(*changes(score, fractions), *changes("error", fractions)),
        rows=explained_rows(network, methods),
        examples=min(2_000, table.examples),
        note="",
    )
