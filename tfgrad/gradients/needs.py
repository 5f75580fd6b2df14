"""What must be prepared before a forward pass, for everyone who shares it."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfgrad.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Needs:
    """What must be prepared before a forward pass.

    Attributes:
        layers: Names of layers whose calls are recorded.
        jacobian: Whether all logits will be differentiated, so that a single logit's gradient is
            a row of the Jacobian and needs no pass of its own.
        order: 2 if a gradient will itself be differentiated with respect to the input, else 1.
        intercepts: Whether every call's intercept is recorded, for full-gradients.
        biases: Names of layers whose pre-activations and biases are recorded.
        logits: Whether the outputs are read, so that they must be logits [batch, classes].
        at: Whose outputs are differentiated beside float inputs: names of layers, True for the
            embeddings of integer inputs, False for none, unless no input is a float one; None where
            it does not matter. See `tfgrad.gradients.embeddings.needed`.
    """

    layers: tuple[str, ...] = ()
    jacobian: bool = False
    order: int = 1
    intercepts: bool = False
    biases: tuple[str, ...] = ()
    logits: bool = True
    at: tuple[str, ...] | bool | None = None

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            tuple(dict.fromkeys(self.layers + other.layers)),
            self.jacobian or other.jacobian,
            max(self.order, other.order),
            self.intercepts or other.intercepts,
            tuple(dict.fromkeys(self.biases + other.biases)),
            self.logits or other.logits,
            _one_at(self.at, other.at),
        )


def _one_at(a: Any, b: Any) -> Any:
    """What both differentiate; None agrees with everything."""
    if a is None or b is None or a == b:
        return b if a is None else a
    got = [None if at is False else at for at in (a, b)]
    raise ArgumentError(
        f"at: got {got[0]!r} and {got[1]!r} for penalties of one model, which share one forward "
        "pass; expected the same at= for every penalty that reads input-gradients."
    )
