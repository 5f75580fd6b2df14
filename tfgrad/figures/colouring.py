"""Arrays as pictures [H, W, 3] in 0 to 1: stretched images, coloured maps, overlays."""

from __future__ import annotations

import numpy as np

from tfgrad.figures.canvas import colour_map

SEQUENTIAL = ("inferno", "magma", "viridis", "gray")
SCALES = ("percentile", "contrast", "minmax")
_DIVERGING = "RdBu_r"
_PERCENTILE = 99.0  # a single extreme pixel must not darken the rest of its map


def stretched(images: np.ndarray) -> np.ndarray:
    """Images in 0 to 1: as they are, or all stretched alike if any value lies outside."""
    low, high = images.min(), images.max()
    if low >= 0 and high <= 1:
        return images
    return (images - low) / max(high - low, np.finfo(np.float64).tiny)


def coloured(
    values: np.ndarray, *, scale: str = "percentile", sequential: str = "inferno"
) -> list[np.ndarray]:
    """Maps [n, H, W] as n pictures [H, W, 3].

    Args:
        values: The maps, signed if any value is negative.
        scale: One of `SCALES`; see `saliency_grid`.
        sequential: One of `SEQUENTIAL`, the colour map of maps without negative values.
    """
    signed = bool((values < 0).any())
    colours = colour_map(_DIVERGING if signed else sequential)
    pictures = []
    for one in values:
        found = scaled(one, signed, scale)
        pictures.append(colours((found + 1) / 2 if signed else found)[..., :3])
    return pictures


def scaled(one: np.ndarray, signed: bool, scale: str = "percentile") -> np.ndarray:
    """A map of any shape, scaled by itself: to −1 to 1 if it is signed, else to 0 to 1."""
    low = 0.0 if signed or scale == "percentile" else one.min()
    if not signed and scale == "minmax":
        high = one.max()
    else:
        high = np.percentile(np.abs(one), _PERCENTILE)
    bound = (high - low) or np.abs(one).max() or 1.0  # sparse maps, and maps of zeros
    return np.clip((one - low) / bound, -1, 1)


def white_to_red(strengths: np.ndarray) -> np.ndarray:
    """Values in −1 to 1 as colours [..., 3]: white at 0, red above and blue below."""
    return colour_map(_DIVERGING)((strengths + 1) / 2)[..., :3]


def ink(background: np.ndarray) -> np.ndarray:
    """Black or white [3], whichever has more contrast with a colour [3] (WCAG, ≥ 4.5)."""
    return np.full(3, float(_luminance(background) < 0.179))


def grey_ink(background: np.ndarray) -> np.ndarray:
    """`ink`, mixed with the colour as far as the contrast stays at 4.5 or more."""
    for share in (0.45, 0.3, 0.15):
        mixed = (1 - share) * ink(background) + share * background
        low, high = sorted((_luminance(mixed), _luminance(background)))
        if (high + 0.05) / (low + 0.05) >= 4.5:
            return mixed
    return ink(background)


def _luminance(colour: np.ndarray) -> float:
    """The relative luminance of a colour [3] of sRGB (WCAG)."""
    steep = ((colour + 0.055) / 1.055) ** 2.4
    linear = np.where(colour <= 0.04045, colour / 12.92, steep)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def laid_over(colours: np.ndarray, image: np.ndarray, opacity: float) -> np.ndarray:
    """A coloured map [h, w, 3] over the image [H, W, C] in greys, at the image's size."""
    height, width = image.shape[:2]
    rows = np.arange(height) * colours.shape[0] // height
    columns = np.arange(width) * colours.shape[1] // width
    grey = image.mean(-1, keepdims=True)
    return opacity * colours[rows][:, columns] + (1 - opacity) * grey
