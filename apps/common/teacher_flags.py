"""Flags of teachers, and the penalties that match them: for distill and transfer."""

import os
import re
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import flags

from tfgrad import data, penalties
from tfgrad.errors import ArgumentError, ModelError

from . import invocation, run_report, shared_flags
from .trained_networks import Learned, Statistics, note_unknown

FLAGS = flags.FLAGS

WEIGHTS = {
    "match_activations": "Weight of matching logits; the papers take 1 (Table 2.1), 10 elsewhere.",
    "match_jacobian": "Weight of matching the logits' input-gradients; the papers take 1 or 10.",
    "match_attention": "Weight of matching attention maps of --layers; the papers take 10.",
    "match_attention_jacobian": "Weight of matching the input-gradients of attention maps "
    "(Eq. 2.9); the papers take 10.",
    "match_bias_gradients": "Weight of matching bias-gradients of --bias_layers (Eq. 4.3), which "
    "with --match_jacobian is full-gradient matching; the papers take 10.",
}
_CALL = r"[^:\s]*[^:\s\d][^:\s]*(?::\d+)?"


def define_matching(default: Mapping[str, float]) -> None:
    """Define how to match a teacher.

    Args:
        default: {flag: weight} of the penalties to offer; 0 means none.
    """
    for name, weight in default.items():
        flags.DEFINE_float(name, weight, WEIGHTS[name], lower_bound=0)
    flags.DEFINE_float(
        "supervised", 1.0, "Weight of the cross-entropy with the labels; 0: no labels.", 0
    )
    flags.DEFINE_list(
        "layers",
        None,
        "Layers that both attention penalties match: STUDENT:TEACHER,…, or names that both "
        "networks have; default: chosen by their sizes, and printed.",
    )
    flags.DEFINE_integer(
        "pairs",
        3,
        "Largest number of pairs of layers to choose, the largest maps first.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "attention_power",
        2.0,
        "Exponent of attention maps; the papers take 2 in Chapter 2, 1 in Chapter 4.",
    )
    flags.DEFINE_float(
        "window",
        0.2,
        "Pooling of attention maps before their gradients, as a fraction of their side; 0: none.",
        lower_bound=0,
        upper_bound=1,
    )
    flags.DEFINE_bool(
        "live_teacher",
        False,
        "Run the teacher in every step, even where its outputs could be recorded once.",
    )


def define_logit_matching() -> None:
    """Define what matching a teacher of the same classes also offers."""
    flags.DEFINE_enum(
        "jacobian_loss",
        "squared_error",
        ("squared_error", "cross_entropy"),
        "Loss of --match_jacobian; the papers prefer squared error.",
    )
    flags.DEFINE_float("temperature", 1.0, "Softmax temperature of --jacobian_loss=cross_entropy.")
    flags.DEFINE_list(
        "bias_layers",
        None,
        "Convolutions that --match_bias_gradients matches, in the form of --layers.",
    )


def load(path: str) -> Learned:
    """The teacher of --teacher: a .keras file, or the work directory of a run."""
    if not os.path.exists(path):
        raise ModelError(
            f"--teacher: got {path!r}, which does not exist; expected a .keras file or a work "
            f"directory of {invocation.named('train')}."
        )
    learned = Learned(path)
    print(f"the teacher: {learned}", flush=True)
    return learned


def statistics(learned: Learned, train: data.Dataset) -> Statistics | None:
    """(mean, std) of the teacher's images if its record tells; else as --normalize says."""
    if "normalize" in learned.record:
        return learned.statistics(train)
    note_unknown(learned)
    return shared_flags.statistics_of(train)


def check_teacher(network: keras.Model, train: data.Dataset) -> int:
    """The number of a teacher's classes, once it is known to be a classifier of the images.

    Raises:
        ModelError: It takes other inputs, or is no classifier.
    """
    expected = (None, *train.image_shape)
    given, outputs = network.input_shape, network.output_shape
    if not isinstance(given, tuple) or not tf.TensorShape(given).is_compatible_with(expected):
        raise ModelError(
            f"--teacher: got one that takes inputs {given}; expected {expected}, the images of "
            f"{train.name!r}; try --image_size, or a teacher of such images."
        )
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise ModelError(
            f"--teacher: got one with outputs {outputs}; expected a classifier, [batch, classes]; "
            "of a run with two heads, try network.keras."
        )
    return outputs[-1]


