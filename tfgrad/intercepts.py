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
import dataclasses
from typing import Any, Literal

import keras
import tensorflow as tf

from tfgrad import _rules, calls
from tfgrad._tangents import Code, Graph, floating, is_floating, transposed
from tfgrad.errors import ModelError, TfgradError

# Models whose own `call` these define pass outputs from layer to layer and do nothing else.
_GRAPHS_OF_LAYERS = ("keras.src.models.functional", "keras.src.models.sequential")

Kind = Literal["affine", "batch_norm", "activation", "residue"]


@dataclasses.dataclass(frozen=True)
class Intercept:
    """One call's output and intercept.

    Attributes:
        name: the call: the layer's name, name:1, name:2 for further calls of it; /activation for
            the activation fused into a layer, /1, /2 for further outputs of a call.
        kind: `"affine"` and `"batch_norm"`: a bias in the papers' sense. `"activation"`: the
            intercept φ(z) − φ′(z) z of an elementwise function. `"residue"`: of anything else.
        operation: the Keras layer or operation called.
        output: y, the tensor whose gradient the intercept is multiplied with.
        residue: the intercept, of a shape that broadcasts to y; None where `before` serves.
        before: z of an elementwise y = φ(z), a copy that φ alone reads, so that the term
            ∇_y f ⊙ (φ(z) − φ′(z) z) is ∇_y f ⊙ y − ∇_z f ⊙ z and φ′ need not be computed.
        inside: the layer in whose `call` this one was made; None in a graph of layers.
        differentiated: whether the residue took a Jacobian-vector product.
        source: the output that this call took, if it is another term's.
    """

    name: str
    kind: Kind
    operation: Any
    output: tf.Tensor
    residue: tf.Tensor | None = None
    before: tf.Tensor | None = None
    inside: Any = None
    differentiated: bool = False
    source: int | None = None

    @property
    def tensors(self) -> list[tf.Tensor]:
        """What must be differentiated: y, and z if there is one."""
        return [self.output] if self.before is None else [self.output, self.before]

    def term(self, gradients: list[Any]) -> tf.Tensor:
        """f^b = ∇_y f ⊙ (y − J·x), like y, in float32 or wider; zeros where f ignores the call.

        Args:
            gradients: of f with respect to `tensors`; None means zero.
        """
        y = wide(self.output)
        if gradients[0] is None:
            return tf.zeros_like(y)
        upper = wide(gradients[0])
        if self.before is None:
            return upper * wide(self.residue)
        lower = 0.0 if gradients[1] is None else wide(gradients[1]) * wide(self.before)
        return upper * y - lower


@contextlib.contextmanager
def recorded(watch=lambda tensor: None, training=False):
    """Record the intercepts of the calls made in this thread.

    Args:
        watch: called with every tensor that will be differentiated, before it is used.
        training: the mode of the calls.

    Yields:
        The list of `Intercept`, which fills in call order. Calls whose intercept is zero by their
        kind have none.

    Raises:
        ModelError: a call that forward-mode differentiation cannot pass, naming the layer.
    """
    with calls.handled(_Recorder(watch, training)) as recorder:
        yield recorder.terms


