"""Decoding of JPEG and PNG images: one, a batch, or a file."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.images.checks import (
    MAX_BYTES,
    MAX_PIXELS,
    PNG,
    Name,
    check_arguments,
    check_format,
    check_length,
    check_pixels,
    check_still,
    header,
    starts,
    strings,
    text,
)
from tfgrad.images.resizing import luma, scaled
from tfgrad.internal import regular_files

# Decoded images that a traced batch may hold at a time.
_PARALLEL = 4


def decode(
    image_bytes: Any,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """Decode one JPEG or PNG file's bytes.

    Grayscale, palette, CMYK and 16-bit images are converted to what `channels` asks for, 16 bits
    without loss. Transparency is dropped, as Pillow's `convert("RGB")` drops it, and so is an
    orientation tag.

    Args:
        image_bytes: The file's content, a scalar string tensor or `bytes`.
        size: (height, width) to resize to, bilinear with antialiasing; None keeps the image's own.
        channels: 3 for RGB, 1 for luma (0.299 R + 0.587 G + 0.114 B).
        max_bytes: The largest content that is read.
        max_pixels: The largest height × width that is decoded.

    Returns:
        float32 [height, width, channels] in [0, 1].

    Raises:
        DataError: Eagerly, if the bytes are no JPEG or PNG image within the limits, or a damaged
            one. In a graph the request fails, with an `InvalidArgumentError`.
        ArgumentError: `image_bytes` is not of these types, or another argument is invalid.
    """
    check_arguments(size, channels, max_bytes, max_pixels)
    content = strings(image_bytes, 0)
    return _decode(content, "image_bytes", size, channels, max_bytes, max_pixels)


def decode_batch(
    image_bytes: Any,
    size: tuple[int, int],
    channels: int = 3,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """Decode a batch of JPEG and PNG files' bytes, each as `decode` does.

    Args:
        image_bytes: A string tensor [batch], or a list of `bytes`.
        size: (height, width) to which every image is resized.
        channels: See `decode`.
        max_bytes: See `decode`; for each image.
        max_pixels: See `decode`; for each image.

    Returns:
        float32 [batch, height, width, channels] in [0, 1].

    Raises:
        DataError: As for `decode`; the message names the image by its index.
        ArgumentError: As for `decode`.
    """
    if size is None:
        raise ArgumentError(
            "size: got None; expected one (height, width) for all images of a batch. Try "
            "images.decode for images of their own sizes."
        )
    check_arguments(size, channels, max_bytes, max_pixels)
    contents = strings(image_bytes, 1)

    def one(pair: tuple[Any, tf.Tensor]) -> tf.Tensor:
        index, content = pair
        name = tf.strings.join(["image_bytes[", tf.strings.as_string(index), "]"])
        return _decode(content, name, size, channels, max_bytes, max_pixels)

    shape = (*size, channels)
    if tf.executing_eagerly():
        if not len(contents):
            return tf.zeros((0, *shape))
        return tf.stack([one(pair) for pair in enumerate(contents)])
    return tf.map_fn(
        one,
        (tf.range(tf.shape(contents)[0]), contents),
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
        parallel_iterations=_PARALLEL,
    )


def read(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 3,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """Read one local JPEG or PNG file; no byte is read before the file's length is known.

    Args:
        path: A regular file; its name does not matter.
        size: See `decode`.
        channels: See `decode`.
        max_bytes: See `decode`.
        max_pixels: See `decode`.

    Returns:
        float32 [height, width, channels] in [0, 1].

    Raises:
        DataError: The file is missing, unreadable, too large, or no whole JPEG or PNG image.
        ArgumentError: Another argument is invalid.
    """
    check_arguments(size, channels, max_bytes, max_pixels)
    path = os.fspath(path)
    name = f"path: {path!r}"
    try:
        with regular_files.opened(path) as file:
            check_length(regular_files.size(file), max_bytes, name)
            content = file.read(max_bytes + 1)  # it may have grown meanwhile
    except FileNotFoundError as error:
        raise DataError(
            f"{name}: got no such file; expected a JPEG or PNG file. Check the path and the "
            "working directory."
        ) from error
    except regular_files.NotRegularError as error:
        raise DataError(
            f"{name}: got {error.strerror}; expected a JPEG or PNG file. Copy the image to a file."
        ) from error
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DataError(
            f"{name}: got a file that cannot be read ({error}); expected a JPEG or PNG file. "
            "Check the path and its permissions."
        ) from error
    return _decode(tf.constant(content), name, size, channels, max_bytes, max_pixels)


def _decode(
    content: tf.Tensor,
    name: Name,
    size: tuple[int, int] | None,
    channels: int,
    max_bytes: int,
    max_pixels: int,
) -> tf.Tensor:
    """Check and decode one image, in the order that the package's docstring names."""
    content = check_length(tf.strings.length(content), max_bytes, name, content)
    head = header(content)
    content = check_format(head, name, content)

    def from_png() -> tf.Tensor:
        inside = check_still(name, content)
        digits = tf.io.decode_raw(tf.strings.substr(head, len(PNG), 8), tf.uint8)
        digits = tf.cast(tf.reshape(digits, [2, 4]), tf.int64)  # big-endian, unsigned
        width, height = tf.unstack(tf.reduce_sum(digits * [1 << 24, 1 << 16, 1 << 8, 1], -1))
        inside = check_pixels(height, width, max_pixels, name, inside)
        # 8 bits come as multiples of 257, so that both depths end in the same fractions of 1.
        return scaled(tf.io.decode_png(inside, channels, dtype=tf.uint16), size, 65535.0)

    def from_jpeg() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(content)
        inside = check_pixels(shape[0], shape[1], max_pixels, name, content)

        def pixels(count: int) -> tf.Tensor:
            # The accurate transform: TensorFlow's default differs visibly from other decoders.
            return tf.io.decode_jpeg(inside, count, dct_method="INTEGER_ACCURATE")

        if channels == 3:
            return scaled(pixels(3), size, 255.0)
        # libjpeg cannot convert CMYK to gray.
        return tf.cond(
            shape[2] == 4,
            lambda: luma(scaled(pixels(3), size, 255.0)),
            lambda: scaled(pixels(1), size, 255.0),
        )

    try:
        image = tf.cond(starts(head, PNG), from_png, from_jpeg)
    except tf.errors.InvalidArgumentError as error:  # eagerly; a graph's request fails with it
        raise DataError(
            f"{text([name])}: got a damaged image ({_reason(error)}); expected a whole JPEG or "
            "PNG. Copy or save it again."
        ) from error
    return tf.ensure_shape(image, (*(size or (None, None)), channels))


def _reason(error: tf.errors.OpError) -> str:
    """The kernel's message without the node it came from."""
    return error.message.rpartition("}}")[2].split(" [Op:")[0].strip()
