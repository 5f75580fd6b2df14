"""One forward pass under a tape: outputs, chosen layer calls, and each distinct gradient once.

The probe is the middle of the house. A training step, a penalty on its own, a saliency method and
a served signature all ask it for the same few things, and it is the only place where a tape is
opened on an input.

    probe = Probe(network, x, y, training=True)
    probe.logits                        # [batch, classes]
    probe.input_gradient("label")       # like x; a second request costs nothing

Whoever wants derivatives of these with respect to weights opens a tape around the probe, as
`PenalizedModel.train_step` does. Gradients are those of the *sum* over the batch, which is each
example's own gradient wherever examples do not interact; training-mode batch norm couples them,
which the papers and their code accept.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad import biases, calls, heads, intercepts, losses, second_order, targets
from tfgrad._half_precision import computing_in_float32, half_precision_layers
from tfgrad.draws import Draws
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.intercepts import unbatched

# Above this many classes one vectorised pass beats a loop of backward passes over the logits.
_LOOP_CLASSES = 16


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


@dataclasses.dataclass(frozen=True)
class _Gradients:
    """What one backward pass gives, flat, in the order of what was recorded."""

    inputs: list[Any]
    layers: list[Any] = dataclasses.field(default_factory=list)
    intercepts: list[Any] = dataclasses.field(default_factory=list)
    biases: list[Any] = dataclasses.field(default_factory=list)


class Probe:
    """A network's outputs at x and the gradients asked of it, each computed once.

    Args:
        network: a Keras model that returns logits [batch, classes], or a list or dict of them: see
            `on`.
        x: float images [batch, …], or a nest of inputs of which the float ones are differentiated.
        y: integer labels [batch], needed for target `"label"`.
        training: the mode of the forward pass. Batch-norm statistics and random masks move on as
            in any call; `forward` repeats this pass's masks and moves nothing.
        needs: what will be asked.
        draws: where the batch stands in the random sequence.
        teacher: what a teacher says of the batch (`tfgrad.teaching.Teacher`), for penalties that
            compare.

    Raises:
        ArgumentError: x has nothing to differentiate, or a layer name is not there.
        ModelError: the network's output is not logits [batch, classes].
    """

    def __init__(self, network, x, y=None, *, training=False, needs=None, draws=None, teacher=None):
        self.network, self.y, self.head = network, y, None
        self._teacher = teacher
        self.training = training
        self.needs = needs = needs or Needs()
        self.draws = draws or Draws()
        self.x = tf.nest.map_structure(tf.convert_to_tensor, x)
        self._watched = [t for t in tf.nest.flatten(self.x) if t.dtype.is_floating]
        if not self._watched:
            kinds = sorted({t.dtype.name for t in tf.nest.flatten(self.x)})
            raise ArgumentError(
                f"x: got {', '.join(kinds)}; an input-gradient needs float inputs. "
                "Cast images with tf.cast(x, tf.float32) / 255."
            )
        if needs.layers:
            calls.check_names(network, needs.layers)
        if needs.biases:
            biases.check(network, needs.biases)
        self._before = _snapshot(network) if training else []
        self._memo: dict = {}
        self._views: dict = {}
        self._second_tape = tf.GradientTape(persistent=True) if needs.order > 1 else None
        self._second_on = False
        self._tape = tf.GradientTape(persistent=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._recording_second())
            stack.enter_context(self._tape)
            recorded = stack.enter_context(calls.recorded(needs.layers))
            terms = intercepts.Intercepts()
            if needs.intercepts:
                recorder = intercepts.recorded(
                    self._watch,
                    training,
                    aside=self._tape.stop_recording,
                    unbatched=unbatched(network, self.x),
                )
                terms = stack.enter_context(recorder)
            # The outermost listener: it recognises a tensor by its identity.
            biased = stack.enter_context(biases.recorded(needs.biases))
            if self._second_tape is not None:
                self._second_tape.watch(self._watched)
            self._tape.watch(self._watched)
            self.outputs = network(self.x, training=training)
            self._all_logits = tf.nest.map_structure(_at_least_float32, self.outputs)
        self._logits = None
        if len(tf.nest.flatten(self.outputs)) == 1:
            self._logits = self._logits_among(self._all_logits)
        self.layer_outputs = recorded
        self.intercepts = terms
        self.biases = biased

    # Several outputs, and a teacher's

    @property
    def logits(self):
        """[batch, classes], in float32 or wider."""
        if self._logits is None:
            self._logits = self._logits_among(self._all_logits)
        return self._logits

    def on(self, head):
        """A view of this probe on one head of a network with several outputs.

        Args:
            head: the output's key (of a dict) or index (of a list), or a pair (this network's, its
                teacher's); None for the only output.

        Returns:
            A probe whose logits and labels are the head's; labels given as a dict or list belong
            to the heads they name. It shares the forward pass and remembers its own gradients.

        Raises:
            ArgumentError: there is no such head.
        """
        if head not in self._views:
            own, taught = head if isinstance(head, tuple) else (head, head)
            view = self
            if own is not None:
                view = copy.copy(self)
                view.head, view._memo = own, {}
                view._logits = view._logits_among(self._all_logits)
                view.y = heads.part(self.y, own)
            if self._teacher is not None:
                view = copy.copy(view) if view is self else view
                view._teacher = self._teacher.on(taught)
            self._views[head] = view
        return self._views[head]

    def with_labels_of(self, head):
        """A view whose labels are those of one head, on a network with a single output."""
        if not isinstance(self.y, Mapping | list | tuple):
            return self
        view = copy.copy(self)
        view.head, view._memo, view.y = head, {}, heads.part(self.y, head)
        return view

    @property
    def teacher(self):
        """What the teacher says of this batch.

        Raises:
            ArgumentError: there is none.
        """
        if self._teacher is None:
            raise ArgumentError(
                "teacher: got None, but a penalty matches a teacher; use "
                "PenalizedModel(network, penalties, teacher=...) or per_example(..., teacher=...)."
            )
        return self._teacher

    # What is differentiated

    def classes(self, target):
        """The class index of each example's scalar, int32 [batch]; `"all"` has none."""
        if self.head is not None and self.y is None and _is(target, "label"):
            raise ArgumentError(
                f"target: got 'label' on head {self.head!r}, to which no labels belong; use "
                "target='predicted', or pass labels by head, e.g. y={'" + f"{self.head}" + "': …}."
            )
        return targets.classes(target, self.logits, self.y)

    def score(self, target):
        """The scalar f of each example, [batch]: the logit that `target` names."""
        return targets.select(self.logits, self.classes(target))

    # First derivatives

    def input_gradient(self, target, of="logit", temperature=1.0):
        """∇x of each example's scalar, in x's structure (its float inputs).

        Args:
            target: see `tfgrad.targets`; not `"all"`.
            of: `"logit"`; `"probability"` or `"log_probability"` of softmax(logits / temperature).
            temperature: of that softmax.
        """
        return self._pack(self._gradients(target, of, temperature).inputs)

    def layer_gradients(self, target, of="logit"):
        """∂ scalar / ∂ output of every recorded call, {call name: like the output}.

        A call the scalar does not depend on has None.
        """
        gradients = self._gradients(target, of, deep=True).layers
        return tf.nest.pack_sequence_as(self.layer_outputs, gradients)

    def intercept_gradients(self, target, of="logit"):
        """∂ scalar / ∂ `tensors` of every recorded intercept, in order; needs `intercepts`.

        Returns:
            For each of `self.intercepts` a list like its `tensors`, None where the scalar does not
            depend on a tensor.
        """
        gradients = iter(self._gradients(target, of, deep=True).intercepts)
        return [[next(gradients) for _ in term.tensors] for term in self.intercepts]

    def bias_gradients(self, target, of="logit"):
        """f^b = ∇_z f ⊙ b of every call recorded by `Needs.biases`, {call name: like z}.

        Zeros where the scalar does not depend on a call. See `tfgrad.biases` for z and b.
        """
        gradients = self._gradients(target, of, deep=True).biases
        products = {}
        for (name, biased), gradient in zip(self.biases.items(), gradients, strict=True):
            if gradient is None:
                gradient = tf.zeros_like(biased.output)
            bias = biased.bias()
            products[name] = tf.cast(gradient, bias.dtype) * bias
        return products

    def slope(self, name, scalar):
        """∇x of another scalar per example, made of what the forward pass recorded.

        Args:
            name: of the scalar; one name is computed once.
            scalar: a function of this probe that returns [batch].
        """
        key = ("slope", name)
        if key not in self._memo:
            with self._recording_second(), self._tape:
                values = scalar(self)
            with self._recording_second():
                gradients = self._tape.gradient(values, self._watched, unconnected_gradients="zero")
            self._memo[key] = gradients
        return self._pack(self._memo[key])

    def input_jacobian(self):
        """∇x of every logit, a list of `classes` gradients in x's structure."""
        return [self._pack(row) for row in self._jacobian()]

    # Second derivatives with respect to the input

    def hessian_vector(self, target, vectors):
        """(∇²x f) v for one vector per float input; needs order 2.

        Args:
            target: see `input_gradient`.
            vectors: in x's structure, as `input_gradient` returns.
        """
        gradients = self._gradients(target, "logit").inputs
        with self._recording_second():
            slopes = [
                tf.reduce_sum(g * v)
                for g, v in zip(gradients, tf.nest.flatten(vectors), strict=True)
            ]
            slope = tf.add_n([tf.cast(s, slopes[0].dtype) for s in slopes])
        return self._pack(self._second_derivative(slope, self._watched))

    def hessian_trace(self, target):
        """tr ∇²x f exactly, [batch], at the price of one double backward per input dimension."""
        total = tf.zeros([], self._watched[0].dtype)
        for index, source in enumerate(self._watched):
            gradient = self._gradients(target, "logit").inputs[index]
            with self._recording_second():
                flat = tf.reshape(gradient, [tf.shape(gradient)[0], -1])
            size = flat.shape[-1] or source.shape[1:].num_elements()
            if size is None:
                raise ArgumentError(
                    f"x: got shape {source.shape}; the exact trace needs fixed image sizes."
                )
            for entry in range(size):
                with self._recording_second():
                    column = tf.reduce_sum(flat[:, entry])
                row = self._second_derivative(column, source)
                total += tf.reshape(row, [tf.shape(row)[0], -1])[:, entry]
        return total

    def once(self, what, target, compute):
        """What `compute()` returned the first time it was asked for this target."""
        key = (what, _name_of(target))
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    # Further forward passes

    def forward(self, x):
        """Logits at another x, in this pass's mode and with its random masks, moving no state."""
        if self.training:
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
        with keras.StatelessScope(self._before, collect_losses=True):
            outputs = self.network(x, training=self.training)
            return self._logits_among(tf.nest.map_structure(_at_least_float32, outputs))

    def noise(self, samples, seed, scale=1.0):
        """`samples` Gaussian perturbations of standard deviation `scale`, each in x's structure."""
        per_input = [
            self.draws.normal(t, samples, seed, stream) for stream, t in enumerate(self._watched)
        ]
        return [self._pack([scale * noise[n] for noise in per_input]) for n in range(samples)]

    def shifted(self, vectors):
        """x + v, where v has x's structure as `input_gradient` returns; integer inputs stay."""
        moves = iter(tf.nest.flatten(vectors))
        return tf.nest.map_structure(
            lambda t: t + next(moves) if t.dtype.is_floating else t, self.x
        )

    def in_float32(self):
        """A probe of the same point whose arithmetic is float32, whatever the layers' policy.

        Half precision cannot hold differences such as f(x + v) − f(x) at small v. Returns this
        probe itself where nothing is half precision. The new pass starts from this one's seeds and
        moves no state. Its random masks are its own, repeated by its `forward`: Keras draws a mask
        in the dtype of what it masks.
        """
        if not half_precision_layers(self.network):
            return self
        if "float32" not in self._memo:
            self._memo["float32"] = _Float32Probe(self)
        return self._memo["float32"]

    # Inside

    def _logits_among(self, outputs):
        return heads.logits(self.network, outputs, self.head)

    @contextlib.contextmanager
    def _recording_second(self):
        """Record on the second tape, if there is one; entered again it changes nothing."""
        if self._second_tape is None or self._second_on:
            yield
            return
        self._second_on = True
        try:
            with self._second_tape:
                yield
        finally:
            self._second_on = False

    def _second_derivative(self, slope, sources):
        if self._second_tape is None:
            raise ArgumentError(
                "needs: got order 1, but a second derivative was asked for; use Needs(order=2)."
            )
        return self._second_tape.gradient(slope, sources, unconnected_gradients="zero")

    def _watch(self, tensor):
        """Watch a tensor of the forward pass that need not depend on the input."""
        self._tape.watch(tensor)
        if self._second_tape is not None:
            self._second_tape.watch(tensor)

    def _gradients(self, target, of, temperature=1.0, deep=False):
        """Gradients for inputs and all that was recorded, from one backward pass.

        Where the Jacobian is wanted anyway, and nothing but inputs (`deep`), they are a row of it.
        """
        row = self.needs.jacobian and of == "logit" and not deep
        key = ("gradient", of, float(temperature), _name_of(target), row)
        if key not in self._memo:
            if row:
                self._memo[key] = _Gradients(self._row(target))
            else:
                with self._recording_second(), self._tape:
                    scalar = self._scalar(of, temperature, self.classes(target))
                self._memo[key] = self._backward(scalar)
        return self._memo[key]

    def _scalar(self, of, temperature, indices):
        if of == "logit":
            return targets.select(self.logits, indices)
        logits = self.logits if temperature == 1.0 else self.logits / temperature
        if of == "log_probability":
            return losses.log_probability(logits, indices)
        if of == "probability":
            return targets.select(tf.nn.softmax(logits), indices)
        raise ArgumentError(
            f"of: got {of!r}; expected 'logit', 'probability' or 'log_probability'."
        )

    def _backward(self, scalar):
        recorded = [
            tf.nest.flatten(self.layer_outputs),
            [t for term in self.intercepts for t in term.tensors],
            [biased.output for biased in self.biases.values()],
        ]
        with self._recording_second():
            sources = self._watched + [t for part in recorded for t in part]
            gradients = self._tape.gradient(scalar, sources)
        inputs, gradients = gradients[: len(self._watched)], gradients[len(self._watched) :]
        if all(g is None for g in inputs):
            raise ModelError(
                f"network {self.network.name!r}: its output does not depend differentiably on its "
                "input, so there is no input-gradient."
            )
        for i, gradient in enumerate(inputs):
            if gradient is None:
                inputs[i] = tf.zeros_like(self._watched[i])
        parts, start = [], 0
        for tensors in recorded:
            parts.append(gradients[start : start + len(tensors)])
            start += len(tensors)
        return _Gradients(inputs, *parts)

    def _jacobian(self):
        if "jacobian" not in self._memo:
            classes = self.logits.shape[-1]
            if classes is None:
                raise ModelError(
                    f"network {self.network.name!r}: the number of logits is unknown; target "
                    "'all' needs it. Give the last layer a fixed size."
                )
            if classes <= _LOOP_CLASSES:
                rows = []
                for k in range(classes):
                    with self._recording_second(), self._tape:
                        logit = self.logits[:, k]
                    rows.append(self._backward(logit).inputs)
            else:
                with self._recording_second():
                    blocks = [self._tape.batch_jacobian(self.logits, t) for t in self._watched]
                    rows = [[block[:, k] for block in blocks] for k in range(classes)]
            self._memo["jacobian"] = rows
        return self._memo["jacobian"]

    def _row(self, target):
        """One logit's gradient, picked out of the Jacobian that is wanted anyway."""
        with self._recording_second():
            indices = self.classes(target)
            weights = tf.one_hot(indices, self.logits.shape[-1], dtype=self.logits.dtype)
            picked = []
            for i, source in enumerate(self._watched):
                stacked = tf.stack([row[i] for row in self._jacobian()], axis=1)
                axes = tf.ones([source.shape.rank - 1], tf.int32)
                mask = tf.reshape(weights, tf.concat([tf.shape(weights), axes], 0))
                picked.append(tf.reduce_sum(stacked * tf.cast(mask, stacked.dtype), axis=1))
        return picked

    def _pack(self, values):
        """Values for the float inputs in x's structure; what is not differentiated is left out."""
        if len(self._watched) == len(tf.nest.flatten(self.x)):
            return tf.nest.pack_sequence_as(self.x, values)
        return list(values)


class _Float32Probe(Probe):
    """The same point in float32; see `Probe.in_float32`."""

    def __init__(self, half: Probe):
        with (
            computing_in_float32(half.network),
            keras.StatelessScope(half._before, collect_losses=True),
        ):
            super().__init__(
                half.network,
                half.x,
                half.y,
                training=half.training,
                needs=half.needs,
                draws=half.draws,
            )
        self._before = half._before
        self.head, self._logits = half.head, None

    def forward(self, x):
        with computing_in_float32(self.network):
            return super().forward(x)

    def in_float32(self):
        return self


def _at_least_float32(tensor):
    return tf.cast(tensor, tf.float32) if tensor.dtype in (tf.float16, tf.bfloat16) else tensor


def _is(target, name):
    return isinstance(target, str) and target == name


def _name_of(target):
    return target if isinstance(target, str | int) else target.ref()


def _snapshot(network):
    """The values that a training pass may move: random seeds and running statistics."""
    return [(v, tf.identity(v.value)) for v in network.non_trainable_variables]
