"""The time of one map, relative to an input-gradient of the same batch."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.evaluation.comparison.compared_model import ComparedModel, batch_size
from tfgrad.evaluation.comparison.methods import Candidate, Maps
from tfgrad.evaluation.comparison.result import Cost

# A cost is timed until both numbers are reached, rounds and seconds, but never for more rounds.
_ROUNDS, _SECONDS, _MOST_ROUNDS = 3, 0.3, 30


def measured_cost(compared: ComparedModel, candidate: Candidate) -> Cost:
    """Medians over a few batches; each is timed in turn with an input-gradient of the same one."""
    functions = candidate.maps, compared.input_gradient
    for batch in {batch_size(x): (x, y) for x, y in compared.first_batches}.values():
        for function in functions:
            seconds_of(function, *batch)  # The first call of each batch size traces.
    times: list[list[float]] = []
    spent = 0.0
    for x, y in itertools.islice(itertools.cycle(compared.first_batches), _MOST_ROUNDS):
        pair = [seconds_of(function, x, y) for function in functions]
        times.append([seconds / batch_size(x) for seconds in pair])
        spent += sum(pair)
        if len(times) >= _ROUNDS and spent >= _SECONDS:
            break
    own, bare = np.transpose(times)
    return Cost(1e3 * float(np.median(own)), float(np.median(own / bare)))


def seconds_of(function: Maps, x: Any, y: Any) -> float:
    """The time of one call, until its maps are in memory."""
    began = time.perf_counter()
    tf.nest.map_structure(np.asarray, function(x, y))
    return time.perf_counter() - began
