"""What an experiment is made of, as data: its rows, columns, networks, schedules and numbers."""

import abc
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

FULL = 0  # The size that stands for the whole training split.
ACCURACY = "accuracy"
CIFAR10_BESIDE_CIFAR100 = (
    "the paper's numbers are CIFAR-100's, these are CIFAR-10's: compare orders, not values"
)

Numbers = Mapping[int, tuple[float, float | None]]  # {size: (mean, deviation or None)}


@dataclasses.dataclass(frozen=True)
class Term:
    """One penalty: a class of `tfgrad.penalties`, its weight and its other arguments."""

    penalty: str
    weight: float
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        label: what the paper calls it.
        paper: the paper's numbers, {metric: {size: (mean, deviation)}}.
    """

    label: str
    paper: Mapping[str, Numbers] = dataclasses.field(default_factory=dict, kw_only=True)

    @property
    def slug(self) -> str:
        """The label as part of a file's name."""
        return slug(self.label)


@dataclasses.dataclass(frozen=True)
class Row(Line):
    """A student: what it is and what it is trained on.

    Attributes:
        terms: the penalties.
        supervised: weight of the cross-entropy with the labels.
        student: another architecture than the experiment's.
        two_heads: whether the student has a second head, for the teacher's classes.
        pretrained: whether the student starts from a network trained on the teacher's data.
        dropout: (activation layer, rate): dropout right after that layer.
        bias_decay: (convolution, batch normalisation, λ): λ Σ b² on the biases of both.
    """

    terms: tuple[Term, ...] = ()
    supervised: float = 1.0
    student: str | None = None
    two_heads: bool = False
    pretrained: bool = False
    dropout: tuple[str, float] | None = None
    bias_decay: tuple[str, str, float] | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained; the learning rate drops tenfold after the epochs in `drops`."""

    epochs: int
    drops: tuple[int, ...]
    batch_size: int
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    augment: bool | str = False

    def __str__(self):
        drops = f", ×0.1 after {', '.join(map(str, self.drops))}" if self.drops else ""
        augmented = {False: "", True: ", flips and crops", "flip": ", flips"}[self.augment]
        return (
            f"{self.optimizer} {self.learning_rate:g}{drops} of {self.epochs} epochs, "
            f"batch {self.batch_size}{augmented}"
        )

    def shortened(self, epochs: int) -> "Training":
        """The same schedule squeezed into fewer epochs."""
        drops = tuple(max(1, round(drop * epochs / self.epochs)) for drop in self.drops)
        return dataclasses.replace(self, epochs=epochs, drops=drops)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a teacher, or a pre-trained student, is trained on, and how.

    `training` None: it cannot be trained here and has to be given as a file.
    """

    network: str
    width: float
    dataset: str
    training: Training | None
    image_size: tuple[int, int] | None = None
    train_split: str = "train"
    test_split: str = "test"

    @property
    def name(self) -> str:
        """Of its file."""
        side = f"-{self.image_size[0]}" if self.image_size else ""
        return f"{self.network}-{self.dataset}{side}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject(Source):
    """A trained network that is itself examined; experiments share those of equal settings.

    Attributes:
        label: what distinguishes it, a part of its file's name.
        terms: the penalties.
        activation: "relu", or "softplus" with β = 10.
        normalize: whether its images are normalised; False leaves them in [0, 1].
        dropout: the rate after every max-pooling.
        weight_decay: λ Σ w² on kernels.
        seed: of weights, order and draws.
        keep: epochs after which a copy is kept.
        start: the network whose weights it begins with.
    """

    label: str
    terms: tuple[Term, ...] = ()
    activation: str = "relu"
    normalize: bool = True
    dropout: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    keep: tuple[int, ...] = ()
    start: "Subject | None" = None

    @property
    def name(self) -> str:
        """Of its file, which no other settings share."""
        return f"{super().name}-{slug(self.label)}-{digest(dataclasses.asdict(self))[:8]}"


@dataclasses.dataclass(frozen=True)
class Permuted(Subject):
    """A network that learned the same images with their labels in another order.

    Attributes:
        permutation: the seed of that order.
    """

    permutation: int = 0


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of a cell's record, and its column."""

    key: str
    title: str
    factor: float = 1.0
    digits: int = 2
    unit: str = ""


