"""Pictures inside of HTML: PNG files as data URIs, series as SVG; needs no matplotlib."""

from __future__ import annotations

import base64

import numpy as np
import tensorflow as tf

LARGEST = 224  # pixels of a picture's longer side
SMALLEST = 128  # to which the page enlarges it
_RED, _BLUE = np.array([178, 24, 43]) / 255, np.array([33, 102, 172]) / 255
_OPACITY = 0.85
_WIDTH, _HEIGHT = 320, 96  # of a series, in pixels
_GREYS = ("#000", "#666", "#999", "#333", "#bbb")


def tinted(picture: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] in greys under a map: red above zero, blue below, clear at zero.

    Args:
        picture: Values in 0 to 1, [H, W, C].
        strengths: The map [h, w], in −1 to 1.
    """
    height, width = picture.shape[:2]
    rows = np.arange(height) * strengths.shape[0] // height
    columns = np.arange(width) * strengths.shape[1] // width
    laid = strengths[rows][:, columns, np.newaxis]
    opacity = _OPACITY * np.abs(laid)
    return opacity * np.where(laid > 0, _RED, _BLUE) + (1 - opacity) * picture.mean(
        -1, keepdims=True
    )


def image_tag(picture: np.ndarray, label: str) -> str:
    """An `<img>` that holds its picture.

    Args:
        picture: [H, W, 1 or 3], values in 0 to 1; large ones are reduced to `LARGEST` pixels.
        label: The text in its place, escaped.
    """
    height, width = picture.shape[:2]
    if max(height, width) > LARGEST:
        ratio = LARGEST / max(height, width)
        size = [max(round(height * ratio), 1), max(round(width * ratio), 1)]
        picture = tf.image.resize(picture, size, method="area").numpy()
    pixels = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    content = base64.b64encode(tf.io.encode_png(pixels).numpy()).decode("ascii")
    side = "width" if width >= height else "height"
    shown = min(max(height, width, SMALLEST), LARGEST)
    return f'<img alt="{label}" {side}="{shown}" src="data:image/png;base64,{content}">'


def series_tag(values: np.ndarray, strengths: np.ndarray, label: str) -> str:
    """An `<svg>` of the curves of a series over the colours of its map.

    Args:
        values: [T, C]; all channels share one axis.
        strengths: The map [T′], in −1 to 1, stretched over the series.
        label: Its description, escaped.
    """
    bars = "".join(
        f'<rect x="{_WIDTH * i / len(strengths):.2f}" y="0" width="{_WIDTH / len(strengths):.2f}" '
        f'height="{_HEIGHT}" fill="rgb({_rgb(_RED if one > 0 else _BLUE)})" '
        f'fill-opacity="{0.6 * abs(one):.3f}"/>'
        for i, one in enumerate(strengths)
        if abs(one) > 5e-4
    )
    low, spread = values.min(), float(np.ptp(values)) or 1.0
    steps = (np.arange(len(values)) + 0.5) * _WIDTH / len(values)
    heights = (_HEIGHT - 8) * (1 - (values - low) / spread) + 4
    lines = "".join(
        f'<polyline fill="none" stroke="{_GREYS[c % len(_GREYS)]}" points="'
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(steps, heights[:, c], strict=True))
        + '"/>'
        for c in range(values.shape[1])
    )
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
        f"{bars}{lines}</svg>"
    )


def _rgb(colour: np.ndarray) -> str:
    return ",".join(str(round(255 * part)) for part in colour)
