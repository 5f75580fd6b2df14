"""Networks and their training, as data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .naming import digest, slug


@dataclasses.dataclass(frozen=True)
class Term:
    """One penalty.

    Attributes:
        penalty: Name of a class in `tfgrad.penalties`.
        weight: Weight of the penalty.
        options: Other arguments of the class.
    """

    penalty: str
    weight: float
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Training:
    """The training schedule of a network.

    Attributes:
        epochs: Number of epochs.
        drops: Epochs after which the learning rate is divided by 10.
        batch_size: Number of images per step.
        optimizer: "adam", or "sgd" with momentum 0.9.
        learning_rate: Learning rate before the first drop.
        augment: True for random flips and crops, "flip" for flips only, False for neither.
    """

    epochs: int
    drops: tuple[int, ...]
    batch_size: int
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    augment: bool | str = False

    def __str__(self) -> str:
        drops = f", ×0.1 after {', '.join(map(str, self.drops))}" if self.drops else ""
        augmented = {False: "", True: ", flips and crops", "flip": ", flips"}[self.augment]
        return (
            f"{self.optimizer} {self.learning_rate:g}{drops} of {self.epochs} epochs, "
            f"batch {self.batch_size}{augmented}"
        )

    def shortened(self, epochs: int) -> "Training":
        """The same schedule with fewer epochs; the drops keep their relative positions."""
        drops = tuple(max(1, round(drop * epochs / self.epochs)) for drop in self.drops)
        return dataclasses.replace(self, epochs=epochs, drops=drops)


@dataclasses.dataclass(frozen=True)
class Source:
    """A teacher, or the network from which a pre-trained student starts, and its training.

    Attributes:
        network: Name in `tfgrad.models`.
        width: Factor on the number of channels.
        dataset: Name of the data set.
        training: Training schedule; None if the network must be given as a file.
        image_size: (height, width) to which images are resized; None keeps their size.
        train_split: TFDS split or slice for training.
        test_split: TFDS split or slice for testing.
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
        """Name of the network's file, without its extension."""
        side = f"-{self.image_size[0]}" if self.image_size else ""
        return f"{self.network}-{self.dataset}{side}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExaminedNetwork(Source):
    """A network that is trained and then examined; experiments share networks of equal settings.

    Attributes:
        label: Distinguishing label, part of the file name.
        terms: Penalties.
        activation: "relu", or "softplus" with β = 10.
        normalize: Whether images are normalised; False leaves them in [0, 1].
        dropout: Dropout rate after every max-pooling.
        weight_decay: λ of the penalty λ Σ w² on kernels.
        seed: Seed of the weights, the order of the images and random draws.
        keep: Epochs after which a copy is kept.
        start: Network whose weights are the initial weights.
    """

    label: str
    terms: tuple[Term, ...] = ()
    activation: str = "relu"
    normalize: bool = True
    dropout: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    keep: tuple[int, ...] = ()
    start: "ExaminedNetwork | None" = None

    @property
    def name(self) -> str:
        """Name of the network's file, which contains a digest of all settings."""
        return f"{super().name}-{slug(self.label)}-{digest(dataclasses.asdict(self))[:8]}"


@dataclasses.dataclass(frozen=True)
class Permuted(ExaminedNetwork):
    """A network trained on the same images with permuted labels.

    Attributes:
        permutation: Seed of the permutation.
    """

    permutation: int = 0
