"""Comparison of what a runtime computes with the signature that a file was made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.export.portable.rewriting import inputs_of

TOLERANCE = 1e-4
# Relative changes of the inputs, tried from the smallest on; several draws of each.
_CHANGES = (2.0**-20, 2.0**-18, 2.0**-16)
_DRAWS = 4
# Other choices of a ReLU may be as close as those that the draws find.
_OTHERS = 10

Arrays = Mapping[str, np.ndarray]


def examples(
    specs: Mapping[str, tf.TensorSpec],
    given: Any,
    value_range: tuple[float, float],
    lowest_target: int,
) -> dict[str, np.ndarray]:
    """Values of every input that a signature may take, of a static batch.

    Args:
        specs: The inputs by name.
        given: Real values: {name: array}, or an array for the only input beside `target`; rows are
            repeated or left out to fill the batch. None draws them.
        value_range: What floats are drawn between.
        lowest_target: The value of `target`.

    Raises:
        ArgumentError: A given array has another shape than its input, or names none.
    """
    if given is not None and not isinstance(given, Mapping):
        given = {next(name for name in specs if name != "target"): given}
    for name in given or {}:
        if name not in specs:
            raise ArgumentError(f"example: got an input {name!r}; expected some of {[*specs]}.")
    random = np.random.default_rng(0)
    found = {}
    for name, spec in specs.items():
        shape, dtype = tuple(spec.shape), spec.dtype.as_numpy_dtype
        if given is not None and name in given:
            value = np.asarray(given[name], dtype)
            if value.ndim != len(shape) or not len(value) or value.shape[1:] != shape[1:]:
                raise ArgumentError(
                    f"example: got {name!r} of shape {value.shape}; expected one of {shape}, of "
                    "which the first number may differ."
                )
            found[name] = np.resize(value, shape)
        elif name == "target":
            found[name] = np.full(shape, lowest_target, dtype)
        elif spec.dtype.is_floating:
            found[name] = random.uniform(*value_range, shape).astype(dtype)
        else:
            found[name] = random.integers(0, 2, shape).astype(dtype)
    return found


def outputs(signature: Any, inputs: Arrays) -> dict[str, np.ndarray]:
    """What a signature returns in TensorFlow."""
    given = {name: tf.constant(inputs[name]) for name in inputs_of(signature)}
    return {name: np.asarray(value) for name, value in signature(**given).items()}


def largest_error(live: Arrays, got: Arrays) -> tuple[float, str | None]:
    """The largest difference of an output, relative, and that output.

    A difference of a map or of scores is relative to its largest entry, of another number of each
    example, such as an error of the decomposition, to the score's size or 1. Classes must be equal.
    """
    size = np.abs(live["score"]).max(initial=1.0) if "score" in live else 1.0
    worst, where = 0.0, None
    for name, value in live.items():
        if name not in got or got[name].shape != value.shape:
            return np.inf, name
        if value.dtype.kind != "f":
            error = 0.0 if np.array_equal(value, got[name]) else np.inf
        else:
            whole = value.ndim > 1 or name == "score"
            scale = np.abs(value).max(initial=0) if whole else size
            difference = np.abs(value - got[name]).max(initial=0)
            error = float(difference / max(scale, np.finfo(value.dtype).tiny))
            error = np.inf if np.isnan(error) else error
        if error > worst:
            worst, where = error, name
    return worst, where


def tolerance(signature: Any, inputs: Arrays, live: Arrays, got: Arrays) -> float:
    """What a correct file may differ by: 1e-4, or more where the live map is as sensitive.

    Gradients jump where a ReLU or a maximum changes its choice, and runtimes round differently. The
    inputs are changed until TensorFlow's own score moves as far as the runtime's differs from it;
    a map may differ by ten times as much as it moves meanwhile. Outputs without a score are no
    gradients: they must be right to 1e-4.
    """
    if "score" not in live:
        return TOLERANCE
    random = np.random.default_rng(1)
    rounding = np.abs(got["score"] - live["score"]).max()
    largest = 0.0
    for change in _CHANGES:
        score = 0.0
        for _ in range(_DRAWS):
            moved = dict(inputs)
            for name, value in inputs.items():
                if value.dtype.kind == "f":
                    noise = 1 + change * random.uniform(-1, 1, value.shape)
                    moved[name] = (value * noise).astype(value.dtype)
            there = outputs(signature, moved)
            error, _ = largest_error(live, there)
            largest = max(largest, error if np.isfinite(error) else 0.0)
            score = max(score, np.abs(there["score"] - live["score"]).max())
        if score >= rounding:
            break
    return max(TOLERANCE, _OTHERS * largest)
