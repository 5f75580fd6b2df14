"""Validates and loads `.keras` files, and the HDF5 files (`.h5`) that Keras wrote before.

A model file is a program written by somebody else: it names the classes to build. So it is read as
data first, and passed to Keras only if nothing in it names code from elsewhere, a file outside, or
an absurd size. Whatever is wrong, the caller gets one `ModelError` that names the path, what was
found, what was expected and what to try; the exception of Keras is its `__cause__`.

Limits: TensorFlow's kernels run in this process, and a valid config may ask for an enormous layer.
Load files from untrusted sources in a sandbox.
"""

from __future__ import annotations

import os
import zipfile

import keras

from tfgrad import (
    training,  # noqa: F401  (registers their classes)
)
from tfgrad.errors import ModelError
from tfgrad.gradients.model_checks import nonfinite_weight
from tfgrad.internal.wrapper import Wrapper
from tfgrad.loading.archive_checks import CONFIG, METADATA, WEIGHTS, check_members, check_weights
from tfgrad.loading.config_checks import check_config, check_version
from tfgrad.loading.h5_file import SIGNATURE, check_h5
from tfgrad.loading.rejection import (
    DAMAGED,
    DIVERGED,
    FINITE,
    WHOLE,
    brief,
    read_json,
    rejection,
)
from tfgrad.loading.saved_loss import saved_loss
from tfgrad.loading.saved_model import GRAPH, versions
from tfgrad.models import output_meaning


def load(path: str | os.PathLike[str], *, compile: bool = True) -> keras.Model:
    """Load a `.keras` file, or a legacy `.h5` file, without running any code from it.

    Classes come from Keras, from tfgrad, or from `keras.saving.register_keras_serializable` in
    this process; nothing is imported because the file says so.

    Args:
        path: A local file whose name ends in `.keras`, `.h5` or `.hdf5`.
        compile: Whether to restore the optimizer, loss and metrics of `compile` as well. What the
            loss tells of the outputs' meaning is known in either case.

    Returns:
        The model, with finite weights.

    Raises:
        ModelError: The file is missing, damaged, foreign or unsafe, or a weight is NaN or infinite.
    """
    path = os.fspath(path)
    _check_backend(path)
    if _check_kind(path) == SIGNATURE:
        check_h5(path, compile)
    else:
        _check_content(path, compile)
    try:
        model = keras.saving.load_model(path, compile=compile, safe_mode=True)
    except Exception as error:
        raise rejection(
            path,
            f"a model that Keras {keras.__version__} cannot build: {brief(error)}",
            "classes that exist here and weights that fit them",
            "the file was written by another version, its classes are not imported here, or its "
            "weights belong to another model: "
            "build the model in Python and compare, or save it again",
        ) from error
    if not isinstance(model, keras.Model):
        raise rejection(path, f"a saved {type(model).__name__}", "a model", "save a keras.Model")
    if weight := nonfinite_weight(model.weights):
        raise rejection(path, f"NaN or infinite values in the weight {weight}", FINITE, DIVERGED)
    network = model.network if isinstance(model, Wrapper) else model
    output_meaning.remember(network, loss=saved_loss(path))
    return model


def _check_backend(path: str) -> None:
    if keras.backend.backend() != "tensorflow":
        raise rejection(
            path,
            f"Keras running on {keras.backend.backend()}",
            "tensorflow",
            'set the environment variable KERAS_BACKEND to "tensorflow" before importing keras',
        )


def _check_kind(path: str) -> bytes:
    """Tell a missing, foreign or empty file from a model file by its first bytes, returned."""
    expected = "a .keras or .h5 file"
    if os.path.isdir(path):
        advice = "give a .keras or .h5 file"
        if os.path.exists(os.path.join(path, GRAPH)) or versions(path):
            advice = "read a SavedModel with tfgrad.loading.load_served"
        raise rejection(path, "a directory", expected, advice)
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        advice = "check the path and the working directory"
        raise rejection(path, "no such file", expected, advice) from error
    except (OSError, ValueError) as error:
        got = f"a file that cannot be read ({error})"
        raise rejection(path, got, expected, "check the path and its permissions") from error
    if not head:
        advice = "its writing was interrupted: save the model again"
        raise rejection(path, "an empty file", expected, advice)
    if head == SIGNATURE:
        return head
    if not head.startswith(b"PK"):
        advice = "give a file that Keras saved"
        raise rejection(path, "a file that is not a zip archive", expected, advice)
    if not path.endswith(".keras"):
        raise rejection(path, "a name that does not end in .keras", expected, "rename the file")
    return head


def _check_content(path: str, compile: bool) -> None:
    """Check everything in the archive that Keras would read."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(path, archive)
            config = read_json(path, CONFIG, archive.read(CONFIG))
            metadata = read_json(path, METADATA, archive.read(METADATA))
            check_version(path, metadata)
            check_config(path, config if compile else {**config, "compile_config": None})
            check_weights(path, archive.read(WEIGHTS))
    except ModelError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise rejection(path, f"a damaged zip archive ({error})", WHOLE, DAMAGED) from error
    except Exception as error:  # zlib.error, struct.error, UnicodeDecodeError, …
        raise rejection(path, f"a damaged archive ({brief(error)})", WHOLE, DAMAGED) from error
