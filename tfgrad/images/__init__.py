"""Images from untrusted bytes: nothing is decoded before its size is known.

The implementation works in two ways. Called eagerly it reads the files of a folder and raises
`DataError`; traced into a SavedModel it decodes what a client sends, and an invalid image fails
that request with an `InvalidArgumentError` whose message is the same.

The order is part of the contract. Number of bytes, format by the first bytes, height and width
from the header: only then are pixels decoded, so a few bytes that claim 100,000 × 100,000 pixels
cost nothing. Only JPEG and still PNG images pass.
"""

from tfgrad.images.checks import MAX_BYTES, MAX_PIXELS
from tfgrad.images.decoding import decode, decode_batch, read

__all__ = ["MAX_BYTES", "MAX_PIXELS", "decode", "decode_batch", "read"]
