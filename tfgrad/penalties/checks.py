"""Checks of a network and its teacher, before penalties are computed on them."""

from __future__ import annotations

import warnings
import weakref

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad.errors import ArgumentError, SecondOrderWarning
from tfgrad.gradients import call_hooks, layer_biases
from tfgrad.gradients.model_checks import check_no_probabilities
from tfgrad.internal.keras_private import flatten_layers

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
    check_no_probabilities("network", network, inspection)


def _warn_of_batches(network, names):
    norms = [
        layer.name
        for layer in flatten_layers(network)
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
        check_no_probabilities("teacher", teacher, inspection)


def _input_shape(model):
    try:
        return model.input_shape
    except (AttributeError, ValueError):
        return None
