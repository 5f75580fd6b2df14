"""Operations whose gradient TensorFlow drops or approximates, and raises no error.

A sum of terms would add up in spite of it, beside an input-gradient that is wrong.
"""

_DROPPED = "TensorFlow drops its gradient"
_APPROXIMATED = "TensorFlow only approximates its gradient"

REASONS = {
    **dict.fromkeys(("PyFunc", "PyFuncStateless"), f"{_DROPPED} (tf.numpy_function)"),
    "EagerPyFunc": "its gradient has no derivative (tf.py_function)",
    "HSVToRGB": f"{_DROPPED} (tf.image.hsv_to_rgb)",
    "ExtractGlimpse": f"{_DROPPED} (tf.image.extract_glimpse)",
    "RandomShuffle": f"{_DROPPED} (tf.random.shuffle)",
    **dict.fromkeys(
        ("ImageProjectiveTransformV2", "ImageProjectiveTransformV3"),
        f"{_APPROXIMATED} (affine and perspective transforms of images)",
    ),
}
