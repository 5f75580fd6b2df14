"""Experiments that train students, as data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .networks import Source, Term, Training
from .table import Line, Table

# Key of a cell's record: by how much a penalty was reduced in training.
REDUCTION = "reduction"


@dataclasses.dataclass(frozen=True)
class Row(Line):
    """A student and its losses.

    Attributes:
        terms: Penalties.
        supervised: Weight of the cross-entropy with the labels.
        student: Architecture, if it is not the experiment's.
        two_heads: Whether the student has a second head, for the teacher's classes.
        pretrained: Whether the student starts from a network trained on the teacher's data.
        dropout: (activation layer, rate) of dropout right after that layer.
        bias_decay: (convolution, batch normalisation, λ) of the penalty λ Σ b² on the biases of
            both layers.
    """

    terms: tuple[Term, ...] = ()
    supervised: float = 1.0
    student: str | None = None
    two_heads: bool = False
    pretrained: bool = False
    dropout: tuple[str, float] | None = None
    bias_decay: tuple[str, str, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Table):
    """Students trained on images, and tested.

    Attributes:
        sizes: (examples per class, number of seeds); `FULL` is the whole training split.
        dataset: Name of the data set.
        student: Architecture of the students.
        width: Factor on the students' number of channels.
        training: Training schedule of the students.
        teacher: Teacher, if there is one.
        pretrained: Network from which pre-trained students start.
        image_size: (height, width) to which images are resized; None keeps their size.
        train_split: TFDS split or slice for training.
        test_split: TFDS split or slice for testing.
        reduction_of: Penalty whose reduction from the first to the last epoch is reported.
        angle_every: Number of epochs between measurements of the angle to the teacher's
            input-gradients; 0 for none.
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
        """The settings in one line."""
        parts = [f"{self.dataset}, {self.student} at width {self.width:g}, {self.training}"]
        for what, source in (("teacher", self.teacher), ("pre-trained", self.pretrained)):
            if source is not None and source.training is None:
                parts.append(f"{what} network given as a file")
            elif source is not None:
                parts.append(f"{what} {source.network} on {source.dataset} ({source.training})")
        return "; ".join(parts)

    def as_run(self, settings: Mapping[str, Any]) -> "Experiment":
        """The experiment with the data, network, schedule and teachers of its cells' `settings`."""
        changes = {k: settings[k] for k in ("dataset", "student", "width") if k in settings}
        if "training" in settings:
            changes["training"] = _training(settings["training"])
        for role in ("teacher", "pretrained"):
            recorded, source = settings.get(role), getattr(self, role)
            if recorded and source and "file" in recorded:
                changes[role] = dataclasses.replace(source, training=None)
            elif recorded and source:
                schedule = recorded["training"] and _training(recorded["training"])
                fields = {name: recorded[name] for name in ("network", "dataset")}
                changes[role] = dataclasses.replace(source, **fields, training=schedule)
        return dataclasses.replace(self, **changes)


def _training(recorded: Mapping[str, Any]) -> Training:
    return Training(**{**recorded, "drops": tuple(recorded["drops"])})
