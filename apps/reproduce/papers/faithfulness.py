"""Tests of saliency maps: Tables 3.1 and 3.2, Figures 3.2 and 3.3."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..examination import Examination, Examined
from ..schema import FULL, Metric, Permuted, Subject, Training

SIGNED = {"part": "signed", "rescale": None}
WITHOUT_RESCALE = {"rescale": None}
PERTURBED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RETRAINED = (0.1, 0.3, 0.5, 0.7, 0.9)
REMOVED_DIGITS = (0.5, 0.7, 0.9)
# The mean colour of MNIST's training images, which is black where pixels are normalised.
DIGITS_MEAN = 0.1307
LOGIT = "relative log density ratio"
RANDOM, BRIGHTNESS, CENTRE = "random", "brightness", "centre"


@dataclasses.dataclass(frozen=True)
class Explained(Examined):
    """A saliency method on a trained network.

    Attributes:
        method: a name in `tfgrad.saliency`; or "brightness", or "centre", which know no model.
        options: its other arguments.
        magnitude: whether tests of the size of attributions take absolute values.
    """

    method: str = RANDOM
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    magnitude: bool = True

    def network(self, seed: int) -> Subject:
        """The same for all seeds, so that maps are computed once."""
        return self.subject

    def asked(self) -> dict[str, Any]:
        """This row: by what the network is explained."""
        return {"by": self}


@dataclasses.dataclass(frozen=True)
class Coarsened(Explained):
    """The same, its maps averaged over squares and interpolated between, where pixels are removed.

    Attributes:
        square: the side of a square, in pixels.
    """

    square: int = 1

    @staticmethod
    def of(row: Explained, square: int) -> "Coarsened":
        """A row's method, with maps that are coarser."""
        fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        return Coarsened(**fields | {"label": f"{row.label}, squares of {square}"}, square=square)


# What a column of the papers calls a method, and what it is here.
_IMAGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
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
_DIGITS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Random": (RANDOM, {}),
    "Gradient": ("input_gradient", {"reduce": "sum"}),
    "Integrated gradients": ("integrated_gradients", {}),
    "FullGrad": ("fullgrad", WITHOUT_RESCALE),
    "FullGrad (no abs)": ("fullgrad", SIGNED),
    "Integrated gradients, from the mean": ("integrated_gradients", {"baseline": DIGITS_MEAN}),
}


def digits(scale: str) -> Subject:
    """The network of §3.10, whose images are full-resolution digits in [0, 1], black 0."""
    training = Training(20, (15,), 128) if scale == "paper" else Training(4, (3,), 64)
    return Subject(
        label="digits",
        network="vgg4",
        width=1.0 if scale == "paper" else 0.5,
        dataset="mnist",
        training=training,
        normalize=False,
    )


def images(scale: str) -> Subject:
    """The network whose maps are judged on natural images in [0, 1], black 0."""
    paper = scale == "paper"
    training = Training(200, (100, 150), 128, "sgd", 0.1, augment=True)
    return Subject(
        label="saliency",
        network="vgg9",
        width=1.0 if paper else 0.25,
        dataset="cifar100" if paper else "cifar10",
        training=training if paper else Training(12, (9,), 64, augment=True),
        train_split="train" if paper else "train[:25000]",
        normalize=False,
    )


def retrained(scale: str) -> Subject:
    """The network that ROAR trains again and again, first on images as they are."""
    paper = scale == "paper"
    return dataclasses.replace(
        images(scale),
        label="roar",
        training=Training(100, (50, 75), 128) if paper else Training(12, (9,), 64, augment="flip"),
        train_split="train" if paper else "train[:10000]",
        test_split="test" if paper else "test[:2000]",
    )


def table_3_1(scale: str) -> Examination:
    """Table 3.1: an 8 turned into a 3."""
    published = {
        "Random": (1.41, 8.21),
        "Gradient": (11.92, 17.99),
        "Integrated gradients": (10.81, 20.11),
        "FullGrad": (8.26, 21.44),
        "FullGrad (no abs)": (12.93, 18.20),
    }
    rows = _rows(
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
        note="the paper's ± are deviations over images; the paper's network is unknown",
    )


