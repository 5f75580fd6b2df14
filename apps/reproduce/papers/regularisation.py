"""Regularising one late layer: Table 4.3."""

from ..schema import CIFAR10_BESIDE_CIFAR100, Experiment, Row, Term, Training, paper

# The last convolution of the VGG-11: the thesis regularises "final convolutional layers".
LAYER = "10"


def table_4_3(scale: str) -> Experiment:
    """Table 4.3: the bias-gradient norm beside dropout and bias decay on the same layer."""
    sizes = (50, 100, 500)
    rows = (
        Row("No regularization", paper=paper(sizes, "33.25±0.6 46.24±0.1 68.48±0.1")),
        Row(
            "Dropout, p = 0.5",
            dropout=(f"act{LAYER}", 0.5),
            paper=paper(sizes, "35.04±0.6 47.62±0.7 70.14±0.06"),
        ),
        Row(
            "Bias weight decay, λ = 0.1",
            bias_decay=(f"conv{LAYER}", f"bn{LAYER}", 0.1),
            paper=paper(sizes, "34.17±0.2 47.29±0.7 68.75±0.04"),
        ),
        Row(
            "Bias-gradient norm, λ = 100",
            (Term("BiasGradientNorm", 100.0, {"layers": [f"conv{LAYER}"]}),),
            paper=paper(sizes, "36.02±0.08 48.76±0.1 71.49±0.02"),
        ),
    )
    at_paper = scale == "paper"
    return Experiment(
        name="t4.3",
        title="Table 4.3: regularisation of a late layer of a VGG-11",
        scale=scale,
        dataset="cifar100" if at_paper else "cifar10",
        student="vgg11",
        width=1.0 if at_paper else 0.25,
        training=Training(epochs=100, drops=(80,), batch_size=128 if at_paper else 32),
        sizes=tuple((size, 2) for size in sizes) if at_paper else ((50, 4),),
        rows=rows,
        note="" if at_paper else CIFAR10_BESIDE_CIFAR100,
    )
