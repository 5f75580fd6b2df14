"""Inputs with what penalties need of each example beside its label: derivatives, masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from tfgrad.errors import ArgumentError
from tfgrad.gradients.probe import Probe
from tfgrad.penalties.teacher import Lesson


class Examples(NamedTuple):
    """Inputs with what penalties need of each example; takes the place of x.

    It travels wherever x does: arrays and data sets passed to `fit` and `evaluate`, validation
    data, a `keras.utils.PyDataset`, `per_example`. Labels and sample weights stay as they are;
    where there are none, data sets and `validation_data` may be of `Examples` alone.

    Attributes:
        x: The inputs, [batch, …] or a nest.
        given: {name: array [batch, …] or a nest of them}; a penalty reads the entry of its `key`.

    Example:

    ```python
    model.fit(tfgrad.penalties.Examples(x, {"derivatives": slopes}), y)
    ```
    """

    x: Any
    given: dict[str, Any]


def unpacked(data: Any) -> tuple[Any, Any, Any]:
    """x, y and sample weights of a batch, y and weights None where they are missing.

    Keras would take an x that comes alone for a pair of inputs and labels, as `Examples` and
    `Lesson` are tuples.
    """
    if isinstance(data, Lesson | Examples):
        return data, None, None
    return keras.utils.unpack_x_y_sample_weight(data)


def apart(x: Any) -> tuple[Any, dict[str, Any] | None, dict[str, Any] | None]:
    """(inputs, recorded answers of a teacher, what is given of each example) of an x of `fit`."""
    taught = given = None
    while isinstance(x, Lesson | Examples):
        if isinstance(x, Lesson):
            x, taught = x
        else:
            x, given = x
    return x, taught, given


def with_inputs(x: Any, inputs: Any) -> Any:
    """The same x of `fit` with other inputs in it."""
    if isinstance(x, Lesson | Examples):
        return x._replace(x=with_inputs(x.x, inputs))
    return inputs


def given_for(probe: Probe, key: str, name: str) -> Any:
    """What came with the examples under a key.

    Args:
        probe: The probe of the batch.
        key: The key.
        name: Name of the penalty that reads it.

    Raises:
        ArgumentError: Nothing did.
    """
    if key not in probe.given:
        got = f"Examples with {[*probe.given]}" if probe.given else "inputs alone"
        raise ArgumentError(
            f"x: got {got}; penalty {name!r} needs {key!r} of each example; try "
            f"tfgrad.penalties.Examples(x, {{{key!r}: …}}) in place of x."
        )
    return probe.given[key]


def pairs_of(gradient: Any, given: Any, key: str) -> list[tuple[Any, Any, Any]]:
    """(place, gradient, given) of every input of which something is given.

    Args:
        gradient: A gradient in the structure of the float inputs.
        given: A tensor, where there is one float input; else {key or position of an input: tensor}
            of some of them, or a list of all.
        key: The name of what is given, for messages.

    Raises:
        ArgumentError: There is no such input, or there are several and one tensor is given.
    """
    parts: dict[Any, Any] = {None: gradient}
    if isinstance(gradient, Mapping):
        parts = dict(gradient)
    elif isinstance(gradient, list | tuple):
        parts = dict(enumerate(gradient))
    if isinstance(given, list | tuple):
        given = dict(enumerate(given)) if len(given) == len(parts) else given
    elif not isinstance(given, Mapping):
        given = {next(iter(parts)): given} if len(parts) == 1 else given
    if not isinstance(given, Mapping) or not set(given) <= set(parts):
        got = [*given] if isinstance(given, Mapping) else f"a {type(given).__name__}"
        expected = "one tensor" if None in parts else f"tensors for some of {[*parts]}"
        raise ArgumentError(
            f"x: got {key!r} as {got}; expected {expected}, as the network's float inputs."
        )
    return [(place, parts[place], value) for place, value in given.items()]
