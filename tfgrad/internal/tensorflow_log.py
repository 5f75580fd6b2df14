"""TensorFlow's log in Python, held back where its lines mislead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def at_least(level: int) -> Iterator[None]:
    """Within the context TensorFlow writes lines of this level or above, such as `logging.ERROR`.

    A level of the caller's that is higher stays.
    """
    logger = tf.get_logger()
    before = logger.level
    logger.setLevel(max(level, before))
    try:
        yield
    finally:
        logger.setLevel(before)
