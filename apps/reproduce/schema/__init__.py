"""The parts of an experiment as data: rows, columns, networks, schedules and published numbers."""

from .examination import (
    BRIGHTNESS,
    CENTRE,
    LOGIT,
    RANDOM,
    Coarsened,
    Examination,
    Examined,
    Explained,
)
from .naming import digest, slug
from .networks import ExaminedNetwork, Permuted, Source, Term, Training
from .students import REDUCTION, Experiment, Row
from .table import (
    ACCURACY,
    ACCURACY_COLUMN,
    CIFAR10_BESIDE_CIFAR100,
    FULL,
    Cell,
    Line,
    Metric,
    Numbers,
    Table,
    declaration,
    numbers_by,
    paper,
)
from .toy import Toy, ToyRow

__all__ = [
    "ACCURACY",
    "ACCURACY_COLUMN",
    "BRIGHTNESS",
    "CENTRE",
    "CIFAR10_BESIDE_CIFAR100",
    "FULL",
    "LOGIT",
    "RANDOM",
    "REDUCTION",
    "Cell",
    "Coarsened",
    "Examination",
    "Examined",
    "ExaminedNetwork",
    "Experiment",
    "Explained",
    "Line",
    "Metric",
    "Numbers",
    "Permuted",
    "Row",
    "Source",
    "Table",
    "Term",
    "Toy",
    "ToyRow",
    "Training",
    "declaration",
    "digest",
    "numbers_by",
    "paper",
    "slug",
]
