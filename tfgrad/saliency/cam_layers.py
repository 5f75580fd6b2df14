"""The layer call whose feature maps a class activation map weights."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import axes
from tfgrad.gradients.forward_pass import ForwardPass, Needs
from tfgrad.internal import call_hooks
from tfgrad.internal.unchanged_state import unchanged_state

_EXPECTED = (
    "expected feature maps [batch, height, width, channels] (of series [batch, time, channels]), "
    "or tokens [batch, h·w, channels] that are the positions of such maps, with one entry for each "
    "input; try a convolution, or the activation after it."
)


def last(network: keras.Model, spec: tf.TensorSpec) -> axes.Call:
    """The last call that returns feature maps, or tokens that are positions of feature maps.

    Left out are outputs with one position, what attention layers compute inside, outputs whose
    first axis is not the batch (windows), tokens that a network has mixed, and maps none of whose
    positions the output depends on, as after the last attention of a network that reads its class
    token alone.

    Args:
        network: The network.
        spec: Shape and dtype of its one input.

    Raises:
        ModelError: There is no such call.
    """
    calls = [call for call in axes.analysed(network, spec).calls.values() if _is_suitable(call)]
    calls = [call for call in calls if call_hooks.layer_of(call.name) != network.name]
    if not calls:
        raise ModelError(
            f"model {network.name!r}: no layer puts out feature maps [batch, height, width, "
            "channels] (of series [batch, time, channels]), nor tokens [batch, h·w, channels] that "
            "are positions of such maps; Grad-CAM needs one or the other, with one entry for each "
            "image; try a method of the input, such as 'input_gradient'."
        )
    if calls[-1].features is None or not calls[-1].features.others:
        return calls[-1]
    return _last_that_counts(network, spec, calls)


def named(
    network: keras.Model,
    spec: tf.TensorSpec,
    name: str,
    suits: Callable[[axes.Call], bool] = lambda call: True,
) -> axes.Call:
    """The last call of a layer that returns feature maps, or the call of that name.

    Args:
        network: The network.
        spec: Shape and dtype of its one input.
        name: Name of the layer, or of one of its calls.
        suits: A further condition on the call.

    Raises:
        ArgumentError: No such call returns feature maps or positions.
    """
    calls = axes.analysed(network, spec).calls
    of_layers = [call for call in calls.values() if call.of_layer]
    own = [c for c in of_layers if name in (c.name, call_hooks.layer_of(c.name))]
    fitting = [call for call in own if call.features is not None and suits(call)]
    if fitting:
        return fitting[-1]
    shapes = " and ".join(dict.fromkeys(_shown(call) for call in own))
    raise ArgumentError(
        f"layer: got {name!r}, whose output is {shapes or 'never made'}; {_EXPECTED}"
    )


def _shown(call: axes.Call) -> str:
    """The shape of a call's output, as a message shows it."""
    if not call.shape or call.shape[0] is None or call.shape[0] % axes.BATCH:
        return str(call.shape or "no single tensor")
    return f"({call.shape[0] // axes.BATCH}·batch, {', '.join(map(str, call.shape[1:]))})"


def check_name(network: keras.Model, name: str) -> None:
    """Raise ArgumentError if a name is neither that of a layer of the network nor of a call."""
    known = {layer.name for layer in call_hooks.flatten(network)}
    call_hooks.check_names(network, [name if name in known else call_hooks.layer_of(name)])


def _is_suitable(call: axes.Call) -> bool:
    features = call.features
    # Values without channels, such as those of a table, are no feature maps.
    fits = features is not None and (features.grid is not None or features.channels is not None)
    return fits and not call.has_one_position and call.of_layer and not call.inside


def _last_that_counts(
    network: keras.Model, spec: tf.TensorSpec, calls: list[axes.Call]
) -> axes.Call:
    """The last of these calls on whose positions the network's output depends.

    After the last attention of a network that reads its class token alone, the other tokens do not
    count, although the output depends on the tensor. One image of noise shows it.
    """

    def counting() -> axes.Call:
        image = tf.random.stateless_normal([1, *(n or 32 for n in spec.shape[1:])], [0, 1])
        image = tf.cast(image, spec.dtype)
        names = {call_hooks.layer_of(call.name) for call in calls}
        with unchanged_state():
            forward = ForwardPass(network, image, False, Needs(layers=tuple(sorted(names))))
        with forward.recording():
            logits = tf.nest.flatten(forward.logits)[0]
            weights = tf.random.stateless_normal(tf.shape(logits), [0, 2])
            score = tf.reduce_sum(logits * tf.cast(weights, logits.dtype))
        flat = forward.gradients(score).layers
        gradients = tf.nest.pack_sequence_as(forward.layer_outputs, flat)
        for call in reversed(calls):
            gradient = gradients[call.name]
            if gradient is None or call.features is None:
                continue
            if bool(tf.reduce_any(call.features.laid_out(gradient) != 0)):
                return call
        return calls[-1]

    # The caller's graphs, tapes and handlers are local to its thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(counting).result()
