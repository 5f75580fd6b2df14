"""The limit of what a data set may take in memory."""

from __future__ import annotations

from tfgrad.errors import DataError

LIMIT = 4 * 2**30


def check(name: str, split: str, shape: tuple[int, int, int, int]) -> None:
    """Check that uint8 images of a shape [n, height, width, channels] fit in memory.

    Raises:
        DataError: They do not.
    """
    count, height, width, channels = shape
    size = count * height * width * channels
    if size > LIMIT:
        raise DataError(
            f"split: got {split!r} of {name!r}, which needs {size / 2**30:.1f} GiB in memory "
            f"({count} images of {height}×{width}×{channels}); expected at most "
            f"{LIMIT / 2**30:g} GiB. Take a slice such as "
            f"split='{split.partition('[')[0]}[:10000]', or a smaller image_size."
        )
