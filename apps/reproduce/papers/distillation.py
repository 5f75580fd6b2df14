"""Distillation with little data: Tables 2.1, 4.1 and 4.2, Figures 4.1a and 4.1b."""

import dataclasses
from typing import Any

from ..schema import CIFAR10_BESIDE_CIFAR100, Experiment, Row, Source, Term, Training, paper

# Pairs of a student's and the teacher's layer, by student; the teacher is a VGG-9. They are
# activations with 64, 128 and 256 channels, at three resolutions that both networks have.
LAYERS = {
    "vgg4": (("act1", "act1"), ("act2", "act2"), ("act3", "act4")),
    "vgg6": (("act1", "act1"), ("act2", "act2"), ("act3", "act4")),
    "vgg9": (("act1", "act1"), ("act2", "act2"), ("act4", "act4")),
    "vgg11": (("act2", "act1"), ("act4", "act2"), ("act6", "act4")),
}

_TEACHER_TRAINING = Training(epochs=15, drops=(12,), batch_size=64, augment=True)
# The thesis does not give the schedule, only accuracies: 64.78 % and 66.82 %, 90.49 % on CIFAR-10.
_PAPER_TEACHER_TRAINING = Training(epochs=200, drops=(100, 150), batch_size=128, augment=True)


def _teacher(dataset: str, scale: str) -> Source:
    if scale == "paper":
        return Source("vgg9", 1.0, dataset, _PAPER_TEACHER_TRAINING)
    return Source("vgg9", 0.25, dataset, _TEACHER_TRAINING)


def _activations(weight: float) -> Term:
    return Term("ActivationMatching", weight)


def _input_gradients(weight: float) -> Term:
    return Term("JacobianMatching", weight, {"target": "label"})


def _attention(weight: float, student: str) -> Term:
    layers = [list(pair) for pair in LAYERS[student]]
    return Term("AttentionMatching", weight, {"layers": layers, "power": 1})


def _bias_gradients(weight: float, student: str) -> Term:
    layers = [[name.replace("act", "conv") for name in pair] for pair in LAYERS[student]]
    return Term("BiasGradientMatching", weight, {"layers": layers, "target": "label"})


def table_2_1(scale: str) -> Experiment:
    """Table 2.1: cross-entropy, and matching of activations and of Jacobians."""
    sizes = (1, 5, 10, 50, 100, 500)
    matched, slopes = _activations(1.0), _input_gradients(1.0)
    rows = tuple(
        Row(label, terms, supervised, paper=paper(sizes, numbers))
        for label, supervised, terms, numbers in (
            ("Cross-entropy (CE)", 1.0, (), "5.69 13.9 20.03 37.6 44.92 54.28"),
            ("CE + match activations (A)", 1.0, (matched,), "12.13 26.97 33.92 46.47 50.92 56.65"),
            ("CE + match Jacobians (J)", 1.0, (slopes,), "6.78 23.94 32.03 45.71 51.47 53.44"),
            ("CE + match {A + J}", 1.0, (matched, slopes), "13.78 33.39 39.55 49.49 52.43 54.57"),
            ("Match activations (A) only", 0.0, (matched,), "10.73 28.56 33.6 45.73 50.15 56.59"),
            ("Match {A + J} only", 0.0, (matched, slopes), "13.09 33.31 38.16 47.79 50.06 51.33"),
        )
    )
    common: dict[str, Any] = {
        "name": "t2.1",
        "title": "Table 2.1: distillation from a VGG-9 into a VGG-4",
        "scale": scale,
        "student": "vgg4",
        "rows": rows,
    }
    if scale == "paper":
        return Experiment(
            dataset="cifar100",
            width=1.0,
            training=Training(epochs=500, drops=(400,), batch_size=128),
            sizes=tuple((size, 2) for size in sizes),
            teacher=_teacher("cifar100", scale),
            **common,
        )
    return Experiment(
        dataset="cifar10",
        width=0.25,
        training=Training(epochs=150, drops=(120,), batch_size=32),
        sizes=((10, 2), (50, 2)),
        teacher=_teacher("cifar10", scale),
        note=CIFAR10_BESIDE_CIFAR100,
        **common,
    )


def _full_gradient_rows(
    student: str, sizes: tuple[int, ...], numbers: tuple[str, ...]
) -> tuple[Row, ...]:
    """The seven rows of Tables 4.1 and 4.2; every constant is 10."""
    a, ig = _activations(10.0), _input_gradients(10.0)
    att, bias = _attention(10.0, student), _bias_gradients(10.0, student)
    terms = {
        "Cross-entropy": (),
        "Match activations": (a,),
        "Match input-gradients (iG)": (a, ig),
        "Match attention": (a, att),
        "Match iG + Att": (a, ig, att),
        "Match full-gradients (FG)": (a, ig, bias),
        "Match FG + Att": (a, ig, bias, att),
    }
    return tuple(
        Row(label, chosen, 10.0, paper=paper(sizes, text) if text else {})
        for (label, chosen), text in zip(terms.items(), numbers, strict=True)
    )