def build(
    network: keras.Model,
    teacher: keras.Model,
    train: data.Dataset,
    head: str | None = None,
    verbose: bool = True,
) -> list[penalties.Penalty]:
    """The matching penalties whose weight is not 0.

    Args:
        network: Student.
        teacher: Teacher.
        train: Training set.
        head: Head of the student that has the teacher's classes.
        verbose: Whether to print the layers that were chosen.
    """

    def pairs(flag: str, kind: str) -> Any:
        if getattr(FLAGS, flag) is not None:
            return _parsed(flag)
        try:
            return penalties.matching_layers(
                network, teacher, kind, FLAGS.pairs, train.image_shape, verbose
            )
        except ArgumentError as error:
            raise ArgumentError(f"--{flag}: not given, and none can be chosen: {error}") from error

    chosen: list[penalties.Penalty] = []
    if FLAGS.match_activations:
        chosen.append(penalties.ActivationMatching(FLAGS.match_activations, head))
    if weight := _weight("match_jacobian"):
        chosen.append(
            penalties.JacobianMatching(
                weight, shared_flags.target(), FLAGS.jacobian_loss, FLAGS.temperature, head
            )
        )
    if FLAGS.match_attention or FLAGS.match_attention_jacobian:
        layers = pairs("layers", "attention")
        if FLAGS.match_attention:
            chosen.append(
                penalties.AttentionMatching(FLAGS.match_attention, layers, FLAGS.attention_power)
            )
        if FLAGS.match_attention_jacobian:
            chosen.append(
                penalties.AttentionJacobianMatching(
                    FLAGS.match_attention_jacobian,
                    layers,
                    FLAGS.window or None,
                    FLAGS.attention_power,
                )
            )
    if weight := _weight("match_bias_gradients"):
        layers = pairs("bias_layers", "bias")
        chosen.append(penalties.BiasGradientMatching(weight, layers, shared_flags.target(), head))
    if not chosen:
        names = ", ".join(f"--{name}" for name in WEIGHTS if name in FLAGS)
        raise ArgumentError(
            f"{names}: got 0 for all; expected one above 0, or else the teacher has no effect; try "
            f"{invocation.named('train')}, which needs none."
        )
    return chosen


def check_flags() -> None:
    """Check what does not depend on the networks."""
    for flag in ("layers", "bias_layers"):
        if _weight(flag) is not None:
            _parsed(flag)


def recorded() -> bool:
    """Whether the teacher runs once per image, where its outputs are the same in every epoch.

    With several replicas, each runs the teacher in every step.
    """
    once = not (FLAGS.live_teacher or FLAGS.augment)
    return once and FLAGS.strategy == "one_device"


def label() -> str:
    """The name of this run in tables: its weights that are not 0."""
    weights = {name.removeprefix("match_"): _weight(name) for name in WEIGHTS}
    matched = [f"{name.replace('_', ' ')} {value:g}" for name, value in weights.items() if value]
    others = run_report.label(*shared_flags.PENALTIES, "weight_decay")
    return f"match {' + '.join(matched)}" + ("" if others == run_report.PLAIN else f", {others}")


def _weight(name: str) -> float | None:
    return getattr(FLAGS, name) if name in FLAGS else None


def _parsed(flag: str) -> list[tuple[str, str]]:
    pairs = []
    for entry in getattr(FLAGS, flag):
        match = re.fullmatch(f"({_CALL})(?::({_CALL}))?", entry.strip())
        if not match:
            raise ArgumentError(
                f"--{flag}: got {entry!r}; expected STUDENT:TEACHER, names of layers such as "
                "act2:act4 (conv:1 is the second call of conv), or one name for both."
            )
        pairs.append((match[1], match[2] or match[1]))
    return pairs
