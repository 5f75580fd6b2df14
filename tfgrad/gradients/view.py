"""A network's outputs at one point, on one head, and the scalars that are made of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import class_scores, output_heads, targets
from tfgrad.gradients.forward_pass import EVERY_FLOAT, ForwardPass, Needs
from tfgrad.gradients.memo import Key, Memo, name_of
from tfgrad.gradients.sources import Sources
from tfgrad.internal.stateless_noise import Draws
from tfgrad.models import output_meaning


class View:
    """What a `Probe` knows of its network without a derivative; arguments: see there."""

    def __init__(
        self,
        network: keras.Model,
        x: Any,
        y: Any = None,
        *,
        training: bool = False,
        needs: Needs | None = None,
        draws: Draws | None = None,
        teacher: Any = None,
        outputs: Any = None,
        sources: Sources = EVERY_FLOAT,
        values: Mapping[str, tf.Tensor] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self.y = network, y
        self.given = tf.nest.map_structure(tf.convert_to_tensor, dict(given or {}))
        self._outputs = outputs
        self.draws = draws or Draws()
        self._teacher = teacher
        # The head whose logits these are, and the one whose labels.
        self._head: Any = None
        self._labels_head: Any = None
        needs = needs or Needs()
        self._use(ForwardPass(network, x, training, needs, sources=sources, values=values))
        if self.needs.logits and len(tf.nest.flatten(self.outputs)) == 1:
            self._logits_among(self._pass.logits)  # raises if they are no logits

    def _use(self, forward_pass: ForwardPass) -> None:
        """Take outputs and gradients from a pass, with nothing computed yet."""
        self._pass, self._memo, self._views = forward_pass, Memo(), Memo()
        self.needs, self.training = forward_pass.needs, forward_pass.training
        self.x, self.outputs = forward_pass.x, forward_pass.outputs
        self.layer_outputs = forward_pass.layer_outputs
        self.intercepts, self.biases = forward_pass.intercepts, forward_pass.biases

    def _view(self, forward_pass: ForwardPass | None = None, **changes: Any) -> Self:
        """This probe with some attributes changed, which remembers its own gradients and views."""
        view = copy.copy(self)
        vars(view).update(changes)
        view._use(forward_pass or self._pass)
        return view

    def in_branch(self, teacher: Any, jacobian: bool) -> Self:
        """This probe for a branch of the graph: what is computed there has no meaning outside.

        Args:
            teacher: The branch's own teacher, see `Probe`.
            jacobian: Whether the branch needs all logits' gradients; see `Needs`.
        """
        return self._view(self._pass.in_branch(jacobian), _teacher=teacher)

    # Several outputs, and a teacher's

    @property
    def logits(self) -> tf.Tensor:
        """[batch, classes], in float32 or wider."""
        return self._logits_among(self._pass.logits)

    @property
    def output(self) -> tf.Tensor:
        """The output of this head, of any shape, in float32 or wider."""
        return output_heads.output(self.network, self._pass.logits, self._head)

    @property
    def meaning(self) -> str:
        """What the outputs of this head mean, see `tfgrad.models.output_meaning`."""
        head = self._labels_head if self._head is None else self._head
        return output_meaning.meaning(self.network, self._outputs, self.logits.shape[-1], head)

    def on(self, head: Any) -> Self:
        """A view of this probe on one head of a network with several outputs.

        Args:
            head: The output's key (of a dict) or index (of a list), or a pair (this network's, its
                teacher's); None for the only output.

        Returns:
            A probe whose logits and labels are the head's; labels given as a dict or list belong
            to the heads that they name. It shares the forward pass and remembers its own gradients.

        Raises:
            ArgumentError: There is no such head.
        """
        own, taught = head if isinstance(head, tuple) else (head, head)
        view = self
        if own is not None:
            view = self._views.get(Key("head", own), lambda: self._on_head(own))
        if self._teacher is None:
            return view
        return self._views.get(Key("teacher", (own, taught)), lambda: view._with_teacher_on(taught))

    def _on_head(self, head: Any) -> Self:
        read = output_heads.logits if self.needs.logits else output_heads.output
        read(self.network, self._pass.logits, head)  # raises if there is no such
        return self._view(_head=head, _labels_head=head, y=output_heads.part(self.y, head))

    def _with_teacher_on(self, head: Any) -> Self:
        view = self._view(_teacher=self._teacher.on(head))
        view._memo = self._memo  # the gradients do not depend on the teacher
        return view

    def with_labels_of(self, head: Any) -> Self:
        """A view whose labels are those of one head, on a network with a single output."""
        if not isinstance(self.y, Mapping | list | tuple):
            return self
        labels = output_heads.part(self.y, head)
        return self._views.get(Key("labels", head), lambda: self._view(y=labels, _labels_head=head))

    @property
    def teacher(self) -> Any:
        """The teacher's side of this batch.

        Raises:
            ArgumentError: There is none.
        """
        if self._teacher is None:
            raise ArgumentError(
                "teacher: got None, but a penalty matches a teacher; try "
                "PenalizedModel(network, penalties, teacher=...) or per_example(..., teacher=...)."
            )
        return self._teacher

    # What is differentiated

    def classes(self, target: Any) -> tf.Tensor:
        """The class index of each example's scalar, int32 [batch]; `"all"` has none."""
        head = self._labels_head
        if head is not None and self.y is None and isinstance(target, str) and target == "label":
            raise ArgumentError(
                f"target: got 'label' on head {head!r}, to which no labels belong; try "
                "target='predicted', or labels by head, e.g. y={'" + f"{head}" + "': …}."
            )
        return targets.classes(target, self.logits, self.y, self.meaning)

    def score(self, target: Any) -> tf.Tensor:
        """The scalar f of each example, [batch]: the logit that `target` names, or a `Target`."""
        if isinstance(target, targets.Target):
            return self._asked(target)[0]
        return class_scores.logit(self.logits, self.classes(target), self.meaning)

    def score_at(self, x: Any, target: Any) -> tf.Tensor:
        """The scalar at another x, [batch], of given classes or a `Target`; see `forward`."""
        if isinstance(target, targets.Target):
            return targets.value_of(target, self._outputs_of(self._pass.repeated(x)))
        return class_scores.logit(self.forward(x), target, self.meaning)

    def fixed(self, target: Any) -> Any:
        """The target with its choice of class made at this point: int32 [batch], or a `Target`."""
        if isinstance(target, targets.Target):
            return target.fixed(self._outputs_of(self._pass.logits))
        return self.classes(target)

    def target_intercept(self, target: targets.Target) -> tf.Tensor:
        """s − Σ_o ∇_o s · o, [batch]: the intercept of a target's own arithmetic on the outputs."""
        value, outputs = self._asked(target)
        floats = [t for t in tf.nest.flatten(outputs) if t.dtype.is_floating]
        products = [
            tf.cast(tf.reduce_sum(tf.reshape(g * t, [tf.shape(t)[0], -1]), 1), value.dtype)
            for g, t in zip(self._pass.output_slopes(value, floats), floats, strict=True)
        ]
        return value - tf.add_n(products)

    @property
    def point(self) -> Any:
        """The inputs, with outputs of calls in the places of those that are integers."""
        return self._pass.point

    @property
    def sources(self) -> Sources:
        """What is differentiated."""
        return self._pass.sources

    @property
    def differentiated(self) -> list[tf.Tensor]:
        """The tensors that are differentiated, in the order of the inputs."""
        return self._pass.inputs

    def visible(self) -> list[tf.Tensor | None]:
        """For each of `differentiated`, whether its values are not masked; None: nothing is.

        Raises:
            ModelError: The network masks steps that are not those of an input.
        """
        return self._pass.visible()

    def forward(self, x: Any) -> tf.Tensor:
        """Logits at another x, in this pass's mode and with its random masks; no state changes."""
        return self._logits_among(self._pass.repeated(x))

    # Inside

    def _logits_among(self, outputs: Any) -> tf.Tensor:
        return output_heads.logits(self.network, outputs, self._head)

    def _asked(self, target: targets.Target) -> tuple[tf.Tensor, Any]:
        """A target's scalar [batch], and the copies of the outputs that it is made of."""

        def compute() -> tuple[tf.Tensor, Any]:
            with self._pass.recording():
                # Of two outputs, one may be made of the other.
                copies = tf.nest.map_structure(tf.identity, self._pass.logits)
                return targets.value_of(target, self._outputs_of(copies)), copies

        return self._memo.get(Key("asked", name_of(target)), compute)

    def _outputs_of(self, nest: Any) -> targets.Outputs:
        """Outputs of this network, as a target reads them."""
        labels_head = self._labels_head if self._head is None else self._head
        return outputs_of(self.network, nest, self._outputs, self._head, labels_head, self.y)


def outputs_of(
    network: keras.Model,
    nest: Any,
    outputs: Any = None,
    head: Any = None,
    labels_head: Any = None,
    y: Any = None,
) -> targets.Outputs:
    """Outputs of a network, as a target reads them.

    Args:
        network: The network.
        nest: Its outputs, in float32 or wider.
        outputs: What they mean, see `tfgrad.models.output_meaning`.
        head: The head that is read; None for all.
        labels_head: The head whose meaning counts where a target names none.
        y: The labels.
    """
    own = nest if head is None else output_heads.part(nest, head)

    def output(key: Any = None) -> tf.Tensor:
        if key is None:
            return output_heads.output(network, nest, head)
        return output_heads.output(network, own, key)

    def meaning(key: Any = None) -> str:
        head_of = labels_head if key is None else key
        return output_meaning.meaning(network, outputs, output(key).shape[-1], head_of)

    return targets.Outputs(own, output, y, meaning, getattr(network, "name", "network"))
