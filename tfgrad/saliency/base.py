"""The base class of saliency methods: one model, checked inputs, compiled functions, raw maps.

A method is built once for a model and called any number of times:

    method = InputGradient(model)
    maps = method(images)               # [B, H, W] float32, for the predicted classes
    maps = method(series)               # [B, T], of a model of series; [B, D, H, W] of volumes
    maps = method(images, target=3)     # for class 3
    maps = method({"image": images, "ids": ids})    # {"image": [B, H, W], "ids": [B, T]}

Maps are raw: signed where the method is signed, and never normalised, so that they can be added,
compared and measured. `tfgrad.figures` scales them for display.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfgrad.errors import ModelError, TfgradError
from tfgrad.gradients import model_checks, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.gradients.targets import Target
from tfgrad.internal.arguments import integer
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning
from tfgrad.saliency import asked, options, zero_maps
from tfgrad.saliency.explaining import fitting
from tfgrad.saliency.explanation import explanation_of, report
from tfgrad.saliency.inputs import Inputs
from tfgrad.saliency.networks import Networks
from tfgrad.saliency.resolving import Resolving
from tfgrad.saliency.shared_passes import shared


class Method(Resolving):
    """A function from inputs and a target to saliency maps of the target's scalar.

    A subclass computes the raw attributions of one forward pass in `attribute` and turns them into
    maps in `assemble`. It may override `needs` (what the probe must record), `extras` (additional
    outputs), `options` (its configuration) and `translated` (its run-time errors). All of these
    consist of TensorFlow operations, so that `explain` can be traced and exported.

    What the target leaves open, such as the predicted class, is fixed on the clean inputs, before
    any noise or path. The model runs in inference mode and is not modified. A map follows the
    weights as they are at the call; after a change of the model's *structure*, build a new method.

    Of several inputs every float one is explained, and token ids at the output of their embedding;
    `inputs` chooses among them and holds the others. A map has the axes of its input without the
    channels: [B, H, W] of images, [B, F] of tables, [B, T] of series and of token ids, where steps
    that the embedding masks get 0.

    Args:
        model: A built Keras model that returns logits [B, K], or a `PenalizedModel` of one; with a
            `target` that is no class, a model with any outputs.
        chunk_size, outputs, channels, target, inputs, at: See `options.MethodOptions`.

    Warns:
        AxesWarning: At the first call, if inputs have three axes and the model does not tell
            whether they are [B, T, C] or [B, H, W]; they are taken for the first.
        OutputMeaningWarning: The model has one output, and nothing says what it means; it is taken
            for a logit of two classes.

    Raises:
        ArgumentError: The model is not a Keras model, or an option does not fit its inputs.
        ModelError: The model is not built; or, for a class, it returns probabilities, or does not
            return one tensor [B, K].
    """

    name: str = ""
    zero_map: str = zero_maps.UNCHANGED  # Why a map may be 0 everywhere.
    asks_gradients_alone: bool  # What a class may say of itself, see `shared_passes`.

    def __init__(
        self,
        model: Any,
        *,
        chunk_size: int | None = None,
        outputs: Any = None,
        channels: Any = None,
        target: Any = None,
        inputs: Any = None,
        at: Any = None,
    ) -> None:
        channels = options.channels_of(channels)
        self.target = None if target is None else asked.validated(target)
        self.model = model
        self.networks = Networks(model)
        network = self.networks.of(self.target)
        self.chunk_size = None if chunk_size is None else integer("chunk_size", chunk_size)
        self.outputs = output_meaning.check(outputs)
        at = options.keys("at", at)
        self._inputs = Inputs(network, at)
        super().__init__(network, self._inputs.dtype, channels, options.keys("inputs", inputs), at)
        if isinstance(self.target, Target):
            model_checks.check_preprocessed("model", self.network)
            return
        try:
            model_checks.check_outputs(self.network)
        except ModelError as error:
            raise ModelError(
                f"{error} To explain another scalar of the outputs, pass it to the method itself, "
                "as target=tfgrad.targets.Output(…) or another."
            ) from None
        if self._inputs.specs is not None:
            self._check_logits(self._inputs.specs)

    # What a subclass provides

    def needs(self) -> Needs:
        """What the probe of one forward pass must record."""
        return Needs()

    def attribute(self, probe: Probe, target: Any) -> Any:
        """The raw attributions at the probe's input; see `terms`."""
        raise NotImplementedError(f"{type(self).__name__} has no attribute(probe, target).")

    def assemble(self, terms: Any, x: Any) -> Any:
        """One map [B, H, W] from the terms at x, in the terms' dtype; [B, T], [B, D, H, W], ….

        Args:
            terms: What `attribute` returned.
            x: What is explained as [B, *positions, C], whatever the model takes: images [B, H, W,
                C], series [B, T, C] and volumes [B, D, H, W, C], with C = 1 if they have no
                channels. Of several inputs a nest, from which held ones are left out; the result
                is a nest of maps.
        """
        raise NotImplementedError(f"{type(self).__name__} has no assemble(terms, x).")

    def drawn(self, probe: Probe, target: Any, terms: Any, x: Any) -> Any:
        """`assemble` of a probe's terms, where a method may use what else the probe computed."""
        return self.assemble(terms, x)

    def extras(self, probe: Probe, target: Any, terms: Any) -> dict[str, Any]:
        """Additional outputs of `explain`, batch first."""
        return {}

    def term_sums(self, probe: Probe, target: Any) -> dict[str, Any]:
        """Sums of the terms of a decomposition that the method computes; {} if it computes none."""
        return {}

    def options(self) -> dict[str, Any]:
        """The constructor's own arguments other than the model, JSON-serialisable."""
        return {}

    def stated(self) -> dict[str, Any]:
        """`options`, and those of `MethodOptions` that were given, except for `chunk_size`.

        Raises:
            ArgumentError: The target is made of a function that no file can name.
        """
        target = None if self.target is None else targets.to_config(self.target)
        return self._with_shared(target)

    def translated(self, error: tf.errors.InvalidArgumentError) -> TfgradError | None:
        """The error to raise instead of one of the compiled function; None raises that one."""
        return None

    # The public interface

    @tf.autograph.experimental.do_not_convert
    def __call__(self, x: Any, target: Any = None) -> Any:
        """The maps of a batch.

        Args:
            x: Float images [B, H, W, C] as the model takes them, array or tensor; [B, C, H, W] for
                a model that has channels first, [B, H, W] for one that adds the channels. A model
                of series takes [B, T, C] or [B, T], one of volumes [B, D, H, W, C] or [B, D, H, W],
                one of tables [B, F], one of token ids ints [B, T]. Which it is, its layers tell
                (`axes.of_input`). Several inputs come as the dict or list that the model takes.
            target: What is explained: an int, the class of every example; ints [B], among which −1
                stands for the predicted class; a `tfgrad.targets.Target`, or a function from the
                outputs to [B]; None for the option `target`, or else the predicted classes.

        Returns:
            [B, H, W] float32, raw: the input's axes without the channels, so [B, T] for series and
            token ids, [B, D, H, W] for volumes and [B, F] for tables. For several inputs, maps in
            their structure, without those that are not explained. Differentiable with respect to x
            and to the model's weights where the method is.

        Raises:
            ArgumentError: The images are integers, lack the batch axis, have the wrong shape, or
                there are none; an input is missing; the target is not a class of the model.
            DataError: An image holds NaN or infinite pixels.
        """
        if not tf.executing_eagerly():
            return self._computed(x, target)["saliency"]
        return asked.in_chunks(self._run, *self._given_to(x, target), self.chunk_size)

    @tf.autograph.experimental.do_not_convert
    def explain(
        self,
        x: Any,
        target: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        tokens: Any = None,
    ) -> Any:
        """The maps with what belongs to them, as a result that shows itself.

        The maps are those of a call, from the same forward pass as the scores and probabilities. A
        second call with inputs of the same shape does not trace again.

        Args:
            x: Inputs as for a call.
            target: As for a call; in a graph, a class the model does not have fails at run time.
            class_names: The name of each class, for texts; None for numbers.
            tokens: The texts of token ids: a list of them for each example; of several inputs
                {key: such lists}. None for the ids.

        Returns:
            An `Explanation`: `maps`, `scores`, `classes`, `probabilities`, …, `plot()`,
            `summary()`. By name it holds tensors, every one with the batch first: `saliency` [B,
            H, W] float32, of several inputs a nest; `score` [B] float32, the target's value at x;
            `class` [B] int32, for targets that are classes; and the method's own extras. In a
            graph, the dict of these tensors.

        Raises:
            ArgumentError: As for a call; or the names are not one for each class, or the texts not
                one list for each example.
            DataError: As for a call.
        """
        if not tf.executing_eagerly():
            return self._computed(x, target)
        x, fixed = self._given_to(x, target)
        found = asked.in_chunks(self._reported, x, fixed, self.chunk_size)
        return explanation_of(self, x, fixed, found, class_names, tokens)

    def passed(self, x: Any, target: Any) -> tuple[Probe, Any, dict[str, Any]]:
        """One forward pass: its probe, the fixed target, and the outputs of `explain`.

        Args:
            x, target: As for a call.
        """
        x = self._inputs.tensors(x)
        if tf.executing_eagerly() and 0 not in tf.nest.flatten(x)[0].shape:
            self._inputs.check_shapes(x)
        target = self._target(target)
        if of_class := not isinstance(target, Target):
            self._check_logits(x)
        probe = self.probe(x, target)
        if of_class:
            self._warn_if_assumed(probe.logits.shape[-1])
        fixed = probe.fixed(target)
        terms = self.attribute(probe, fixed)
        found = {
            "saliency": self._finished(probe, fixed, terms),
            "score": tf.cast(probe.score(fixed), tf.float32),
        }
        if of_class:
            found["class"] = fixed
        return probe, fixed, {**found, **self.extras(probe, fixed, terms)}

    def terms(self, x: Any, target: Any, values: Mapping[str, tf.Tensor] | None = None) -> Any:
        """The raw attributions of one forward pass, which `Smooth` averages before `assemble`.

        Args:
            x: Inputs as tensors.
            target: The explained classes, int32 [B], or a `Target`.
            values: {call: what takes the place of its output} for the embeddings of token ids; None
                keeps them.

        Returns:
            A nest of tensors, batch first, in the dtype of the network.
        """
        return self.attribute(self.probe(x, target, values), target)

    def probe(
        self, x: Any, target: Any = None, values: Mapping[str, tf.Tensor] | None = None
    ) -> Probe:
        """A probe of the network at x in inference mode, which changes no state of the model.

        Args:
            x, values: As of `terms`.
            target: What will be asked of it; None for a class.
        """
        if self._inputs.is_plain and not tf.nest.is_nested(x) and x.dtype.is_floating:
            x = tf.cast(x, self.dtype)  # of a subclassed model x may also be token ids
        return shared(self, x, target, values) or self.own_probe(x, target, values)

    def own_probe(
        self, x: Any, target: Any = None, values: Mapping[str, tf.Tensor] | None = None
    ) -> Probe:
        """`probe`, with a trace of its own; see `shared_passes`."""
        needs = self.needs()
        if isinstance(target, Target):
            needs = dataclasses.replace(needs, logits=False)
        # Losses that layers add to a call would stay behind in the model as tensors of a graph.
        with unchanged_state():
            return Probe(
                self.networks.of(target),
                x,
                training=False,
                needs=needs,
                outputs=self.outputs,
                sources=self.explained(x).sources,
                values=values or None,
            )

    def input_gradient(self, probe: Probe, target: Any, **scalar: Any) -> Any:
        """∇x of the target's scalar, shaped like what is explained.

        Args:
            probe: A probe of the network.
            target: The explained classes, int32 [B], or a `Target`.
            **scalar: The arguments `of` and `temperature` of `Probe.input_gradient`.
        """
        return probe.input_gradient(target, **scalar)

    def __repr__(self) -> str:
        stated = self._with_shared(self.target).items()
        options = "".join(f", {name}={value!r}" for name, value in stated)
        return f"{type(self).__name__}({self.network.name!r}{options})"

    # Inside

    def _with_shared(self, target: Any) -> dict[str, Any]:
        shared = {
            "outputs": self.outputs,
            "channels": self.channels,
            "target": target,
            "inputs": self.inputs,
            "at": self.at,
        }
        given = {name: value for name, value in shared.items() if value is not None}
        return {**self.options(), **given}

    def _computed(self, x: Any, target: Any) -> dict[str, Any]:
        """What `explain` returns in a graph."""
        return self.passed(x, target)[2]

    def _given_to(self, x: Any, target: Any) -> tuple[Any, Any]:
        """The checked inputs and the fixed target of an eager call."""
        x = self.checked(x)
        return x, self._resolved(target, x)

    def _finished(self, probe: Probe, target: Any, terms: Any) -> Any:
        """The maps of a probe, float32, with zeros at masked steps of token ids."""
        found = self.explained(probe.x)
        given = found.packed(probe.differentiated)
        maps = self.drawn(probe, target, terms, self.channels_last(given))
        flat = tf.nest.flatten(maps)
        of_main = len(flat) < len(found.tensors)
        if found.sources.at:
            visible = probe.visible()
            steps_of = [visible[found.main]] if of_main else visible
            flat = [
                m if steps is None else tf.where(fitting(steps, m), m, tf.zeros_like(m))
                for m, steps in zip(flat, steps_of, strict=True)
            ]
        flat = [tf.cast(m, tf.float32) for m in flat]
        if of_main or all(found.kept):
            return tf.nest.pack_sequence_as(maps, flat)
        return found.packed_kept(flat)

    def _run(self, x: Any, target: Any) -> Any:
        """The maps of inputs and a fixed target, by the compiled method."""

        def maps(inputs: Any, asks: Any) -> Any:
            return self._computed(inputs, asks)["saliency"]

        return self._compiled("maps", maps, x, target)

    def _reported(self, x: Any, target: Any) -> dict[str, Any]:
        """What `Explanation` is made of, by the compiled method; every tensor batch first."""
        return self._compiled("report", lambda *given: report(self, *given), x, target)

    def _compiled(self, what: str, run: Callable[..., Any], x: Any, target: Any) -> Any:
        """A function of inputs and a target, in a graph that is traced once for each shape."""
        values = asked.tensors(target)

        def traced(inputs: Any, given: dict[str, tf.Tensor]) -> Any:
            return run(inputs, asked.with_tensors(target, given))

        function = self._shapes.function(x, (what, asked.key(target)), values, traced)
        try:
            return function(x, values)
        except tf.errors.InvalidArgumentError as error:
            # What is wrong with a target's values, or with ids, has an error of its own in an eager
            # call.
            if isinstance(target, Target):
                self.probe(x, target).score(target)
            if self.explained(x).of_ids:
                with contextlib.suppress(ModelError):
                    self._computed(x, target)
            translated = self.translated(error)
            if translated is None:
                raise
            raise translated from error
