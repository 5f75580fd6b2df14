"""What a teacher says of a batch: each thing once, as a constant.

A penalty that compares asks `probe.teacher.recall(key, compute)`. With a live teacher, `compute` is
handed a probe of the teacher, in inference mode, and its answer is kept for the other penalties of
the step. Answers that were recorded once for a whole data set (`record`) come with the batch
instead, as a `Lesson`, and no teacher runs at all. Either way no gradient flows into them.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe


class Lesson(NamedTuple):
    """Inputs with what a teacher says of them; takes the place of x in `fit`.

    Attributes:
        x: the inputs, [batch, …].
        taught: {key: a nest of arrays [batch, …]}.
    """

    x: Any
    taught: dict[str, Any]


class Teacher:
    """The teacher's side of one batch.

    Args:
        network: a Keras model that returns logits.
        x: the batch.
        y: labels, where a penalty's target is `"label"`.
        needs: what the penalties will ask.
    """

    def __init__(self, network, x, y=None, needs=None):
        self._answers: dict[str, Any] = {}
        self._recorded, self._head = False, None
        self._probe: Probe | None
        with keras.StatelessScope(collect_losses=True):
            self._probe = Probe(network, x, y, training=False, needs=needs or Needs())

    @classmethod
    def from_lesson(cls, taught):
        """A teacher that repeats what was recorded."""
        teacher = cls.__new__(cls)
        teacher._answers, teacher._recorded, teacher._head = dict(taught), True, None
        teacher._probe = None
        return teacher

    def on(self, head):
        """A view on one head; a teacher with one output has the same answers for every head."""
        if head is None or head == self._head:
            return self
        view = Teacher.__new__(Teacher)
        view._answers, view._recorded, view._head = self._answers, self._recorded, head
        view._probe = self._probe
        if self._probe is not None:
            several = len(tf.nest.flatten(self._probe.outputs)) > 1
            view._probe = self._probe.on(head) if several else self._probe.with_labels_of(head)
        return view

    def recall(self, key, compute):
        """The answer to a question, as a constant.

        Args:
            key: names the question; one key is computed once.
            compute: a function of a probe of the teacher that returns a nest of tensors whose first
                axis is the batch.

        Raises:
            ArgumentError: the lessons were recorded for other penalties.
        """
        key = key if self._head is None else f"{self._head}/{key}"
        if key not in self._answers:
            if self._recorded:
                raise ArgumentError(
                    f"x: the lessons do not answer {key!r}; they hold {sorted(self._answers)}. "
                    "Record them again, with the penalties that they are for: model.lessons(x, y)."
                )
            with keras.StatelessScope(collect_losses=True):
                answer = compute(self._probe)
            self._answers[key] = tf.nest.map_structure(tf.stop_gradient, answer)
        return self._answers[key]

    def answers(self):
        """All that was asked so far, {key: nest}."""
        return dict(self._answers)


def needs_of(penalties):
    """What a teacher must prepare for these penalties; None where none of them has a teacher."""
    wanted = [n for n in (p.teacher_needs() for p in penalties) if n is not None]
    if not wanted:
        return None
    needs = Needs()
    for one in wanted:
        needs |= one
    return needs


def record(answer, x, y=None, batch_size=256) -> Lesson:
    """Ask a teacher about a whole data set, batch by batch.

    Args:
        answer: a function of x, y that returns {key: nest of tensors [batch, …]}; traced once.
        x: arrays [n, …], or a nest of them.
        y: labels, like x.
        batch_size: examples per pass.

    Returns:
        A `Lesson` of NumPy arrays.
    """
    arrays = tf.nest.flatten(x) + ([] if y is None else tf.nest.flatten(y))
    for array in arrays:
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise ArgumentError(
                f"x, y: got a {type(array).__name__}; lessons are recorded of arrays or tensors. "
                "Join a tf.data set's batches with np.concatenate first."
            )
    count = len(arrays[0])
    if count == 0:
        raise ArgumentError("x: got no examples; expected at least one.")
    if any(len(array) != count for array in arrays):
        raise ArgumentError(
            f"x, y: got {', '.join(str(len(a)) for a in arrays)} examples; expected the same "
            "number of each."
        )

    def batch(start):
        def rows(array):
            return tf.convert_to_tensor(array[start : start + batch_size])

        given = [x] if y is None else [x, y]
        return [tf.nest.map_structure(rows, part) for part in given]

    def spec(tensor):
        return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)

    specs = [tf.nest.map_structure(spec, part) for part in batch(0)]
    traced = tf.function(answer, autograph=False).get_concrete_function(*specs)
    parts = [traced(*batch(start)) for start in range(0, count, batch_size)]
    joined = [np.concatenate(a) for a in zip(*map(tf.nest.flatten, parts), strict=True)]
    taught = tf.nest.pack_sequence_as(parts[0], joined)
    return Lesson(x, keras.tree.lists_to_tuples(taught))  # tf.data takes a list for one tensor
