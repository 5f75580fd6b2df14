"""The experiments of the papers, declared as data, and what runs their cells."""

from collections.abc import Callable

from apps.experiments import distillation, regularisation, toy, transfer
from apps.experiments.declarations import Table
from tfgrad.errors import ArgumentError

SCALES = ("small", "paper")
DECLARED: dict[str, Callable[[str], Table]] = {
    "f2.1": toy.figure_2_1,
    "t2.1": distillation.table_2_1,
    "t2.3": transfer.table_2_3,
    "t2.4": transfer.table_2_4,
    "t2.5": transfer.table_2_5,
    "t4.1": distillation.table_4_1,
    "t4.2": distillation.table_4_2,
    "attention": distillation.attention_weights,
    "f4.1a": distillation.figure_4_1a,
    "f4.1b": distillation.figure_4_1b,
    "t4.3": regularisation.table_4_3,
}


def declared(name: str | None, scale: str) -> Table:
    """The experiment of a name, at a scale."""
    if name not in DECLARED:
        raise ArgumentError(
            f"--experiment: got {name!r}; choose one of {', '.join(DECLARED)} (see --list)."
        )
    return DECLARED[name](scale)
