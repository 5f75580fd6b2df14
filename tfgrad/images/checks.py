"""Checks of encoded images that come before decoding, eagerly and in a graph alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError
from tfgrad.internal.arguments import integer, is_integer

MAX_BYTES = 16 << 20
MAX_PIXELS = 1 << 25

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # libpng, too, requires that IHDR comes first
_PNG_HEADER = len(PNG) + 8  # width and height follow
_JPEG = b"\xff\xd8\xff"
# The chunk that makes a PNG an animation, its length before its name.
_ANIMATED = r"\C*\x00\x00\x00\x08acTL\C*"
# Other kinds of file that are sent by mistake, for the message alone.
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
_SMALLER = ". Try a smaller copy of the image."

# The image's name in messages: a str, or a string tensor where only the graph knows it.
Name: TypeAlias = str | tf.Tensor


def check_arguments(size: Any, channels: Any, max_bytes: Any, max_pixels: Any) -> None:
    """Check the options that all decoding functions share.

    Raises:
        ArgumentError: One of them is invalid.
    """
    if size is not None and not (
        isinstance(size, tuple | list)
        and len(size) == 2
        and all(is_integer(n) and n >= 1 for n in size)
    ):
        raise ArgumentError(
            f"size: got {size!r}; expected (height, width), two integers ≥ 1, or None."
        )
    if channels not in (1, 3):
        raise ArgumentError(f"channels: got {channels!r}; expected 3 (RGB) or 1 (grayscale).")
    integer("max_bytes", max_bytes)
    integer("max_pixels", max_pixels)


def strings(image_bytes: Any, rank: int) -> tf.Tensor:
    """The bytes as a string tensor of a rank.

    Raises:
        ArgumentError: They are no strings, or have another rank.
    """
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


def check_length(
    length: Any, max_bytes: int, name: Name, content: tf.Tensor | None = None
) -> tf.Tensor:
    """The content, once its length is known to be from 1 to `max_bytes`."""
    return _require(
        (length >= 1) & (length <= max_bytes),
        lambda: [name, ": got ", length, " bytes; expected 1 to ", max_bytes, _SMALLER],
        content,
    )


def header(content: tf.Tensor) -> tf.Tensor:
    """The bytes that tell a PNG's size, padded with zeros where there are fewer."""
    return tf.strings.join([tf.strings.substr(content, 0, _PNG_HEADER), b"\0" * _PNG_HEADER])


def starts(head: tf.Tensor, magic: bytes) -> tf.Tensor:
    """Whether bytes start with others."""
    return tf.strings.substr(head, 0, len(magic)) == magic


def check_format(head: tf.Tensor, name: Name, content: tf.Tensor) -> tf.Tensor:
    """The content, once it is known to start as a JPEG or PNG file does."""
    return _require(
        starts(head, PNG) | starts(head, _JPEG),
        lambda: [name, ": got ", _other(head), "; expected a JPEG or a PNG. Try to convert it."],
        content,
    )


def check_still(name: Name, content: tf.Tensor) -> tf.Tensor:
    """The content of a PNG file, once it is known not to be an animation."""
    return _require(
        ~tf.strings.regex_full_match(content, _ANIMATED),
        lambda: [name, ": got an animated PNG; expected a still one. Try one of its frames."],
        content,
    )


def check_pixels(
    height: tf.Tensor, width: tf.Tensor, max_pixels: int, name: Name, content: tf.Tensor
) -> tf.Tensor:
    """The content, once height × width is known to be from 1 to `max_pixels`."""
    # By division: the product of two headers' numbers overflows.
    holds = (height >= 1) & (width >= 1) & (width <= max_pixels // tf.maximum(height, 1))
    return _require(
        holds,
        lambda: [
            *(name, ": got ", height, " × ", width, " pixels; expected 1 to ", max_pixels),
            _SMALLER,
        ],
        content,
    )


def _require(holds: Any, message: Callable[[], list[Any]], content: Any) -> Any:
    """The content, once a condition is known to hold.

    In a graph, operations on the returned tensor run after the check.
    """
    if tf.executing_eagerly():
        if not bool(holds):
            raise DataError(text(message()))
        return content
    with tf.control_dependencies([tf.debugging.Assert(holds, [_joined(message())])]):
        return tf.identity(content)


def _joined(parts: list[Any]) -> tf.Tensor:
    tensors = map(tf.convert_to_tensor, parts)
    return tf.strings.join(
        [t if t.dtype == tf.string else tf.strings.as_string(t) for t in tensors]
    )


def text(parts: list[Any]) -> str:
    """Strings, numbers and eager tensors of these, joined."""
    return _joined(parts).numpy().decode("utf-8", "replace")


def _other(head: tf.Tensor) -> tf.Tensor:
    """The kind of file that its first bytes suggest, in words."""
    kind = tf.constant("an unknown kind of file")
    for magic, name in _OTHERS.items():
        kind = tf.where(starts(head, magic), name, kind)
    return kind
