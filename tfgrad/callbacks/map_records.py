"""Where the maps of an epoch are written: PNG files, and TensorBoard's event files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tensorflow as tf

from tfgrad import figures
from tfgrad.errors import ArgumentError
from tfgrad.figures import canvas
from tfgrad.internal import files

if TYPE_CHECKING:
    from tfgrad.figures.canvas import Figure

_OVERLAY = 0.65  # opacity of a map over its image
# Outputs of `Method.explain` that are scalars of each example, and what the curve shows of them.
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "score": np.mean,
    "completeness_error": np.max,
    "convergence_gap": np.max,
}


class MapRecord(Protocol):
    """A place where pictures of maps are written."""

    def add(self, epoch: int, method: str, figure: Figure, found: Mapping[str, Any]) -> None:
        """Write the picture of a method.

        Args:
            epoch: Number of completed epochs.
            method: Name of the method.
            figure: The picture.
            found: What `Method.explain` returned, as arrays.
        """
        ...

    def close(self) -> None:
        """End writing."""
        ...


class MapFiles:
    """A PNG file for each epoch and method, which appears whole.

    Args:
        directory: Directory of the files; created if absent.

    Raises:
        ArgumentError: It cannot be created.
    """

    def __init__(self, directory: str) -> None:
        self._directory = files.make_directory(directory)
        files.remove_temporaries(directory, "epoch_*.png")

    def add(self, epoch: int, method: str, figure: Figure, found: Mapping[str, Any]) -> None:
        """Write `epoch_0003_METHOD.png`."""
        path = os.path.join(self._directory, f"epoch_{epoch:04d}_{method}.png")
        try:
            files.write_bytes(path, canvas.png(figure))
        except OSError as error:
            raise files.cannot_write(error, "directory", self._directory) from error

    def close(self) -> None:
        """Nothing is open."""


class MapSummaries:
    """Images and scalars in an event file of TensorBoard.

    Args:
        directory: Directory of the event file; created if absent.

    Raises:
        WriteError: It cannot be written.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        try:
            os.makedirs(directory, exist_ok=True)
            self._writer = tf.summary.create_file_writer(directory)
            self._writer.init()
        except OSError as error:
            raise files.cannot_write(error, "log_dir", directory) from error
        except tf.errors.OpError as error:
            cause = files.disk_error(error) or OSError(None, error.message)
            raise files.cannot_write(cause, "log_dir", directory) from error

    def add(self, epoch: int, method: str, figure: Figure, found: Mapping[str, Any]) -> None:
        """Write the picture as the image METHOD, and the scalars METHOD/…, at step `epoch`."""
        pixels = tf.io.decode_png(canvas.png(figure), channels=3)[tf.newaxis]
        with self._writer.as_default(step=epoch):
            tf.summary.image(method, pixels)
            for name, summary in _SCALARS.items():
                if name in found:
                    tf.summary.scalar(f"{method}/{name}", summary(found[name]))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def check_packages(tensorboard: bool) -> None:
    """Raise if a package that draws or writes is missing.

    Args:
        tensorboard: Whether TensorBoard's files are written.

    Raises:
        ImportError: One is; the message names the extra.
    """
    canvas.new_figure((1, 1))
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "Image summaries need tensorboard, which is not installed. Try: pip install "
            "'tfgrad[apps]', or pass directory= in the place of log_dir=."
        )


def picture(
    name: str,
    x: Any,
    found: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The examples beside their maps, a row for each.

    Args:
        name: Name of the method.
        x: The examples as arrays.
        found: What `Method.explain` returned, as arrays.
        class_names: Names of the classes, for captions.
        title: A line above the picture.

    Raises:
        ArgumentError: There is no picture of such inputs, or there are fewer names than classes.
    """
    maps, notes = {name: found["saliency"]}, _notes(found, class_names)
    if not tf.nest.is_nested(x) and np.ndim(maps[name]) == 3:
        return figures.saliency_grid(
            None, _pixels(x, maps[name]), maps, notes=notes, overlay=_OVERLAY, title=title
        )
    if not tf.nest.is_nested(x) and np.ndim(maps[name]) == 4:
        return figures.saliency_slices(
            None, _pixels(x, maps[name]), maps, notes=notes, overlay=_OVERLAY, title=title
        )
    return figures.saliency_of_inputs(None, x, maps, notes=notes, title=title)


def _notes(found: Mapping[str, Any], class_names: Sequence[str] | None) -> list[str] | None:
    """A line for each example: the explained class, and the scalar."""
    if "score" not in found:
        return None
    scores = [f"score {score:.3g}" for score in found["score"]]
    if "class" not in found:
        return scores
    classes = [int(index) for index in found["class"]]
    if class_names is not None and max(classes) >= len(class_names):
        raise ArgumentError(
            f"class_names: got {len(class_names)} names; expected one for each class, of which "
            f"{max(classes)} is explained."
        )
    names = [f"class {i}" if class_names is None else str(class_names[i]) for i in classes]
    return [f"{name}\n{score}" for name, score in zip(names, scores, strict=True)]


def _pixels(x: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Images or volumes with 1 or 3 channels, the last axis, of those that the model takes."""
    if x.ndim == maps.ndim:
        return x
    if x.shape[1:-1] != maps.shape[1:] == x.shape[2:]:  # channels first
        x = np.moveaxis(x, 1, -1)
    return x if x.shape[-1] in (1, 3) else x.mean(-1, keepdims=True)
