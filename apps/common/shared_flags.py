"""Flags that several commands share, and the objects that they describe."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import keras
from absl import flags

from tfgrad import data, models, penalties
from tfgrad.data import digits, folder_listing, named_sets, tfds
from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import integer

from . import command
from .trained_networks import Statistics

FLAGS = flags.FLAGS
Number = TypeVar("Number", int, float)
Size: TypeAlias = tuple[int, int]
PENALTIES = ("gradient_norm", "score_matching", "anti_score_matching")


def define_dataset(default: str | None = "digits") -> None:
    """Define which data set."""
    flags.DEFINE_string(
        "dataset",
        default,
        "Data set: 'digits' (embedded), a folder of images with a sub-folder for each class (and, "
        "above these, folders train and test, if any), or an image set of TFDS.",
    )
    flags.DEFINE_string("data_dir", None, "Data directory of TFDS; default: its own.")
    flags.DEFINE_bool("download", False, "Let TFDS download a data set that is not prepared.")
    flags.DEFINE_list(
        "image_size",
        None,
        "HEIGHT,WIDTH to which images are resized; default: their own, and those of a folder are "
        "resized to what a trained network takes.",
    )


def define_data() -> None:
    """Define which images to train and test on."""
    define_dataset()
    flags.DEFINE_string("train_split", "train", "Split or slice to train on.")
    flags.DEFINE_string("test_split", "test", "Split or slice to test on.")
    flags.DEFINE_integer("per_class", None, "Number of training examples per class; default: all.")
    flags.DEFINE_bool("normalize", False, "Normalise channels by the training set's statistics.")
    flags.DEFINE_bool("augment", False, "Train on random flips and padded crops.")
    flags.DEFINE_bool("crops", True, "Crop with --augment; score matching needs --nocrops.")


def define_network(default: str = "vgg4", more: Sequence[str] = ()) -> None:
    """Define which network.

    Args:
        default: Name of the default.
        more: Names that the command takes in addition to those of `tfgrad.models`.
    """
    what = "Architecture of the network."
    if more:
        what += " Those of keras.applications start from trained weights, see --weights."
    flags.DEFINE_enum("network", default, [*models.NAMES, *more], what)
    flags.DEFINE_float("width", 1.0, "Channel multiplier of the network.", lower_bound=0)
    flags.DEFINE_enum("activation", "relu", ("relu", "softplus"), "Activation function.")
    flags.DEFINE_float("beta", 10.0, "Beta of the softplus.", lower_bound=0)
    flags.DEFINE_bool("batch_norm", True, "Batch normalisation; only a VGG can do without.")


def define_penalties() -> None:
    """Define which penalties; a weight of 0 means none."""
    for name, what in (
        ("gradient_norm", "Weight of the gradient norm (Prop. 2)."),
        ("score_matching", "Weight of score matching (Eq. 5.4); needs --activation=softplus."),
        ("anti_score_matching", "Weight of anti-score-matching (section 5.5)."),
    ):
        flags.DEFINE_float(name, 0.0, what, lower_bound=0)
    flags.DEFINE_string("target", "label", "Logit that is differentiated: label, predicted, all.")
    flags.DEFINE_enum(
        "gradient_norm_loss",
        "squared_error",
        ("squared_error", "cross_entropy"),
        "Gradient norm of logits (Prop. 2), or of log-probabilities (Eq. 2.3).",
    )
    flags.DEFINE_enum(
        "estimator", "taylor", penalties.ESTIMATORS, "Estimator of the Hessian trace."
    )
    flags.DEFINE_float(
        "sigma",
        0.01,
        "Standard deviation of the trace estimator's noise, in both score penalties.",
    )
    flags.DEFINE_integer("samples", 1, "Noise samples of the trace estimator per example and step.")
    flags.DEFINE_float("stability", 1e-4, "Mu of score matching (Eq. 5.4).", lower_bound=0)
    flags.DEFINE_float("threshold", 1000.0, "Tau of anti-score-matching.")


def resolved() -> dict[str, Any]:
    """{name: value} of the flags that this command defines, as records keep them."""
    return command.own_flags()


def image_size() -> tuple[int, int] | None:
    """(height, width) of --image_size, or None."""
    if not FLAGS.image_size:
        return None
    try:
        height, width = (int(v) for v in FLAGS.image_size)
    except ValueError as error:
        raise ArgumentError(
            f"--image_size: got {','.join(FLAGS.image_size)}; expected HEIGHT,WIDTH; try 64,64."
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


def load(
    split: str, own_size: Callable[[], Size | None] | None = None, always: bool = False
) -> data.Dataset:
    """A split of --dataset.

    Args:
        split: A split, or a slice of one.
        own_size: Function that returns the (height, width) that a network takes, to which the
            images of a folder are resized without --image_size.
        always: Whether those of other data sets are, too.
    """
    size = image_size()
    if size is None and own_size is not None and (always or is_folder()):
        size = own_size()
    return data.load(FLAGS.dataset, split, FLAGS.data_dir, FLAGS.download, size)


def is_folder() -> bool:
    """Whether --dataset is a folder of images."""
    return named_sets.is_folder(FLAGS.dataset, FLAGS.data_dir)


def check_dataset() -> None:
    """Check that --dataset and its splits can be opened; no image of a folder is read.

    Raises:
        ArgumentError: --image_size or --per_class is malformed.
        DataError: The data set cannot be opened, or is not there.
    """
    image_size()
    if FLAGS.per_class is not None:
        integer("per_class", FLAGS.per_class)
    for split in (FLAGS.train_split, FLAGS.test_split):
        if is_folder():
            folder_listing.listed(FLAGS.dataset, split)
        elif FLAGS.dataset == digits.NAME:
            digits.read(split)
        else:
            tfds.opened(FLAGS.dataset, split, FLAGS.data_dir, FLAGS.download)


def images_digest() -> dict[str, str]:
    """What tells whether the images of a folder are those that a run began with."""
    if not is_folder():
        return {}
    splits = FLAGS.train_split, FLAGS.test_split
    listings = [folder_listing.listed(FLAGS.dataset, split) for split in splits]
    return {"dataset_digest": folder_listing.digest(listings)}


def part_of(split: str, first: int, count: int) -> str:
    """The slice of a split of --dataset from `first` on, at most of `count` examples."""
    last = first + count
    if is_folder():  # whose slices must lie within it
        last = min(last, len(folder_listing.listed(FLAGS.dataset, split).files))
    return f"{split}[{first}:{last}]"


def load_splits(
    own_size: Callable[[], Size | None] | None = None, always: bool = False
) -> tuple[data.Dataset, data.Dataset]:
    """(training set, test set), complete; see `load`."""
    splits = FLAGS.train_split, FLAGS.test_split
    train, test = (load(split, own_size, always) for split in splits)
    return train, test


def augmentation() -> bool | str:
    """The augmentation of training images, as `data.pipeline` takes it."""
    return FLAGS.augment and (True if FLAGS.crops else "flip")


def chosen_from(train: data.Dataset) -> data.Dataset:
    """The --per_class examples to train on."""
    if FLAGS.per_class is None:
        return train
    return data.subset(train, FLAGS.per_class, FLAGS.seed)


def statistics_of(train: data.Dataset) -> Statistics | None:
    """(mean, std) of the channels with --normalize, else None."""
    return data.channel_statistics(train) if FLAGS.normalize else None


def build_network(train: data.Dataset) -> keras.Model:
    """The network that flags describe, for a data set."""
    return models.get(
        FLAGS.network,
        train.image_shape,
        len(train.classes),
        width=FLAGS.width,
        activation=FLAGS.activation,
        beta=FLAGS.beta,
        batch_norm=FLAGS.batch_norm,
    )


def target() -> str | int:
    """The logit that is differentiated: a word, or a class."""
    return int(FLAGS.target) if FLAGS.target.isdecimal() else FLAGS.target


def build_penalties(head: str | None = None) -> list[penalties.Penalty]:
    """The penalties whose weight is not 0, on one head of a network with several."""
    chosen: list[penalties.Penalty] = []
    trace: dict[str, Any] = {
        "sigma": FLAGS.sigma,
        "samples": FLAGS.samples,
        "estimator": FLAGS.estimator,
        "target": target(),
        "head": head,
    }
    is_own = FLAGS.network in models.NAMES  # others have activations of their own
    needs_smooth = FLAGS.score_matching or FLAGS.anti_score_matching
    if is_own and needs_smooth and FLAGS.activation == "relu":
        raise ArgumentError(
            "--activation: got relu with score matching; expected softplus, because the Hessian of "
            "a ReLU network is zero wherever it exists; try --activation=softplus."
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
