"""`tensorflow_log`: lines of TensorFlow that are held back."""

import logging

import pytest
import tensorflow as tf

from tfgrad.internal.tensorflow_log import at_least


@pytest.mark.parametrize(
    ("before", "within"), [(logging.INFO, logging.WARNING), (logging.ERROR, logging.ERROR)]
)
def test_lower_lines_are_held_back_and_a_higher_level_stays(before, within):
    logger = tf.get_logger()
    known = logger.level
    logger.setLevel(before)
    try:
        with pytest.raises(ValueError, match="inside"), at_least(logging.WARNING):
            assert logger.level == within
            raise ValueError("inside")
        assert logger.level == before
    finally:
        logger.setLevel(known)
