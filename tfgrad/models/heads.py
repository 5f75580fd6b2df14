"""Two heads on one trunk: learning without forgetting (thesis §2.5)."""

from typing import Any

import keras

from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import integer
from tfgrad.internal.keras_private import producer
from tfgrad.models.output_meaning import inherit

TARGET, SOURCE = "target", "source"


def two_heads(network: keras.Model, source_classes: int) -> keras.Model:
    """Add a second head for the classes of a teacher to a classifier.

    Args:
        network: A functional or Sequential model that ends in a dense layer of logits.
        source_classes: Number of logits of the teacher.

    Returns:
        A model from the same inputs to {"target": logits of the network [batch, classes], "source":
        new logits [batch, source_classes]}. Both heads take the input of the network's last layer.
        The model shares the network's layers; the new head is initialised He-normal.

    Raises:
        ArgumentError: The network does not end in a dense layer of logits, or has several outputs.

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
    integer("source_classes", source_classes)
    outputs = getattr(network, "outputs", None)
    if not outputs or len(outputs) != 1:
        raise ArgumentError(
            f"network: got {getattr(network, 'name', network)!r}; expected a functional or "
            "Sequential model with one output; try to build a model with outputs {'target': ..., "
            "'source': ...} yourself."
        )
    last, node = producer(outputs[0])  # the very call: the layer may have others
    if not isinstance(last, keras.layers.Dense):
        raise ArgumentError(
            f"network: got {network.name!r}, which ends in {last.name!r} ({type(last).__name__}); "
            "expected a dense layer of logits, whose input the second head can share."
        )
    if last.activation is not keras.activations.linear:
        raise ArgumentError(
            f"network: got {network.name!r}, which ends in the activation of {last.name!r}; "
            "expected logits; try activation=None in that layer."
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
    """The classifier that consists of one head of a network and shares its layers.

    Args:
        network: A functional model whose outputs are a dict or a list.
        head: Key or index of the output to keep.

    Returns:
        A model from the same inputs to the logits of that head, [batch, classes].

    Raises:
        ArgumentError: The network has no such head.
    """
    outputs = getattr(network, "output", None)
    keys = outputs if isinstance(outputs, dict) else range(len(outputs or ()))
    if not isinstance(outputs, dict | list | tuple) or head not in keys:
        several = isinstance(outputs, dict | list | tuple)
        expected = f"one of {list(keys)}" if several else "a network with several heads"
        name = getattr(network, "name", network)
        raise ArgumentError(f"head: got {head!r} for the network {name!r}; expected {expected}.")
    kept = keras.Model(network.input, outputs[head], name=network.name)
    return inherit(kept, network, head)
