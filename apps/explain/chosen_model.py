"""The model that flags name, as an `Explainer`."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import flags

from tfgrad import saliency
from tfgrad.errors import ArgumentError
from tfgrad.internal import regular_files

from ..common import command, pixel_range, shared_flags, trained_networks
from . import explainers

FLAGS = flags.FLAGS
MODELS = ("work_dir", "model", "served", "application")
# The columns of the thesis's Fig. 3.3.
METHODS = ["input_gradient", "integrated_gradients", "smoothgrad", "gradcam", "fullgrad"]


def define_flags() -> None:
    """Define which model, and which methods explain it."""
    train, export = command.named("train"), command.named("export")
    flags.DEFINE_string("work_dir", None, f"Work directory of a finished run of {train}.")
    flags.DEFINE_string("model", None, ".keras or .h5 file of a classifier, instead of --work_dir.")
    flags.DEFINE_string("served", None, f"SavedModel of {export}, instead of --work_dir.")
    flags.DEFINE_string(
        "application", None, "Architecture of keras.applications, instead of --work_dir."
    )
    flags.DEFINE_string("weights", None, ".weights.h5, .h5 or .keras file of --application.")
    flags.DEFINE_bool("random_weights", False, "Try --application with random weights.")
    pixel_range.define("--model or --served")
    trained_networks.define_outputs()
    flags.DEFINE_string("class_names", None, "Text file of the classes' names, one a line.")
    flags.DEFINE_list(
        "methods",
        None,
        f"Saliency methods among {', '.join(saliency.METHODS)}; default: {','.join(METHODS)}, or "
        "all that --served has.",
    )
    flags.DEFINE_integer("target", None, "Class to explain; default: the predicted one.")


def check_flags() -> None:
    """Check that exactly one model is named, with the flags that belong to it."""
    given = [name for name in MODELS if getattr(FLAGS, name)]
    if len(given) != 1:
        raise ArgumentError(
            f"{', '.join(f'--{name}' for name in MODELS)}: got "
            f"{' and '.join(f'--{name}' for name in given) or 'none'}; expected exactly one of "
            "them."
        )
    if FLAGS.application and bool(FLAGS.weights) == FLAGS.random_weights:
        raise ArgumentError(
            "--weights, --random_weights: got both or none; expected the file of weights of "
            "--application; try --random_weights without it."
        )
    if not FLAGS.application and (FLAGS.weights or FLAGS.random_weights):
        raise ArgumentError(
            f"--weights, --random_weights: got with --{given[0]}; expected only with --application."
        )
    if FLAGS.image_range and not (FLAGS.model or FLAGS.served):
        raise ArgumentError(
            f"--image_range: got with --{given[0]}, which has its own; expected only with --model."
        )
    if not FLAGS.served:
        for name in FLAGS.methods or METHODS:
            saliency.get(name)


def explainer() -> explainers.Explainer:
    """The model that flags name, with its methods."""
    found = _without_names()
    if FLAGS.class_names:
        names = _class_names(FLAGS.class_names, found.outputs)
        found = dataclasses.replace(found, classes=names)
    if FLAGS.target is not None:
        highest = (found.outputs or np.iinfo("int32").max) - 1
        if not 0 <= FLAGS.target <= highest:
            raise ArgumentError(
                f"--target: got {FLAGS.target}; expected a class from 0 to {highest}."
            )
    return found


def _without_names() -> explainers.Explainer:
    methods = METHODS if FLAGS.methods is None else FLAGS.methods
    if FLAGS.served:
        return explainers.served(FLAGS.served, FLAGS.methods, pixel_range.given())
    if FLAGS.work_dir:
        network, names = trained_networks.from_run(FLAGS.work_dir)
        return explainers.live(FLAGS.work_dir, network, methods, names)
    if FLAGS.application:
        network = explainers.application(
            FLAGS.application, shared_flags.image_size(), FLAGS.weights
        )
        return explainers.live(FLAGS.application, network, methods, None, (0.0, 255.0))
    network, classes, image_range = trained_networks.from_file(FLAGS.model)
    if image_range != pixel_range.UNIT or FLAGS.image_range is not None:
        image_range = pixel_range.known(FLAGS.model, network)
    return explainers.live(FLAGS.model, network, methods, classes, image_range)


def _class_names(path: str, expected: int | None) -> Sequence[str]:
    try:
        content = regular_files.read(path, regular_files.MAX_JSON_BYTES)
        names = content.decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--class_names: {path!r} cannot be read ({error}).") from error
    if expected is not None and len(names) != expected:
        raise ArgumentError(
            f"--class_names: got {path!r} with {len(names)} lines; expected {expected}, one for "
            "each class, in order."
        )
    return names
