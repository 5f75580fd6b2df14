"""One forward pass under a tape: outputs, chosen layer calls, and each distinct gradient once.

Everything in tfgrad that needs a gradient asks a probe for it: a training step, a penalty used on
its own, a saliency method and a served signature.

    probe = Probe(network, x, y, training=True)
    probe.logits                        # [batch, classes]
    probe.input_gradient("label")       # like x; a second request costs nothing

To differentiate these with respect to weights, open a tape around the probe, as
`PenalizedModel.train_step` does. Gradients are those of the *sum* over the batch, which is each
example's own gradient if examples do not interact; training-mode batch norm couples them, which the
papers and their code accept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import class_scores, layer_biases, targets
from tfgrad.gradients.forward_pass import Gradients
from tfgrad.gradients.masks import where_visible
from tfgrad.gradients.memo import Key, name_of
from tfgrad.gradients.view import View

# Above this many classes one vectorised pass beats a loop of backward passes over the logits.
_LOOP_CLASSES = 16
_T = TypeVar("_T")


class Probe(View):
    """A network's outputs at x and the gradients requested of it, each computed once.

    Args:
        network: A Keras model that returns logits [batch, classes], or a list or dict of them: see
            `on`. Of outputs of other shapes only `output` and what was recorded can be read.
        x: Float images [batch, …], or a nest of inputs of which the float ones are differentiated.
        y: Integer labels [batch], needed for target `"label"`.
        training: The mode of the forward pass. Batch-norm statistics and seeds are updated as in
            any call; `forward` repeats this pass's masks and updates nothing.
        needs: What will be requested.
        draws: The position of the batch in the random sequence.
        teacher: The teacher's side of the batch (`tfgrad.penalties.teacher.Teacher`), for
            penalties that compare.
        outputs: What the outputs mean, see `tfgrad.models.output_meaning`; None for what is known
            of the network.
        sources: What is differentiated: every float input, some of them, or outputs of layers. The
            latter then take the part of the inputs here: `input_gradient`, `inputs`, `shifted`.
        values: {call: what takes the place of its output} for `sources.at`; None keeps them.
        given: {name: nest of tensors [batch, …]} that came with the examples, for penalties.

    Raises:
        ArgumentError: x has no float input, or the network has no layer of a given name.
        ModelError: The network's output is not logits [batch, classes].
    """

    # First derivatives

    def input_gradient(self, target: Any, of: str = "logit", temperature: float = 1.0) -> Any:
        """∇x of each example's scalar, in x's structure (its float inputs).

        Args:
            target: A target of `tfgrad.targets` other than `"all"`.
            of: `"logit"`; `"probability"` or `"log_probability"` of softmax(logits / temperature),
                or of the sigmoid of one logit or of independent labels.
            temperature: The temperature of that softmax or sigmoid.
        """
        return self._pass.pack(self._gradients(target, of, temperature).inputs)

    def layer_gradients(self, target: Any, of: str = "logit") -> dict[str, Any]:
        """∂ scalar / ∂ output of every recorded call, {call name: like the output}.

        A call on which the scalar does not depend has None.
        """
        gradients = self._gradients(target, of, deep=True).layers
        return tf.nest.pack_sequence_as(self.layer_outputs, gradients)

    def intercept_gradients(self, target: Any, of: str = "logit") -> list[list[Any]]:
        """∂ scalar / ∂ `tensors` of every recorded intercept, in order; needs `intercepts`.

        Returns:
            For each of `self.intercepts` a list like its `tensors`, with None where the scalar does
            not depend on a tensor.
        """
        gradients = iter(self._gradients(target, of, deep=True).intercepts)
        return [[next(gradients) for _ in term.tensors] for term in self.intercepts]

    def bias_gradients(self, target: Any, of: str = "logit") -> dict[str, tf.Tensor]:
        """f^b = ∇_z f ⊙ b of every call recorded by `Needs.biases`, {call name: like z}.

        Zeros where the scalar does not depend on a call. `layer_biases` defines z and b.
        """
        gradients = self._gradients(target, of, deep=True).biases
        return layer_biases.products(self.biases, gradients)

    def slope(self, name: Hashable, scalar: Callable[[Probe], tf.Tensor]) -> Any:
        """∇x of another scalar per example, computed from the recorded tensors.

        Args:
            name: The scalar's name; the gradient is computed once per name.
            scalar: A function of this probe that returns [batch].
        """

        def compute() -> list[tf.Tensor]:
            with self._pass.recording():
                values = scalar(self)
            return self._pass.slopes(values)

        return self._pass.pack(self._memo.get(Key("slope", name), compute))

    def input_jacobian(self) -> list[Any]:
        """∇x of every logit, a list of `classes` gradients in x's structure."""
        return [self._pass.pack(row) for row in self._jacobian()]

    # Second derivatives with respect to the input

    def hessian_vector(self, target: Any, vectors: Any) -> Any:
        """(∇²x f) v for one vector per float input; needs order 2.

        Args:
            target: A target, as in `input_gradient`.
            vectors: One vector per float input, in the structure that `input_gradient` returns.
        """
        gradients = self._gradients(target, "logit").inputs
        return self._pass.pack(self._pass.hessian_vector(gradients, tf.nest.flatten(vectors)))

    def hessian_trace(self, target: Any) -> tf.Tensor:
        """tr ∇²x f exactly, [batch], by one double backward pass per input dimension."""
        return self._pass.trace(self._gradients(target, "logit").inputs)

    def once(self, what: str, target: Any, compute: Callable[[], _T]) -> _T:
        """The result of `compute()`, computed once per `what` and target."""
        return self._memo.get(Key("once", (what, name_of(target))), compute)

    # Additional forward passes

    def noise(self, samples: int, seed: int, scale: float = 1.0) -> list[Any]:
        """`samples` Gaussian perturbations of standard deviation `scale`, each in x's structure.

        They are 0 at steps that the network masks: noise there would undo the mask.
        """
        visible = self._pass.visible()
        per_input = [
            self.draws.normal(t, samples, seed, stream)
            for stream, t in enumerate(self._pass.inputs)
        ]
        return [
            self._pass.pack(where_visible([scale * noise[n] for noise in per_input], visible))
            for n in range(samples)
        ]

    def shifted(self, vectors: Any) -> Any:
        """x + v, where v has the structure that `input_gradient` returns; other inputs stay."""
        return self._pass.shifted(tf.nest.flatten(vectors))

    def in_float32(self) -> Probe:
        """A probe of the same point whose arithmetic is float32, whatever the layers' policy.

        Half precision cannot represent differences such as f(x + v) − f(x) at small v. Returns this
        probe itself if nothing is half precision. The new pass starts from this one's seeds and
        changes no state. Its random masks are its own, repeated by its `forward`: Keras draws a
        mask in the dtype of what it masks.
        """
        return self._in_mode(training=self.training, float32=True)

    def in_inference(self) -> Probe:
        """A probe of the same point in inference mode, where examples do not interact.

        In training mode batch norm makes every logit a function of the whole batch. Returns this
        probe itself if it is in inference mode already. The new pass uses the running statistics
        of before this one, also in its `forward`, and changes no state.
        """
        return self._in_mode(training=False, float32=self._pass.float32)

    # Inside

    def _in_mode(self, training: bool, float32: bool) -> Probe:
        other = self._pass.in_mode(training=training, float32=float32)
        if other is self._pass:
            return self
        return self._views.get(Key("mode", (training, float32)), lambda: self._view(other))

    def _gradients(
        self, target: Any, of: str, temperature: float = 1.0, deep: bool = False
    ) -> Gradients:
        """Gradients with respect to inputs and all that was recorded, from one backward pass.

        If the Jacobian is needed anyway, and nothing but inputs (`deep`), they are a row of it.
        """
        asked = isinstance(target, targets.Target)
        if asked and of != "logit":
            raise ArgumentError(
                f"target: got {target!r} for the gradient of a {of}, which belongs to a class; "
                "expected a class, 'label' or 'predicted'; or try the logit's, of='logit' or "
                "loss='squared_error'."
            )
        row = self.needs.jacobian and of == "logit" and not deep and not asked

        def compute() -> Gradients:
            if row:
                return Gradients(self._row(target))
            if isinstance(target, targets.Target):
                return self._backward_of(target)
            with self._pass.recording():
                classes = self.classes(target)
                scalar = targets.scalar(self.logits, classes, of, temperature, self.meaning)
            return self._backward(scalar)

        key = Key("gradient", name_of(target), of, float(temperature), row)
        return self._memo.get(key, compute)

    def _backward(self, scalar: tf.Tensor) -> Gradients:
        """One backward pass, of a scalar that has not been differentiated yet."""
        return self._pass.gradients(scalar)

    def _backward_of(self, target: targets.Target) -> Gradients:
        scalar, outputs = self._asked(target)
        try:
            return self._backward(scalar)
        except ModelError as error:
            if self._pass.depends(scalar, tf.nest.flatten(outputs)):
                raise
            raise ArgumentError(
                f"target: {target!r} does not depend on the outputs of network "
                f"{self.network.name!r} by operations that have a derivative; expected a "
                "differentiable function of the outputs."
            ) from error

    def _jacobian(self) -> list[list[tf.Tensor]]:
        return self._memo.get(Key("jacobian"), self._rows)

    def _rows(self) -> list[list[tf.Tensor]]:
        classes = self.logits.shape[-1]
        if classes is None:
            raise ModelError(
                f"network {self.network.name!r}: the number of logits is unknown; target "
                "'all' needs it; try a last layer of fixed size."
            )
        if classes > _LOOP_CLASSES:
            return self._pass.jacobian(self.logits)
        rows = []
        for k in range(classes):
            with self._pass.recording():
                logit = self.logits[:, k]
            rows.append(self._backward(logit).inputs)
        return rows

    def _row(self, target: Any) -> list[tf.Tensor]:
        """One logit's gradient, selected from the Jacobian."""
        with self._pass.recording_gradients():
            classes, meaning = self.classes(target), self.meaning
            return self._pass.selected(
                self._jacobian(), lambda rows: class_scores.logit(rows, classes, meaning)
            )
