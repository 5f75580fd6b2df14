"""The optimizer, its schedule and the loss of every command that trains."""

from collections.abc import Sequence
from typing import Any

import keras

import tfgrad
from tfgrad.penalties import Penalty


def optimizer(
    name: str, learning_rate: float, drops: Sequence[int] = (), steps_per_epoch: int = 1
) -> keras.optimizers.Optimizer:
    """Adam or momentum SGD, with a learning rate that drops tenfold after some epochs.

    Args:
        name: "adam", or "sgd", which has momentum 0.9.
        learning_rate: Initial learning rate.
        drops: Epochs after which the learning rate is a tenth of what it was, in order.
        steps_per_epoch: Number of steps in an epoch.
    """
    rate: float | keras.optimizers.schedules.LearningRateSchedule = learning_rate
    if drops:
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [epoch * steps_per_epoch for epoch in drops],
            [learning_rate * 0.1**i for i in range(len(drops) + 1)],
        )
    if name == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    return keras.optimizers.Adam(rate)


def compiled_model(
    network: keras.Model,
    chosen: Sequence[Penalty],
    optimizer: keras.optimizers.Optimizer,
    jit_compile: bool | str = "auto",
    teacher: keras.Model | None = None,
    supervised: float = 1.0,
    head: str | None = None,
) -> tfgrad.PenalizedModel:
    """A PenalizedModel that is compiled as `compile_classifier` does it.

    Args:
        network: Network that returns logits.
        chosen: Penalties.
        optimizer: Optimizer.
        jit_compile: Whether XLA compiles the step.
        teacher: Teacher of the penalties that match one.
        supervised: Weight of the cross-entropy with the labels.
        head: Output that has labels, of a network with several.
    """
    model = tfgrad.PenalizedModel(network, chosen, teacher)
    compile_classifier(model, optimizer, jit_compile, supervised, head)
    return model


def compile_classifier(
    model: tfgrad.PenalizedModel,
    optimizer: keras.optimizers.Optimizer,
    jit_compile: bool | str = "auto",
    supervised: float = 1.0,
    head: str | None = None,
) -> None:
    """Compile with the softmax cross-entropy and the accuracy of one head's logits.

    Args:
        model: Model to compile.
        optimizer: Optimizer.
        jit_compile: Whether XLA compiles the step.
        supervised: Weight of the cross-entropy.
        head: Output that has labels, of a network with several.
    """

    def of_head(value: Any) -> Any:
        return value if head is None else {head: value}

    model.compile(
        optimizer,
        of_head(keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        metrics=of_head(["accuracy"]),
        loss_weights=None if supervised == 1 else of_head(supervised),
        jit_compile=jit_compile,
    )
