"""Traces signatures, and writes them with their metadata as a version of a model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad._version import __version__
from tfgrad.errors import ModelError, TfgradError
from tfgrad.export import model_card, versions, warmup_requests
from tfgrad.export.portable.further import Further
from tfgrad.export.signatures import python_operation
from tfgrad.internal import announced, files, tensorflow_log
from tfgrad.internal.served_files import METADATA


def traced(network: keras.Model, takes: str, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The concrete function of each signature, none of which calls Python.

    Args:
        network: The exported model, for messages.
        takes: What it takes, for messages.
        build: A function that traces the signatures.

    Raises:
        ModelError: A signature cannot be traced, or calls Python.
    """
    who = f"model {network.name!r}"
    try:
        signatures = build()
    except TfgradError:
        raise
    except Exception as error:
        raise ModelError(
            f"{who}: got a model that cannot be traced ({type(error).__name__}: {error}); expected "
            f"one that takes {takes}. Try calling it on one batch first."
        ) from error
    for name, function in signatures.items():
        if operation := python_operation(function):
            raise ModelError(
                f"{who}: got a signature {name!r} that calls Python ({operation}); expected "
                "TensorFlow operations alone, as a server has no Python. Write tf.py_function and "
                "tf.numpy_function as TensorFlow operations."
            )
    return signatures


def published(
    network: keras.Model,
    variables: Sequence[tf.Variable],
    signatures: Mapping[str, Any],
    requests: warmup_requests.Requests,
    metadata: Mapping[str, Any],
    directory: str | os.PathLike[str],
    further: Further | None = None,
    version: int = 1,
    card: Mapping[str, Any] | None = None,
    penalties: Sequence[Any] | None = None,
) -> str:
    """The path of the new version, once everything is written.

    Args:
        network: The exported model, for messages.
        variables: Variables that the signatures may read.
        signatures: What `traced` returned.
        requests: Warm-up requests; none if empty.
        metadata: What is stated of this model; names and versions are added.
        directory: The model's directory.
        further: The files beside the SavedModel, or in its place.
        version: The least number of the version.
        card: Facts for the model card, as `model_card.checked` returns them.
        penalties: The penalties that the model was trained with; None if nothing tells.

    Raises:
        ModelError: A signature reads state that cannot be written.
    """
    directory = os.fspath(directory)
    # Only what the functions read: seeds of dropout, metrics and optimizer state are left out.
    read = {id(t) for f in signatures.values() for t in f.captured_inputs}
    # A layer may hold a tf.Variable that Keras does not know.
    known = {id(v.handle): v for f in signatures.values() for v in f.variables}
    known.update({id(v.handle): v for v in variables})
    module = tf.Module()
    module.variables_of_network = [v for key, v in known.items() if key in read]
    entries = {
        "name": os.path.basename(os.path.abspath(directory)),
        **metadata,
        "signatures": sorted(signatures),
        "tfgrad": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }

    stated = dict(entries)
    has_saved_model = further is None or further.with_saved_model

    def write(path: str) -> None:
        if has_saved_model:
            announced.part("writing the SavedModel")
            # Not the name of the temporary directory, which is renamed.
            with tensorflow_log.at_least(logging.WARNING):
                tf.saved_model.save(module, path, signatures=signatures)
        if further is not None:
            # Not the deprecation of what converters call.
            with tensorflow_log.at_least(logging.ERROR):
                stated["formats"] = further.write(signatures, path, stated)
        text = json.dumps(stated, indent=1, ensure_ascii=False, default=repr)
        os.makedirs(os.path.join(path, os.path.dirname(METADATA)))
        files.write_text(os.path.join(path, METADATA), text)
        if requests and has_saved_model:
            warmup_requests.write(path, entries["name"], requests)

    def sign(path: str, final: str) -> None:
        place = final if has_saved_model else None
        page = model_card.text(stated, signatures, card or {}, penalties, place)
        files.write_text(os.path.join(path, model_card.NAME), page)

    try:
        return versions.publish(directory, write, version, sign)
    except (AssertionError, TypeError) as error:  # TensorFlow's errors for state it cannot find
        raise ModelError(
            f"model {network.name!r}: got state that Keras does not track ({error}); "
            "expected variables of its layers. Create them with add_weight in a layer."
        ) from error
