"""Base class of the penalties: weight, name, head, one value per example, serialisation."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import embeddings
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.model_checks import check_preprocessed
from tfgrad.gradients.probe import Probe
from tfgrad.gradients.targets import Target
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning
from tfgrad.penalties.checks import check_network, check_teacher, warn_of_assumed_outputs
from tfgrad.penalties.examples import apart
from tfgrad.penalties.teacher import Teacher, needs_of

PACKAGE = "tfgrad"

Later = Callable[[Callable[[tf.Tensor], tf.Tensor]], tf.Tensor]


class Penalty:
    """One value per example, computed from gradients, that training reduces.

    Subclasses declare in `needs` what they differentiate and compute the value in `compute`.

    Args:
        weight: λ, a float or a `keras.optimizers.schedules.LearningRateSchedule` of the
            optimizer's step. A float weight can be changed at any time, for instance from a
            callback (`penalty.weight = 0.1`), and takes effect at the next step without
            retracing.
        name: Name of the penalty and of its metric.
        head: Output of a network with several: its key or index, or a pair (the network's, the
            teacher's).
        every: k; training computes the penalty at each k-th step alone, with the weight k λ, and
            its metric is the mean over these steps. `PenalizedModel` counts the steps from 0 and
            saves the count, so that a resumed run has the same ones.
    """

    # Whether its size is that of ∂/∂x squared, and so depends on the unit of the inputs.
    squares_input_gradients = False
    # Arguments that `repr` puts last. The records of retrained networks contain these texts, so
    # their order must not change.
    _shown_last: tuple[str, ...] = ("head",)
    # Arguments that `repr` leaves out at these values, which they had before they existed.
    _shown_unless: Mapping[str, Any] = {"at": None, "every": 1}

    def __init__(
        self,
        weight: Any = 1.0,
        name: str | None = None,
        head: Any = None,
        *,
        every: int = 1,
    ) -> None:
        self.name = name or type(self).__name__
        self.head = _checked_head(head)
        self.every = integer("every", every)
        if "/" in self.name:
            raise ArgumentError(
                f"name: got {name!r}; expected a name without '/', which the name of a metric "
                "cannot contain."
            )
        if isinstance(weight, keras.optimizers.schedules.LearningRateSchedule):
            self._schedule, self._weight = weight, None
        else:
            self._schedule = None
            # Float64 holds any λ of a float64 network; a half-precision policy must not round it.
            self._weight = keras.Variable(
                _checked_weight(weight),
                dtype="float64",
                trainable=False,
                name=f"{self.name}_weight",
            )

    @property
    def weight(self) -> Any:
        """λ: the current float, or the schedule."""
        return self._schedule if self._weight is None else float(self._weight.numpy())

    @weight.setter
    def weight(self, value: float) -> None:
        if self._weight is None:
            raise ArgumentError(
                f"weight: got {value!r}, but {self.name!r} follows a schedule; expected no "
                "assignment. Build the penalty with a float weight to change it during training."
            )
        self._weight.assign(_checked_weight(value))

    def weight_at(self, step: Any, dtype: Any) -> tf.Tensor:
        """λ as a scalar tensor at an optimizer step, inside a graph or eagerly."""
        if self._weight is None:
            return tf.cast(self._schedule(step), dtype)
        return tf.cast(self._weight.value, dtype)

    @property
    def wants_smooth(self) -> bool:
        """Whether the penalty is meaningless on a network without second derivatives."""
        return False

    @property
    def wants_images_apart(self) -> bool:
        """Whether logits that depend on the other images of the batch falsify the penalty."""
        return False

    @property
    def differentiates_twice(self) -> bool:
        """Whether training takes a second derivative of the network."""
        return True

    @property
    def reads_classes(self) -> bool:
        """Whether the sign of one output, or a probability, changes the value."""
        return False

    @property
    def draws_for_teacher(self) -> bool:
        """Whether every step asks the teacher something else, so that no answer can be kept."""
        return False

    def needs(self) -> Needs:
        """What the probe must prepare."""
        return Needs()

    def teacher_needs(self) -> Needs | None:
        """What a probe of the teacher must prepare; None for a penalty without a teacher."""
        return None

    @property
    def compares_logits(self) -> bool:
        """Whether the teacher's logits are used, so that probabilities would falsify them."""
        target = getattr(self, "target", None)
        logits = target.of_logits if isinstance(target, Target) else True
        return self.teacher_needs() is not None and logits

    def compute(self, probe: Probe) -> tf.Tensor:
        """The unweighted penalty of every example, [batch].

        Args:
            probe: A probe of the batch, on the penalty's `head`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no compute(probe).")

    def in_parts(self, probe: Probe) -> tuple[tf.Tensor, Later | None]:
        """`compute`'s value in two parts, of which training differentiates the second later.

        Args:
            probe: As for `compute`.

        Returns:
            (values [batch], later). `later(wait)`, if there is one, is 0 for every example and
            contains what is left of the gradient with respect to weights. It makes a forward pass
            of its own, from a tensor that `wait(tensor)` returns unchanged: in training, once the
            memory of the other passes is free.
        """
        return self.compute(probe), None

    @output_meaning.takes_outputs("network")
    def per_example(
        self,
        network: keras.Model,
        x: Any,
        y: Any = None,
        teacher: keras.Model | None = None,
        *,
        training: bool = False,
        seed: Any = 0,
        outputs: Any = None,
    ) -> tf.Tensor:
        """The unweighted penalty, computed without `PenalizedModel`.

        Differentiable with respect to the network's weights under an outer `tf.GradientTape`.
        Batch-norm statistics and random seeds stay unchanged.

        Args:
            network: A Keras model that returns logits [batch, classes].
            x: Inputs [batch, …], perhaps as `Examples` with what the penalty needs of each.
            y: Labels, for targets that need them: class indices [batch] or one-hot rows [batch,
                classes]; {head: labels} for a network with several heads.
            teacher: A Keras model, for penalties that match one. It runs in inference mode, and
                no gradient flows into it.
            training: Mode of the network's forward pass.
            seed: Takes the place of the training step in the draws of a random estimator.
            outputs: What the network's outputs mean: `"exclusive"`, `"binary"`, `"independent"` or
                `"regression"`, by head where there are several; None for what the compiled loss
                says. See `tfgrad.models.output_meaning`.

        Returns:
            [batch], unweighted.
        """
        check_preprocessed("network", network)
        x, _, given = apart(x)
        check_network(network, [self], x, training)
        warn_of_assumed_outputs(network, [self])
        needs, taught = needs_of([self]), None
        if needs is not None:
            check_preprocessed("teacher", teacher)
            check_teacher(teacher, network, [self], x)
            taught = Teacher(teacher, x, y, needs, output_meaning.stated(network))
        with unchanged_state():
            probe = Probe(
                network,
                x,
                y,
                training=training,
                needs=self.needs(),
                draws=Draws(step=seed),
                teacher=taught,
                sources=embeddings.needed(network, x, self.needs()),
                given=given,
            )
            return self.compute(probe.on(self.head))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; a float weight is saved with its current value."""
        weight = self.weight
        if self._weight is None:
            weight = keras.saving.serialize_keras_object(weight)
        config = {"weight": weight, "name": self.name}
        for name in ("head", "every"):
            if _takes(type(self), name):
                config[name] = getattr(self, name)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The penalty that `get_config` described."""
        config = dict(config)
        if isinstance(config.get("weight"), dict):
            config["weight"] = keras.saving.deserialize_keras_object(config["weight"])
        for name, default in (("head", None), ("every", 1)):
            if config.get(name) == default:  # not every constructor has this argument
                config.pop(name, None)
        return cls(**config)

    def __repr__(self) -> str:
        shown, target = copy.copy(self), getattr(self, "target", None)
        if isinstance(target, Target):  # A function has a name, though no file may hold it.
            vars(shown)["target"] = "label"
        config = shown.get_config()
        if isinstance(target, Target):
            config["target"] = target
        for name, default in self._shown_unless.items():
            if name in config and config[name] == default:
                del config[name]
        last = [name for name in self._shown_last if name in config]
        names = [name for name in config if name not in last] + last
        return f"{type(self).__name__}({', '.join(f'{name}={config[name]!r}' for name in names)})"


def _takes(penalty: type[Penalty], name: str) -> bool:
    """Whether the constructor has an argument of that name, or passes keyword arguments on."""
    parameters = inspect.signature(penalty).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def checked_at(at: Any) -> tuple[str, ...] | bool | None:
    """Layers whose outputs a penalty differentiates beside float inputs, as `Needs` takes them.

    Args:
        at: Names of layers, one name, True for the embeddings of integer inputs, or None.

    Raises:
        ArgumentError: It is none of these.
    """
    if at is None or at is True:
        return at
    names = [at] if isinstance(at, str) else at
    if not isinstance(names, list | tuple) or not names or not all(map(_is_name, names)):
        raise ArgumentError(
            f"at: got {at!r}; expected the name of a layer such as an embedding, a list of names, "
            "or True for the embeddings of all integer inputs."
        )
    return tuple(names)


def at_config(at: Any) -> Any:
    """`checked_at`'s value as JSON can hold it."""
    return list(at) if isinstance(at, tuple) else at


def is_of_classes(target: Any) -> bool:
    """Whether a target names classes, so that the outputs must be logits [batch, classes]."""
    return not isinstance(target, Target)


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _checked_head(head: Any) -> Any:
    """The head as given, a pair as a tuple.

    Raises:
        ArgumentError: It is no key, index or pair of these.
    """
    parts = tuple(head) if isinstance(head, list | tuple) else (head,)
    kinds = all(isinstance(p, str | int | None) and not isinstance(p, bool) for p in parts)
    if len(parts) > 2 or not kinds or (isinstance(head, list | tuple) and len(parts) != 2):
        raise ArgumentError(
            f"head: got {head!r}; expected the key or index of an output, or a pair (the "
            "network's, the teacher's)."
        )
    return parts if len(parts) == 2 else head


def _checked_weight(value: Any) -> float:
    """The weight as a float.

    Raises:
        ArgumentError: It is no finite number ≥ 0.
    """
    try:
        return number("weight", value, zero=True)
    except ArgumentError as error:
        raise ArgumentError(
            f"{error} Or pass a keras.optimizers.schedules.LearningRateSchedule to the constructor."
        ) from None
