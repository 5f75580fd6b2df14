"""Writes the page's folder."""

from __future__ import annotations

import html
import importlib.resources
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from tfgrad import images
from tfgrad._version import __version__
from tfgrad.errors import ArgumentError
from tfgrad.export.web import runtime as runtimes
from tfgrad.export.web import samples as pictures
from tfgrad.internal import files
from tfgrad.internal.arguments import integer, is_integer
from tfgrad.internal.served_files import METADATA

MODEL = "model.json"
DEFAULT = "serving_default"
_PAGE = "index.html"
_TITLE = "{{title}}"


def write(
    directory: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
    *,
    samples: Mapping[str, Any] | Sequence[Any] = (),
    title: str | None = None,
    batch_size: int | None = None,
    runtime: str | os.PathLike[str] | None = None,
) -> str:
    """Write a folder with a page that explains photographs, computed in the browser.

    The folder appears complete or not at all. Serve it with any server of files, for example
    `python -m http.server --directory FOLDER`; pages that are opened as files cannot read the
    model's.

    Args:
        directory: Where `serving_default.onnx` and `METHOD.onnx` are, for example the version that
            `tfgrad.export.save(formats=("onnx",))` returned. The files are copied.
        folder: The folder to write. An earlier page in it is replaced.
        metadata: What `tfgrad.json` states of the model: `input_shape`, `image_range`, `methods`,
            and, where known, `classes`, `name` and `formats`. None: read from `directory`.
        samples: Pictures that the page offers: paths of JPEG or PNG files, or arrays in the
            model's layout, uint8 or floats in `image_range`; in order, or by name.
        title: The page's heading. None: the model's name.
        batch_size: The number of images that the files take; the page repeats its one. None: what
            the metadata states, or 1.
        runtime: A directory with the npm package onnxruntime-web or with its `dist`, which is
            copied; the page then makes no request elsewhere. `tfgrad.export.web.PUBLISHED`: the
            page loads a fixed version from its published address, and runs it only if it is bit for
            bit the expected one. None: a copy installed in `node_modules` of the working directory
            or above it, otherwise `PUBLISHED`.

    Returns:
        The folder's path.

    Raises:
        ArgumentError: A file or an entry of the metadata is missing or does not suit photographs,
            a sample is no image, `runtime` lacks a file, or `folder` holds something else.
        DataError: A sample's file is no JPEG or PNG image.
        WriteError: The folder cannot be written.
    """
    directory, folder = os.fspath(directory), os.fspath(folder)
    stated = _read(directory) if metadata is None else metadata
    model = _model(directory, stated, batch_size)
    heading = str(title or stated.get("name") or os.path.basename(os.path.abspath(directory)))
    _check_replaceable(folder)
    # Of a sample that is an array: without the batch.
    channel_axis = 0 if model["channels_first"] else 2
    try:
        with files.replaced_directory(folder) as new:
            for asset in (importlib.resources.files(__package__) / "page").iterdir():
                content = asset.read_bytes()
                if asset.name == _PAGE:
                    content = content.replace(_TITLE.encode(), _escaped(heading))
                with open(os.path.join(new, asset.name), "wb") as file:
                    file.write(content)
            for name in (DEFAULT, *model["methods"]):
                shutil.copyfile(
                    os.path.join(directory, f"{name}.onnx"), os.path.join(new, f"{name}.onnx")
                )
            model["runtime"] = runtimes.placed(runtime, new)
            model["samples"] = pictures.written(samples, new, model["image_range"], channel_axis)
            files.write_json(os.path.join(new, MODEL), model)
    except OSError as error:
        raise files.cannot_write(error, "folder", folder) from error
    return folder


def _read(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, METADATA)
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise ArgumentError(
            f"directory: got {directory!r}, whose {METADATA} cannot be read ({error}); expected an "
            "exported version; try tfgrad.export.save(formats=('onnx',)), or metadata=."
        ) from error


def _model(directory: str, stated: Mapping[str, Any], batch_size: int | None) -> dict[str, Any]:
    """What the page has to know of the model.

    Raises:
        ArgumentError: The page cannot explain it.
    """
    if not os.path.isfile(os.path.join(directory, f"{DEFAULT}.onnx")):
        raise ArgumentError(
            f"directory: got {directory!r}, which has no {DEFAULT}.onnx; expected the files of an "
            "exported model; try tfgrad.export.save(formats=('onnx',))."
        )
    named = list(stated.get("methods") or ())
    methods = [n for n in named if os.path.isfile(os.path.join(directory, f"{n}.onnx"))]
    if not methods:
        raise ArgumentError(
            f"directory: got {directory!r}, which has no file of the methods {named}; expected "
            "METHOD.onnx of at least one."
        )
    said = (stated.get("formats") or {}).get("onnx", {})
    reasons = said.get("left_out", {})
    size = said.get("batch_size", 1) if batch_size is None else batch_size
    shape, channels_first = _image_shape(stated.get("input_shape"))
    channels, height, width = shape if channels_first else (shape[2], shape[0], shape[1])
    classes = stated.get("classes")
    return {
        "classes": None if classes is None else [str(name) for name in classes],
        "methods": methods,
        "left_out": {n: reasons.get(n, "no ONNX file") for n in named if n not in methods},
        "input_shape": shape,
        "height": height,
        "width": width,
        "channels": channels,
        "channels_first": channels_first,
        "image_range": _image_range(stated.get("image_range")),
        "batch_size": integer("batch_size", size),
        "limits": {"bytes": images.MAX_BYTES, "pixels": images.MAX_PIXELS},
        "tfgrad": __version__,
    }


def _image_shape(given: Any) -> tuple[list[int], bool]:
    """The shape of one image, and whether its channels come first.

    Raises:
        ArgumentError: It is no image of a fixed size with 1 or 3 channels.
    """
    shape = list(given)[1:] if isinstance(given, Sequence) and not isinstance(given, str) else []
    fixed = len(shape) == 3 and all(is_integer(n) and n >= 1 for n in shape)
    if not fixed or (shape[2] not in (1, 3) and shape[0] not in (1, 3)):
        raise ArgumentError(
            f"input_shape: got {given!r}; expected [None, height, width, channels] or [None, "
            "channels, height, width] of a fixed size with 1 or 3 channels, as photographs have; "
            "try a model with a keras.Input of one size."
        )
    return shape, shape[2] not in (1, 3)


def _image_range(given: Any) -> tuple[float, float]:
    if given is None:
        raise ArgumentError(
            "image_range: got None; expected the values of black and white in the model's images, "
            "to which the page scales photographs; try image_range=(0, 1), (0, 255) or (-1, 1)."
        )
    low, high = given
    return float(low), float(high)


def _check_replaceable(folder: str) -> None:
    """Check that nothing but an earlier page is replaced.

    Raises:
        ArgumentError: The folder holds something else.
    """
    if not os.path.lexists(folder):
        return
    is_page = all(os.path.isfile(os.path.join(folder, name)) for name in (_PAGE, MODEL))
    if not is_page and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise ArgumentError(
            f"folder: got {folder!r}, which holds something else than an earlier page; expected a "
            "new or empty folder; try one inside it."
        )


def _escaped(text: str) -> bytes:
    """A text as it stands in HTML."""
    return html.escape(text).encode("utf-8", "replace")
