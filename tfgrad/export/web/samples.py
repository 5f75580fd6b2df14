"""Pictures that the page offers: files as they are, arrays as PNG files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad import images
from tfgrad.errors import ArgumentError

_SLACK = 1e-3  # of the range; values of float32 may lie so far outside


def written(
    samples: Mapping[str, Any] | Sequence[Any],
    folder: str,
    image_range: tuple[float, float],
    channel_axis: int,
) -> list[dict[str, str]]:
    """The samples' names and files, once these are in the folder.

    Args:
        samples: Paths of JPEG or PNG files, or arrays; by name, or in order.
        folder: The page's folder.
        image_range: What black and white are in arrays of floats.
        channel_axis: The axis of the channels in arrays of three axes, 0 or 2.

    Raises:
        ArgumentError: A sample is neither a path nor an array of such an image.
        DataError: A file cannot be read, or is no JPEG or PNG.
    """
    found = []
    for number, (name, sample) in enumerate(_named(samples), 1):
        if isinstance(sample, str | os.PathLike):
            images.read(sample)
            with open(sample, "rb") as file:
                content = file.read()
        else:
            pixels = _pixels(sample, name, image_range, channel_axis)
            content = tf.io.encode_png(pixels).numpy()
        ending = "png" if content.startswith(b"\x89PNG") else "jpg"
        file_name = f"samples/{number}.{ending}"
        os.makedirs(os.path.join(folder, "samples"), exist_ok=True)
        with open(os.path.join(folder, file_name), "wb") as file:
            file.write(content)
        found.append({"name": name, "file": file_name})
    return found


def _named(samples: Mapping[str, Any] | Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(samples, Mapping):
        yield from ((str(name), sample) for name, sample in samples.items())
        return
    if isinstance(samples, str | os.PathLike):
        raise ArgumentError(
            f"samples: got {os.fspath(samples)!r}; expected a list of paths or arrays, or a "
            "mapping of names to them; try samples=[…]."
        )
    for number, sample in enumerate(samples, 1):
        is_path = isinstance(sample, str | os.PathLike)
        yield os.path.basename(os.fspath(sample)) if is_path else f"sample {number}", sample


def _pixels(
    sample: Any, name: str, image_range: tuple[float, float], channel_axis: int
) -> np.ndarray:
    """An image as uint8 [height, width, 1 or 3]."""
    array = np.asarray(sample)
    if array.ndim == 2:
        array = array[..., np.newaxis]
    elif array.ndim == 3 and channel_axis == 0:
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ArgumentError(
            f"samples: got {name!r} of shape {np.shape(sample)}; expected an image "
            f"{'[channels, height, width]' if channel_axis == 0 else '[height, width, channels]'} "
            "of 1 or 3 channels, or the path of a file."
        )
    if array.dtype == np.uint8:
        return array
    low, high = image_range
    if array.dtype.kind not in "fiu":
        raise ArgumentError(f"samples: got {name!r} of {array.dtype}; expected uint8 or floats.")
    parts = (array.astype(np.float64) - low) / (high - low)
    if not ((parts >= -_SLACK) & (parts <= 1 + _SLACK)).all():
        raise ArgumentError(
            f"samples: got {name!r} with values from {array.min():g} to {array.max():g}; expected "
            f"those of image_range, {low:g} to {high:g}, or uint8."
        )
    return np.round(255 * np.clip(parts, 0, 1)).astype(np.uint8)
