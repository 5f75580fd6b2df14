"""The experiments of the papers, declared as data."""

from collections.abc import Callable

from tfgrad.internal import arguments

from ..schema import Table
from . import (
    density_figures,
    density_tables,
    distillation,
    faithfulness,
    faithfulness_digits,
    placement,
    regularisation,
    toy,
    transfer,
)

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
    "t2.2": density_tables.table_2_2,
    "t5.1": density_tables.table_5_1,
    "t5.2": density_tables.table_5_2,
    "f5.1": density_figures.figure_5_1,
    "f5.1e": density_figures.figure_5_1_epochs,
    "f5.2": density_figures.figure_5_2,
    "f5.3": density_figures.figure_5_3,
    "f5.4": density_figures.figure_5_4,
    "f5.5": density_figures.figure_5_5,
    "f5.8": density_figures.figure_5_8,
    "estimators": density_figures.estimators,
    "coupling": density_figures.coupling,
    "f3.2a": faithfulness.figure_3_2a,
    "coarseness": faithfulness.coarseness,
    "coarseness-roar": faithfulness.coarseness_retrained,
    "masks": faithfulness.masks,
    "labels": faithfulness.labels,
    "f3.2b": faithfulness.figure_3_2b,
    "t3.1": faithfulness_digits.table_3_1,
    "t3.2": faithfulness_digits.table_3_2,
    "fills": faithfulness_digits.fills,
    "f3.3": faithfulness.figure_3_3,
    "placement-digits": placement.on_digits,
    "placement-photographs": placement.on_photographs,
    "placement-flowers": placement.on_flowers,
}


def declared(name: str | None, scale: str) -> Table:
    """Declare an experiment.

    Args:
        name: Key of `DECLARED`.
        scale: One of `SCALES`.

    Raises:
        ArgumentError: There is no experiment of that name.
    """
    return DECLARED[arguments.one_of("--experiment", name, DECLARED)](scale)
