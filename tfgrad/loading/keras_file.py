"""Validates and loads `.keras` files, and the HDF5 files (`.h5`) that Keras wrote before.

A model file is a program written by somebody else: it names the classes to build. So it is read as
data first, and passed to Keras only if nothing in it names code from elsewhere, a file outside, or
an absurd size. Whatever is wrong, the caller gets one `ModelError` that names the path, what was
found, what was expected and what to try; the exception of Keras is its `__cause__`.

Only regular files are read, and only as much as the caller allows. The file is opened once: what is
checked is what Keras loads, even if somebody exchanges the file in between. While Keras builds the
model, the weights that its config declares are compared with those that the file holds before any
is made (`tfgrad.loading.build_limits`).

Limits: TensorFlow's kernels and the HDF5 library run in this process. Load files from untrusted
sources in a sandbox.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import keras

from tfgrad import (
    training,  # noqa: F401  (registers their classes)
)
from tfgrad.errors import ModelError
from tfgrad.gradients.model_checks import nonfinite_weight
from tfgrad.internal import arguments, keras_private, regular_files
from tfgrad.internal.wrapper import Wrapper
from tfgrad.loading import archive_checks, build_limits, h5_file
from tfgrad.loading.archive_checks import CONFIG, METADATA, WEIGHTS
from tfgrad.loading.config_checks import check_config, check_version
from tfgrad.loading.h5_checks import Held, check_weights
from tfgrad.loading.h5_heaps import check_heaps
from tfgrad.loading.rejection import (
    DAMAGED,
    DIVERGED,
    FINITE,
    LIMIT_BYTES,
    WHOLE,
    brief,
    limit,
    path_argument,
    read_json,
    rejection,
    too_large,
)
from tfgrad.loading.saved_loss import saved_loss
from tfgrad.loading.saved_model import GRAPH, versions
from tfgrad.models import output_meaning

_EXPECTED = "a .keras or .h5 file"


def load(
    path: str | os.PathLike[str],
    *,
    compile: bool = True,
    limit_bytes: int = LIMIT_BYTES,
    limit_seconds: float = build_limits.LIMIT_SECONDS,
) -> keras.Model:
    """Load a `.keras` file, or a legacy `.h5` file, without running any code from it.

    Classes come from Keras, from tfgrad, or from `keras.saving.register_keras_serializable` in
    this process; nothing is imported because the file says so.

    Args:
        path: A regular local file whose name ends in `.keras`, `.h5` or `.hdf5`.
        compile: Whether to restore the optimizer, loss and metrics of `compile` as well. What the
            loss tells of the outputs' meaning is known in either case.
        limit_bytes: The most bytes that the file may have, and what it unpacks to; ≥ 1.
        limit_seconds: The seconds after which the building of the model is given up, at the next
            call of a layer; above 0.

    Returns:
        The model, with finite weights.

    Raises:
        ModelError: The file is missing, no regular file, damaged, foreign, unsafe or too large, or
            declares weights that it does not hold, or a weight or, with `compile`, the state of
            the optimizer is NaN or infinite.
        ArgumentError: A limit is not such a number, or `path` is no path.
    """
    most, seconds = limit(limit_bytes), arguments.number("limit_seconds", limit_seconds)
    path = path_argument(path)
    _check_backend(path)
    with _opened(path, most) as (file, head):
        size = regular_files.size(file)
        if head == h5_file.SIGNATURE:
            model, compiled = _load_h5(path, file, size, compile, seconds)
        else:
            held, compiled = _check_content(path, file, size, compile, most)
            with _building(path, held, compile, seconds):
                file.seek(0)
                model = keras_private.load_archive(file, compile)
    if not isinstance(model, keras.Model):
        raise rejection(path, f"a saved {type(model).__name__}", "a model", "save a keras.Model")
    if weight := nonfinite_weight(model.weights):
        raise rejection(path, f"NaN or infinite values in the weight {weight}", FINITE, DIVERGED)
    if compile and (state := _nonfinite_state(model)):
        raise rejection(
            path,
            f"NaN or infinite values in the state of the optimizer, {state}",
            "a finite one",
            "load with compile=False and call model.compile anew, or load an earlier checkpoint",
        )
    network = model.network if isinstance(model, Wrapper) else model
    output_meaning.remember(network, loss=saved_loss(compiled))
    return model


def _nonfinite_state(model: keras.Model) -> str | None:
    """Path of the first variable of the optimizer that is not finite; None if all are."""
    optimizer = getattr(model, "optimizer", None)
    return nonfinite_weight(optimizer.variables) if optimizer is not None else None


def _check_backend(path: str) -> None:
    if keras.backend.backend() != "tensorflow":
        raise rejection(
            path,
            f"Keras running on {keras.backend.backend()}",
            "tensorflow",
            'set the environment variable KERAS_BACKEND to "tensorflow" before importing keras',
        )


@contextlib.contextmanager
def _opened(path: str, limit_bytes: int) -> Iterator[tuple[io.BufferedReader, bytes]]:
    """A file that is opened once, and its first bytes, which are those of a model file."""
    if os.path.isdir(path):
        advice = "give a .keras or .h5 file"
        if os.path.exists(os.path.join(path, GRAPH)) or versions(path):
            advice = "read a SavedModel with tfgrad.loading.load_served"
        raise rejection(path, "a directory", _EXPECTED, advice)
    try:
        file = regular_files.opened(path)
    except FileNotFoundError as error:
        advice = "check the path and the working directory"
        raise rejection(path, "no such file", _EXPECTED, advice) from error
    except regular_files.NotRegularError as error:
        raise rejection(path, str(error.strerror), _EXPECTED, "copy the model to a file") from error
    except (OSError, ValueError) as error:
        got = f"a file that cannot be read ({error})"
        raise rejection(path, got, _EXPECTED, "check the path and its permissions") from error
    with file:
        size = regular_files.size(file)
        if size > limit_bytes:
            raise too_large(path, f"a file of {size / 2**30:.3g} GiB", limit_bytes)
        try:
            head = file.read(8)
        except OSError as error:
            got = f"a file that cannot be read ({error})"
            raise rejection(path, got, _EXPECTED, "check the disk") from error
        file.seek(0)
        _check_head(path, head)
        yield file, head


def _check_head(path: str, head: bytes) -> None:
    """Tell a foreign or empty file from a model file by its first bytes."""
    if not head:
        advice = "its writing was interrupted: save the model again"
        raise rejection(path, "an empty file", _EXPECTED, advice)
    hdf5 = head == h5_file.SIGNATURE
    if not hdf5 and not head.startswith(b"PK"):
        advice = "give a file that Keras saved"
        raise rejection(path, "a file that is not a zip archive", _EXPECTED, advice)
    if hdf5 and not path.endswith(h5_file.SUFFIXES):
        raise rejection(
            path, "an HDF5 file of another name", "a name that ends in .h5", "rename the file"
        )
    if not hdf5 and not path.endswith(".keras"):
        raise rejection(path, "a name that does not end in .keras", _EXPECTED, "rename the file")


def _check_content(
    path: str, file: io.BufferedReader, size: int, compile: bool, limit_bytes: int
) -> tuple[Held, Any]:
    """Check everything in the archive that Keras would read.

    Returns:
        (what its arrays hold, the arguments of `compile` that it holds).
    """
    try:
        archive_checks.check_directory(path, file)
        with zipfile.ZipFile(file) as archive:
            archive_checks.check_members(path, archive, size, limit_bytes)
            config = read_json(path, CONFIG, archive.read(CONFIG))
            metadata = read_json(path, METADATA, archive.read(METADATA))
            check_version(path, metadata)
            check_config(path, config if compile else {**config, "compile_config": None})
            held = check_weights(path, io.BytesIO(archive.read(WEIGHTS)), size)
    except ModelError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise rejection(path, f"a damaged zip archive ({error})", WHOLE, DAMAGED) from error
    except Exception as error:  # zlib.error, struct.error, UnicodeDecodeError, …
        raise rejection(path, f"a damaged archive ({brief(error)})", WHOLE, DAMAGED) from error
    compiled = config.get("compile_config")
    if compile and isinstance(compiled, dict) and compiled.get("optimizer") and not held.optimizer:
        raise rejection(
            path,
            f"a {WEIGHTS} without the state of the optimizer that {CONFIG} names",
            "both or none",
            "load with compile=False and call model.compile anew",
        )
    return held, compiled


def _load_h5(
    path: str, file: io.BufferedReader, size: int, compile: bool, seconds: float
) -> tuple[Any, Any]:
    """(the object in a legacy HDF5 file, the arguments of `compile` that it holds)."""
    try:
        check_heaps(path, file, "HDF5 file")
        opened = h5py.File(file, "r")
    except ModelError:
        raise
    except Exception as error:
        raise h5_file.damaged(path, error) from error
    with opened:
        held, compiled = h5_file.check_h5(path, opened, size, compile)
        with _building(path, held, compile, seconds):
            model = keras_private.load_h5(opened, compile)
        h5_file.check_order(path, opened, model)
        return model, compiled


@contextlib.contextmanager
def _building(path: str, held: Held, compile: bool, seconds: float) -> Iterator[None]:
    """The block in which Keras builds a model: what it raises is worded for the caller."""
    try:
        with build_limits.limited(path, held, compile, seconds):
            yield
    except ModelError:
        raise
    except Exception as error:
        raise rejection(
            path,
            f"a model that Keras {keras.__version__} cannot build: {brief(error)}",
            "classes that exist here and weights that fit them",
            "the file was written by another version, its classes are not imported here, or its "
            "weights belong to another model: "
            "build the model in Python and compare, or save it again",
        ) from error
