"""Images from untrusted bytes: nothing is decoded before its size is known.

One implementation serves twice. Called eagerly it reads the files of a folder and raises
`DataError`; traced into a SavedModel it decodes what a client sends, and a bad image fails that
request with an `InvalidArgumentError` that says the same.

The order is part of the contract. Number of bytes, format by the first bytes, height and width
from the header: only then are pixels decoded, so a few bytes that claim 100,000 × 100,000 pixels
cost nothing. Only JPEG and still PNG images pass.
"""

from __future__ import annotations

import os
import stat
from typing import Any

import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError

MAX_BYTES = 16 << 20
MAX_PIXELS = 1 << 25

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # libpng, too, insists that IHDR comes first
_PNG_HEADER = len(_PNG) + 8  # and then come width and height
_JPEG = b"\xff\xd8\xff"
# The chunk that makes a PNG an animation, its length before its name.
_ANIMATED = r"\C*\x00\x00\x00\x08acTL\C*"
# What else people send, for the message alone.
_OTHERS = {
    b"GIF8": "a GIF",
    b"RIFF": "a WebP or another RIFF file",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"iVBORw0KGgo": 'a PNG in base64 (JSON holds it as {"b64": …})',
    b"/9j/": 'a JPEG in base64 (JSON holds it as {"b64": …})',
    b"<": "markup",
}
# From this stretch on, an image is turned on its side to be resized.
_LONG = 4
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

    Grayscale, palette, CMYK and 16-bit images become what `channels` asks for, 16 bits without
    loss. Transparency is dropped, as Pillow's `convert("RGB")` drops it, and so is an orientation
    tag.

    Args:
        image_bytes: the file's content, a scalar string tensor or `bytes`.
        size: (height, width) to resize to, bilinear with antialiasing; None keeps the image's own.
        channels: 3 for RGB, 1 for luma (0.299 R + 0.587 G + 0.114 B).
        max_bytes: the longest content that is looked at.
        max_pixels: the largest height × width that is decoded.

    Returns:
        float32 [height, width, channels] in [0, 1].

    Raises:
        DataError: eagerly, if the bytes are no JPEG or PNG image within the limits, or a damaged
            one. In a graph it is the request that fails, with an `InvalidArgumentError`.
        ArgumentError: the other arguments, or what `image_bytes` is, make no sense.
    """
    _check_arguments(size, channels, max_bytes, max_pixels)
    content = _strings(image_bytes, 0)
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
        image_bytes: string tensor [batch], or a list of `bytes`.
        size: (height, width) that every image is resized to.
        channels: see `decode`.
        max_bytes: see `decode`; of each image.
        max_pixels: see `decode`; of each image.

    Returns:
        float32 [batch, height, width, channels] in [0, 1].

    Raises:
        DataError: as `decode` does; the message names the image by its index.
        ArgumentError: as `decode` does.
    """
    if size is None:
        raise ArgumentError("size: got None; images of a batch need one (height, width).")
    _check_arguments(size, channels, max_bytes, max_pixels)
    contents = _strings(image_bytes, 1)

    def one(pair):
        index, content = pair
        where = tf.strings.join(["image_bytes[", tf.strings.as_string(index), "]"])
        return _decode(content, where, size, channels, max_bytes, max_pixels)

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
    """Read one local JPEG or PNG file, not a byte of it before its length is known.

    Args:
        path: a regular file; what it is called does not matter.
        size: see `decode`.
        channels: see `decode`.
        max_bytes: see `decode`.
        max_pixels: see `decode`.

    Returns:
        float32 [height, width, channels] in [0, 1].

    Raises:
        DataError: the file is missing, unreadable, too large, or no whole JPEG or PNG image.
        ArgumentError: the other arguments make no sense.
    """
    _check_arguments(size, channels, max_bytes, max_pixels)
    path = os.fspath(path)
    where = f"path: {path!r}"
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise DataError(f"{where}: got no regular file, expected a JPEG or PNG file.")
        _check_length(status.st_size, max_bytes, where)
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)  # it may have grown meanwhile
    except FileNotFoundError as error:
        raise DataError(
            f"{where}: no such file. Check the path and the working directory."
        ) from error
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DataError(
            f"{where}: the file cannot be read ({error}). Check the path and its permissions."
        ) from error
    return _decode(tf.constant(content), where, size, channels, max_bytes, max_pixels)


def _check_arguments(size: Any, channels: Any, max_bytes: Any, max_pixels: Any) -> None:
    if size is not None and not (
        isinstance(size, tuple | list) and len(size) == 2 and all(map(_positive, size))
    ):
        raise ArgumentError(
            f"size: got {size!r}; expected (height, width), two integers from 1 up, or None."
        )
    if channels not in (1, 3):
        raise ArgumentError(f"channels: got {channels!r}; expected 3 (RGB) or 1 (grayscale).")
    for name, value in (("max_bytes", max_bytes), ("max_pixels", max_pixels)):
        if not _positive(value):
            raise ArgumentError(f"{name}: got {value!r}; expected an integer from 1 up.")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _strings(image_bytes: Any, rank: int) -> tf.Tensor:
    """The bytes as a string tensor of a rank, or a clear error."""
    try:
        tensor = tf.convert_to_tensor(image_bytes, None if tf.is_tensor(image_bytes) else tf.string)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"image_bytes: got a {type(image_bytes).__name__}; expected the content of image "
            "files as bytes or a string tensor. Decoded pixels need no decoding."
        ) from error
    if tensor.dtype != tf.string or tensor.shape.rank not in (None, rank):
        other = "decode" if rank else "decode_batch"
        raise ArgumentError(
            f"image_bytes: got {tensor.dtype.name} {tensor.shape}; expected strings of rank {rank}."
            f" Try images.{other}, or images.read for the path of a file."
        )
    return tf.ensure_shape(tensor, [None] * rank)


