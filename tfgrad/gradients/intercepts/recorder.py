"""The intercept y − J·x of every call a model makes, whatever lies between the calls.

Thesis Eq. 3.1: f(x) = ∇x f · x + Σ_l ∇_{z_l} f · b_l. One rule names b_l for every layer: the
intercept of a call y = L(x) is y − J·x, J the Jacobian at the point itself. Calls of known kinds
have closed forms (`closed_forms.py`). The others run under one forward-mode pass each: tangents
start as the values, so at the call's output y the tangent is J·x, the residue y − tangent is
recorded, and the tangent set to y for what follows. By induction the terms sum to f, whatever
arithmetic lies between two outputs. Its intercept is a term of its own (`"arithmetic"`) before a
call whose own intercept is known, such as that of a dense layer, its bias; it is counted with the
next call otherwise.

    with recorded_intercepts(watch=tape.watch) as terms:
        f = network(x)
    terms                               # a list of `Intercept`, in call order
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.intercepts import closed_forms
from tfgrad.gradients.intercepts.arithmetic import Plan
from tfgrad.gradients.intercepts.batch_axis import Unbatched
from tfgrad.gradients.intercepts.call_structure import (
    Call,
    constants,
    has_large_constants,
    has_layers_inside,
    is_array,
    is_quantised,
)
from tfgrad.gradients.intercepts.differentiation import (
    arithmetic_term,
    at_tangents,
    differentiated,
    followed,
)
from tfgrad.gradients.intercepts.recording import Recording
from tfgrad.gradients.intercepts.refusals import float8
from tfgrad.gradients.intercepts.tangents import Aside, Code, Graph, differentiable
from tfgrad.gradients.intercepts.terms import Intercepts
from tfgrad.internal import call_hooks
from tfgrad.internal.call_hooks import Args, Kwargs, Proceed
from tfgrad.internal.derivatives import additional_derivatives
from tfgrad.internal.function_copies import is_inside_inlined
from tfgrad.internal.keras_private import (
    flatten_layers,
    is_graph_of_layers,
    is_rematerialised,
    without_recomputation,
)


@contextlib.contextmanager
def recorded_intercepts(
    watch: Callable[[tf.Tensor], None] = lambda tensor: None,
    training: bool = False,
    *,
    aside: Aside = contextlib.nullcontext,
    unbatched: Unbatched | None = None,
    plan: Callable[[], Plan] = frozenset,
    homogeneous: set[tuple[str, int]] | None = None,
    sources: Collection[str] = (),
) -> Iterator[Intercepts]:
    """Record the intercepts of the calls made in this thread.

    Args:
        watch: A function that is called with every tensor that will be differentiated, before the
            tensor is used.
        training: The mode of the calls.
        aside: A context in which the tape that will differentiate does not record.
        unbatched: The result of `unbatched(network, x)` for the network that will be called.
        plan: A function that returns the result of `plan(network, …)`, called if it is needed.
        homogeneous: A set to which calls in a graph add what `plan` returns.
        sources: Names of calls whose outputs are inputs of what follows, whatever they are made of.

    Yields:
        `Intercepts`, filled in call order; those of batch normalisation are known when the context
        ends. Calls whose intercept is zero by their kind have none,
        and calls that do not depend on the input are counted with the next one that does.

    Raises:
        ModelError: A call cannot be differentiated; the message names the layer by its path.
    """
    recorder = _Recorder(
        Recording(watch, aside), training, unbatched or Unbatched(), plan, homogeneous, sources
    )
    with call_hooks.handled(recorder), additional_derivatives(strict=True):
        yield recorder.recording.terms
    recorder.recording.finish()


class _Recorder(call_hooks.Handler):
    def __init__(
        self,
        recording: Recording,
        training: bool,
        unbatched: Unbatched,
        plan: Callable[[], Plan],
        homogeneous: set[tuple[str, int]] | None,
        sources: Collection[str],
    ) -> None:
        self.recording, self.unbatched = recording, unbatched
        self._plan, self._homogeneous = plan, homogeneous
        self._training = training
        self._sources = frozenset(sources)
        self._source_layers = frozenset(map(call_hooks.layer_of, sources))
        # The names of the calls of affine layers between their `__call__` and their `call`.
        self._affine: dict[int, str] = {}
        self._graph = call_hooks.current_graph()

    # Every call passes one of the two hooks first

    def layer(self, layer: keras.layers.Layer, proceed: Proceed, args: Args, kwargs: Kwargs) -> Any:
        if self._is_foreign(args, kwargs):
            return proceed(*args, **kwargs)
        return self._called(layer, proceed, args, kwargs)

    def operation(
        self, operation: keras.Operation, proceed: Proceed, args: Args, kwargs: Kwargs
    ) -> Any:
        if is_rematerialised(operation) and not call_hooks.is_symbolic(args, kwargs):
            proceed = without_recomputation(operation)  # of which there is no second derivative
        if self._is_foreign(args, kwargs):
            return proceed(*args, **kwargs)
        if isinstance(operation, keras.layers.Layer):
            if (name := self._affine.pop(id(operation), None)) is not None:
                return self._affine_body(Call(name, operation, proceed, args, kwargs))
            return proceed(*args, **kwargs)
        if isinstance(self.recording.frame, Graph):
            return self._called(operation, proceed, args, kwargs)
        return proceed(*args, **kwargs)  # a line of some layer's `call`

    def checkpoint(self) -> Callable[[], None]:
        return self.recording.checkpoint()

    def _is_foreign(self, args: Args, kwargs: Kwargs) -> bool:
        """Whether a call is part of another: a loop's body, a `tf.function`, a symbolic call."""
        single = self.recording.is_single or is_inside_inlined()
        return single or call_hooks.is_elsewhere(self._graph, args, kwargs)

    def _called(
        self, operation: keras.Operation, proceed: Proceed, args: Args, kwargs: Kwargs
    ) -> Any:
        call = Call(self.recording.names.next(operation.name), operation, proceed, args, kwargs)
        given, outer = kwargs.get("training"), self._training
        self._training = outer if given is None else given
        self.recording.running.append(operation.name)
        try:
            return self._made(call)
        finally:
            self.recording.running.pop()
            self._training = outer

    def _made(self, call: Call) -> Any:
        """The outputs of a call, made by its kind and by what is known of its inputs.

        An input is known if its tangent is its value, as at the output of a recorded call.
        """
        frame, operation = self.recording.frame, call.operation
        if call.name in self._sources:
            return self._source(call)
        in_code, quantised = isinstance(frame, Code), is_quantised(operation)
        if quantised == "float8":
            raise float8(self.recording.path, operation)
        if in_code and id(operation) in self.unbatched.outputs:
            if quantised:
                return at_tangents(self.recording, call, has_term=False)
            return call.run()  # like arithmetic: counted with the next call
        if not any(map(frame.varies, call.inputs)) and not self._holds_source(operation):
            return self._constant(call)
        plain = not any(map(is_array, tf.nest.flatten((call.args, call.kwargs))))
        rule = closed_forms.rule(operation, call.args, self._training) if plain else None
        own = rule in closed_forms.OWN_INTERCEPT or quantised
        if in_code and (own or has_layers_inside(operation)):
            call = self._settled(call)
        known = plain and all(map(frame.is_known, call.inputs))
        if is_graph_of_layers(operation) and not self.unbatched.outputs and (known or in_code):
            if known and has_large_constants(operation):
                return differentiated(self.recording, call)  # its bare operations are arithmetic
            return self._graph_of_layers(call) if known else call.run()
        if known and rule == "affine":
            return self._affine_call(call)
        if known and rule is not None:
            return self._closed(call, rule)
        if known or not in_code:  # without a rule, or with a constant among its inputs
            return differentiated(self.recording, call)
        if quantised:  # a custom gradient, which forward mode does not follow
            return at_tangents(self.recording, call, has_term=True)
        return self._linear(call) if rule == "linear" else followed(self.recording, call)

    def _settled(self, call: Call) -> Call:
        """The call with inputs that are known, after a term for the arithmetic before each."""
        code = self.recording.frame
        assert isinstance(code, Code)
        unknown = [t for t in call.inputs if not code.is_known(t) and code.varies(t)]
        if not unknown or id(call.operation) in self.unbatched.inputs:
            return call
        twins = {id(t): self._known_twin(code, call, i, t) for i, t in enumerate(unknown)}
        args, kwargs = tf.nest.map_structure(
            lambda a: twins.get(id(a), a), (call.args, call.kwargs)
        )
        return dataclasses.replace(call, args=args, kwargs=kwargs)

    def _known_twin(self, code: Code, call: Call, number: int, tensor: tf.Tensor) -> tf.Tensor:
        """The result of arithmetic if it has no intercept, else a copy whose term is recorded."""
        if id(tensor) not in code.twins:
            if self._is_homogeneous(code, call, number, tensor):
                code.note_known(tensor)
                return tensor
            code.twins[id(tensor)] = tensor, arithmetic_term(self.recording, call, tensor)
        return code.twins[id(tensor)][1]

    def _is_homogeneous(self, code: Code, call: Call, number: int, tensor: tf.Tensor) -> bool:
        key = (call.name, number)
        if tf.executing_eagerly():
            return key in self._plan()
        found = code.arithmetic.is_homogeneous(tensor)
        if found and self._homogeneous is not None:
            self._homogeneous.add(key)
        return found

    def _holds_source(self, operation: keras.Operation) -> bool:
        """Whether a call of it may contain one of the sources."""
        if not self._sources or not isinstance(operation, keras.layers.Layer):
            return False
        return any(layer.name in self._source_layers for layer in flatten_layers(operation))

    # How each kind of call is made

    def _source(self, call: Call) -> Any:
        """A call whose output takes the place of an input: its tangent is its value."""
        with self.recording.frame.paused(), self.recording.inside(None):
            outputs = call.run()
        return self.recording.known(outputs)

    def _constant(self, call: Call) -> Any:
        """A call that does not depend on the input: its output is a constant of the next calls."""
        with self.recording.inside(None):
            outputs = call.run()
        for tensor in differentiable(outputs):
            self.recording.frame.mark_constant(tensor)
        return outputs

    def _graph_of_layers(self, call: Call) -> Any:
        """A functional or Sequential model, of whose calls each has terms of its own."""
        frame = self.recording.frame
        graph = Graph(frame.inside, constants(call.operation))
        with frame.paused(), self.recording.inside(graph):
            outputs = call.run()
        for tensor in differentiable(outputs):
            if graph.varies(tensor):
                frame.mark_known(tensor)
            else:
                frame.mark_constant(tensor)
        return outputs

    def _closed(self, call: Call, rule: closed_forms.Rule) -> Any:
        """A call whose inputs are known, by its rule."""
        recording = self.recording
        with recording.frame.paused():
            if rule == "elementwise":
                call = call.at(recording.own(call.inputs[0]))
            with recording.inside(None):
                outputs = call.run()
            if rule not in closed_forms.WITHOUT_INTERCEPT:
                outputs = recording.own(outputs)
                inputs = call.inputs_with_repeats
                kind, residue = closed_forms.intercept(rule, call.operation, inputs, outputs)
                before = inputs[0] if rule == "elementwise" else None
                source = inputs[0] if rule == "batch_norm" else None
                more: dict[str, Any] = {"before": before, "source": source}
                recording.add(call.operation, call.name, kind, outputs, residue, **more)
        return recording.known(outputs)

    def _affine_call(self, call: Call) -> Any:
        """A dense layer or convolution, whose own `call` goes on in `_affine_body`."""
        key = id(call.operation)
        self._affine[key] = call.name
        try:
            return self.recording.known(call.run())
        finally:
            self._affine.pop(key, None)

    def _affine_body(self, call: Call) -> Any:
        """Inside the call of an affine layer: the pre-activation, then its activation."""
        layer, recording = call.operation, self.recording
        with recording.frame.paused():
            z = recording.own(recording.run_bare(call_hooks.without_activation(layer), call))
            residue = closed_forms.bias(layer, z.shape.rank)
            if residue is not None:
                recording.add(layer, call.name, "affine", z, residue, source=call.inputs[0])
            recording.frame.mark_known(z)
        activation, name = layer.activation, f"{call.name}/activation"
        if isinstance(activation, keras.layers.Layer):
            return activation(z)  # a call of its own
        rule = closed_forms.activation_rule(activation)
        if rule is None:
            return differentiated(recording, Call(name, layer, activation, (z,), {}))
        with recording.frame.paused():
            if rule == "elementwise":
                before = recording.own(z)
                y = recording.own(activation(before))
                recording.add(layer, name, "activation", y, before=before)
            elif rule == "relu6":
                y = recording.own(activation(z))
                recording.add(layer, name, "activation", y, closed_forms.clipped(y))
            else:
                y = z if activation is None else activation(z)
        return recording.known(y)

    def _linear(self, call: Call) -> Any:
        """A linear call on inputs whose tangents are not their values: J·x is L(tangent)."""
        recording, operation = self.recording, call.operation
        with recording.frame.paused():
            y = recording.own(call.run())
            product = recording.run_bare(operation, recording.at_tangent(call))
            recording.add(operation, call.name, "residue", y, y - product)
        return recording.known(y)
