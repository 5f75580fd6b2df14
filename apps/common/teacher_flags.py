"""Teachers of apps.distill and apps.transfer, and the penalties that match them."""

import os
import re

import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad import penalties
from tfgrad.errors import ArgumentError, ModelError

from . import shared_flags, trained_networks, training_run

FLAGS = flags.FLAGS

WEIGHTS = {
    "match_activations": "Weight of matching logits; the papers take 1 (Table 2.1), 10 elsewhere.",
    "match_jacobian": "Weight of matching the logits' input-gradients; the papers take 1 or 10.",
    "match_attention": "Weight of matching attention maps of --layers; the papers take 10.",
    "match_attention_jacobian": "Weight of matching the input-gradients of attention maps "
    "(Eq. 2.9); the papers take 10.",
    "match_bias_gradients": "Weight of matching bias-gradients of --bias_layers (Eq. 4.3), beside "
    "--match_jacobian full-gradient matching; the papers take 10.",
}
_CALL = r"[^:\s]*[^:\s\d][^:\s]*(?::\d+)?"


def define_matching(default):
    """How to match a teacher.

    Args:
        default: {flag: weight} of the penalties to offer; 0 means none.
    """
    for name, weight in default.items():
        flags.DEFINE_float(name, weight, WEIGHTS[name], lower_bound=0)
    flags.DEFINE_float(
        "supervised", 1.0, "Weight of the cross-entropy with the labels; 0: none.", lower_bound=0
    )
    flags.DEFINE_list(
        "layers",
        None,
        "STUDENT:TEACHER,… for both attention penalties, or names that both networks have; "
        "default: chosen, and printed.",
    )
    flags.DEFINE_integer(
        "pairs", 3, "How many pairs to choose at most, the largest maps first.", lower_bound=1
    )
    flags.DEFINE_float("attention_power", 2.0, "Of attention maps: 2 in Chapter 2, 1 in Chapter 4.")
    flags.DEFINE_float(
        "window",
        0.2,
        "Pooling of an attention map before its gradient, a fraction of its side; 0: none.",
        lower_bound=0,
        upper_bound=1,
    )
    flags.DEFINE_bool(
        "live_teacher",
        False,
        "Ask the teacher in every step, even where its answers could be recorded once.",
    )


def define_logit_matching():
    """What matching a teacher of the same classes also offers."""
    flags.DEFINE_enum(
        "jacobian_loss",
        "squared_error",
        ("squared_error", "cross_entropy"),
        "Of --match_jacobian; the papers prefer squared error.",
    )
    flags.DEFINE_float("temperature", 1.0, "Of --jacobian_loss=cross_entropy.")
    flags.DEFINE_list("bias_layers", None, "As --layers, of convolutions.")


def load(path):
    """The `teachers.Learned` of --teacher: a file, or the directory of a run."""
    if not os.path.exists(path):
        raise ModelError(
            f"--teacher: {path!r} does not exist; expected a .keras file or a work directory of "
            "apps.train."
        )
    learned = trained_networks.Learned(path)
    if isinstance(learned.network, tfgrad.PenalizedModel):
        learned.network = learned.network.network
    print(f"the teacher: {learned}", flush=True)
    return learned


def statistics(learned, train):
    """Of the teacher's images if its record tells; else as --normalize says."""
    if "normalize" in learned.record:
        return learned.statistics(train)
    return shared_flags.statistics_of(train)


def check_teacher(network, train):
    """Refuse a teacher that cannot take the images, or is no classifier; return its classes."""
    expected = (None, *train.image_shape)
    given, outputs = network.input_shape, network.output_shape
    if not isinstance(given, tuple) or not tf.TensorShape(given).is_compatible_with(expected):
        raise ModelError(
            f"--teacher: takes inputs {given}; the images of {train.name!r} are {expected}. Try "
            "--image_size, or a teacher of such images."
        )
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise ModelError(
            f"--teacher: its outputs are {outputs}; expected a classifier, [batch, classes]. Of a "
            "run with two heads give network.keras."
        )
    return outputs[-1]


def build(network, teacher, train, head=None, verbose=True):
    """The matching penalties whose weight is not 0.

    Args:
        network: the student.
        teacher: the teacher.
        train: what they see.
        head: the student's head that has the teacher's classes.
        verbose: whether to print the layers that were chosen.
    """

    def pairs(flag, kind):
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
            f"{names}: all are 0, and so the teacher has nothing to say. apps.train learns without."
        )
    return chosen


def check_flags():
    """What can be wrong before a network is there."""
    for flag in ("layers", "bias_layers"):
        if _weight(flag) is not None:
            _parsed(flag)


def recorded():
    """Whether the teacher is asked once per image: where it would say the same in every epoch.

    Several replicas ask it themselves, in every step.
    """
    once = not (FLAGS.live_teacher or FLAGS.augment)
    return once and FLAGS.strategy == "one_device"


def label():
    """What distinguishes this run in a table."""
    weights = {name.removeprefix("match_"): _weight(name) for name in WEIGHTS}
    matched = [f"{name.replace('_', ' ')} {value:g}" for name, value in weights.items() if value]
    others = training_run.label(*shared_flags.PENALTIES, "weight_decay")
    return f"match {' + '.join(matched)}" + ("" if others == training_run.PLAIN else f", {others}")


def _weight(name):
    return getattr(FLAGS, name) if name in FLAGS else None


def _parsed(flag):
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
