"""The intercept y − J·x of every call a model makes, whatever lies between the calls.

Thesis Eq. 3.1: f(x) = ∇x f · x + Σ_l ∇_{z_l} f · b_l. One rule names b_l for every layer: the
intercept of a call y = L(x) is y − J·x, J the Jacobian at the point itself. Calls of known kinds
have closed forms (`_rules.py`). The others run under one forward-mode pass each: tangents start as
the values, so at the call's output y the tangent is J·x, the residue y − tangent is recorded, and
the tangent set to y for what follows. By induction the terms sum to f, whatever arithmetic lies
between two outputs: it is counted with the next call.

    with intercepts.recorded(watch=tape.watch) as terms:
        f = network(x)
    terms                               # a list of `Intercept`, in call order
"""

import contextlib
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ModelError, TfgradError
from tfgrad.gradients import call_hooks
from tfgrad.gradients.intercepts import closed_forms
from tfgrad.gradients.intercepts.batch_axis import unbatched as unbatched
from tfgrad.gradients.intercepts.call_structure import constants, is_array
from tfgrad.gradients.intercepts.call_structure import current_graph as current_graph
from tfgrad.gradients.intercepts.call_structure import has_layers_inside as has_layers_inside
from tfgrad.gradients.intercepts.closed_forms import activation_rule as activation_rule
from tfgrad.gradients.intercepts.closed_forms import bias as bias_of
from tfgrad.gradients.intercepts.closed_forms import rule as rule
from tfgrad.gradients.intercepts.tangents import Code, Graph, floating, is_floating, transposed
from tfgrad.gradients.intercepts.terms import Intercept, Intercepts
from tfgrad.internal import keras_private
from tfgrad.internal.keras_private import is_graph_of_layers


@contextlib.contextmanager
def recorded(
    watch=lambda tensor: None,
    training=False,
    *,
    aside=contextlib.nullcontext,
    unbatched=frozenset(),
):
    """Record the intercepts of the calls made in this thread.

    Args:
        watch: called with every tensor that will be differentiated, before it is used.
        training: the mode of the calls.
        aside: a context in which the tape that will differentiate does not record.
        unbatched: what `unbatched(network, x)` says of the network that will be called.

    Yields:
        `Intercepts`, which fills in call order. Calls whose intercept is zero by their kind have
        none, and calls that do not depend on the input are counted with the next that does.

    Raises:
        ModelError: a call that forward-mode differentiation cannot pass, naming the layer.
    """
    with call_hooks.handled(_Recorder(watch, training, aside, unbatched)) as recorder:
        yield recorder.terms


