"""Two heads on one trunk: learning without forgetting (thesis §2.5)."""

from typing import Any

import keras

from tfgrad.errors import ArgumentError
from tfgrad.internal.keras_private import producer
from tfgrad.models import _blocks

TARGET, SOURCE = "target", "source"


def two_heads(network: keras.Model, source_classes: int) -> keras.Model:
    """Give a classifier a second head for the classes that a teacher knows.

    Args:
        network: a functional or Sequential model that ends in a dense layer of logits.
        source_classes: how many logits the teacher has.

    Returns:
        A model from the same inputs to {"target": network's logits, "source": new logits}, both
        from the layer before the last. It shares the network's layers; the new head is He-normal.

    Raises:
        ArgumentError: the network does not end in a dense layer, or has several outputs.

    Example:

    ```python
    student = tfgrad.models.two_heads(tfgrad.models.vgg(9, (64, 64, 3), 5), source_classes=10)
    model = tfgrad.PenalizedModel(
        student, [tfgrad.penalties.ActivationMatching(head="source")], teacher=teacher
    )
    model.compile("adam", {"target": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    model.fit(x, {"target": y})
    ```

    Source: thesis §2.5, Figure 2.2; Li and Hoiem 2016.
    """
    if not _blocks.is_count(source_classes):
        raise ArgumentError(f"source_classes={source_classes!r} must be a positive integer.")
    outputs = getattr(network, "outputs", None)
    if not outputs or len(outputs) != 1:
        raise ArgumentError(
            f"network: {getattr(network, 'name', network)!r} is no functional or Sequential model "
            "with one output; build a model with outputs {'target': ..., 'source': ...} yourself."
        )
    last, node = producer(outputs[0])  # the very call: the layer may have others
    if not isinstance(last, keras.layers.Dense):
        raise ArgumentError(
            f"network: {network.name!r} ends in {last.name!r} ({type(last).__name__}); expected a "
            "dense layer of logits, beside which the second head can stand."
        )
    if last.activation is not keras.activations.linear:
        raise ArgumentError(
            f"network: {network.name!r} ends in the activation of {last.name!r}; expected logits."
        )
    head = keras.layers.Dense(
        source_classes,
        kernel_initializer="he_normal",
        dtype=last.dtype_policy,
        name="source_logits",
    )
    heads = {TARGET: outputs[0], SOURCE: head(node.input_tensors[0])}
    # `Functional.inputs` loses the structure, `Sequential.input` needs a symbolic call.
    inputs = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    return keras.Model(inputs, heads, name=network.name)


def one_head(network: keras.Model, head: Any = TARGET) -> keras.Model:
    """The plain classifier that one head of a network makes, sharing its layers.

    Args:
        network: a functional model whose outputs are a dict or a list.
        head: the key or index of the output to keep.

    Raises:
        ArgumentError: there is no such head.
    """
    outputs = getattr(network, "output", None)
    keys = outputs if isinstance(outputs, dict) else range(len(outputs or ()))
    if not isinstance(outputs, dict | list | tuple) or head not in keys:
        raise ArgumentError(
            f"head: got {head!r}; network {getattr(network, 'name', network)!r} has "
            + (f"the heads {list(keys)}." if isinstance(outputs, dict | list | tuple) else "one.")
        )
    return keras.Model(network.input, outputs[head], name=network.name)