def table_3_2(scale: str) -> Examination:
    """Table 3.2: what is left of the output without the least salient pixels of a digit."""
    published = {
        "Random": "0.82±0.28 0.98±0.34 1.12±0.42",
        "Gradient": "0.29±0.22 0.52±0.27 0.88±0.34",
        "Integrated gradients": "0±0 0.004±0.06 0.44±0.33",
        "FullGrad": "0.06±0.13 0.08±0.11 0.55±0.30",
        "FullGrad (no abs)": "0.19±0.19 0.34±0.23 0.63±0.27",
    }
    columns = [f"logit_{fraction:g}" for fraction in REMOVED_DIGITS]
    paper: dict[str, Any] = {}
    for name, numbers in published.items():
        pairs = [tuple(map(float, entry.split("±"))) for entry in numbers.split()]
        paper[name] = {key: {FULL: pair} for key, pair in zip(columns, pairs, strict=True)}
    return Examination(
        name="t3.2",
        title="Table 3.2: change of the output without the least salient pixels of a digit",
        scale=scale,
        tests={"perturbation": {"fractions": REMOVED_DIGITS, "fill": 0.0, "score": LOGIT}},
        metrics=(*_changes("logit", REMOVED_DIGITS), *_changes("change", REMOVED_DIGITS)),
        rows=_perturbed_digits(scale, paper),
        examples=10_000,
        note=(
            "the paper's numbers exceed 1, so they are changes of a logit, relative to it: of a "
            "density, not of the decision (§5.4.2), which the probability tells"
        ),
    )


def fills(scale: str) -> Examination:
    """Whether integrated gradients win Table 3.2 because removed pixels are their baseline."""
    test = {"fractions": REMOVED_DIGITS, "fill": DIGITS_MEAN, "score": LOGIT}
    return Examination(
        name="fills",
        title="Table 3.2 with pixels replaced by the mean colour, which is not black",
        scale=scale,
        tests={"perturbation": test},
        metrics=(*_changes("logit", REMOVED_DIGITS), *_changes("change", REMOVED_DIGITS)),
        rows=_perturbed_digits(scale, {}),
        examples=2_000,
    )


def _perturbed_digits(scale: str, paper: Mapping[str, Any]) -> tuple[Explained, ...]:
    *rows, from_mean = _rows(digits(scale), _DIGITS, paper)
    # Whether "least salient" is the smallest or the most negative, the thesis does not say.
    signed = dataclasses.replace(rows[-1], label="FullGrad (no abs), by sign", magnitude=False)
    brightness = Explained("Brightness", digits(scale), method=BRIGHTNESS)
    return (*rows, signed, from_mean, brightness)


def figure_3_2a(scale: str) -> Examination:
    """Figure 3.2a: pixel perturbation on natural images."""
    return Examination(
        name="f3.2a",
        title="Figure 3.2a: change of the output without the least salient pixels",
        scale=scale,
        tests={"perturbation": {"fractions": PERTURBED, "fill": 0.0}},
        metrics=_changes("change", PERTURBED[::2]) + _changes("accuracy", PERTURBED[::2]),
        rows=_rows(images(scale), _IMAGES),
        examples=10_000,
        note="the paper has VGG-16 on ImageNet and a curve without numbers: FullGrad is lowest",
    )


def coarseness(scale: str) -> Examination:
    """How much of a rank in Figure 3.2a is that a map removes connected pixels."""
    rows = _rows(images(scale), _IMAGES)
    coarser = [
        Coarsened.of(row, side)
        for row in rows
        if row.label in ("Random", "Input-gradient", "FullGrad")
        for side in (2, 4, 8, 16)
    ]
    return Examination(
        name="coarseness",
        title="Figure 3.2a with maps averaged over squares of pixels, and interpolated",
        scale=scale,
        tests={"perturbation": {"fractions": PERTURBED, "fill": 0.0}},
        metrics=_changes("change", PERTURBED[::2]) + _changes("accuracy", PERTURBED[::2]),
        rows=(*rows, *coarser, Explained("Centre", images(scale), method=CENTRE)),
        examples=2_000,
    )