class _Recorder(call_hooks.Handler):
    def __init__(self, watch, training, aside, unbatched):
        self.watch, self.aside, self.unbatched = watch, aside, unbatched
        self._training = [training]
        self.terms = Intercepts()
        self._names = call_hooks.CallNames()
        self._frames: list[Any] = [Graph()]
        self._split: dict[int, Any] = {}
        self._made: dict[int, int] = {}
        self._graph = current_graph()

    # Every call comes in through one of these two

    def layer(self, layer, proceed, args, kwargs):
        if self._is_foreign(args, kwargs):
            return proceed(*args, **kwargs)
        return self._call(layer, proceed, args, kwargs)

    def operation(self, operation, proceed, args, kwargs):
        if self._is_foreign(args, kwargs):
            return proceed(*args, **kwargs)
        if isinstance(operation, keras.layers.Layer):
            if (split := self._split.pop(id(operation), None)) is not None:
                return self._affine(operation, split, args, kwargs)
            return proceed(*args, **kwargs)
        if isinstance(self._frames[-1], Graph):
            return self._call(operation, proceed, args, kwargs)
        return proceed(*args, **kwargs)  # a line of some layer's `call`

    def _is_foreign(self, args, kwargs):
        """Calls that are part of another: a loop's body, a `tf.function`, a symbolic call."""
        return (
            self._frames[-1] is None
            or current_graph() is not self._graph
            or any(isinstance(a, keras.KerasTensor) for a in tf.nest.flatten((args, kwargs)))
        )

    def _call(self, operation, proceed, args, kwargs):
        name = self._names.next(operation.name)
        given = kwargs.get("training")
        with _pushed(self._training, self._training[-1] if given is None else given):
            outputs = self._made_by(operation, proceed, args, kwargs, name)
        return outputs

    def _made_by(self, operation, proceed, args, kwargs, name):
        frame, inputs = self._frames[-1], floating((args, kwargs))
        in_code = frame.tangents is not None
        if id(operation) in self.unbatched and in_code:
            return proceed(*args, **kwargs)  # like arithmetic: counted with the next call
        if not any(frame.varies(t) for t in inputs):
            return self._constant(proceed, args, kwargs)
        plain = not any(map(is_array, tf.nest.flatten((args, kwargs))))
        known = plain and all(frame.is_known(t) for t in inputs)
        if is_graph_of_layers(operation) and not self.unbatched and (known or in_code):
            return self._graph_of_layers(operation, proceed, args, kwargs, known)
        rule = closed_forms.rule(operation, args, self._training[-1]) if plain else None
        if rule == "affine" and (known or in_code):
            with _at(self._split, id(operation), (name, known)):
                return self._kept(proceed(*args, **kwargs))
        if known:
            with frame.paused():
                if rule is None:
                    return self._differentiated(operation, proceed, args, kwargs, name)
                outputs = self._closed(rule, operation, proceed, args, kwargs, name)
            return self._kept(outputs)
        if not in_code:  # with a constant among its inputs
            return self._differentiated(operation, proceed, args, kwargs, name)
        if rule == "linear":
            return self._linear(operation, proceed, args, kwargs, name)
        outputs = proceed(*args, **kwargs)
        with frame.paused():
            return self._residues(operation, outputs, name, frame.tangents.jvp, frame.is_known)

    # How each kind of call is made

    def _constant(self, proceed, args, kwargs):
        """A call that takes nothing of the input: its output is a constant for whoever takes it."""
        with _pushed(self._frames, None):
            outputs = proceed(*args, **kwargs)
        for tensor in floating(outputs):
            self._frames[-1].is_constant(tensor)
        return outputs

    def _graph_of_layers(self, model, proceed, args, kwargs, known):
        if not known:
            return proceed(*args, **kwargs)
        frame = self._frames[-1]
        graph = Graph(frame.inside, constants(model))
        with frame.paused(), _pushed(self._frames, graph):
            outputs = proceed(*args, **kwargs)
        for tensor in floating(outputs):
            if graph.varies(tensor):
                frame.knows(tensor)
            else:
                frame.is_constant(tensor)
        return outputs

    def _closed(self, rule, operation, proceed, args, kwargs, name):
        """A call whose inputs are known, by its rule."""
        z = None
        if rule == "elementwise":
            z = self._own(floating((args, kwargs))[0])
            args, kwargs = tf.nest.map_structure(
                lambda t: z if is_floating(t) else t, (args, kwargs)
            )
        with _pushed(self._frames, None):
            outputs = proceed(*args, **kwargs)
        if rule in ("homogeneous", "linear"):
            return outputs
        y = self._own(outputs)
        if rule == "elementwise":
            return self._record(operation, name, "activation", y, before=z)
        inputs = floating((args, kwargs))
        if rule == "batch_norm":
            shift = closed_forms.batch_norm_shift(operation, y.shape.rank)
            return self._record(operation, name, rule, y, shift, source=inputs[0])
        if rule == "shift":
            constant = tf.constant(closed_forms.shift(operation), y.dtype)
            return self._record(operation, name, "affine", y, constant)
        if rule == "layer_norm":
            intercept = closed_forms.layer_norm_intercept(operation, inputs[0], y)
            return self._record(operation, name, "residue", y, intercept)
        factors = [t for t in tf.nest.flatten((args, kwargs)) if is_floating(t)]
        return self._record(operation, name, "residue", y, (1 - len(factors)) * y)

    def _affine(self, layer, split, args, kwargs):
        """Inside the call of a dense layer or convolution: the pre-activation, its activation."""
        name, known = split
        frame = self._frames[-1]
        (x,) = floating((args, kwargs))
        with frame.paused():
            z = self._own(self._run(call_hooks.without_activation(layer), layer, args, kwargs))
            if known:
                residue = bias_of(layer, z.shape.rank)
            else:
                linear = call_hooks.bare(layer, activation=None, bias=None, use_bias=False)
                tangent = _tangent(frame, x)
                moved = tf.nest.map_structure(lambda t: tangent if t is x else t, (args, kwargs))
                residue = z - self._run(linear, layer, *moved)
            if residue is not None:
                self._record(layer, name, "affine", z, residue, source=x)
            frame.knows(z)
            activation = layer.activation
            rule = activation_rule(activation)
            name = f"{name}/activation"
            if isinstance(activation, keras.layers.Layer):
                y = None
            elif rule == "homogeneous":
                y = z if activation is None else activation(z)
            elif rule == "elementwise":
                inner = self._own(z)
                y = self._own(activation(inner))
                self._record(layer, name, "activation", y, before=inner)
            else:
                return self._differentiated(layer, activation, (z,), {}, name)
        if y is None:  # a layer's call of its own
            return activation(z)
        return self._kept(y)

    def _linear(self, operation, proceed, args, kwargs, name):
        """A linear call on inputs whose tangents are not their values: J·x is L(tangent)."""
        frame = self._frames[-1]
        (x,) = floating((args, kwargs))
        with frame.paused():
            y = self._own(proceed(*args, **kwargs))
            tangent = _tangent(frame, x)
            moved = tf.nest.map_structure(lambda t: tangent if t is x else t, (args, kwargs))
            product = self._run(operation, operation, *moved)
            self._record(operation, name, "residue", y, y - product)
        return self._kept(y)

    def _differentiated(self, operation, proceed, args, kwargs, name):
        """A call with no rule: J·x by differentiation, cut at the calls inside it if there are any.

        Forward mode follows a call from layer to layer. It passes neither loops nor custom
        gradients; a backward pass transposed does, and takes the call as one.
        """
        inputs = [t for t in floating((args, kwargs)) if self._frames[-1].varies(t)]
        whole = has_layers_inside(operation)
        if whole:
            terms, names = len(self.terms), self._names.copy()
            frame = Code(operation, inputs, self.aside)
            try:
                with frame.tangents, _pushed(self._frames, frame):
                    outputs = proceed(*args, **kwargs)
                return self._residues(operation, outputs, name, frame.tangents.jvp, frame.is_known)
            except TfgradError:
                raise
            except _NOT_FORWARD:
                del self.terms[terms:]
                self._names = names

        def call():
            with _pushed(self._frames, None):
                return proceed(*args, **kwargs)

        try:
            outputs, products = transposed(call, inputs)
        except _NOT_FORWARD as error:
            call()  # what is wrong with the call itself says so
            problem = ModelError(
                f"layer {operation.name!r} ({type(operation).__name__}): its intercept needs a "
                f"Jacobian-vector product, and it cannot be differentiated ({type(error).__name__}:"
                f" {error}). If the model runs on this input, build the layer of Keras layers, "
                "whose intercepts are known."
            )
            raise keras_private.without_call_information(problem) from error
        return self._residues(operation, outputs, name, products.get, whole=whole)

    def _residues(self, operation, outputs, name, product, is_known=lambda y: False, **more):
        """Record y − J·x for every output of a call that has been differentiated."""
        self.terms.differentiated.add(operation.name)
        number, frame = 0, self._frames[-1]

        def one(y):
            nonlocal number
            if not is_floating(y):
                return y
            tangent = product(y)
            if is_known(y):  # what a call inside put out: nothing was added since
                frame.knows(y)
                return y
            if tangent is None:
                frame.is_constant(y)
                return y
            own = self._own(y)
            key = f"{name}/{number}" if number else name
            number += 1
            self._record(operation, key, "residue", own, own - tangent, **more)
            frame.knows(own)
            return own

        return tf.nest.map_structure(one, outputs)

    # Book-keeping

    def _record(self, operation, name, kind, output, residue=None, source=None, **more):
        if residue is not None:
            residue = tf.cast(residue, output.dtype)
        more |= {"inside": self._frames[-1].inside, "source": self._made.get(id(source))}
        self._made[id(output)] = len(self.terms)
        self.terms.append(Intercept(name, kind, operation, output, residue, **more))
        return output

    def _own(self, tensor):
        """A copy that nothing else is, so that its gradient is that of this call alone."""
        twin = call_hooks.copy(tensor)
        self.watch(twin)
        return twin

    def _kept(self, outputs):
        frame = self._frames[-1]
        for tensor in floating(outputs):
            frame.knows(tensor)
        return outputs

    def _run(self, proxy, layer, args, kwargs):
        with _pushed(self._frames, None):
            return type(layer).call(proxy, *args, **kwargs)


# What TensorFlow raises for a call that forward mode, or a tape, cannot pass.
_NOT_FORWARD = (
    *(tf.errors.OpError, LookupError, TypeError, ValueError, NotImplementedError, RuntimeError),
)


def _tangent(frame, x):
    return frame.tangents.jvp(x, tf.UnconnectedGradients.ZERO)


@contextlib.contextmanager
def _pushed(stack, value):
    stack.append(value)
    try:
        yield
    finally:
        stack.pop()


@contextlib.contextmanager
def _at(table, key, value):
    table[key] = value
    try:
        yield
    finally:
        table.pop(key, None)
