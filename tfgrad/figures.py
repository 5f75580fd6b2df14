"""Arrays to pictures. The only importer of matplotlib, and only when a picture is drawn.

Every function writes one PNG, under a temporary name first, so that a viewer or a crash never
sees half a file. Figures are built as objects: the caller's backend, styles and open figures in
`matplotlib.pyplot` are left alone, and no display is needed.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BYTES = 300_000
_RIGHT, _WRONG = "#1a7f37", "#c62828"
SEQUENTIAL = ("inferno", "magma", "viridis", "gray")
SCALES = ("percentile", "contrast", "minmax")
_DIVERGING = "RdBu_r"
_CELL = 1.25  # inches
_CHARACTER, _CAPTION = 0.072, 28  # inches a character of a caption takes; characters in a line
_HEADING = 17, 22  # characters above a column, and the most, in smaller letters
_PERCENTILE = 99.0  # one hot pixel must not darken the rest of its map
# Dots per inch and colours: a large grid of photographs gets coarser until it is small enough.
_QUALITIES = ((110, None), (110, 256), (80, 256), (60, 256), (45, 256), (45, 32))


def grid(
    path: str | os.PathLike[str],
    rows: Sequence[Sequence[ArrayLike]],
    *,
    columns: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    title: str | None = None,
) -> str:
    """Draw a grid of pictures.

    Args:
        path: the PNG to write.
        rows: rows of pictures of any sizes: [H, W, 3], [H, W, 1] or [H, W] greyscale, values in
            0 to 1 (what is outside is clipped).
        columns: a heading for each column.
        captions: a text left of each row; lines are separated by a newline.
        colours: a colour for each caption.
        title: a line above all.

    Returns:
        The path.

    Raises:
        ArgumentError: the rows differ in length, a picture has another shape or is not finite, or
            the path cannot be written.
        ImportError: matplotlib is not installed.
    """
    pictures = [
        [_picture(p, f"rows[{i}][{j}]") for j, p in enumerate(r)] for i, r in enumerate(rows)
    ]
    if not pictures or not pictures[0] or len({len(row) for row in pictures}) > 1:
        raise ArgumentError(
            f"rows: got rows of {[len(row) for row in pictures]} pictures, expected equal lengths."
        )
    height, width = len(pictures), len(pictures[0])
    for name, given, expected in (
        ("columns", columns, width),
        ("captions", captions, height),
        ("colours", colours, height),
    ):
        if given is not None and len(given) != expected:
            raise ArgumentError(f"{name}: got {len(given)} for {expected} in the grid.")

    texts = [_fitted(caption, _CAPTION) for caption in captions or ()]
    longest = max((len(line) for text in texts for line in text.split("\n")), default=0)
    left = longest * _CHARACTER + 0.2 if texts else 0.08
    top = 0.08 + (0.2 if columns else 0) + (0.24 if title else 0)
    size = (left + width * _CELL + 0.05, top + height * _CELL + 0.05)
    figure = _figure(size)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            # Placed in inches from the upper left corner, as a layout engine would only guess.
            x, y = left + j * _CELL, top + i * _CELL
            axes = figure.add_axes(
                (
                    x / size[0],
                    1 - (y + _CELL - 0.06) / size[1],
                    (_CELL - 0.06) / size[0],
                    (_CELL - 0.06) / size[1],
                )
            )
            axes.imshow(picture, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            if i == 0 and columns is not None:
                heading = _fitted(columns[j], _HEADING[1])
                size_of_it = 9 * min(1.0, _HEADING[0] / max(len(heading), 1))
                axes.set_title(heading, fontsize=size_of_it, pad=4)
        if texts:
            figure.text(
                (left - 0.1) / size[0],
                1 - (top + (i + 0.5) * _CELL - 0.03) / size[1],
                texts[i],
                ha="right",
                va="center",
                fontsize=8,
                color=colours[i] if colours is not None else "black",
                linespacing=1.5,
            )
    if title:
        figure.text(0.5, 1 - 0.06 / size[1], title, ha="center", va="top", fontsize=11)
    return _write(figure, path)


def saliency_grid(
    path: str | os.PathLike[str],
    images: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    labels: Sequence[Any] | None = None,
    predictions: Sequence[Any] | None = None,
    probabilities: ArrayLike | None = None,
    notes: Sequence[str] | None = None,
    magnitude: bool = False,
    scale: str = "percentile",
    sequential: str = "inferno",
    overlay: float = 0.0,
    title: str | None = None,
) -> str:
    """Draw images beside their saliency maps, one row an image and one column a method.

    Each map is scaled by itself: values from 0 to its 99th percentile run from dark to bright; a
    method with negative values is shown around 0, blue below and red above, up to the 99th
    percentile of the absolute value. Colours therefore compare places, not images or methods.
    The papers' pictures are `magnitude=True, scale="minmax", sequential="gray"`.

    Args:
        path: the PNG to write.
        images: [n, H, W, C] with 1 or 3 channels, or [n, H, W]; values in 0 to 1. Other ranges are
            stretched, all images alike.
        maps: a method's name to its maps [n, H', W'], raw. A map is signed if the method gave any
            negative value in the batch.
        labels: the true classes.
        predictions: the predicted classes; a row's text is green where they agree, else red.
        probabilities: the predicted classes' probabilities, [n].
        notes: further lines of each row's text.
        magnitude: whether signed maps are drawn by their absolute values.
        scale: what runs from dark to bright in a map without signs: `"percentile"`, from 0 to the
            99th percentile; `"contrast"`, from the minimum to there; or `"minmax"`, from the
            minimum to the maximum.
        sequential: the colours of maps without signs: "inferno", "magma", "viridis" or "gray".
        overlay: 0 draws maps alone; up to 1, their opacity over the image in greys.
        title: a line above all.

    Returns:
        The path.

    Raises:
        ArgumentError: shapes do not fit, a value is NaN or infinite, or an option is none.
        ImportError: matplotlib is not installed.
    """
    pixels = _finite(images, "images")
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not len(pixels):
        raise ArgumentError(
            f"images: got shape {np.shape(images)}, expected [n, H, W], or [n, H, W, C] with "
            "1 or 3 channels."
        )
    pixels = _stretched(pixels)
    for option, value, known in (
        ("scale", scale, SCALES),
        ("sequential", sequential, SEQUENTIAL),
    ):
        if value not in known:
            raise ArgumentError(f"{option}: got {value!r}, expected one of {known}.")
    if not 0 <= overlay <= 1:
        raise ArgumentError(f"overlay: got {overlay}, expected an opacity in 0 to 1.")
    drawn = {}
    for name, values in maps.items():
        values = _finite(values, f"maps[{name!r}]")
        if values.ndim == 4 and values.shape[-1] == 1:
            values = values[..., 0]
        if values.ndim != 3 or len(values) != len(pixels):
            raise ArgumentError(
                f"maps[{name!r}]: got shape {values.shape}, expected [{len(pixels)}, H, W]. "
                "Sum a gradient over its channels first."
            )
        drawn[name] = _coloured(
            np.abs(values) if magnitude else values, scale=scale, sequential=sequential
        )
        if overlay:
            pairs = zip(drawn[name], pixels, strict=True)
            drawn[name] = [_laid_over(colours, image, overlay) for colours, image in pairs]
    for name, given in (
        ("labels", labels),
        ("predictions", predictions),
        ("probabilities", probabilities),
        ("notes", notes),
    ):
        if given is not None and np.shape(given) != (len(pixels),):
            raise ArgumentError(
                f"{name}: got shape {np.shape(given)}, expected one for each of "
                f"{len(pixels)} images."
            )

    captions, colours = [], []
    for i in range(len(pixels)):
        lines = [] if labels is None else [f"true: {labels[i]}"]
        if predictions is not None:
            lines.append(f"predicted: {predictions[i]}")
        if probabilities is not None:
            lines.append(f"p = {np.asarray(probabilities)[i]:.2f}")
        if notes is not None:
            lines.append(notes[i])
        captions.append("\n".join(lines))
        if labels is None or predictions is None:
            colours.append("black")
        else:
            colours.append(_RIGHT if labels[i] == predictions[i] else _WRONG)
    return grid(
        path,
        [[image, *(m[i] for m in drawn.values())] for i, image in enumerate(pixels)],
        columns=["image", *drawn],
        captions=captions if any(captions) else None,
        colours=colours if any(captions) else None,
        title=title,
    )


def accuracy_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, Mapping[float, tuple[float, float]]],
    *,
    x_label: str = "standard deviation σ of the input noise",
    y_label: str = "test accuracy",
    title: str | None = None,
) -> str:
    """Draw accuracy against noise, a line for each model, with error bars.

    Args:
        path: the PNG to write.
        curves: a model's name to {σ: (mean accuracy, standard deviation)}, accuracies in 0 to 1.
        x_label: the axis below.
        y_label: the axis to the left.
        title: a line above.

    Returns:
        The path.

    Raises:
        ArgumentError: there is no curve, or one is empty or not finite.
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Any, name: str, points: Any, style: dict[str, Any]) -> None:
        sigmas = sorted(points)
        table = _finite([[s, *points[s]] for s in sigmas], f"curves[{name!r}]")
        if table.ndim != 2 or table.shape[1] != 3:
            raise ArgumentError(
                f"curves[{name!r}]: expected {{σ: (mean, deviation)}}, got {points}."
            )
        axes.errorbar(*table.T[:2], yerr=table.T[2], label=name, capsize=3, **style)

    return _lines_figure(path, "curves", curves, draw, x_label, y_label, title)


