"""The one-dimensional toy experiment, as data."""

import dataclasses

import numpy as np

from .table import Line, Table

# Where the curves of teacher and students are evaluated.
GRID = np.linspace(-1.2, 1.2, 193, dtype=np.float32)[:, None]
STEPS_PER_EPOCH = 100


@dataclasses.dataclass(frozen=True)
class ToyRow(Line):
    """What the student matches: the teacher's values at the points, and what else.

    Attributes:
        slopes: Whether the student also matches slopes.
        copies: Number of noisy copies of each point, at which values are matched instead; 0 for
            the points themselves.
    """

    slopes: bool = False
    copies: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Table):
    """Students of a fixed function of one variable.

    Attributes:
        sizes: (number of points, number of seeds).
        sigma: Standard deviation σ of the noise; slopes have the weight σ² that Proposition 1
            gives them. Noisy copies are drawn once, N for each point, as an enlarged training set.
        width: Number of units in each hidden layer.
        beta: β of the softplus.
        epochs: Number of epochs, of `STEPS_PER_EPOCH` steps each.
        drop: Epoch after which the learning rate is divided by 10.
        learning_rate: Learning rate before the drop.
    """

    sigma: float = 0.1
    width: int = 64
    beta: float = 4.0
    epochs: int = 40
    drop: int = 32
    learning_rate: float = 1e-2

    def size_title(self, size: int) -> str:
        """The heading of a size's columns."""
        return f"{size} points"

    def summary(self) -> str:
        """The settings in one line."""
        return (
            f"a smooth teacher of one variable; students: two softplus layers of {self.width}; "
            f"noise σ = {self.sigma:g}, slopes weighed σ²; Adam {self.learning_rate:g}, ×0.1 after "
            f"{self.drop * STEPS_PER_EPOCH:,} of {self.epochs * STEPS_PER_EPOCH:,} steps"
        )
