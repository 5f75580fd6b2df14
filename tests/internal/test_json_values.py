"""Nests as JSON can hold them."""

import json
import math

import numpy as np
import tensorflow as tf

from tfgrad.internal.json_values import plain


def test_a_nest_of_everything():
    given = {
        "array": np.float32([[1, np.nan], [np.inf, 2]]),
        "tensor": tf.constant([1.5, 2.5]),
        "half": tf.constant([0.5, math.inf], tf.bfloat16),
        "ints": np.int64(3),
        "flags": (True, np.bool_(False)),
        "text": [b"a\xff", "b", None],
        3: -math.inf,
    }
    expected = {
        "array": [[1.0, None], [None, 2.0]],
        "tensor": [1.5, 2.5],
        "half": [0.5, None],
        "ints": 3,
        "flags": [True, False],
        "text": ["a\\xff", "b", None],
        "3": None,
    }
    assert plain(given) == expected
    assert json.loads(json.dumps(plain(given), allow_nan=False)) == expected
