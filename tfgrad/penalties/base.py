"""What every penalty shares: a weight, a name, one number per example, serialisation."""

import numbers
import warnings
import weakref

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, ModelError, SecondOrderWarning
from tfgrad.gradients import call_hooks, layer_biases
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.stateless_noise import Draws

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
        needs, taught = teacher.needs_of([self]), None
        if needs is not None:
            check_teacher(teacher, network, [self], x)
            taught = teacher.Teacher(teacher, x, y, needs)
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


_warned: weakref.WeakSet = weakref.WeakSet()
_warned_of_batches: weakref.WeakSet = weakref.WeakSet()


def check_network(network, penalties, x=None, training=True):
    """Refuse a network whose second derivatives are wrong or whose outputs are probabilities.

    Warns:
        SecondOrderWarning: a score penalty on a ReLU network, or one whose trace batch norm makes
            the batch's; once per network.

    Raises:
        SecondOrderError: TensorFlow drops or falsifies a second derivative in it.
        ModelError: its outputs are probabilities; penalties differentiate logits.
    """
    for penalty in penalties:
        call_hooks.check_names(network, penalty.needs().layers)
        layer_biases.check(network, penalty.needs().biases)
    twice = any(p.differentiates_twice for p in penalties)
    look = second_order.check if twice else second_order.inspect
    inspection = look(network, x, training=training)
    wanting = [p.name for p in penalties if p.wants_smooth]
    if wanting and inspection.piecewise_linear and network not in _warned:
        _warned.add(network)
        warnings.warn(
            f"network {network.name!r}: ReLU is its only non-linearity, so its Hessian is zero "
            f"wherever it exists and {wanting[0]!r} has nothing to match; use a smooth activation, "
            "e.g. tfgrad.layers.Softplus(10.0).",
            SecondOrderWarning,
            stacklevel=3,
        )
    if training:
        _warn_of_batches(network, [p.name for p in penalties if p.wants_images_apart])
    if inspection.probabilities:
        raise ModelError(
            f"network {network.name!r}: its outputs are probabilities (layer "
            f"{inspection.probabilities!r} ends in softmax or sigmoid); penalties differentiate "
            "logits. Remove that activation and compile with "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
        )


def _warn_of_batches(network, names):
    norms = [
        layer.name
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if names and norms and network not in _warned_of_batches:
        _warned_of_batches.add(network)
        warnings.warn(
            f"network {network.name!r}: in training mode batch norm ({norms[0]!r}) makes every "
            f"logit depend on all images, so {names[0]!r} penalizes the trace of the batch and "
            'hardly that of an image. Pass statistics="running" for the image\'s own, or take a '
            "network without batch norm.",
            SecondOrderWarning,
            stacklevel=4,
        )


def check_teacher(teacher, network, penalties, x=None):
    """Refuse a teacher that these penalties cannot learn from.

    Raises:
        ArgumentError: it is missing, no Keras model, or takes other inputs than the network.
        ModelError: its outputs are probabilities, and a penalty compares logits.
    """
    wanting = [p for p in penalties if p.teacher_needs() is not None]
    if not isinstance(teacher, keras.Model):
        raise ArgumentError(
            f"teacher: got {type(teacher).__name__}; {wanting[0].name!r} matches a teacher, "
            "expected a keras.Model that returns logits."
        )
    own, taught = (_input_shape(model) for model in (network, teacher))
    plain = isinstance(own, tuple) and isinstance(taught, tuple)
    if plain and not tf.TensorShape(own).is_compatible_with(tf.TensorShape(taught)):
        raise ArgumentError(
            f"teacher: takes inputs {taught}, the network takes {own}; "
            "expected the same, as both see the same batch. Resize the images, or put a "
            "tfgrad.layers.Resizing in front of the teacher."
        )
    for penalty in wanting:
        if teacher.built or getattr(teacher, "inputs", None):
            call_hooks.check_names(teacher, penalty.teacher_needs().layers)
            layer_biases.check(teacher, penalty.teacher_needs().biases)
    if x is None and not getattr(teacher, "inputs", None):
        return  # its inputs are known with the first batch, which asks again
    if any(p.compares_logits for p in wanting):
        inspection = second_order.inspect(teacher, x, training=False)
        if inspection.probabilities:
            raise ModelError(
                f"teacher {teacher.name!r}: its outputs are probabilities (layer "
                f"{inspection.probabilities!r} ends in softmax or sigmoid); penalties compare "
                "logits. Remove that activation, for keras.applications with "
                "classifier_activation=None."
            )


def _input_shape(model):
    try:
        return model.input_shape
    except (AttributeError, ValueError):
        return None


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
