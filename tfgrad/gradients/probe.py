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

import copy
from collections.abc import Mapping

import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import output_heads, targets
from tfgrad.gradients.forward_pass import ForwardPass, Gradients, Needs
from tfgrad.gradients.half_precision import computing_in_float32, half_precision_layers
from tfgrad.internal.stateless_noise import Draws

# Above this many classes one vectorised pass beats a loop of backward passes over the logits.
_LOOP_CLASSES = 16


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
        self.needs = needs or Needs()
        self.draws = draws or Draws()
        self._pass = ForwardPass(network, x, training, self.needs)
        self.x, self.outputs = self._pass.x, self._pass.outputs
        self.layer_outputs = self._pass.layer_outputs
        self.intercepts = self._pass.intercepts
        self.biases = self._pass.biases
        self._memo: dict = {}
        self._views: dict = {}
        self._logits = None
        if len(tf.nest.flatten(self.outputs)) == 1:
            self._logits = self._logits_among(self._pass.logits)

    # Several outputs, and a teacher's

    @property
    def logits(self):
        """[batch, classes], in float32 or wider."""
        if self._logits is None:
            self._logits = self._logits_among(self._pass.logits)
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
                view._logits = view._logits_among(self._pass.logits)
                view.y = output_heads.part(self.y, own)
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
        view.head, view._memo, view.y = head, {}, output_heads.part(self.y, head)
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
        return self._pass.pack(self._gradients(target, of, temperature).inputs)

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
            with self._pass.recording():
                values = scalar(self)
            self._memo[key] = self._pass.slopes(values)
        return self._pass.pack(self._memo[key])

    def input_jacobian(self):
        """∇x of every logit, a list of `classes` gradients in x's structure."""
        return [self._pass.pack(row) for row in self._jacobian()]

    # Second derivatives with respect to the input

    def hessian_vector(self, target, vectors):
        """(∇²x f) v for one vector per float input; needs order 2.

        Args:
            target: see `input_gradient`.
            vectors: in x's structure, as `input_gradient` returns.
        """
        gradients = self._gradients(target, "logit").inputs
        return self._pass.pack(self._pass.hessian_vector(gradients, tf.nest.flatten(vectors)))

    def hessian_trace(self, target):
        """tr ∇²x f exactly, [batch], at the price of one double backward per input dimension."""
        return self._pass.trace(self._gradients(target, "logit").inputs)

    def once(self, what, target, compute):
        """What `compute()` returned the first time it was asked for this target."""
        key = (what, _name_of(target))
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    # Further forward passes

    def forward(self, x):
        """Logits at another x, in this pass's mode and with its random masks, moving no state."""
        return self._logits_among(self._pass.repeated(x))

    def noise(self, samples, seed, scale=1.0):
        """`samples` Gaussian perturbations of standard deviation `scale`, each in x's structure."""
        per_input = [
            self.draws.normal(t, samples, seed, stream)
            for stream, t in enumerate(self._pass.inputs)
        ]
        return [self._pass.pack([scale * noise[n] for noise in per_input]) for n in range(samples)]

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

    def in_inference(self):
        """A probe of the same point in inference mode, of which each example is a function alone.

        In training mode batch norm makes of every logit a function of the whole batch. Returns this
        probe itself where it is in inference mode already. The new pass takes the running
        statistics of before this one and moves no state.
        """
        if not self.training:
            return self
        if "inference" not in self._memo:
            with self._pass.rewound():
                settings = {"needs": self.needs, "draws": self.draws, "teacher": self._teacher}
                found = Probe(self.network, self.x, self.y, training=False, **settings)
            found.head, found._logits = self.head, None
            self._memo["inference"] = found
        return self._memo["inference"]

    # Inside

    def _logits_among(self, outputs):
        return output_heads.logits(self.network, outputs, self.head)

    def _gradients(self, target, of, temperature=1.0, deep=False):
        """Gradients for inputs and all that was recorded, from one backward pass.

        Where the Jacobian is wanted anyway, and nothing but inputs (`deep`), they are a row of it.
        """
        row = self.needs.jacobian and of == "logit" and not deep
        key = ("gradient", of, float(temperature), _name_of(target), row)
        if key not in self._memo:
            if row:
                self._memo[key] = Gradients(self._row(target))
            else:
                with self._pass.recording():
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
        """One backward pass, of a scalar that nobody has asked for yet."""
        return self._pass.gradients(scalar)

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
                    with self._pass.recording():
                        logit = self.logits[:, k]
                    rows.append(self._backward(logit).inputs)
            else:
                rows = self._pass.jacobian(self.logits)
            self._memo["jacobian"] = rows
        return self._memo["jacobian"]

    def _row(self, target):
        """One logit's gradient, picked out of the Jacobian that is wanted anyway."""
        with self._pass.recording_gradients():
            indices = self.classes(target)
            weights = tf.one_hot(indices, self.logits.shape[-1], dtype=self.logits.dtype)
            picked = []
            for i, source in enumerate(self._pass.inputs):
                stacked = tf.stack([row[i] for row in self._jacobian()], axis=1)
                axes = tf.ones([source.shape.rank - 1], tf.int32)
                mask = tf.reshape(weights, tf.concat([tf.shape(weights), axes], 0))
                picked.append(tf.reduce_sum(stacked * tf.cast(mask, stacked.dtype), axis=1))
        return picked


class _Float32Probe(Probe):
    """The same point in float32; see `Probe.in_float32`."""

    def __init__(self, half: Probe):
        with computing_in_float32(half.network), half._pass.rewound():
            super().__init__(
                half.network,
                half.x,
                half.y,
                training=half.training,
                needs=half.needs,
                draws=half.draws,
            )
        self.head, self._logits = half.head, None

    def forward(self, x):
        with computing_in_float32(self.network):
            return super().forward(x)

    def in_float32(self):
        return self


def _is(target, name):
    return isinstance(target, str) and target == name


def _name_of(target):
    return target if isinstance(target, str | int) else target.ref()
