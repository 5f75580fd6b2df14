"""One call of a network under tapes: its outputs, and derivatives of scalars made of them.

This is the only module that opens a tape on an input. Which scalars are differentiated, and that
each is differentiated once, is decided in `probe.py`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import intercepts, layer_biases
from tfgrad.gradients.differentiated import Differentiated
from tfgrad.gradients.half_precision import computing_in_float32, half_precision_layers
from tfgrad.gradients.model_checks import check_repeatable
from tfgrad.gradients.needs import Needs
from tfgrad.gradients.sources import Cut, Sources
from tfgrad.internal import call_hooks, gradient_registry
from tfgrad.internal.derivatives import additional_derivatives, corrected_derivatives
from tfgrad.internal.precision import nest_at_least_float32, total, widest_dtype
from tfgrad.internal.unchanged_state import unchanged_state


@dataclasses.dataclass(frozen=True)
class Gradients:
    """The results of one backward pass, flat, in the order of what was recorded."""

    inputs: list[Any]
    layers: list[Any] = dataclasses.field(default_factory=list)
    intercepts: list[Any] = dataclasses.field(default_factory=list)
    biases: list[Any] = dataclasses.field(default_factory=list)


EVERY_FLOAT = Sources()


class ForwardPass:
    """A network's outputs at x, the recorded calls, and derivatives of scalars made of these.

    Args:
        network: A Keras model.
        x: A nest of inputs, of which the float ones are differentiated.
        training: The mode of the pass.
        needs: What is recorded, and whether gradients are differentiated.
        float32: Whether half-precision layers compute in float32.
        before: The seeds and statistics that the pass starts from, as (variable, value) pairs; it
            then changes no state. None for the present ones, which a training pass updates.
        sources: What is differentiated.
        values: {call: what takes the place of its output} for `sources.at`; None keeps them.

    Attributes:
        x: The nest, as tensors.
        inputs: What is differentiated, in order: tensors of x, or outputs of layers.
        cut: What was recorded of the layers in `sources.at`.
        outputs: The outputs as the network returns them.
        logits: The outputs in float32 or wider.
        layer_outputs: {call name: output} of the layers in `needs`.
        intercepts: The intercept of every call, if `needs` asks for them.
        biases: {call name: Biased} of the layers in `needs`.

    Raises:
        ArgumentError: x has no float input, or the network has no layer of a given name.
    """

    def __init__(
        self,
        network: keras.Model,
        x: Any,
        training: bool,
        needs: Needs,
        *,
        float32: bool = False,
        before: list[tuple[keras.Variable, tf.Tensor]] | None = None,
        sources: Sources = EVERY_FLOAT,
        values: Mapping[str, tf.Tensor] | None = None,
    ) -> None:
        self.network, self.training, self.needs, self.float32 = network, training, needs, float32
        self.x = tf.nest.map_structure(tf.convert_to_tensor, x)
        self.sources, self._values = sources, values
        self._differentiated = Differentiated(network, self.x, sources)
        if sources.at:
            call_hooks.check_names(network, sources.layers)
        if needs.layers:
            call_hooks.check_names(network, needs.layers)
        if needs.biases:
            layer_biases.check(network, needs.biases)
        self._other_modes: dict[tuple[bool, bool], ForwardPass] = {}
        self._second_tape = tf.GradientTape(persistent=True) if needs.order > 1 else None
        self._second_on = False
        self._tape = tf.GradientTape(persistent=True)
        if before is None:
            self._before = _snapshot(network) if training else []
            scope: contextlib.AbstractContextManager[Any] = self._precision()
        else:
            self._before = before
            scope = self._rewound()
        with scope:
            self._run()

    def _run(self) -> None:
        """Call the network once, under the tapes and recorders."""
        network, needs = self.network, self.needs
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.recording())
            # The innermost handler: what the others record depends on the cut outputs.
            calls = tuple(at.call for at in self.sources.at)
            self.cut = Cut(calls, self._watch, self._values, self.sources.constant)
            if self.sources.at:
                stack.enter_context(call_hooks.handled(self.cut))
            outputs = call_hooks.recorded_outputs(needs.layers)
            self.layer_outputs = stack.enter_context(outputs)
            self.intercepts = intercepts.Intercepts()
            if needs.intercepts:
                unbatched = intercepts.unbatched(network, self.x)
                record = functools.partial(
                    intercepts.recorded_intercepts,
                    training=self.training,
                    unbatched=unbatched,
                    sources=calls,
                )
                recorder = record(
                    self._watch,
                    aside=self._tape.stop_recording,
                    plan=lambda: intercepts.plan(network, self.x, self.training, record, calls),
                )
                self.intercepts = stack.enter_context(recorder)
            # The outermost handler, because it recognises a tensor by its identity.
            self.biases = stack.enter_context(layer_biases.recorded_biases(needs.biases))
            self._watch([t for t in tf.nest.flatten(self.x) if t.dtype.is_floating])
            self.outputs = network(self.x, training=self.training)
            self.logits = nest_at_least_float32(self.outputs)
        self.cut.check(network)
        self.inputs = self._differentiated.tensors(self.cut.outputs)

    def pack(self, values: Any) -> Any:
        """Values for `inputs` in x's structure, from which other inputs are left out.

        The gradient of a call's output stands at the place of the input that the call takes.
        """
        return self._differentiated.pack(values)

    @property
    def point(self) -> Any:
        """The inputs, with outputs of calls in the places of the inputs that these take."""
        return self._differentiated.point(self.cut.outputs)

    def visible(self) -> list[tf.Tensor | None]:
        """For each of `inputs`, whether its values are not masked; None where nothing is.

        Raises:
            ModelError: The network masks steps that are not those of an input.
        """
        return self._differentiated.visible(self.cut)

    def shifted(self, moves: list[tf.Tensor]) -> Any:
        """The `point` moved by a list like `inputs`, as `repeated` takes it."""
        return self._differentiated.shifted(self.inputs, moves)

    # What the tapes see

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """A context for computing scalars that will be differentiated."""
        with self.recording_gradients(), self._tape:
            yield

    @contextlib.contextmanager
    def recording_gradients(self) -> Iterator[None]:
        """A context for functions of gradients, which order 2 differentiates; may be nested."""
        if self._second_tape is None or self._second_on:
            with gradient_registry.explained(), corrected_derivatives():
                yield
            return
        self._second_on = True
        try:
            with self._second_tape, gradient_registry.explained(), corrected_derivatives():
                yield
        finally:
            self._second_on = False

    def _watch(self, tensors: Any) -> None:
        """Watch tensors of the forward pass, which need not depend on the input."""
        self._tape.watch(tensors)
        if self._second_tape is not None:
            self._second_tape.watch(tensors)

    # First derivatives

    def gradients(self, scalar: tf.Tensor) -> Gradients:
        """Gradients of a recorded scalar with respect to the inputs and all that was recorded.

        Returns:
            `Gradients`. Where the scalar does not depend on an input, zeros; on another tensor,
            None.

        Raises:
            ModelError: The scalar depends on no input, or an eager network has float8 layers.
        """
        sources = (
            self.inputs,
            tf.nest.flatten(self.layer_outputs),
            [t for term in self.intercepts for t in term.tensors],
            [biased.output for biased in self.biases.values()],
        )
        with (
            self.recording_gradients(),
            additional_derivatives(),
            intercepts.without_float8(self.network),
        ):
            inputs, *recorded = self._tape.gradient(scalar, sources)
        if all(g is None for g in inputs):
            raise ModelError(
                f"network {self.network.name!r}: its output does not depend differentiably on its "
                "input, so there is no input-gradient."
            )
        pairs = zip(inputs, self.inputs, strict=True)
        return Gradients([tf.zeros_like(t) if g is None else g for g, t in pairs], *recorded)

    def slopes(self, scalar: tf.Tensor) -> list[tf.Tensor]:
        """Gradients of a recorded scalar with respect to the inputs alone, zeros where it has none.

        In contrast to `gradients`, the scalar may depend on no input.
        """
        with self.recording_gradients():
            return self._tape.gradient(scalar, self.inputs, unconnected_gradients="zero")

    def output_slopes(self, scalar: tf.Tensor, outputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """Gradients of a recorded scalar with respect to tensors that it was computed from."""
        with self.recording_gradients():
            return self._tape.gradient(scalar, outputs, unconnected_gradients="zero")

    def depends(self, scalar: tf.Tensor, tensors: list[tf.Tensor]) -> bool:
        """Whether a recorded scalar depends differentiably on one of some recorded tensors."""
        floats = [t for t in tensors if t.dtype.is_floating]
        return any(g is not None for g in self._tape.gradient(scalar, floats))

    def jacobian(self, logits: tf.Tensor) -> list[list[tf.Tensor]]:
        """Gradients of all [batch, classes] logits, in one vectorised pass.

        Returns:
            A list like `inputs` for every class.
        """
        with self.recording_gradients():
            blocks = [self._tape.batch_jacobian(logits, t) for t in self.inputs]
            return [[block[:, k] for block in blocks] for k in range(logits.shape[-1])]

    def selected(
        self, jacobian: list[list[tf.Tensor]], select: Callable[[tf.Tensor], tf.Tensor]
    ) -> list[tf.Tensor]:
        """One gradient for each example, a list like `inputs`.

        Args:
            jacobian: What `jacobian` returns.
            select: A function from the gradients of all logits [batch, classes, …] to [batch, …].
        """
        return [
            select(tf.stack([row[i] for row in jacobian], axis=1)) for i in range(len(self.inputs))
        ]

    # Second derivatives

    def hessian_vector(
        self, gradients: list[tf.Tensor], vectors: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        """∇x of Σ gradient · vector; all three are lists like `inputs`.

        Raises:
            ArgumentError: The pass was made for first derivatives.
        """
        with self.recording_gradients():
            slopes = [tf.reduce_sum(g * v) for g, v in zip(gradients, vectors, strict=True)]
            slope = total(slopes)
        return self._second_derivative(slope, self.inputs)

    def trace(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Σ ∂ gradient / ∂ x over an example's entries, [batch]; one double backward per entry.

        It is in the widest of the inputs' dtypes.

        Raises:
            ArgumentError: The pass was made for first derivatives, or the image size is not fixed.
        """
        trace = tf.zeros([], widest_dtype(self.inputs))
        for source, gradient in zip(self.inputs, gradients, strict=True):
            with self.recording_gradients():
                flat = tf.reshape(gradient, [tf.shape(gradient)[0], -1])
            size = flat.shape[-1] or source.shape[1:].num_elements()
            if size is None:
                raise ArgumentError(
                    f"x: got shape {source.shape}; expected fixed image sizes for the exact trace."
                )
            for entry in range(size):
                with self.recording_gradients():
                    column = tf.reduce_sum(flat[:, entry])
                row = self._second_derivative(column, source)
                term = tf.reshape(row, [tf.shape(row)[0], -1])[:, entry]
                trace += tf.cast(term, trace.dtype)
        return trace

    def _second_derivative(self, slope: tf.Tensor, sources: Any) -> Any:
        if self._second_tape is None:
            raise ArgumentError(
                "needs: got order 1, but a second derivative was asked for; use Needs(order=2)."
            )
        with gradient_registry.explained(), corrected_derivatives():
            return self._second_tape.gradient(slope, sources, unconnected_gradients="zero")

    # The same point again

    def in_branch(self, jacobian: bool) -> ForwardPass:
        """This pass for a branch of the graph, which keeps what it computes to itself.

        Args:
            jacobian: Whether the branch needs all logits' gradients; see `Needs`.
        """
        branch = copy.copy(self)
        branch._other_modes = {}
        branch.needs = dataclasses.replace(self.needs, jacobian=jacobian)
        return branch

    def in_mode(self, *, training: bool, float32: bool) -> ForwardPass:
        """The pass at the same point in a mode and precision, made at most once.

        It starts from the seeds and statistics of before this pass and changes no state. Networks
        without half-precision layers are in float32 already.
        """
        float32 = self.float32 or (float32 and bool(half_precision_layers(self.network)))
        mode = (training, float32)
        if mode == (self.training, self.float32):
            return self
        if mode not in self._other_modes:
            self._other_modes[mode] = ForwardPass(
                *(self.network, self.x, training, self.needs),
                float32=float32,
                before=self._before,
                sources=self.sources,
                values=self._values,
            )
        return self._other_modes[mode]

    def repeated(self, x: Any) -> Any:
        """The `logits` at another x, with this pass's random masks and precision.

        Outputs of calls that are differentiated stand in x at the places of the inputs that these
        take, as in `shifted`.

        Raises:
            ModelError: A layer keeps seeds or statistics outside its variables.
        """
        with self._precision():
            if self.training:
                check_repeatable(self.network, self.x)
            with self._rewound(), contextlib.ExitStack() as stack:
                if self.sources.at:
                    x, values = self._differentiated.apart(x)
                    cut = Cut([*values], lambda tensors: None, values)
                    stack.enter_context(call_hooks.handled(cut))
                return nest_at_least_float32(self.network(x, training=self.training))

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        return computing_in_float32(self.network) if self.float32 else contextlib.nullcontext()

    @contextlib.contextmanager
    def _rewound(self) -> Iterator[None]:
        """A scope that starts from the state of before this pass and changes none."""
        with self._precision(), unchanged_state(self._before):
            yield


def _snapshot(network: keras.Model) -> list[tuple[keras.Variable, tf.Tensor]]:
    """The values that a training pass may update: random seeds and running statistics."""
    return [(v, tf.identity(v.value)) for v in network.non_trainable_variables]
