"""What every penalty shares: a weight, a name, one number per example, serialisation."""

import numbers

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws
from tfgrad.penalties.checks import check_network, check_teacher
from tfgrad.penalties.teacher import Teacher, needs_of

PACKAGE = "tfgrad"


class Penalty:
    """A number per example, made of gradients, that training makes small.

    Subclasses say what they differentiate in `needs` and compute the number in `compute`.

    Args:
        weight: λ, a float or a `keras.optimizers.schedules.LearningRateSchedule` of the
            optimizer's step. A float weight can be changed at any time, from a callback for
            instance (`penalty.weight = 0.1`), and takes effect at the next step without
            retracing.
        name: of the penalty and of its metric.
        head: which output, of a network with several: its key or index, or a pair (the network's,
            the teacher's).
    """

    def __init__(self, weight=1.0, name=None, head=None):
        self.name = name or type(self).__name__
        self.head = _validated_head(head)
        if "/" in self.name:
            raise ArgumentError(f"name: got {name!r}; a metric's name cannot hold '/'.")
        if isinstance(weight, keras.optimizers.schedules.LearningRateSchedule):
            self._schedule, self._weight = weight, None
        else:
            self._schedule = None
            # Float64 holds any λ of a float64 network; a half-precision policy must not round it.
            self._weight = keras.Variable(
                _float_weight(weight), dtype="float64", trainable=False, name=f"{self.name}_weight"
            )

    @property
    def weight(self):
        """λ: the current float, or the schedule."""
        return self._schedule if self._weight is None else float(self._weight.numpy())

    @weight.setter
    def weight(self, value):
        if self._weight is None:
            raise ArgumentError(
                f"weight: {self.name!r} follows a schedule; it cannot be set to {value!r}. "
                "Build the penalty with a float weight to change it while training."
            )
        self._weight.assign(_float_weight(value))

    def weight_at(self, step, dtype):
        """λ as a scalar tensor at an optimizer step, inside a graph or out of it."""
        if self._weight is None:
            return tf.cast(self._schedule(step), dtype)
        return tf.cast(self._weight.value, dtype)

    @property
    def wants_smooth(self) -> bool:
        """Whether a network without second derivatives makes the penalty meaningless."""
        return False

    @property
    def wants_images_apart(self) -> bool:
        """Whether logits that depend on the other images of the batch falsify the penalty."""
        return False

    @property
    def differentiates_twice(self) -> bool:
        """Whether training takes a second derivative of the network."""
        return True

    def needs(self) -> Needs:
        """What the probe must prepare."""
        return Needs()

    def teacher_needs(self) -> Needs | None:
        """What a probe of the teacher must prepare; None: there is no teacher in this penalty."""
        return None

    @property
    def compares_logits(self) -> bool:
        """Whether the teacher's logits enter, so that probabilities would falsify them."""
        return self.teacher_needs() is not None

    def compute(self, probe: Probe):
        """The penalty of every example, [batch], unweighted, from a probe of the batch.

        The probe is on the penalty's `head`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no compute(probe).")

    def per_example(self, network, x, y=None, teacher=None, *, training=False, seed=0):
        """The bare penalty, for anyone who wants no trainer.

        Differentiable with respect to the network's weights under a `tf.GradientTape` of yours.
        Moves no batch-norm statistics and no random seed.

        Args:
            network: a Keras model that returns logits [batch, classes].
            x: float inputs [batch, …].
            y: integer labels [batch], where the target needs them; {head: labels} for a network
                with several heads.
            teacher: a Keras model, for penalties that match one; runs in inference mode, and no
                gradient flows into it.
            training: the mode of the network's forward pass.
            seed: stands for the training step in the draws of a random estimator.

        Returns:
            [batch], unweighted.
        """
        check_network(network, [self], x, training)
        needs, taught = needs_of([self]), None
        if needs is not None:
            check_teacher(teacher, network, [self], x)
            taught = Teacher(teacher, x, y, needs)
        with keras.StatelessScope(collect_losses=True):
            probe = Probe(
                network,
                x,
                y,
                training=training,
                needs=self.needs(),
                draws=Draws(step=seed),
                teacher=taught,
            )
            return self.compute(probe.on(self.head))

    def get_config(self):
        """Constructor arguments; a float weight is saved as it stands now."""
        weight = self.weight
        if self._weight is None:
            weight = keras.saving.serialize_keras_object(weight)
        return {"weight": weight, "name": self.name}

    @classmethod
    def from_config(cls, config):
        """The penalty that `get_config` described."""
        config = dict(config)
        if isinstance(config.get("weight"), dict):
            config["weight"] = keras.saving.deserialize_keras_object(config["weight"])
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def _validated_head(head):
    parts = tuple(head) if isinstance(head, list | tuple) else (head,)
    kinds = all(isinstance(p, str | int | None) and not isinstance(p, bool) for p in parts)
    if len(parts) > 2 or not kinds or (isinstance(head, list | tuple) and len(parts) != 2):
        raise ArgumentError(
            f"head: got {head!r}; expected the key or index of an output, or a pair (network's, "
            "teacher's)."
        )
    return parts if len(parts) == 2 else head


def _float_weight(value):
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 <= float(value) < float("inf"):
        raise ArgumentError(
            f"weight: got {value!r}; expected a finite number from 0 up, or a "
            "keras.optimizers.schedules.LearningRateSchedule."
        )
    return float(value)
