"""The loss that a saved model was compiled with, by name: it tells what the outputs mean."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py

from tfgrad.loading.archive_checks import CONFIG
from tfgrad.loading.h5_file import SUFFIXES
from tfgrad.loading.rejection import MAX_JSON_BYTES


def saved_loss(path: str) -> Any:
    """The names of Keras's losses that a checked file was compiled with, in their structure.

    Args:
        path: A `.keras` or `.h5` file whose content was checked.

    Returns:
        A name, a list or {head: name}, None for a loss of someone else; None if there is none.
    """
    try:
        compiled = _h5(path) if path.endswith(SUFFIXES) else _keras(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return _named(compiled.get("loss")) if isinstance(compiled, Mapping) else None


def _keras(path: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(CONFIG)).get("compile_config")


def _h5(path: str) -> Any:
    with h5py.File(path, "r") as file:
        text = file.attrs.get("training_config") or "{}"
        return json.loads(text) if len(text) <= MAX_JSON_BYTES else None


def _named(loss: Any) -> Any:
    """The names in a serialised loss."""
    if isinstance(loss, str):
        return loss
    if isinstance(loss, list):
        return [_named(one) for one in loss]
    if not isinstance(loss, Mapping):
        return None
    name = loss.get("class_name")
    if name is None:
        return {head: _named(one) for head, one in loss.items()}
    if loss.get("registered_name") not in (None, name):
        return None
    told = loss.get("config") if name == "function" else name
    return told if isinstance(told, str) else None
