"""The model that flags name, as an `Explainer`."""

import dataclasses
import difflib
import os
from collections.abc import Sequence

import keras
import numpy as np
from absl import flags

from tfgrad import loading, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal import regular_files
from tfgrad.loading.applications import APPLICATIONS
from tfgrad.models import output_meaning

from ..common import (
    architectures,
    digits_network,
    fine_tuning,
    invocation,
    pixel_range,
    shared_flags,
    trained_networks,
)
from . import explainers

FLAGS = flags.FLAGS
MODELS = ("model", "work_dir", "served", "application")
# The columns of the thesis's Fig. 3.3.
METHODS = ["input_gradient", "integrated_gradients", "smoothgrad", "gradcam", "fullgrad"]

FILES = (".keras", ".h5", ".hdf5")
RUN, FILE, SERVED, NAME, DIGITS = "run", "file", "served", "name", digits_network.NAME


def define_flags() -> None:
    """Define which model, and which methods explain it."""
    train, export = invocation.named("train"), invocation.named("export")
    flags.DEFINE_string(
        "model",
        None,
        "Name in keras.applications, or of a preset of KerasHub's image classifiers; or a .keras "
        f"or .h5 file of a classifier, a work directory of {train}, a SavedModel of {export}; or "
        "'digits' for a network that is trained first, in some seconds.",
    )
    flags.DEFINE_string("work_dir", None, f"Work directory of {train}; the same as --model.")
    flags.DEFINE_string("served", None, f"SavedModel of {export}; the same as --model.")
    flags.DEFINE_string("application", None, "Name in keras.applications; the same as --model.")
    flags.DEFINE_string(
        "weights",
        None,
        "Weights of an architecture of keras.applications: imagenet (downloaded once), random (to "
        "try it out), or a file (.weights.h5, .h5, .keras); default: imagenet.",
    )
    flags.DEFINE_bool("random_weights", False, "The same as --weights=random.")
    pixel_range.define("a file or a SavedModel")
    trained_networks.define_outputs()
    flags.DEFINE_string("class_names", None, "Text file of the classes' names, one a line.")
    flags.DEFINE_list(
        "methods",
        None,
        f"Saliency methods among {', '.join(saliency.METHODS)}; default: {','.join(METHODS)}, or "
        "all that a SavedModel has.",
    )
    flags.DEFINE_integer("target", None, "Class to explain; default: the predicted one.")


def check_flags() -> None:
    """Check that exactly one model is named, with the flags that belong to it."""
    given = [name for name in MODELS if getattr(FLAGS, name)]
    if len(given) != 1:
        raise ArgumentError(
            f"--model: got {' and '.join(f'--{name}' for name in given) or 'none'}; expected one "
            "model; try --model=MobileNetV2, or --model=digits, which needs no download."
        )
    found = kind()
    if FLAGS.weights and FLAGS.random_weights:
        raise ArgumentError("--weights, --random_weights: got both; expected at most one.")
    if found != NAME and (FLAGS.weights or FLAGS.random_weights):
        raise ArgumentError(
            f"--weights, --random_weights: got with --{given[0]}={getattr(FLAGS, given[0])}; "
            "expected only with a name in keras.applications."
        )
    if FLAGS.image_range and found not in (FILE, SERVED):
        raise ArgumentError(
            f"--image_range: got with --{given[0]}={getattr(FLAGS, given[0])}, which has its own; "
            "expected only with a file or a SavedModel."
        )
    if found != SERVED:
        for name in FLAGS.methods or METHODS:
            saliency.get(name)


def kind() -> str:
    """What the flags name: a run, a file, a SavedModel, a network by its name, or the digits'.

    Raises:
        ArgumentError: --model is none of them.
    """
    for flag, found in (("work_dir", RUN), ("served", SERVED), ("application", NAME)):
        if getattr(FLAGS, flag):
            return found
    return kind_of(FLAGS.model)


def kind_of(model: str) -> str:
    """What a value of --model is."""
    if os.path.isdir(model):
        inside = os.listdir(model)
        if "network.keras" in inside or "results.json" in inside:
            return RUN
        if loading.is_pretrained(model):
            return NAME
        return SERVED
    if os.path.exists(model) or model.endswith(FILES):
        return FILE
    if model == DIGITS:
        return DIGITS
    if loading.is_pretrained(model):
        return NAME
    if os.sep in model:
        raise ArgumentError(
            f"--model: got {model!r}, and there is no such path; expected a file or directory that "
            "exists, or the name of a network; check the working directory."
        )
    close = difflib.get_close_matches(model, APPLICATIONS, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise ArgumentError(
        f"--model: got {model!r}, which is neither a file or directory nor the name of a network; "
        f"{meant}expected a path, a name in keras.applications ({', '.join(APPLICATIONS)}), a "
        "preset of KerasHub's image classifiers where keras-hub is installed, or digits."
    )


def explainer() -> explainers.Explainer:
    """The model that flags name, with its methods."""
    found = _without_names()
    if FLAGS.class_names:
        names = _class_names(FLAGS.class_names, found.outputs)
        found = dataclasses.replace(found, classes=names)
    several = found.meaning == output_meaning.REGRESSION and found.outputs != 1
    if several and FLAGS.target is None:
        raise ArgumentError(
            f"--target: got none for {found.name}, a regression, which predicts no class; expected "
            "the index of an output; try --target=0."
        )
    if FLAGS.target is not None:
        highest = (found.outputs or np.iinfo("int32").max) - 1
        if not 0 <= FLAGS.target <= highest:
            raise ArgumentError(
                f"--target: got {FLAGS.target}; expected a class from 0 to {highest}."
            )
    return found


def _without_names() -> explainers.Explainer:
    methods = METHODS if FLAGS.methods is None else FLAGS.methods
    found, name = kind(), next(getattr(FLAGS, flag) for flag in MODELS if getattr(FLAGS, flag))
    if found == SERVED:
        return explainers.served(name, FLAGS.methods, pixel_range.given())
    if found == RUN:
        network, names = trained_networks.from_run(name)
        return explainers.live(name, network, methods, names)
    if found == DIGITS:
        network, names = digits_network.trained()
        return explainers.live("digits", network, methods, names)
    if found == NAME:
        one = _named(name)
        shown = f"{name} with random weights" if _are_random() else name
        return explainers.live(shown, one.network, methods, one.class_names, one.image_range)
    network, classes, image_range = trained_networks.from_file(name)
    if image_range != pixel_range.UNIT or FLAGS.image_range is not None:
        image_range = pixel_range.known(name, network)
    return explainers.live(name, network, methods, classes, image_range)


def _are_random() -> bool:
    return FLAGS.random_weights or FLAGS.weights == fine_tuning.RANDOM


def _named(name: str) -> loading.Pretrained:
    weights = None if _are_random() else FLAGS.weights or fine_tuning.IMAGENET
    keras.utils.set_random_seed(0)
    try:
        found = loading.pretrained(name, weights, shared_flags.image_size())
    except ModelError as error:
        if weights != fine_tuning.IMAGENET:
            raise
        offline = f"{invocation.line('explain')} --model=digits"
        raise ModelError(
            f"{error} Without a connection, {offline} works, and --weights=random shows what comes "
            "out for this network."
        ) from error
    if weights is None:
        architectures.randomised(found.network)
    return found


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