_TABLE_4_1 = (
    "7.45±0.3 11.83±0.4 40.88±0.8 51.19±0.01 69.95±0.2",
    "23.72±1.3 37.22±0.2 59.43±0.02 63.91±0.2 66.99±0.2",
    "27.27±1.2 41.47±1 61.83±0.01 65.43±0.6 66.92±0.7",
    "38.18±1.9 46.39±0.1 60.27±0.3 64.28±0.2 66.53±0.3",
    "42.75±1.7 51.16±0.6 62.62±0.6 65.38±0.2 67.25±0.8",
    "35.15±0.5 48.00±0.4 62.88±0.1 65.84±0.1 66.83±0.1",
    "47.11±0.9 54.59±0.2 63.20±0.4 65.49±0.1 66.65±0.4",
)
_TABLE_4_2 = (
    "49.29±1.6 59.93±0.1 79.36±0.04 83.87±0.1 91.95±0.1",
    "55.43±2.1 65.33±2.2 85.44±0.1 88.77±0.3 92.47±0.1",
    "55.73±2 67.22±3.0 85.84±0.1 89.30±0.3 92.04±0.01",
    "68.11±0.8 74.44±0.2 85.88±0.1 88.61±0.1 91.20±0.01",
    "70.83±1.0 77.06±0.2 86.51±0.3 89.63±0.1 90.68±0.04",
    "58.88±0.2 69.42±1.4 86.55±0.1 89.76±0.1 91.49±0.05",
    "72.75±0.4 78.71±0.1 87.31±0.3 89.87±0.3 90.68±0.1",
)
_PAPER_TRAINING = Training(epochs=300, drops=(250,), batch_size=128)
_SMALL_TRAINING = Training(epochs=100, drops=(83,), batch_size=32)


def _full_gradient_table(
    number: str,
    scale: str,
    dataset: str,
    sizes: tuple[int, ...],
    numbers: tuple[str, ...],
    small_sizes: tuple[tuple[int, int], ...],
) -> Experiment:
    rows = _full_gradient_rows("vgg11", sizes, numbers)
    at_paper = scale == "paper"
    data = dataset.upper().replace("CIFAR", "CIFAR-")
    return Experiment(
        name=f"t{number}",
        title=f"Table {number}: full-gradient distillation from a VGG-9 into a VGG-11, {data}",
        scale=scale,
        dataset=dataset,
        student="vgg11",
        width=1.0 if at_paper else 0.25,
        training=_PAPER_TRAINING if at_paper else _SMALL_TRAINING,
        sizes=tuple((size, 2) for size in sizes) if at_paper else small_sizes,
        rows=rows,
        teacher=_teacher(dataset, scale),
    )


def table_4_1(scale: str) -> Experiment:
    """Table 4.1: full-gradient distillation on CIFAR-100."""
    sizes = (5, 10, 50, 100, 500)
    return _full_gradient_table("4.1", scale, "cifar100", sizes, _TABLE_4_1, ((5, 2), (10, 2)))


def table_4_2(scale: str) -> Experiment:
    """Table 4.2: full-gradient distillation on CIFAR-10."""
    sizes = (50, 100, 500, 1000, 5000)
    return _full_gradient_table("4.2", scale, "cifar10", sizes, _TABLE_4_2, ((50, 4), (100, 2)))


def attention_weights(scale: str) -> Experiment:
    """Beside Table 4.2: the weight from which attention matching helps.

    The thesis gives every term the constant 10, and does not say whether its losses are sums or
    means: a mean over logits or pixels instead of a sum increases the relative weight of attention.
    The sweep measures the effect.
    """
    base = table_4_2(scale)
    gradients = (_activations(10.0), _input_gradients(10.0))
    attention, biases = _attention(1000.0, "vgg11"), _bias_gradients(1000.0, "vgg11")
    rows = [
        *(
            Row(
                f"Match attention, weight ×{factor}",
                (_activations(10.0), _attention(10.0 * factor, "vgg11")),
                10.0,
            )
            for factor in (10, 100, 1000)
        ),
        Row("Match FG + Att, both maps' weights ×100", (*gradients, biases, attention), 10.0),
        Row("Match iG + Att, attention's weight ×100", (*gradients, attention), 10.0),
    ]
    return dataclasses.replace(
        base,
        name="attention",
        title="Beside Table 4.2: the weight of attention and of bias-gradients",
        sizes=((50, 2),),
        rows=tuple(rows),
        note="not in the paper; weights are in units of Table 4.2's",
    )


def figure_4_1a(scale: str) -> Experiment:
    """Figure 4.1a: matching attention and bias-gradients improves the match of input-gradients."""
    at_paper = scale == "paper"
    base = table_4_1(scale) if at_paper else table_4_2(scale)
    wanted = ("Match input-gradients (iG)", "Match iG + Att", "Match FG + Att")
    size = 5 if at_paper else 50
    return dataclasses.replace(
        base,
        name="f4.1a",
        title="Figure 4.1a: angle between the teacher's and the student's input-gradients",
        sizes=((size, 1),),
        rows=tuple(row for row in base.rows if row.label in wanted),
        angle_every=5,
        note="" if at_paper else "the paper's figure is CIFAR-100's, at 5 per class",
    )


def figure_4_1b(scale: str) -> Experiment:
    """Figure 4.1b: larger students match the teacher better."""
    at_paper = scale == "paper"
    base = table_4_1(scale) if at_paper else table_4_2(scale)
    rows = []
    for depth, accuracy in ((4, "50.87"), (6, "58.08"), (11, "62.95")):
        student = f"vgg{depth}"
        full = _full_gradient_rows(student, (), ("",) * 7)[5]
        rows.append(
            dataclasses.replace(
                full, label=f"VGG-{depth}", student=student, paper=paper((50,), accuracy)
            )
        )
    return dataclasses.replace(
        base,
        name="f4.1b",
        title="Figure 4.1b: full-gradient matching by students of three sizes",
        sizes=((50, 1),),
        rows=tuple(rows),
        angle_every=5,
        note="" if at_paper else CIFAR10_BESIDE_CIFAR100,
    )
