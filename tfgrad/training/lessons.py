"""Recording a teacher's answers to a model's penalties for a whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfgrad.errors import ArgumentError
from tfgrad.gradients import embeddings
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning
from tfgrad.models.preprocessors import preprocessed
from tfgrad.penalties.base import Penalty
from tfgrad.penalties.examples import apart
from tfgrad.penalties.teacher import Lesson, Teacher, needs_of, record


def recorded_lessons(
    network: keras.Model,
    teacher: keras.Model,
    penalties: Sequence[Penalty],
    needs: Needs,
    x: Any,
    y: Any,
    batch_size: int,
) -> Lesson:
    """The inputs x with all answers of the teacher that these penalties use.

    The answers are found by computing the penalties, whose values are dropped.

    Args:
        network: The student.
        teacher: The teacher.
        penalties: The student's penalties.
        needs: What they need of a probe of the student.
        x: Arrays [n, …].
        y: Labels [n], or None.
        batch_size: Examples per forward pass.

    Raises:
        ArgumentError: A penalty asks the teacher something else at every step.
    """
    matching = [penalty for penalty in penalties if penalty.teacher_needs() is not None]
    for penalty in matching:
        if penalty.draws_for_teacher:
            raise ArgumentError(
                f"penalties: got {penalty.name!r}, which asks the teacher for other projections at "
                "every step; expected penalties whose answers can be recorded; try target='all' "
                "or 'label', or fit on the images."
            )

    def answer(x: Any, y: Any = None) -> dict[str, Any]:
        inputs, _, given = apart(x)
        x, y, _ = preprocessed(network, inputs, y)
        taught = Teacher(teacher, x, y, needs_of(matching), output_meaning.stated(network))
        with unchanged_state():
            sources = embeddings.needed(network, x, needs)
            probe = Probe(network, x, y, needs=needs, teacher=taught, sources=sources, given=given)
            for penalty in matching:
                penalty.compute(probe.on(penalty.head))
        return taught.answers()

    return record(answer, x, y, batch_size)