class _Recorder(calls.Handler):
    def __init__(self, watch, training):
        self.watch, self.training = watch, training
        self.terms: list[Intercept] = []
        self._names = calls.CallNames()
        self._frames: list[Any] = [Graph()]
        self._split: dict[int, Any] = {}
        self._made: dict[int, int] = {}
        self._graph = _current_graph()

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
            or _current_graph() is not self._graph
            or any(isinstance(a, keras.KerasTensor) for a in tf.nest.flatten((args, kwargs)))
        )

    def _call(self, operation, proceed, args, kwargs):
        name = self._names.next(operation.name)
        frame, inputs = self._frames[-1], floating((args, kwargs))
        known = all(frame.is_known(t) for t in inputs)
        if _is_graph_of_layers(operation) and (known or frame.tangents is not None):
            return self._graph_of_layers(operation, proceed, args, kwargs, known)
        rule = _rules.rule(operation, args, self.training) if inputs else None
        if rule == "affine" and (known or frame.tangents is not None):
            with _at(self._split, id(operation), (name, known)):
                return self._kept(proceed(*args, **kwargs))
        if known:
            with frame.paused():
                if rule is None:
                    outputs = self._differentiated(operation, proceed, args, kwargs, name)
                else:
                    outputs = self._closed(rule, operation, proceed, args, kwargs, name)
            return self._kept(outputs)
        if frame.tangents is None:  # with a constant among its inputs
            return self._differentiated(operation, proceed, args, kwargs, name)
        if rule == "linear":
            return self._linear(operation, proceed, args, kwargs, name)
        outputs = proceed(*args, **kwargs)
        with frame.paused():
            outputs = self._residues(operation, outputs, name, frame.tangents.jvp, frame.is_known)
        return self._kept(outputs)

    # How each kind of call is made

    def _graph_of_layers(self, model, proceed, args, kwargs, known):
        if not known:
            return proceed(*args, **kwargs)
        frame = self._frames[-1]
        with frame.paused(), self._inside(Graph(frame.inside, _constants(model))):
            outputs = proceed(*args, **kwargs)
        return self._kept(outputs)

    def _closed(self, rule, operation, proceed, args, kwargs, name):
        """A call whose inputs are known, by its rule."""
        z = None
        if rule == "elementwise":
            z = self._own(floating((args, kwargs))[0])
            args, kwargs = tf.nest.map_structure(
                lambda t: z if is_floating(t) else t, (args, kwargs)
            )
        with self._inside(None):
            outputs = proceed(*args, **kwargs)
        if rule in ("homogeneous", "linear"):
            return outputs
        y = self._own(outputs)
        if rule == "elementwise":
            return self._record(operation, name, "activation", y, before=z)
        inputs = floating((args, kwargs))
        if rule == "batch_norm":
            shift = _rules.batch_norm_shift(operation, y.shape.rank)
            return self._record(operation, name, rule, y, shift, source=inputs[0])
        if rule == "layer_norm":
            intercept = _rules.layer_norm_intercept(operation, inputs[0], y)
            return self._record(operation, name, "residue", y, intercept)
        factors = [t for t in tf.nest.flatten((args, kwargs)) if is_floating(t)]
        return self._record(operation, name, "residue", y, (1 - len(factors)) * y)

    def _affine(self, layer, split, args, kwargs):
        """Inside the call of a dense layer or convolution: the pre-activation, its activation."""
        name, known = split
        frame = self._frames[-1]
        (x,) = floating((args, kwargs))
        with frame.paused():
            z = self._own(_run(calls.without_activation(layer), layer, args, kwargs))
            if known:
                residue = _rules.bias(layer, z.shape.rank)
            else:
                linear = calls.bare(layer, activation=None, bias=None, use_bias=False)
                tangent = _tangent(frame, x)
                moved = tf.nest.map_structure(lambda t: tangent if t is x else t, (args, kwargs))
                residue = z - _run(linear, layer, *moved)
            if residue is not None:
                self._record(layer, name, "affine", z, residue, source=x)
            activation = layer.activation
            rule = _rules.activation_rule(activation)
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
                y = self._differentiated(layer, activation, (z,), {}, name)
        if y is None:  # a layer's call of its own
            return activation(self._kept(z))
        return self._kept(y)

    def _linear(self, operation, proceed, args, kwargs, name):
        """A linear call on inputs whose tangents are not their values: J·x is L(tangent)."""
        frame = self._frames[-1]
        (x,) = floating((args, kwargs))
        with frame.paused():
            y = self._own(proceed(*args, **kwargs))
            tangent = _tangent(frame, x)
            moved = tf.nest.map_structure(lambda t: tangent if t is x else t, (args, kwargs))
            self._record(operation, name, "residue", y, y - _run(operation, operation, *moved))
        return self._kept(y)

    def _differentiated(self, operation, proceed, args, kwargs, name):
        """A call with no rule: J·x by differentiation, cut at the calls inside it if there are any.

        Forward mode follows a call from layer to layer. It passes neither loops nor custom
        gradients; a backward pass transposed does, and takes the call as one.
        """
        outer = self._frames[-1]
        inputs = [t for t in floating((args, kwargs)) if outer.varies(t)]
        if _has_layers_inside(operation):
            state = len(self.terms), self._names.copy()
            frame = Code(operation, inputs)
            try:
                with frame.tangents, self._inside(frame):
                    outputs = proceed(*args, **kwargs)
                return self._residues(operation, outputs, name, frame.tangents.jvp, frame.is_known)
            except TfgradError:
                raise
            except Exception:  # whatever TensorFlow raises for what it cannot pass
                del self.terms[state[0] :]
                self._names = state[1]
        try:
            with self._inside(None):
                outputs, products = transposed(lambda: proceed(*args, **kwargs), inputs)
        except Exception as error:
            problem = ModelError(
                f"layer {operation.name!r} ({type(operation).__name__}): its intercept needs a "
                f"Jacobian-vector product, and it cannot be differentiated ({type(error).__name__}:"
                f" {error}). If the model runs on this input, build the layer of Keras layers, "
                "whose intercepts are known."
            )
            # Or Keras adds its own words at every level.
            problem._keras_call_info_injected = True  # type: ignore[attr-defined]
            raise problem from error
        return self._residues(operation, outputs, name, products.get)

    def _residues(self, operation, outputs, name, product, is_known=lambda y: False):
        """Record y − J·x for every output of a call that has been differentiated."""
        number = 0

        def one(y):
            nonlocal number
            if not is_floating(y) or is_known(y):
                return y  # what a call inside put out: nothing was added since
            tangent, own = product(y), self._own(y)
            residue = own if tangent is None else own - tangent
            key = f"{name}/{number}" if number else name
            number += 1
            return self._record(operation, key, "residue", own, residue, differentiated=True)

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
        """A copy of its own, watched: constants of the input are differentiated with."""
        twin = calls.copy(tensor)
        self.watch(twin)
        return twin

    def _kept(self, outputs):
        frame = self._frames[-1]
        for tensor in floating(outputs):
            frame.knows(tensor)
        return outputs

    @contextlib.contextmanager
    def _inside(self, frame):
        self._frames.append(frame)
        try:
            yield
        finally:
            self._frames.pop()