def coarseness_retrained(scale: str) -> Examination:
    """The same question of Figure 3.2b, and whether SmoothGrad squared suffers from its noise."""
    rows = {row.label: row for row in _rows(retrained(scale), _RETRAINED)}
    squares = {"Random": (4, 16), "Input-gradient": (4,), "FullGrad": (4,)}
    squares["SmoothGrad squared"] = (4,)
    return dataclasses.replace(
        figure_3_2b(scale),
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
    """How much of a class is told by which pixels are removed in Figure 3.2b, and by them alone."""
    figure = figure_3_2b(scale)
    rows = {row.label: row for row in figure.rows}
    told = ("Input-gradient", "SmoothGrad squared", "Grad-CAM", "FullGrad")
    return dataclasses.replace(
        figure,
        name="masks",
        title="Figure 3.2b with images that are black, and white where pixels are removed",
        tests={"retraining": {**figure.tests["retraining"], "blank": True}},
        rows=(
            Coarsened.of(rows["Random"], 4),
            *(rows[label] for label in told),
            _of_less_noise(rows["SmoothGrad squared"]),
            Explained("Brightness", retrained(scale), method=BRIGHTNESS),
        ),
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
        rows=_rows(retrained(scale), _RETRAINED),
        examples=10_000 if scale == "paper" else 2_000,
        note="the paper has curves without numbers: FullGrad takes the accuracy down the most",
    )


def labels(scale: str) -> Examination:
    """Adebayo et al.'s label randomisation: maps of networks that learned sense, and nonsense."""
    sense = dataclasses.replace(
        images(scale),
        label="true labels",
        training=Training(60, (45,), 64),
        train_split="train[:2000]",
    )
    fields = {field.name: getattr(sense, field.name) for field in dataclasses.fields(sense)}
    methods = {
        **_IMAGES,
        "FullGrad, not rescaled": ("fullgrad", WITHOUT_RESCALE),
        "FullGrad (no abs)": ("fullgrad", SIGNED),
        "Guided backpropagation": ("guided_backprop", {}),
    }
    rows = _rows(sense, methods)
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
        reference=Permuted(**fields | {"label": "permuted labels", "seed": sense.seed + 1}),
    )


def figure_3_3(scale: str) -> Examination:
    """Figure 3.3: maps side by side."""
    return Examination(
        name="f3.3",
        title="Figure 3.3: saliency maps",
        scale=scale,
        tests={"maps": {"count": 8}},
        metrics=(),
        rows=_rows(images(scale), {k: v for k, v in _IMAGES.items() if k != "Random"}),
        examples=10_000,
    )


def _rows(
    network: Subject,
    methods: Mapping[str, tuple[str, Mapping[str, Any]]],
    paper: Mapping[str, Any] | None = None,
) -> tuple[Explained, ...]:
    return tuple(
        Explained(label, network, method=name, options=options, paper=(paper or {}).get(label, {}))
        for label, (name, options) in methods.items()
    )


_TITLES = {
    "logit": "logit, {:.0%} removed",
    "change": "probability, {:.0%} removed",
    "accuracy": "accuracy, {:.0%} removed (%)",
}


def _changes(what: str, fractions: tuple[float, ...]) -> tuple[Metric, ...]:
    percent = what == "accuracy"
    return tuple(
        Metric(
            f"{what}_{fraction:g}",
            _TITLES[what].format(fraction),
            100.0 if percent else 1.0,
            2 if percent else 3,
            " %" if percent else "",
        )
        for fraction in fractions
    )
