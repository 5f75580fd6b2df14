"""Classes, logits and probabilities of a network's outputs, by what the outputs mean.

One logit f of two classes counts as the logits [0, f] wherever a probability or the predicted class
is asked for: log p_1 = log σ(f), log p_0 = log σ(−f). The logit of class 1 is f itself, that of
class 0 is −f.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.models.output_meaning import BINARY, INDEPENDENT, REGRESSION


def check_classes(meaning: str, what: str) -> None:
    """Raise if outputs have no classes.

    Args:
        meaning: What the outputs mean, see `tfgrad.models.output_meaning`.
        what: What needs classes, for the message.

    Raises:
        ArgumentError: The outputs are those of a regression.
    """
    if meaning == REGRESSION:
        raise ArgumentError(
            f"outputs: got 'regression', which has no classes and no probabilities, for {what}; "
            "expected a classifier. If the network is one, say so: outputs='exclusive', 'binary' "
            "or 'independent'."
        )


def class_logits(logits: tf.Tensor, meaning: str) -> tf.Tensor:
    """Logits [batch, classes] whose largest is the predicted class: [0, f] for one logit f."""
    if meaning == BINARY:
        return tf.concat([tf.zeros_like(logits), logits], -1)
    return logits


def predicted(logits: tf.Tensor, meaning: str) -> tf.Tensor:
    """The predicted class of each example, int32 [batch]: the largest logit, or f > 0.

    Raises:
        ArgumentError: The outputs are those of a regression.
    """
    check_classes(meaning, "the predicted class")
    if meaning == BINARY:
        return tf.cast(logits[:, 0] > 0, tf.int32)
    return tf.argmax(logits, -1, tf.int32)


def probabilities(logits: tf.Tensor, meaning: str) -> tf.Tensor:
    """Softmax or, for independent labels, sigmoid; [batch, classes], two classes for one logit.

    Raises:
        ArgumentError: The outputs are those of a regression.
    """
    check_classes(meaning, "probabilities")
    if meaning == INDEPENDENT:
        return tf.sigmoid(logits)
    return tf.nn.softmax(class_logits(logits, meaning))


def logit(logits: tf.Tensor, indices: tf.Tensor, meaning: str) -> tf.Tensor:
    """The logit of the class that `indices` [batch] names; −f for class 0 of one logit f.

    Args:
        logits: Logits [batch, K], or what belongs to each of them, such as gradients [batch, K, …].
        indices: Classes, integers [batch].
        meaning: What the outputs mean.

    Returns:
        [batch, …]. Other classes do not count, also where their logits are infinite or NaN.
    """
    if meaning == BINARY:
        return logits[:, 0] * _beside(tf.cast(2 * indices - 1, logits.dtype), logits.shape.rank - 1)
    return select(logits, indices)


def log_probability(logits: tf.Tensor, indices: tf.Tensor, meaning: str) -> tf.Tensor:
    """log p of the class that `indices` [batch] names, [batch].

    Raises:
        ArgumentError: The outputs are those of a regression.
    """
    check_classes(meaning, "a log-probability")
    if meaning in (BINARY, INDEPENDENT):
        return -tf.math.softplus(-logit(logits, indices, meaning))
    return losses.log_probability(logits, indices)


def log_odds_against(logits: tf.Tensor, indices: tf.Tensor, meaning: str) -> tf.Tensor:
    """log((1 − p) / p) of the class that `indices` [batch] names, [batch].

    With p = softmax(f)_y it is log Σ_{k≠y} exp f_k − f_y; with p = σ(f), −f. It rises with the
    cross-entropy −log p, and both gradients have one direction. That of −log p is rounded to zero
    where p is 1 in float32, this one is not.

    Raises:
        ArgumentError: The outputs are those of a regression.
    """
    check_classes(meaning, "the odds of a class")
    if meaning in (BINARY, INDEPENDENT):
        return -logit(logits, indices, meaning)
    own = tf.one_hot(indices, tf.shape(logits)[1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.where(own, tf.constant(-np.inf, logits.dtype), logits)
    return tf.reduce_logsumexp(others, -1) - select(logits, indices)


def sum_of_log_probabilities(logits: tf.Tensor, meaning: str) -> tf.Tensor:
    """Σ_k log p_k, [batch]: over the classes, or over both answers of every independent label.

    Raises:
        ArgumentError: The outputs are those of a regression.
    """
    check_classes(meaning, "log-probabilities")
    if meaning in (BINARY, INDEPENDENT):
        return -tf.reduce_sum(tf.math.softplus(logits) + tf.math.softplus(-logits), -1)
    return tf.reduce_sum(tf.nn.log_softmax(logits), -1)


def select(values: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """The entry of each row that `indices` names: [batch, classes, …], [batch] → [batch, …].

    Entries are left out, not multiplied by 0: that of a class that a network masks is −∞.
    """
    chosen = tf.one_hot(indices, tf.shape(values)[1], on_value=True, off_value=False, dtype=tf.bool)
    chosen = _beside(chosen, values.shape.rank)
    return tf.reduce_sum(tf.where(chosen, values, tf.zeros_like(values)), 1)


def _beside(tensor: tf.Tensor, rank: int) -> tf.Tensor:
    """The tensor with axes of length 1 behind it, up to a rank."""
    if tensor.shape.rank == rank:
        return tensor
    ones = tf.ones([rank - tensor.shape.rank], tf.int32)
    return tf.reshape(tensor, tf.concat([tf.shape(tensor), ones], 0))
