"""Which penalties and targets fit a model, found by tracing a training step of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, SecondOrderError, SecondOrderWarning, TfgradError
from tfgrad.gradients import embeddings
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.gradients.targets.trials import one_of_each
from tfgrad.internal.derivatives import corrected_derivatives
from tfgrad.internal.keras_private import flatten_layers
from tfgrad.internal.suitability import Row, Suitability, chosen_of, row
from tfgrad.internal.trial_inputs import inputs_of
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.internal.wrapper import Wrapper
from tfgrad.models.pixel_range import wide_range
from tfgrad.penalties.attention import AttentionJacobianMatching, AttentionMatching
from tfgrad.penalties.base import Penalty
from tfgrad.penalties.bias_gradients import BiasGradientMatching, BiasGradientNorm
from tfgrad.penalties.checks import behind, cautions, smaller_gradients
from tfgrad.penalties.derivative_matching import DerivativeMatching
from tfgrad.penalties.examples import Examples, apart, unpacked
from tfgrad.penalties.fooling import SaliencyFooling
from tfgrad.penalties.gradient_mask import GradientMask
from tfgrad.penalties.gradient_norm import GradientNorm
from tfgrad.penalties.layer_pairs import matching_layers
from tfgrad.penalties.logits_and_jacobians import ActivationMatching, JacobianMatching
from tfgrad.penalties.score_matching import AntiScoreMatching, ScoreMatching

_EXAMPLES = 2
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def advise(
    model: Any,
    data: Any = None,
    teacher: keras.Model | None = None,
    only: Sequence[str] | None = None,
) -> Suitability:
    """Say which penalties and targets fit a model, and why the others do not.

    For each penalty the gradient of a training step with respect to the weights is traced, and
    nothing is computed: the answer is that of the checks of training itself, of second derivatives
    among them. It takes the time of tracing a step with every penalty. The model is not changed.

    Penalties are tried with their default options. Those that take layers, masks or known
    derivatives are tried with some that the model has; without a `teacher` the network stands in
    for one. What fits may still have a `reason`, a `SecondOrderWarning` of training. Where second
    derivatives are wrong, every layer at fault is named, and what training would tell next.

    Args:
        model: A built Keras model, as `PenalizedModel` takes it, or a `PenalizedModel`.
        data: A batch of inputs, or a data set or pair (inputs, labels); None takes the shapes that
            the model declares, with 32 in the place of a free size, and class indices as labels.
        teacher: A teacher for the penalties that match one.
        only: The names of the penalties and targets that are tried; None tries all.

    Returns:
        A table with a row for each penalty and each kind of target: `name`, `fits`, `reason`,
        `advice` (what to try), `tried`. `str` and notebooks show it; `to_dict` is for JSON.

    Raises:
        ArgumentError: The model is no Keras model; data is None and the model does not declare its
            inputs; or a name is unknown.

    Example:

    ```python
    print(tfgrad.penalties.advise(network))
    ```
    """
    network = model.network if isinstance(model, Wrapper) else model
    if not isinstance(network, keras.Model):
        raise ArgumentError(f"model: got a {type(model).__name__}; expected a keras.Model.")
    trial = _Trial(network, data, teacher)
    penalties, targets = _penalties(trial), trial.targets()
    chosen = chosen_of({**penalties, **targets}, only)
    rows = [
        trial.penalty_row(name, make) if name in penalties else trial.target_row(name, make)
        for name, make in chosen.items()
    ]
    return Suitability(network.name, tuple(rows))


class _Trial:
    """A model with a batch on which penalties are tried.

    Args:
        network: The network.
        data: See `advise`.
        teacher: The teacher, or None for the network itself.
    """

    def __init__(self, network: keras.Model, data: Any, teacher: Any) -> None:
        y = None
        if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
            data = next(iter(data))
        if isinstance(data, tuple) and data is not None:
            data, y, _ = unpacked(data)
        given = None
        if data is not None:
            data, _, given = apart(data)
        self.network, self.teacher = network, teacher or network
        self.x = inputs_of(network, data, _EXAMPLES)
        with unchanged_state():
            self.outputs = network(self.x, training=False)
        self.y = self._labels() if y is None else tf.nest.map_structure(_first, y)
        like_inputs = self._floats(lambda t: t)
        derivatives = self._gradient() if self._of_ids() else like_inputs
        self.given = {"derivatives": derivatives, "mask": like_inputs, **(given or {})}
        if given is not None:
            self.given |= {key: tf.nest.map_structure(_first, one) for key, one in given.items()}

    def penalty_row(self, name: str, make: Callable[[], Penalty]) -> Row:
        """Whether the gradient of a penalty with respect to the weights can be traced."""
        penalty = None
        try:
            penalty = make()
            with warnings.catch_warnings(), corrected_derivatives():
                warnings.simplefilter("ignore", SecondOrderWarning)  # told by `cautions`
                self._trace(penalty)
                told = cautions(self.network, [penalty], self.x)
        except SecondOrderError as error:
            further = [] if penalty is None else behind(self.network, penalty, self.x)
            return row("penalty", name, False, [str(error), *further], penalty)
        except TfgradError as error:
            return row("penalty", name, False, [str(error)], penalty)
        wide = wide_range(self.network) if penalty.squares_input_gradients else None
        if wide is not None:
            times = (wide[1] - wide[0]) ** 2
            told = [*told, f"{smaller_gradients(wide)}; use {times:,.0f} times the weight"]
        if penalty.teacher_needs() is not None and self.teacher is self.network:
            told = [*told, "needs a teacher, in whose place the network was tried"]
        return row("penalty", name, True, told, penalty)

    def targets(self) -> dict[str, Callable[[], Any]]:
        """{name of each kind of target: function that makes one}."""
        return {'"label"': lambda: "label", '"all"': lambda: "all", **one_of_each(self.outputs)}

    def size(self) -> tuple[int, ...]:
        """The size of the one input without channels, for masks."""
        flat = tf.nest.flatten(self.x)
        floats = [t for t in flat if t.dtype.is_floating]
        if not floats:  # ids have no channels
            return tuple(flat[0].shape[1:])
        shape = tuple(floats[0].shape[1:])
        return shape[:-1] or shape

    def pairs(self, kind: str) -> list[tuple[str, str]]:
        """The largest maps that network and teacher have in common, or their last convolutions."""
        shape = tuple(tf.nest.flatten(self.x)[0].shape[1:])
        try:
            return matching_layers(self.network, self.teacher, kind, 1, shape, verbose=False)
        except ArgumentError:
            last = [*zip(_convolution(self.network), _convolution(self.teacher), strict=False)]
            if not last:
                raise
            return last

    def bias_pairs(self) -> list[tuple[str, str]]:
        """Pairs of layers with biases; of networks without maps the last layers."""
        try:
            return self.pairs("bias")
        except ArgumentError:
            return [*zip(_biased(self.network), _biased(self.teacher), strict=False)]

    def _trace(self, penalty: Penalty) -> None:
        weights = self.network.trainable_variables
        given = Examples(self.x, self.given)

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                taught = None if penalty.teacher_needs() is None else self.teacher
                values = penalty.per_example(self.network, x, y, taught, training=True)
                loss = tf.reduce_sum(values)
            return tape.gradient(loss, [weight.value for weight in weights])

        specs = tf.nest.map_structure(_spec, (given, self.y))
        tf.function(step, autograph=False).get_concrete_function(*specs)

    def target_row(self, name: str, make: Callable[[], Any]) -> Row:
        """Whether the scalar of a target can be differentiated."""
        target = None
        try:
            target = make()
            needs = Needs(jacobian=name == '"all"')
            probe = self._probe(needs)
            probe.input_jacobian() if needs.jacobian else probe.input_gradient(target)
        except TfgradError as error:
            return row("target", name, False, [str(error)], target)
        return Row("target", name, True, tried=target)

    def _of_ids(self) -> bool:
        """Whether all inputs are integers, in whose place their embeddings are differentiated."""
        return not any(t.dtype.is_floating for t in tf.nest.flatten(self.x))

    def _gradient(self) -> Any:
        """The gradient of the first number of the outputs; the inputs, where there is none."""
        try:
            return self._probe(Needs()).input_gradient(one_of_each(self.outputs)["Output"]())
        except TfgradError:
            return self.x

    def _probe(self, needs: Needs) -> Probe:
        found = embeddings.needed(self.network, self.x, needs)
        with unchanged_state():
            return Probe(self.network, self.x, self.y, needs=needs, sources=found)

    def _labels(self) -> Any:
        """Class 0 of each example, for every output."""
        return tf.nest.map_structure(lambda t: tf.zeros(t.shape[:1], tf.int32), self.outputs)

    def _floats(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Any:
        """Something for each float input, as penalties that read `Examples` take it."""
        if not tf.nest.is_nested(self.x):
            return function(self.x)
        parts = self.x.items() if isinstance(self.x, Mapping) else enumerate(self.x)
        return {key: function(t) for key, t in parts if tf.is_tensor(t) and t.dtype.is_floating}


def _penalties(trial: _Trial) -> dict[str, Callable[[], Penalty]]:
    """{name of each penalty: function that makes one for the model of a trial}."""
    return {
        "GradientNorm": GradientNorm,
        "ScoreMatching": ScoreMatching,
        "AntiScoreMatching": AntiScoreMatching,
        "SaliencyFooling": lambda: SaliencyFooling(1.0, np.ones(trial.size())),
        "DerivativeMatching": DerivativeMatching,
        "GradientMask": GradientMask,
        "ActivationMatching": ActivationMatching,
        "JacobianMatching": JacobianMatching,
        "AttentionMatching": lambda: AttentionMatching(layers=trial.pairs("attention")),
        "AttentionJacobianMatching": lambda: AttentionJacobianMatching(
            layers=trial.pairs("attention")
        ),
        "BiasGradientNorm": lambda: BiasGradientNorm(layers=_biased(trial.network)),
        "BiasGradientMatching": lambda: BiasGradientMatching(layers=trial.bias_pairs()),
    }


def _convolution(network: keras.Model) -> list[str]:
    """The last convolution, if there is one."""
    return [one.name for one in flatten_layers(network) if isinstance(one, _CONVOLUTIONS)][-1:]


def _biased(network: keras.Model) -> list[str]:
    """The last layer with a bias, if there is one."""
    layers = flatten_layers(network)
    return [layer.name for layer in layers if getattr(layer, "bias", None) is not None][-1:]


def _first(values: Any) -> tf.Tensor:
    return tf.convert_to_tensor(values[:_EXAMPLES])


def _spec(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