def _decode(content, where, size, channels, max_bytes, max_pixels):
    """The steps in order; `where` names the image in messages, a str or a string tensor."""
    content = _check_length(tf.strings.length(content), max_bytes, where, content)
    head = tf.strings.join([tf.strings.substr(content, 0, _PNG_HEADER), b"\0" * _PNG_HEADER])
    png = _starts(head, _PNG)
    content = _require(
        png | _starts(head, _JPEG),
        lambda: [where, ": got ", _other(head), ", expected a JPEG or a PNG. Try to convert it."],
        content,
    )

    def from_png():
        inside = _require(
            ~tf.strings.regex_full_match(content, _ANIMATED),
            lambda: [where, ": got an animated PNG, expected a still one. Try one of its frames."],
            content,
        )
        digits = tf.io.decode_raw(tf.strings.substr(head, len(_PNG), 8), tf.uint8)
        digits = tf.cast(tf.reshape(digits, [2, 4]), tf.int64)  # big-endian, unsigned
        width, height = tf.unstack(tf.reduce_sum(digits * [1 << 24, 1 << 16, 1 << 8, 1], -1))
        inside = _check_pixels(height, width, max_pixels, where, inside)
        # 8 bits come as multiples of 257, so that both depths end in the same fractions of 1.
        return _scaled(tf.io.decode_png(inside, channels, dtype=tf.uint16), size, 65535.0)

    def from_jpeg():
        header = tf.image.extract_jpeg_shape(content)
        inside = _check_pixels(header[0], header[1], max_pixels, where, content)

        def pixels(count):
            # The accurate transform: TensorFlow's default differs from other decoders visibly.
            return tf.io.decode_jpeg(inside, count, dct_method="INTEGER_ACCURATE")

        if channels == 3:
            return _scaled(pixels(3), size, 255.0)
        # libjpeg does not know the way from CMYK to gray.
        return tf.cond(
            header[2] == 4,
            lambda: _luma(_scaled(pixels(3), size, 255.0)),
            lambda: _scaled(pixels(1), size, 255.0),
        )

    try:
        image = tf.cond(png, from_png, from_jpeg)
    except tf.errors.InvalidArgumentError as error:  # eagerly; a graph's request fails with it
        raise DataError(
            f"{_text([where])}: got a damaged image ({_reason(error)}), expected a whole JPEG or "
            "PNG. Copy or save it again."
        ) from error
    return tf.ensure_shape(image, (*(size or (None, None)), channels))


def _starts(head, magic):
    return tf.strings.substr(head, 0, len(magic)) == magic


def _scaled(pixels, size, highest):
    """Resized in the integers' own type: a large image is never held as floats as well."""
    if size is not None:
        pixels = _resized(pixels, size)
    return tf.minimum(tf.cast(pixels, tf.float32) / highest, 1.0)


def _resized(pixels, size):
    # The kernel brings the rows to their number first, and holds size[0] × width values: of an
    # image of few and long rows, gigabytes. Columns first, it is never much.
    shape = tf.shape(pixels, tf.int64)
    few_columns = tf.stack([tf.cast(shape[0], tf.int32), size[1]])
    return tf.cond(
        size[0] * shape[1] > _LONG * size[1] * shape[0],
        lambda: tf.image.resize(
            tf.image.resize(pixels, few_columns, antialias=True), size, antialias=True
        ),
        lambda: tf.image.resize(pixels, size, antialias=True),
    )


def _luma(image):
    return tf.reduce_sum(image * [0.299, 0.587, 0.114], -1, keepdims=True)


def _check_length(length, max_bytes, where, content=None):
    return _require(
        (length >= 1) & (length <= max_bytes),
        lambda: [where, ": got ", length, " bytes, expected 1 to ", max_bytes, _SMALLER],
        content,
    )


def _check_pixels(height, width, max_pixels, where, content):
    # By division: the product of two headers' numbers overflows.
    inside = (height >= 1) & (width >= 1) & (width <= max_pixels // tf.maximum(height, 1))
    return _require(
        inside,
        lambda: [
            *(where, ": got ", height, " × ", width, " pixels, expected 1 to ", max_pixels),
            _SMALLER,
        ],
        content,
    )


_SMALLER = ". Try a smaller copy of the image."


def _require(holds, message, content):
    """The content, once a condition is known to hold.

    Whoever goes on with what is returned comes after the check, in a graph as well.
    """
    if tf.executing_eagerly():
        if not bool(holds):
            raise DataError(_text(message()))
        return content
    with tf.control_dependencies([tf.debugging.Assert(holds, [_joined(message())])]):
        return tf.identity(content)


def _joined(parts):
    tensors = map(tf.convert_to_tensor, parts)
    return tf.strings.join(
        [t if t.dtype == tf.string else tf.strings.as_string(t) for t in tensors]
    )


def _text(parts) -> str:
    return _joined(parts).numpy().decode("utf-8", "replace")


def _other(head):
    """What a file seems to be, in words."""
    kind = tf.constant("an unknown kind of file")
    for magic, name in _OTHERS.items():
        kind = tf.where(_starts(head, magic), name, kind)
    return kind


def _reason(error: tf.errors.OpError) -> str:
    """The kernel's words without the node they came from."""
    return error.message.rpartition("}}")[2].split(" [Op:")[0].strip()
