"""How a compiled loss adds up the losses of the examples, and every penalty alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.penalties.base import Penalty
from tfgrad.training.batch import own_head

# "mean": over the global batch. "weighted_mean": over the sum of the sample weights. "sum": the
# sum, also reported. "none": the sum, of which Keras reports the mean.
Reduction = Literal["mean", "weighted_mean", "sum", "none"]

_OF_KERAS: dict[Any, Reduction] = {
    "sum_over_batch_size": "mean",
    "mean": "mean",
    "mean_with_sample_weight": "weighted_mean",
    "sum": "sum",
    "none": "none",
    None: "none",
}
_TRY = "try reduction='sum_over_batch_size' for every loss"


def of_loss(loss: Any) -> Reduction:
    """The reduction of one compiled loss: a string or function has Keras's default, the mean."""
    return _OF_KERAS.get(getattr(loss, "reduction", "mean"), "mean")


def of_penalties(
    loss: Any, penalties: Sequence[Penalty], replicas: int
) -> tuple[Reduction, dict[str, Reduction]]:
    """The reduction of the supervised loss, and of every penalty by name.

    A penalty has the reduction of its head's loss, or of the only one.

    Args:
        loss: A loss as `compile` takes it, one per head, or None.
        penalties: The penalties.
        replicas: Number of replicas.

    Raises:
        ArgumentError: The losses have different reductions, and a penalty belongs to none of them;
            or Keras cannot share or add up these reductions.
    """
    kinds = {of_loss(one) for one in tf.nest.flatten(loss) if one is not None} or {"mean"}
    names = " and ".join(sorted(map(repr, kinds)))
    if "none" in kinds and len(kinds) > 1 and penalties:
        raise ArgumentError(
            f"loss: got losses whose reductions are {names}; expected reduction=None for all or "
            f"for none of them, because Keras adds a mean to every example's loss; {_TRY}."
        )
    if replicas > 1 and ("weighted_mean" in kinds or len(kinds) > 1):
        raise ArgumentError(
            f"loss: got the reduction {names} on {replicas} replicas; expected one reduction, not "
            f"'mean_with_sample_weight', which each replica divides by its own weights; {_TRY}."
        )
    found = {}
    for penalty in penalties:
        own = kinds if len(kinds) == 1 else {of_loss(_of_head(loss, penalty, names))}
        found[penalty.name] = next(iter(own))
    return next(iter(kinds)) if len(kinds) == 1 else "mean", found


def _of_head(loss: Any, penalty: Penalty, names: str) -> Any:
    """The loss of a penalty's head."""
    head = own_head(penalty)
    if isinstance(loss, Mapping) and loss.get(head) is not None:
        return loss[head]
    if isinstance(loss, (list, tuple)) and isinstance(head, int) and loss[head] is not None:
        return loss[head]
    raise ArgumentError(
        f"loss: got losses whose reductions are {names}; expected one reduction, because penalty "
        f"{penalty.name!r} belongs to none of the heads that have a loss; {_TRY}, or give the "
        "penalty a head=."
    )
