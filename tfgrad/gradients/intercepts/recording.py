"""The state of a recording: where a call is made, and the terms that have been recorded so far."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import keras
import tensorflow as tf

from tfgrad.gradients.intercepts import closed_forms
from tfgrad.gradients.intercepts.call_structure import Call
from tfgrad.gradients.intercepts.tangents import Aside, Code, Frame, Graph, differentiable
from tfgrad.gradients.intercepts.terms import Intercept, Intercepts, Kind
from tfgrad.internal import call_hooks


class Recording:
    """One forward pass.

    Args:
        watch: A function that is called with every tensor that will be differentiated.
        aside: A context in which the tape that will differentiate does not record.

    Attributes:
        terms: The terms, in call order.
        names: The names of the calls so far, whether or not they have a term.
        running: Names of the layers whose calls are running, the model first.
    """

    def __init__(self, watch: Callable[[tf.Tensor], None], aside: Aside) -> None:
        self.watch, self.aside = watch, aside
        self.terms = Intercepts()
        self.names = call_hooks.CallNames()
        self.running: list[str] = []
        # Term indices by the ids of their outputs, which the terms keep alive.
        self._by_output: dict[int, int] = {}
        self._frames: list[Frame | None] = [Graph()]

    # Where a call is made

    @property
    def is_single(self) -> bool:
        """Whether a call is running as a single one, so that calls inside it are part of it."""
        return self._frames[-1] is None

    @property
    def frame(self) -> Frame:
        """The place in the model where the present call is made."""
        return cast(Frame, self._frames[-1])

    @property
    def path(self) -> list[str]:
        """The names of the layers in whose calls the present one is made, and its own."""
        return self.running[1:]

    @contextlib.contextmanager
    def inside(self, frame: Frame | None) -> Iterator[None]:
        """The frame of the calls made in this context; None runs them as part of the present."""
        self._frames.append(frame)
        try:
            yield
        finally:
            self._frames.pop()

    def known(self, outputs: Any) -> Any:
        """The outputs, marked as known: all intercepts before them are recorded."""
        for tensor in differentiable(outputs):
            self.frame.mark_known(tensor)
        return outputs

    def run_bare(self, proxy: Any, call: Call) -> Any:
        """The `call` of a layer on a proxy of it, as part of the present call."""
        with self.inside(None):
            return type(call.operation).call(proxy, *call.args, **call.kwargs)

    def at_tangent(self, call: Call) -> Call:
        """The call at the tangent of its input in place of the value."""
        return call.at(cast(Code, self.frame).tangent(call.inputs[0]))

    # What is recorded

    def own(self, tensor: tf.Tensor) -> tf.Tensor:
        """A copy used nowhere else, so that its gradient is that of this call alone."""
        twin = call_hooks.copy(tensor)
        self.watch(twin)
        return twin

    def add(
        self,
        operation: keras.Operation,
        name: str,
        kind: Kind,
        output: tf.Tensor,
        residue: Any = None,
        *,
        source: tf.Tensor | None = None,
        **more: Any,
    ) -> None:
        """Add a term; `source` is the tensor that the call took, the rest as in `Intercept`."""
        if residue is not None:
            residue = tf.cast(residue, output.dtype)
        more |= {"inside": self.frame.inside, "source": self._by_output.get(id(source))}
        self._by_output[id(output)] = len(self.terms)
        self.terms.append(Intercept(name, kind, operation, output, residue, **more))

    def finish(self) -> None:
        """Compute the intercepts of batch normalisation, all at once."""
        waiting = [
            i
            for i, term in enumerate(self.terms)
            if term.kind == "batch_norm" and term.residue is None
        ]
        if not waiting:
            return
        layers = [self.terms[i].operation for i in waiting]
        outputs = [self.terms[i].output for i in waiting]
        shifts = closed_forms.batch_norm_shifts(layers, [y.shape.rank for y in outputs])
        for i, y, shift in zip(waiting, outputs, shifts, strict=True):
            residue = tf.cast(shift, y.dtype)
            self.terms[i] = dataclasses.replace(self.terms[i], residue=residue)

    def checkpoint(self) -> Callable[[], None]:
        """A function that removes all that has been recorded since.

        The entries by output go with their terms: once a term no longer keeps its output alive,
        another tensor may get the same id and would be given a wrong source.
        """
        count, differentiated = len(self.terms), set(self.terms.differentiated)
        by_output, restore_names = dict(self._by_output), self.names.checkpoint()

        def restore() -> None:
            del self.terms[count:]
            self.terms.differentiated.intersection_update(differentiated)
            call_hooks.restore_dict(self._by_output, by_output)
            restore_names()

        return restore
