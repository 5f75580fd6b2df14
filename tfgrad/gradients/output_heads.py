"""The heads of a network with several outputs: their logits and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError


def logits(network: keras.Model, outputs: Any, head: Any = None) -> tf.Tensor:
    """The logits of one head among a network's outputs; `head` None means the only output.

    An output [batch] is one logit, or the one number of a regression.

    Returns:
        [batch, classes].

    Raises:
        ArgumentError: There is no such head.
        ModelError: There are several outputs, or the output is not [batch, classes].
    """
    found = output(network, outputs, head)
    if found.shape.rank == 1:
        return found[:, tf.newaxis]
    if found.shape.rank != 2:
        raise ModelError(
            f"network {network.name!r}: got outputs of shape {found.shape}; expected "
            "logits [batch, classes]; try one number per class, such as the mean over positions."
        )
    return found


def output(network: keras.Model, outputs: Any, head: Any = None) -> tf.Tensor:
    """One head among a network's outputs, of any shape; `head` None means the only output.

    Raises:
        ArgumentError: There is no such head.
        ModelError: There are several outputs.
    """
    found = outputs
    if head is not None:
        found = part(outputs, head)
        if found is None:
            raise ArgumentError(
                f"head: got {head!r}; network {network.name!r} has {keys(outputs)}."
            )
    flat = tf.nest.flatten(found)
    if len(flat) != 1:
        raise ModelError(
            f"network {network.name!r}: got {len(flat)} outputs, {keys(outputs)}; expected "
            "one tensor of logits [batch, classes]; try head=, where there is such an argument, "
            "or tfgrad.models.one_head(network, ...)."
        )
    return flat[0]


def part(nest: Any, head: Any) -> Any:
    """The entry of a head in a dict or list; None if there is none."""
    if isinstance(nest, Mapping):
        return nest.get(head)
    if isinstance(nest, list | tuple) and isinstance(head, int) and 0 <= head < len(nest):
        return nest[head]
    return None


def keys(outputs: Any) -> str:
    """The existing heads, for a message."""
    if isinstance(outputs, Mapping):
        return "heads " + ", ".join(map(repr, outputs))
    if isinstance(outputs, list | tuple):
        return "heads " + ", ".join(map(str, range(len(outputs))))
    return "one output and needs no head"


def labelled(network: keras.Model, outputs: Any, y: Any) -> Any:
    """The outputs of the heads that have labels; the others are trained by penalties alone.

    Raises:
        ArgumentError: The network has named heads, and the labels are not given by head.
    """
    if not isinstance(outputs, Mapping) or y is None:
        return outputs
    if not isinstance(y, Mapping) or not set(y) <= set(outputs):
        got = list(y) if isinstance(y, Mapping) else type(y).__name__
        raise ArgumentError(
            f"y: got {got}; network {network.name!r} has {keys(outputs)}; expected labels by head, "
            "{head: labels}, for one of them or more."
        )
    return {head: output for head, output in outputs.items() if head in y}
