"""Teacher outputs for a batch, each computed once and never differentiated.

A penalty that matches a teacher calls `probe.teacher.recall(key, compute)`. With a live teacher,
`compute` receives a probe of the teacher in inference mode, and its answer is kept for the other
penalties of the step. Answers that `record` computed for a whole data set come with the batch as a
`Lesson`; no teacher runs then. In both cases no gradient flows into them.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import embeddings
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks
from tfgrad.internal.unchanged_state import unchanged_state


class Lesson(NamedTuple):
    """Inputs with a teacher's answers for them; takes the place of x in `fit`.

    Attributes:
        x: The inputs, [batch, …].
        taught: {key: nest of arrays [batch, …]}.
    """

    x: Any
    taught: dict[str, Any]


class Teacher:
    """The teacher's answers for one batch.

    Args:
        network: A Keras model that returns logits.
        x: The batch.
        y: Labels, for penalties with target `"label"`.
        needs: What the penalties will ask for.
        outputs: What the student's outputs mean, as far as it is known; the teacher's then mean
            the same.
    """

    def __init__(
        self,
        network: keras.Model,
        x: Any,
        y: Any = None,
        needs: Needs | None = None,
        outputs: Any = None,
    ) -> None:
        self._answers: dict[str, Any] = {}
        self._head: Any = None
        # None where the answers were recorded.
        self._probe: Probe | None
        with unchanged_state():
            needs = needs or Needs()
            _check_at(network, needs)
            self._probe = Probe(
                network,
                x,
                y,
                training=False,
                needs=needs,
                outputs=outputs,
                sources=embeddings.needed(network, x, needs),
            )

    @classmethod
    def from_lesson(cls, taught: dict[str, Any]) -> Teacher:
        """A teacher that repeats recorded answers."""
        teacher = cls.__new__(cls)
        teacher._answers, teacher._head, teacher._probe = dict(taught), None, None
        return teacher

    def on(self, head: Any) -> Teacher:
        """A view on one head; a teacher with one output has the same answers for every head."""
        if head is None or head == self._head:
            return self
        view = copy.copy(self)  # with the same dict of answers
        view._head = head
        if self._probe is not None:
            several = len(tf.nest.flatten(self._probe.outputs)) > 1
            view._probe = self._probe.on(head) if several else self._probe.with_labels_of(head)
        return view

    def recall(self, key: str, compute: Callable[[Probe], Any]) -> Any:
        """The answer stored under a key, as a constant; computed at the first request.

        Args:
            key: Name of the answer; equal keys share one answer.
            compute: A function of a probe of the teacher that returns a nest of tensors whose
                first axis is the batch.

        Raises:
            ArgumentError: The lessons were recorded for other penalties.
        """
        key = key if self._head is None else f"{self._head}/{key}"
        if key not in self._answers:
            if self._probe is None:
                raise ArgumentError(
                    f"x: got lessons that contain {sorted(self._answers)}; expected {key!r} among "
                    "them. Record them again with these penalties: model.lessons(x, y)."
                )
            with unchanged_state():
                answer = compute(self._probe)
            self._answers[key] = tf.nest.map_structure(tf.stop_gradient, answer)
        return self._answers[key]

    def answers(self) -> dict[str, Any]:
        """All answers computed so far, {key: nest}."""
        return dict(self._answers)


def _check_at(network: keras.Model, needs: Needs) -> None:
    """Raise unless the layers whose outputs are differentiated are the teacher's, too."""
    known = [layer.name for layer in call_hooks.flatten(network)]
    for name in needs.at if isinstance(needs.at, tuple) else ():
        if name not in known:
            raise ArgumentError(
                f"at: got {name!r}, which is no layer of the teacher {network.name!r}; expected a "
                f"layer of the network and of its teacher, which has {known}; try at=True, which "
                "finds the embeddings of both, or the same name for both layers."
            )


def needs_of(penalties: Iterable[Any]) -> Needs | None:
    """What a teacher must prepare for these penalties; None if none of them has a teacher."""
    wanted = [n for n in (p.teacher_needs() for p in penalties) if n is not None]
    return functools.reduce(operator.or_, wanted) if wanted else None


def record(
    answer: Callable[..., dict[str, Any]], x: Any, y: Any = None, batch_size: int = 256
) -> Lesson:
    """Compute a teacher's answers for a whole data set, batch by batch.

    Args:
        answer: A function of x, y that returns {key: nest of tensors [batch, …]}; traced once.
        x: Arrays [n, …], or a nest of them.
        y: Labels, like x.
        batch_size: Examples per forward pass.

    Returns:
        A `Lesson` of NumPy arrays.

    Raises:
        ArgumentError: x or y contains no arrays, no examples, or different numbers of them.
    """
    given = [x] if y is None else [x, y]
    count = _checked_count(tf.nest.flatten(given))

    def batch(start: int) -> list[Any]:
        def rows(array: Any) -> tf.Tensor:
            return tf.convert_to_tensor(array[start : start + batch_size])

        return [tf.nest.map_structure(rows, part) for part in given]

    def spec(tensor: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)

    specs = [tf.nest.map_structure(spec, part) for part in batch(0)]
    traced = tf.function(answer, autograph=False).get_concrete_function(*specs)
    parts = [traced(*batch(start)) for start in range(0, count, batch_size)]
    joined = [np.concatenate(a) for a in zip(*map(tf.nest.flatten, parts), strict=True)]
    taught = tf.nest.pack_sequence_as(parts[0], joined)
    return Lesson(x, keras.tree.lists_to_tuples(taught))  # tf.data takes a list for one tensor


def _checked_count(arrays: list[Any]) -> int:
    """The number of examples that all arrays have."""
    for array in arrays:
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise ArgumentError(
                f"x, y: got {type(array).__name__}; expected arrays or tensors. Join the batches "
                "of a tf.data.Dataset with np.concatenate first."
            )
    counts = [len(array) for array in arrays]
    if counts[0] == 0:
        raise ArgumentError("x: got no examples; expected at least one.")
    if len(set(counts)) > 1:
        raise ArgumentError(
            f"x, y: got {', '.join(map(str, counts))} examples; expected the same number of each."
        )
    return counts[0]
