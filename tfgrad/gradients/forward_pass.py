"""One call of a network under tapes: all that came of it, and derivatives of what is made of that.

Which scalars are differentiated, and that each is differentiated once, is the probe's business.
"""

import contextlib
import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import call_hooks, intercepts, layer_biases
from tfgrad.internal.precision import nest_at_least_float32


@dataclasses.dataclass(frozen=True)
class Gradients:
    """What one backward pass gives, flat, in the order of what was recorded."""

    inputs: list[Any]
    layers: list[Any] = dataclasses.field(default_factory=list)
    intercepts: list[Any] = dataclasses.field(default_factory=list)
    biases: list[Any] = dataclasses.field(default_factory=list)


class ForwardPass:
    """A network's outputs at x, what its calls left, and derivatives of scalars made of these.

    Args:
        network: a Keras model.
        x: a nest of inputs, of which the float ones are differentiated.
        training: the mode of the pass.
        needs: `tfgrad.probe.Needs`: what is recorded, and whether gradients are differentiated.

    Attributes:
        x: the nest, as tensors.
        inputs: its float tensors, in order.
        outputs: as the network returns them.
        logits: the same, in float32 or wider.
        layer_outputs: {call name: output} of the layers in `needs`.
        intercepts: of every call, if they are needed; see `tfgrad.intercepts`.
        biases: of the layers in `needs`; see `tfgrad.biases`.

    Raises:
        ArgumentError: x has nothing to differentiate, or a layer name is not there.
    """

    def __init__(self, network, x, training, needs):
        self.network, self.training = network, training
        self.x = tf.nest.map_structure(tf.convert_to_tensor, x)
        self.inputs = _float_tensors(self.x)
        if needs.layers:
            call_hooks.check_names(network, needs.layers)
        if needs.biases:
            layer_biases.check(network, needs.biases)
        self._before = _snapshot(network) if training else []
        self._second_tape = tf.GradientTape(persistent=True) if needs.order > 1 else None
        self._second_on = False
        self._tape = tf.GradientTape(persistent=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.recording())
            self.layer_outputs = stack.enter_context(call_hooks.recorded(needs.layers))
            self.intercepts = intercepts.Intercepts()
            if needs.intercepts:
                recorder = intercepts.recorded(
                    self._watch,
                    training,
                    aside=self._tape.stop_recording,
                    unbatched=intercepts.unbatched(network, self.x),
                )
                self.intercepts = stack.enter_context(recorder)
            # The outermost listener: it recognises a tensor by its identity.
            self.biases = stack.enter_context(layer_biases.recorded(needs.biases))
            self._watch(self.inputs)
            self.outputs = network(self.x, training=training)
            self.logits = nest_at_least_float32(self.outputs)

    def pack(self, values):
        """Values for `inputs` in x's structure; what is not differentiated is left out."""
        if len(self.inputs) == len(tf.nest.flatten(self.x)):
            return tf.nest.pack_sequence_as(self.x, values)
        return list(values)

    # What the tapes see

    @contextlib.contextmanager
    def recording(self):
        """A context in which scalars are made that will be differentiated."""
        with self.recording_gradients(), self._tape:
            yield

    @contextlib.contextmanager
    def recording_gradients(self):
        """One for what is made of gradients, which order 2 differentiates; may be entered again."""
        if self._second_tape is None or self._second_on:
            yield
            return
        self._second_on = True
        try:
            with self._second_tape:
                yield
        finally:
            self._second_on = False

    def _watch(self, tensors):
        """Watch tensors of the forward pass, which need not depend on the input."""
        self._tape.watch(tensors)
        if self._second_tape is not None:
            self._second_tape.watch(tensors)

    # First derivatives

    def gradients(self, scalar):
        """Gradients of a recorded scalar for the inputs and all that was recorded.

        Returns:
            `Gradients`: zeros for an input on which the scalar does not depend, None for others.

        Raises:
            ModelError: the scalar depends on no input.
        """
        sources = (
            self.inputs,
            tf.nest.flatten(self.layer_outputs),
            [t for term in self.intercepts for t in term.tensors],
            [biased.output for biased in self.biases.values()],
        )
        with self.recording_gradients():
            inputs, *recorded = self._tape.gradient(scalar, sources)
        if all(g is None for g in inputs):
            raise ModelError(
                f"network {self.network.name!r}: its output does not depend differentiably on its "
                "input, so there is no input-gradient."
            )
        pairs = zip(inputs, self.inputs, strict=True)
        return Gradients([tf.zeros_like(t) if g is None else g for g, t in pairs], *recorded)

    def slopes(self, scalar):
        """Gradients of a recorded scalar for the inputs alone; zeros where it depends on none."""
        with self.recording_gradients():
            return self._tape.gradient(scalar, self.inputs, unconnected_gradients="zero")

    def jacobian(self, logits):
        """Gradients of every one of [batch, classes] logits for the inputs, in one vectorised pass.

        Returns:
            A list like `inputs` for every class.
        """
        with self.recording_gradients():
            blocks = [self._tape.batch_jacobian(logits, t) for t in self.inputs]
            return [[block[:, k] for block in blocks] for k in range(logits.shape[-1])]

    # Second derivatives

    def hessian_vector(self, gradients, vectors):
        """∇x of Σ gradient · vector, a list like `inputs`, which `gradients` and `vectors` are too.

        Raises:
            ArgumentError: the pass was made for first derivatives.
        """
        with self.recording_gradients():
            slopes = [tf.reduce_sum(g * v) for g, v in zip(gradients, vectors, strict=True)]
            slope = tf.add_n([tf.cast(s, slopes[0].dtype) for s in slopes])
        return self._second_derivative(slope, self.inputs)

    def trace(self, gradients):
        """Σ ∂ gradient / ∂ x over an example's entries, [batch]; one double backward per entry.

        Raises:
            ArgumentError: the pass was made for first derivatives, or the image size is not fixed.
        """
        total = tf.zeros([], self.inputs[0].dtype)
        for source, gradient in zip(self.inputs, gradients, strict=True):
            with self.recording_gradients():
                flat = tf.reshape(gradient, [tf.shape(gradient)[0], -1])
            size = flat.shape[-1] or source.shape[1:].num_elements()
            if size is None:
                raise ArgumentError(
                    f"x: got shape {source.shape}; the exact trace needs fixed image sizes."
                )
            for entry in range(size):
                with self.recording_gradients():
                    column = tf.reduce_sum(flat[:, entry])
                row = self._second_derivative(column, source)
                total += tf.reshape(row, [tf.shape(row)[0], -1])[:, entry]
        return total

    def _second_derivative(self, slope, sources):
        if self._second_tape is None:
            raise ArgumentError(
                "needs: got order 1, but a second derivative was asked for; use Needs(order=2)."
            )
        return self._second_tape.gradient(slope, sources, unconnected_gradients="zero")

    # The same pass again

    def rewound(self):
        """A scope that starts from the seeds and statistics of before this pass and moves none."""
        return keras.StatelessScope(self._before, collect_losses=True)

    def repeated(self, x):
        """What `logits` are at another x, with this pass's random masks.

        Raises:
            ModelError: a layer keeps its seeds or statistics where a scope does not reach.
        """
        if self.training:
            self._check_repeatable()
        with self.rewound():
            outputs = self.network(x, training=self.training)
            return nest_at_least_float32(outputs)

    def _check_repeatable(self):
        inspection = second_order.inspect(self.network, self.x, training=True)
        for names, what in (
            (inspection.stateful_random, "draws from TensorFlow's stateful generators"),
            (inspection.untracked_state, "keeps state outside the network's variables"),
        ):
            if names:
                raise ModelError(
                    f"network {self.network.name!r}: {names[0]!r} {what}, so a second "
                    "forward pass cannot repeat the first one's masks and state. In layers "
                    "of yours use keras.random with seed=keras.random.SeedGenerator(), and "
                    "add_weight for state; or choose estimator='hutchinson'."
                )


