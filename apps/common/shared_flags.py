"""Flags that several apps share, and the objects they describe."""

import math
import sys
from typing import TypeVar

from absl import flags

from tfgrad import data, models, penalties
from tfgrad.errors import ArgumentError

FLAGS = flags.FLAGS
Number = TypeVar("Number", int, float)
PENALTIES = ("gradient_norm", "score_matching", "anti_score_matching")


def define_dataset(default="digits"):
    """Which data set."""
    flags.DEFINE_string("dataset", default, "'digits' (embedded), or an image set of TFDS.")
    flags.DEFINE_string("data_dir", None, "TFDS data directory; default: TFDS's own.")
    flags.DEFINE_bool("download", False, "Let TFDS download a set that is not prepared.")
    flags.DEFINE_list("image_size", None, "HEIGHT,WIDTH to resize to.")


def define_data():
    """Which images to train and test on."""
    define_dataset()
    flags.DEFINE_string("train_split", "train", "TFDS split or slice to train on.")
    flags.DEFINE_string("test_split", "test", "TFDS split or slice to test on.")
    flags.DEFINE_integer("per_class", None, "Train on this many examples per class.")
    flags.DEFINE_bool("normalize", False, "Normalise channels by the training set's mean and std.")
    flags.DEFINE_bool("augment", False, "Random flips and padded crops while training.")
    flags.DEFINE_bool("crops", True, "With --augment; --nocrops leaves flips, for score matching.")


def define_network(default="vgg4"):
    """Which network."""
    flags.DEFINE_enum("network", default, models.NAMES, "Architecture.")
    flags.DEFINE_float("width", 1.0, "Channel multiplier.", lower_bound=0)
    flags.DEFINE_enum("activation", "relu", ("relu", "softplus"), "Activation.")
    flags.DEFINE_float("beta", 10.0, "beta of the softplus.", lower_bound=0)
    flags.DEFINE_bool("batch_norm", True, "Batch normalisation; can be left out of a VGG.")


def define_penalties():
    """Which penalties; a weight of 0 means none."""
    for name, what in (
        ("gradient_norm", "Weight of the gradient norm (Prop. 2)."),
        ("score_matching", "Weight of score matching (Eq. 5.4); wants --activation=softplus."),
        ("anti_score_matching", "Weight of anti-score-matching (section 5.5)."),
    ):
        flags.DEFINE_float(name, 0.0, what, lower_bound=0)
    flags.DEFINE_string("target", "label", "Logit to differentiate: label, predicted, all.")
    flags.DEFINE_enum(
        "gradient_norm_loss",
        "squared_error",
        ("squared_error", "cross_entropy"),
        "Gradients of logits (Prop. 2) or of log-probabilities (Eq. 2.3).",
    )
    flags.DEFINE_enum(
        "estimator", "taylor", penalties.ESTIMATORS, "Estimator of the Hessian trace."
    )
    flags.DEFINE_float("sigma", 0.01, "Noise of the trace estimator of both score penalties.")
    flags.DEFINE_integer("samples", 1, "Draws of that estimator per example and step.")
    flags.DEFINE_float("stability", 1e-4, "mu of score matching (Eq. 5.4).", lower_bound=0)
    flags.DEFINE_float("threshold", 1000.0, "tau of anti-score-matching.")


def resolved():
    """Every flag that this app defines, with its value; libraries define flags too."""
    return {
        flag.name: flag.value
        for module, module_flags in FLAGS.flags_by_module_dict().items()
        if module.split(".")[0] == __package__.split(".")[0] or module == sys.argv[0]
        for flag in module_flags
    }


def image_size():
    """(height, width), or None."""
    if not FLAGS.image_size:
        return None
    try:
        height, width = (int(v) for v in FLAGS.image_size)
    except ValueError as error:
        raise ArgumentError(
            f"--image_size: got {','.join(FLAGS.image_size)}; expected HEIGHT,WIDTH, e.g. 64,64."
        ) from error
    return height, width


def numbers(
    name: str, kind: type[Number], highest: float = math.inf, empty: bool = True
) -> list[Number]:
    """The finite numbers ≥ 0 that a list flag holds.

    Args:
        name: Name of the flag.
        kind: `int` or `float`.
        highest: Largest number that is allowed.
        empty: Whether the list may be empty.

    Raises:
        ArgumentError: It holds something else.
    """
    texts = getattr(FLAGS, name)
    try:
        values = [kind(text) for text in texts]
        valid = all(0 <= value <= highest and math.isfinite(value) for value in values)
    except ValueError:
        valid = False
    if not valid or not (values or empty):
        what = ("" if empty else "one or more ") + ("integers" if kind is int else "numbers")
        bounds = "≥ 0" if highest == math.inf else f"from 0 to {highest:g}"
        raise ArgumentError(f"--{name}: got {','.join(texts) or 'none'}; expected {what} {bounds}.")
    return values


def load_splits():
    """(training set, test set), whole."""
    common = {
        "data_dir": FLAGS.data_dir,
        "download": FLAGS.download,
        "image_size": image_size(),
    }
    train = data.load(FLAGS.dataset, FLAGS.train_split, **common)
    return train, data.load(FLAGS.dataset, FLAGS.test_split, **common)


def augmentation():
    """What `data.pipeline` does to training images."""
    return FLAGS.augment and (True if FLAGS.crops else "flip")


def chosen_from(train):
    """The examples to train on."""
    if FLAGS.per_class is None:
        return train
    return data.subset(train, FLAGS.per_class, FLAGS.seed)


def statistics_of(train):
    """Channel statistics, or None."""
    return data.channel_statistics(train) if FLAGS.normalize else None


def build_network(train):
    """The network for a data set."""
    return models.get(
        FLAGS.network,
        train.image_shape,
        len(train.classes),
        width=FLAGS.width,
        activation=FLAGS.activation,
        beta=FLAGS.beta,
        batch_norm=FLAGS.batch_norm,
    )


def target():
    """Which logit to differentiate: a word, or a class."""
    return int(FLAGS.target) if FLAGS.target.isdecimal() else FLAGS.target


def build_penalties(head=None):
    """The penalties whose weight is not 0."""
    chosen: list[penalties.Penalty] = []
    trace = {
        "sigma": FLAGS.sigma,
        "samples": FLAGS.samples,
        "estimator": FLAGS.estimator,
        "target": target(),
        "head": head,
    }
    if (FLAGS.score_matching or FLAGS.anti_score_matching) and FLAGS.activation == "relu":
        raise ArgumentError(
            "--activation: got relu; the Hessian of a ReLU network is zero wherever it exists, so "
            "score matching needs --activation=softplus."
        )
    if FLAGS.gradient_norm:
        chosen.append(
            penalties.GradientNorm(
                FLAGS.gradient_norm, target(), FLAGS.gradient_norm_loss, head=head
            )
        )
    if FLAGS.score_matching:
        chosen.append(
            penalties.ScoreMatching(
                FLAGS.score_matching, stability=FLAGS.stability, seed=FLAGS.seed, **trace
            )
        )
    if FLAGS.anti_score_matching:
        chosen.append(
            penalties.AntiScoreMatching(
                FLAGS.anti_score_matching, threshold=FLAGS.threshold, seed=FLAGS.seed, **trace
            )
        )
    return chosen