ACCURACY_COLUMN = Metric(ACCURACY, "test accuracy (%)", 100.0, 2, " %")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training: a row, how many examples per class, and the seed of everything random."""

    size: int
    seed: int
    row: Any

    @property
    def id(self) -> str:
        """The name of its file."""
        return f"{'full' if self.size == FULL else self.size}-seed{self.seed}-{self.row.slug}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(abc.ABC):
    """Rows × sizes × seeds, at one scale.

    Attributes:
        sizes: (size, number of seeds) of each column.
        metrics: the columns of each size.
        note: what a reader of the table must know.
    """

    name: str
    title: str
    scale: str
    sizes: tuple[tuple[int, int], ...]
    rows: tuple[Any, ...]
    metrics: tuple[Metric, ...] = (ACCURACY_COLUMN,)
    note: str = ""

    def cells(self) -> list[Cell]:
        """In the order in which they run: what was cut off has complete comparisons."""
        return [
            Cell(size, seed, row)
            for size, seeds in self.sizes
            for seed in range(seeds)
            for row in self.rows
        ]

    def settings(self) -> dict[str, Any]:
        """What all cells share."""
        described = dataclasses.asdict(self)
        for name in ("rows", "sizes", "title", "note", "metrics"):
            del described[name]
        return json.loads(json.dumps(described))

    def size_title(self, size: int) -> str:
        """The heading of a column."""
        return "all data" if size == FULL else f"{size} per class"

    @abc.abstractmethod
    def summary(self) -> str:
        """The settings in a line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Table):
    """Students trained on images, and tested.

    Attributes:
        sizes: examples per class, and seeds; `FULL` is the whole training split.
        reduction_of: a penalty whose reduction from the first to the last epoch is reported.
        angle_every: epochs between measurements of the angle to the teacher's input-gradients.
    """

    dataset: str
    student: str
    width: float
    training: Training
    teacher: Source | None = None
    pretrained: Source | None = None
    image_size: tuple[int, int] | None = None
    train_split: str = "train"
    test_split: str = "test"
    reduction_of: str | None = None
    angle_every: int = 0

    def summary(self) -> str:
        """The settings in a line."""
        parts = [f"{self.dataset}, {self.student} at width {self.width:g}, {self.training}"]
        for what, source in (("teacher", self.teacher), ("pre-trained", self.pretrained)):
            if source is not None and source.training is None:
                parts.append(f"{what} network given as a file")
            elif source is not None:
                parts.append(f"{what} {source.network} on {source.dataset} ({source.training})")
        return "; ".join(parts)

    def as_run(self, settings: Mapping[str, Any]) -> "Experiment":
        """With the data, network, schedule and teachers that `settings` of its cells tell of."""
        changes = {k: settings[k] for k in ("dataset", "student", "width") if k in settings}
        if "training" in settings:
            changes["training"] = _training(settings["training"])
        for role in ("teacher", "pretrained"):
            told, source = settings.get(role), getattr(self, role)
            if told and source and "file" in told:
                changes[role] = dataclasses.replace(source, training=None)
            elif told and source:
                schedule = told["training"] and _training(told["training"])
                changes[role] = dataclasses.replace(
                    source, network=told["network"], dataset=told["dataset"], training=schedule
                )
        return dataclasses.replace(self, **changes)


def _training(told: Mapping[str, Any]) -> Training:
    return Training(**{**told, "drops": tuple(told["drops"])})


def declaration(settings: Mapping[str, Any], cell: Any) -> dict[str, Any]:
    """All that a cell's result depends on."""
    row = dataclasses.asdict(cell.row)
    row.pop("paper", None)
    if settings.get("pretrained") and not row.get("pretrained"):
        settings = {name: value for name, value in settings.items() if name != "pretrained"}
    described = {"settings": settings, "row": row, "size": cell.size, "seed": cell.seed}
    return json.loads(json.dumps(described))


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


def digest(described: Mapping[str, Any]) -> str:
    """A short name for a declaration."""
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def paper(sizes: tuple[int, ...], text: str, key: str = ACCURACY) -> dict[str, Numbers]:
    """The paper's numbers of a row: "49.29±1.6 59.93±0.1" to {key: {size: (mean, deviation)}}."""
    numbers: dict[int, tuple[float, float | None]] = {}
    for size, entry in zip(sizes, text.split(), strict=True):
        mean, _, deviation = entry.partition("±")
        numbers[size] = (float(mean), float(deviation) if deviation else None)
    return {key: numbers}