def _float_tensors(x):
    """Those tensors of a nest that can be differentiated."""
    tensors = tf.nest.flatten(x)
    floats = [t for t in tensors if t.dtype.is_floating]
    if not floats:
        kinds = sorted({t.dtype.name for t in tensors})
        raise ArgumentError(
            f"x: got {', '.join(kinds)}; an input-gradient needs float inputs. "
            "Cast images with tf.cast(x, tf.float32) / 255."
        )
    return floats


def _snapshot(network):
    """The values that a training pass may move: random seeds and running statistics."""
    return [(v, tf.identity(v.value)) for v in network.non_trainable_variables]


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a probe must prepare before its forward pass.

    Attributes:
        layers: names of layers whose calls are recorded.
        jacobian: whether all logits will be differentiated, so that a single logit's gradient is
            a row of that and not a pass of its own.
        order: 2 if a gradient will itself be differentiated with respect to the input.
        intercepts: whether every call's intercept is recorded, for full-gradients.
        biases: names of layers whose pre-activations and biases are recorded.
    """

    layers: tuple[str, ...] = ()
    jacobian: bool = False
    order: int = 1
    intercepts: bool = False
    biases: tuple[str, ...] = ()

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            tuple(dict.fromkeys(self.layers + other.layers)),
            self.jacobian or other.jacobian,
            max(self.order, other.order),
            self.intercepts or other.intercepts,
            tuple(dict.fromkeys(self.biases + other.biases)),
        )
