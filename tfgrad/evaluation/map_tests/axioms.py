"""What maps promise, measured on a user's model and images (thesis §3.2 and §3.4.1).

| measurement        | promise                                             | kept by              |
|--------------------|-----------------------------------------------------|----------------------|
| `completeness`     | a map adds up to the score, or to its rise          | integrated gradients |
| `bias_sensitivity` | a map changes with the biases that change the score | FullGrad             |
| `weak_dependence`  | a map stays the same within a linear region         | the input-gradient   |
| `shift_agreement`  | one function of shifted images has one map          | the input-gradient   |

No map keeps both the first and the third on every piecewise linear network (Prop. 4 and 7), so
these are properties to know rather than faults to count. Each has a module of its own; this one
holds what they share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.measurement import Measurement, counted, over_draws

# Gradients whose relative difference is below the rounding of float32 belong to one linear region.
SAME_REGION = 1e-6
# How often a step is halved until an image stays within its linear region.
HALVINGS = 10


def single_measurement(
    name: str,
    score: str,
    direction: str,
    values: np.ndarray,
    columns: dict[str, Any],
    *,
    missing: Any = None,
    seed: int = 0,
    drawn: str = "",
) -> Measurement:
    """The mean of the images' values as a `Measurement` of a single number.

    Args:
        name: Name of the test.
        score: What the values are.
        direction: Whichever is better, higher or lower.
        values: The value of each image, [n] or [draws, n]; NaN ones are left out.
        columns: Further numbers, {name: number}.
        missing: Number of maps that are left out; None for the number of NaN values.
        seed: Seed of the random numbers.
        drawn: Noun for what was drawn, if several draws were.

    Raises:
        DataError: All values are NaN.
    """
    columns["maps left out"] = np.isnan(values).sum() if missing is None else missing
    return Measurement(
        name=name,
        score=score,
        direction=direction,
        columns={title: (float(value),) for title, value in columns.items()},
        seed=seed,
        **summary(values, drawn),
    )


def summary(values: np.ndarray, drawn: str = "") -> dict[str, Any]:
    """Mean and standard error of numbers as fields of a `Measurement`; NaN ones are left out.

    Args:
        values: Numbers, [n] or [draws, n].
        drawn: Noun for what was drawn, such as "signs".

    Raises:
        DataError: All are NaN.
    """
    rows = np.atleast_2d(values)
    count = int((~np.isnan(rows)).any(0).sum())
    if not count:
        raise DataError(
            f"maps: those of all {rows.shape[1]} images are constant, zero, NaN or infinite; "
            "expected some that rank pixels. Look at the network's weights, or try another method."
        )
    mean, error = over_draws(rows)
    several = f" and {len(rows)} draws of {drawn}" if len(rows) > 1 else ""
    return {
        "values": (mean,),
        "deviations": (error,),
        "over": f"{counted(count, 'image')}{several} (standard error)",
        "examples": count,
    }


def of_finite(reduce: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    """The mean or median of the finite numbers; NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(reduce(known)) if len(known) else float("nan")


def broadcast_to_image(name: str, value: Any, x: tf.Tensor) -> np.ndarray:
    """A finite number or array, broadcast to the shape of one image of x.

    Raises:
        ArgumentError: The value is not finite or does not broadcast; `name` is the argument.
    """
    array = np.asarray(value)
    try:
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ValueError
        return np.broadcast_to(array.astype(np.float64), x.shape[1:])
    except ValueError as error:
        raise ArgumentError(
            f"{name}: got {value!r}; expected a finite number, or an array of finite numbers that "
            f"broadcasts to one image {tuple(x.shape[1:])}."
        ) from error