def history(
    path: str | os.PathLike[str],
    metrics: Mapping[str, Sequence[float]],
    *,
    y_label: str = "value",
    title: str | None = None,
) -> str:
    """Draw metrics over epochs, as `History.history` of `fit` holds them.

    Args:
        path: the PNG to write.
        metrics: a metric's name to its value after each epoch.
        y_label: the axis to the left.
        title: a line above.

    Returns:
        The path.

    Raises:
        ArgumentError: there is no metric, or one is empty or not finite.
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Any, name: str, points: Any, style: dict[str, Any]) -> None:
        values = _finite(points, f"metrics[{name!r}]")
        axes.plot(np.arange(1, len(values) + 1), values, label=name, **style)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _lines_figure(path, "metrics", metrics, draw, "epoch", y_label, title)


def functions(
    path: str | os.PathLike[str],
    x: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    points: ArrayLike | None = None,
    x_label: str = "x",
    y_label: str = "f(x)",
    title: str | None = None,
) -> str:
    """Draw functions of one variable; the first is the reference, drawn broad and grey.

    Args:
        path: the PNG to write.
        x: where the functions were evaluated, [n].
        curves: a function's name to its values, [n].
        points: (x, y) of single points to mark, each [m].
        x_label: the axis below.
        y_label: the axis to the left.
        title: a line above.

    Returns:
        The path.

    Raises:
        ArgumentError: there is no curve, or lengths do not fit, or a value is not finite.
        ImportError: matplotlib is not installed.
    """
    where = _finite(x, "x")
    marked = None if points is None else _finite(points, "points")
    if marked is not None and (marked.ndim != 2 or len(marked) != 2):
        raise ArgumentError(f"points: got shape {marked.shape}, expected (x, y), each [m].")

    def draw(axes: Any, name: str, values: Any, style: dict[str, Any]) -> None:
        heights = _finite(values, f"curves[{name!r}]")
        if heights.shape != where.shape or where.ndim != 1:
            raise ArgumentError(
                f"curves[{name!r}]: got shape {heights.shape}, expected that of x, {where.shape}."
            )
        first = not axes.lines
        broad = {"linewidth": 5, "color": "0.8"} if first else {"linewidth": 1.6}
        axes.plot(where, heights, label=name, **broad)
        if first and marked is not None:
            axes.plot(*marked, "ko", markersize=5, zorder=3)

    return _lines_figure(path, "curves", curves, draw, x_label, y_label, title)


def _lines_figure(
    path: str | os.PathLike[str],
    argument: str,
    curves: Mapping[str, Any],
    draw: Callable[[Any, str, Any, dict[str, Any]], None],
    x_label: str,
    y_label: str,
    title: str | None,
) -> str:
    if not curves or not all(len(points) for points in curves.values()):
        raise ArgumentError(f"{argument}: got nothing to draw in {dict(curves)}.")
    figure = _figure((6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(curves.items()):
        # The marker tells lines apart where colours do not (print, colour blindness).
        draw(axes, name, points, {"marker": "osD^vPX*"[i % 8], "markersize": 4.5, "linewidth": 1.6})
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    if title:
        axes.set_title(title, fontsize=11)
    return _write(figure, path)


def _figure(size: tuple[float, float], layout: str | None = None) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib, which is not installed. Try: pip install 'tfgrad[figures]'"
        ) from error
    figure = Figure(figsize=size, dpi=110, layout=layout, facecolor="white")  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, path: str | os.PathLike[str]) -> str:
    path = os.fspath(path)
    temporary = f"{path}.tmp-{os.getpid()}-{threading.get_ident()}"
    try:
        for dpi, colours in _QUALITIES:
            content = _png(figure, dpi, colours)
            if len(content) <= MAX_BYTES:
                break
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        raise ArgumentError(
            f"path: {path!r} cannot be written ({error.strerror}). Choose a file in an existing "
            "directory."
        ) from error
    finally:
        with suppress(OSError):
            os.remove(temporary)
    return path


def _png(figure: Figure, dpi: int, colours: int | None) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    if colours is not None:
        from PIL import Image  # comes with matplotlib

        picture = Image.open(content).convert("RGB")
        palette = picture.quantize(colours)
        entries = np.array(palette.getpalette() or [], np.uint8).reshape(-1, 3)
        lightest = entries.min(1)
        entries[lightest >= min(245, lightest.max())] = 255  # the background stays white
        palette.putpalette(entries.ravel().tolist())
        content = io.BytesIO()
        picture.quantize(palette=palette).save(content, format="png", optimize=True)  # dithers
    return content.getvalue()


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}: got {type(values).__name__}, expected numbers.") from error
    if not np.isfinite(array).all():
        raise ArgumentError(f"{name}: got NaN or infinite values, which have no colour.")
    return array


def _picture(values: ArrayLike, name: str) -> np.ndarray:
    array = _finite(values, name)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)):
        raise ArgumentError(f"{name}: got shape {array.shape}, expected [H, W] or [H, W, 1 or 3].")
    return np.clip(array, 0, 1)


def _stretched(images: np.ndarray) -> np.ndarray:
    low, high = images.min(), images.max()
    if low >= 0 and high <= 1:
        return images
    return (images - low) / max(high - low, np.finfo(np.float64).tiny)


def _coloured(
    values: np.ndarray, *, scale: str = "percentile", sequential: str = "inferno"
) -> list[np.ndarray]:
    """Maps [n, H, W] to n pictures [H, W, 3]."""
    try:
        from matplotlib import colormaps
    except ImportError:
        _figure((1, 1))  # says what to install
        raise
    signed = bool((values < 0).any())
    pictures = []
    for one in values:
        low = 0.0 if signed or scale == "percentile" else one.min()
        high = (
            one.max()
            if not signed and scale == "minmax"
            else np.percentile(np.abs(one), _PERCENTILE)
        )
        bound = (high - low) or np.abs(one).max() or 1.0  # a sparse map, an empty one
        scaled = np.clip((one - low) / bound, -1, 1)
        colours = (
            colormaps[_DIVERGING]((scaled + 1) / 2) if signed else colormaps[sequential](scaled)
        )
        pictures.append(colours[..., :3])
    return pictures


def _laid_over(colours: np.ndarray, image: np.ndarray, opacity: float) -> np.ndarray:
    """A coloured map over the image in greys, at the image's size."""
    height, width = image.shape[:2]
    rows = np.arange(height) * colours.shape[0] // height
    columns = np.arange(width) * colours.shape[1] // width
    grey = image.mean(-1, keepdims=True)
    return opacity * colours[rows][:, columns] + (1 - opacity) * grey


def _fitted(text: str, width: int) -> str:
    """A line cut to a width in characters, so that names of ImageNet do not run into pictures."""
    return "\n".join(
        line if len(line) <= width else f"{line[: width - 1]}…" for line in text.split("\n")
    )
