"""A network with inputs and what is asked of each: the material of tests of a method's maps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.evaluation import networks
from tfgrad.evaluation.batches import check_finite
from tfgrad.evaluation.map_tests.built_methods import built
from tfgrad.evaluation.map_tests.explained_inputs import checked_inputs
from tfgrad.evaluation.map_tests.pixel_removal import comparable
from tfgrad.evaluation.parts import Part, part_of
from tfgrad.gradients import class_scores, embeddings, model_checks, output_heads, targets
from tfgrad.gradients.forward_pass import EVERY_FLOAT, Needs
from tfgrad.gradients.probe import Probe
from tfgrad.gradients.targets import Target
from tfgrad.internal.arguments import integer
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning
from tfgrad.saliency import asked
from tfgrad.saliency.networks import Networks

_CLASS = "class"
# A function of (inputs, what is asked, index of the first).
_Function = Callable[[Any, Any, tf.Tensor], Any]


class ExplainedModel:
    """A network, inputs in batches, a method, and what is asked of each example.

    Args:
        model: A built Keras model from images to logits, or a `PenalizedModel` of one; for a target
            that is no class, a model with any outputs.
        images: Images, float [n, H, W, C], series [n, time, C], volumes [n, D, H, W, C], tables
            [n, features] or token ids [n, time], as the model takes them; or a nest of several
            inputs.
        target: None or `"predicted"`, an int, or ints [n]; −1 means the predicted class. Or a
            `Target`, or a function from the outputs to [batch], whose choices are made at these
            inputs. None takes the `Target` that the method is built for.
        batch_size: Number of examples per call.
        method: A function from a model to a function of (inputs, classes).
        inputs: The key or position of the input whose maps are compared, of several.

    Attributes:
        network: The model, as the target reads it.
        function: The method around it.
        asks: The target if it is no class, else None.
        batches: The inputs, [b, …] each.
        logits: The logits of all examples, [n, classes]; of a target its values, [n, 1].
        meaning: What the logits mean, see `tfgrad.models.output_meaning`; None for a target.
        chosen: {name: what is asked of each example}: its class, or the target's values.

    Raises:
        ArgumentError: The inputs, the target or the method do not fit the model.
        DataError: An image holds NaN or infinite pixels.
        ModelError: The model is not built, or returns no logits.
        NonFiniteError: A logit is NaN or infinite.
    """

    def __init__(
        self,
        model: Any,
        images: Any,
        target: Any,
        batch_size: int,
        method: Any,
        inputs: Any = None,
    ) -> None:
        found = targets.validated(target, allow_all=False)
        self._inputs, self._method = inputs, method
        self._choose_network(Networks(model), found if target is not None else None)
        x = checked_inputs(images, self.network)
        self._x, self._count = x, tf.nest.flatten(x)[0].shape[0]
        self._spec = tf.nest.map_structure(lambda t: _open(t), x)
        size = integer("batch_size", batch_size)
        starts = range(0, self._count, size)
        self.batches = [tf.nest.map_structure(lambda t, i=i: t[i : i + size], x) for i in starts]
        self.meaning: Any = None
        if self.asks is None:
            self._ask_for_classes(x, found)
        else:
            self._ask(x)

    def _choose_network(self, of_question: Networks, target: Any) -> None:
        """Build the method around the network whose outputs the target reads."""
        self.asks = target if isinstance(target, Target) else None
        self.network = of_question.of(self.asks)
        self.function = self.built(self.network)
        own = getattr(self.function, "target", None)
        if self.asks is None and target is None and isinstance(own, Target):
            self.asks = own
            network = of_question.of(own)
            if network is not self.network:
                self.network, self.function = network, self.built(network)
        elif self.asks is not None:
            networks.target_of(self.network, self.function, self.asks, "maps")
        elif isinstance(own, Target):
            raise ArgumentError(
                f"target: got a class for a method built with target={own!r}; expected one "
                "question; try the method without target=."
            )

    def _ask_for_classes(self, x: Any, target: Any) -> None:
        networks.class_count(self.network, x, "images", "model")
        model_checks.check_logits(self.network, self._spec)
        self.chosen = {_CLASS: tf.zeros([self._count], tf.int32)}
        self._logits = self.compiled(lambda x, classes, first: self._called(x))
        self.logits = self.forward()
        check_finite(self.logits, "model: the logits")
        self.meaning = output_meaning.meaning(self.network, count=self.logits.shape[-1])
        self.chosen = {_CLASS: _classes(target, self.logits, self.meaning)}

    def _ask(self, x: Any) -> None:
        networks.first_answer(self.network, x, "images", "model")
        networks.check_rows(self.asks, self._count)
        self.chosen = asked.tensors(self.asks)

        def choices(x: Any, target: Any, first: tf.Tensor) -> dict[str, tf.Tensor]:
            return asked.tensors(target.fixed(networks.outputs_at(self.network, x)))

        self.chosen = self._each_of(self.compiled(choices), self._count)
        self._logits = self.compiled(
            lambda x, target, first: networks.score(self.network, x, target)[:, tf.newaxis]
        )
        self.logits = self.forward()
        check_finite(self.logits, f"model: the values of {self.asks!r}")

    def _each_of(self, function: Any, count: int) -> dict[str, tf.Tensor]:
        """Tensors of each example, or one for all, of a function that returns them for a batch."""
        parts = [function(x, self._some(i), i) for x, i in self._starts(self.batches)]
        joined = {name: tf.concat([part[name] for part in parts], 0) for name in parts[0]}
        # A value for all examples comes once from every batch.
        return {n: t if t.shape[0] == count else parts[0][n] for n, t in joined.items()}

    def __len__(self) -> int:
        return self._count

    @property
    def is_plain(self) -> bool:
        """Whether there is one input, of floats."""
        return not tf.nest.is_nested(self._x) and self._x.dtype.is_floating

    @functools.cached_property
    def part(self) -> Part:
        """The input whose maps are compared.

        Raises:
            ArgumentError: There are several, and nothing tells which.
        """
        return part_of(self._x, self.function, self._inputs)

    @functools.cached_property
    def visible(self) -> np.ndarray | None:
        """Which steps of token ids are not masked, bool [n, time]; None: all are."""

        def steps(x: Any, target: Any, first: tf.Tensor) -> tf.Tensor:
            found = self.part.visible(self.network, x)
            return tf.zeros([0], tf.bool) if found is None else found

        if not self.part.of_ids:
            return None
        found = self.each(self.compiled(steps))
        return found if found.size else None

    def built(self, network: Any) -> Callable[..., Any]:
        """The method around a network, such as a changed one."""
        return built(self._method, network, self.asks, self._inputs)

    def ask_as(self, other: ExplainedModel) -> None:
        """Ask of each example what another model is asked: the same classes or choices."""
        self.chosen = other.chosen

    def _called(self, x: Any) -> tf.Tensor:
        return output_heads.logits(self.network, self.network(x, training=False))

    def forward(self, batches: Any = None) -> np.ndarray:
        """The `logits` under the current weights; see `each`."""
        return self.each(self._logits, batches)

    def compiled(self, function: _Function) -> Any:
        """A function of (inputs, what is asked, index of the first), traced once for all batches.

        What is asked are classes int32 [b], or a `Target` whose choices are made.
        """

        def run(x: Any, chosen: Mapping[str, tf.Tensor], first: tf.Tensor) -> Any:
            return function(x, self._question(chosen), first)

        specs = {name: _open(value) for name, value in self.chosen.items()}
        traced = tf.function(run, autograph=False)
        return traced.get_concrete_function(self._spec, specs, tf.TensorSpec([], tf.int64))

    def _question(self, chosen: Mapping[str, tf.Tensor]) -> Any:
        return chosen[_CLASS] if self.asks is None else asked.with_tensors(self.asks, chosen)

    def _some(self, first: tf.Tensor) -> dict[str, tf.Tensor]:
        """What is asked of the examples of the batch that begins at one."""
        size = tf.nest.flatten(self.batches[0])[0].shape[0]
        whole = self._count
        return {
            name: t[int(first) : int(first) + size] if t.shape[0] == whole else t
            for name, t in self.chosen.items()
        }

    def _starts(self, batches: Any) -> Any:
        """Batches with the index of the first example of each."""
        size = tf.nest.flatten(self.batches[0])[0].shape[0]
        return [(x, tf.constant(i * size, tf.int64)) for i, x in enumerate(batches)]

    def probe(self, x: Any, needs: Needs | None = None) -> Probe:
        """The probe of the network at x; the network's state does not change."""
        sources = embeddings.sources(self.network, x, at=getattr(self.function, "at", None))
        return self._probe(x, needs or Needs(), sources)

    def _probe(self, x: Any, needs: Needs, sources: Any) -> Probe:
        if self.asks is not None:
            needs = dataclasses.replace(needs, logits=False)
        # Losses that layers add during a call would otherwise stay in the model.
        with unchanged_state():
            return Probe(self.network, x, needs=needs, outputs=self.meaning, sources=sources)

    def gradient(self, x: Any, target: Any) -> tf.Tensor:
        """The gradient of what is asked of each example; to be compiled.

        It is taken at the input whose maps are compared, shaped like it; of token ids at the output
        of their embedding.
        """
        sources, part = EVERY_FLOAT, self.part
        if part.key is not None or part.of_ids:
            at = getattr(self.function, "at", None)
            sources = embeddings.sources(self.network, x, inputs=part.key, at=at, find=True)
        return tf.nest.flatten(self._probe(x, Needs(), sources).input_gradient(target))[0]

    def of_class(self, logits: np.ndarray) -> np.ndarray:
        """The logit of each example's class, [n, classes] → float64 [n]; of a target its value."""
        if self.asks is not None:
            return logits[:, 0].astype("float64")
        found = tf.constant(logits.astype("float64"))
        return class_scores.logit(found, self.chosen[_CLASS], self.meaning).numpy()

    def each(self, function: Callable[..., Any], batches: Any = None) -> np.ndarray:
        """The results [n, …] of a compiled function for each example.

        Args:
            function: Returns a result with the batch axis first.
            batches: Other inputs in the place of the own ones, in batches of the same sizes.
        """
        return np.concatenate(
            [
                np.asarray(function(x, self._some(first), first))
                for x, first in self._starts(batches or self.batches)
            ]
        )

    def maps(self, function: Callable[..., Any], batches: Any = None) -> np.ndarray:
        """The maps [n, *positions] of a function of (inputs, what is asked); see `each`.

        Of several inputs they are those of `part`.

        Raises:
            ArgumentError: The function returns something else.
        """

        def checked(x: Any, chosen: Mapping[str, tf.Tensor], first: tf.Tensor) -> tf.Tensor:
            found = function(x, self._question(chosen))
            found = comparable(self.part.of_maps(found, x, function))
            own, axes = self.part.of(x), self.part.axes(self.network, x, found)
            expected = (own.shape[0], *axes.sizes(own.shape))
            if tuple(found.shape) != expected:
                raise ArgumentError(
                    f"method: got maps of shape {tuple(found.shape)} for images "
                    f"{tuple(own.shape)}; expected {expected}. Sum a gradient over its channels "
                    "first."
                )
            return found

        return self.each(checked, batches)

    def totals(self, function: Callable[..., Any]) -> np.ndarray:
        """The sum of each example's maps, [n] float64; of several inputs over all maps."""
        if self.is_plain:
            found = self.maps(function).astype(np.float64)
            return found.sum(tuple(range(1, found.ndim)))

        def summed(x: Any, chosen: Mapping[str, tf.Tensor], first: tf.Tensor) -> np.ndarray:
            maps = tf.nest.flatten(function(x, self._question(chosen)))
            sizes = [np.asarray(m, np.float64).reshape(len(m), -1) for m in maps]
            return sum(m.sum(1) for m in sizes)

        return self.each(summed)


def _classes(target: Any, logits: np.ndarray, meaning: str) -> tf.Tensor:
    """The class of each image, int32 [n]."""
    named = targets.validated(target, allow_all=False)
    if isinstance(named, str) and named == "label":
        raise ArgumentError(
            "target: got 'label', but there are no labels here; expected the classes as ints [n], "
            "one int, or None for the predicted class."
        )
    return targets.classes(named, tf.constant(logits), meaning=meaning)


def _open(tensor: tf.Tensor) -> tf.TensorSpec:
    """The specification of tensors like this one, of any batch size."""
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
