"""The heads of a network with several outputs: which logits, and which labels."""

from collections.abc import Mapping

import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError


def logits(network, outputs, head):
    """One head's logits among a network's outputs; `head` None means the only output.

    Raises:
        ArgumentError: there is no such head.
        ModelError: there are several, or the output is not [batch, classes].
    """
    logits = outputs
    if head is not None:
        logits = part(outputs, head)
        if logits is None:
            raise ArgumentError(
                f"head: got {head!r}; network {network.name!r} has {keys(outputs)}."
            )
    flat = tf.nest.flatten(logits)
    if len(flat) != 1:
        raise ModelError(
            f"network {network.name!r}: got {len(flat)} outputs, {keys(outputs)}; a "
            "gradient is taken of one tensor of logits [batch, classes]. Name one with head=, "
            "where there is such an argument, or take tfgrad.models.one_head(network, ...)."
        )
    logits = flat[0]
    if logits.shape.rank != 2:
        raise ModelError(
            f"network {network.name!r}: got outputs of shape {logits.shape}; expected "
            "logits [batch, classes]."
        )
    return logits


def part(nest, head):
    """What belongs to a head in a dict or list, or None."""
    if isinstance(nest, Mapping):
        return nest.get(head)
    if isinstance(nest, list | tuple) and isinstance(head, int) and 0 <= head < len(nest):
        return nest[head]
    return None


def keys(outputs):
    """The heads that there are, for a message."""
    if isinstance(outputs, Mapping):
        return "heads " + ", ".join(map(repr, outputs))
    if isinstance(outputs, list | tuple):
        return "heads " + ", ".join(map(str, range(len(outputs))))
    return "one output and needs no head"


def labelled(network, outputs, y):
    """The heads that have labels; the others are taught by penalties alone.

    Raises:
        ArgumentError: the labels of a network with named heads do not say whose they are.
    """
    if not isinstance(outputs, Mapping) or y is None:
        return outputs
    if not isinstance(y, Mapping) or not set(y) <= set(outputs):
        got = list(y) if isinstance(y, Mapping) else type(y).__name__
        raise ArgumentError(
            f"y: got {got}; network {network.name!r} has {keys(outputs)}, expected labels by head, "
            "{head: labels}, for one of them or more."
        )
    return {head: output for head, output in outputs.items() if head in y}