def _has_layers_inside(operation):
    """Whether a call may make others. A cell's calls are steps of its recurrent layer's."""
    if isinstance(operation, keras.layers.RNN) or not isinstance(operation, keras.layers.Layer):
        return False
    if isinstance(type(operation).call, tf.types.experimental.GenericFunction):
        return False  # traced once, perhaps when nobody listened
    return any(layer is not operation for layer in operation._flatten_layers())


def _run(proxy, layer, args, kwargs):
    return type(layer).call(proxy, *args, **kwargs)


def _tangent(frame, x):
    return frame.tangents.jvp(x, tf.UnconnectedGradients.ZERO)


@contextlib.contextmanager
def _at(table, key, value):
    table[key] = value
    try:
        yield
    finally:
        table.pop(key, None)


def _current_graph():
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _is_graph_of_layers(operation):
    """Whether a model's call only passes outputs from layer to layer."""
    return isinstance(operation, keras.Model) and (
        type(operation).call.__module__ in _GRAPHS_OF_LAYERS
    )


def _constants(model):
    """Ids of the tensors that a functional model's graph holds as constants."""
    flat = [
        argument
        for operation in getattr(model, "operations", [])
        for node in operation._inbound_nodes
        for argument in tf.nest.flatten((node.arguments.args, node.arguments.kwargs))
    ]
    return frozenset(id(a) for a in flat if tf.is_tensor(a))


def wide(tensor):
    """The tensor in float32 if it is narrower."""
    return tf.cast(tensor, tf.float32) if tensor.dtype.size < 4 else tensor
