"""Folders of tiny labelled images, as users have them."""

import numpy as np
import tensorflow as tf


def write(path, value, size=(6, 8), suffix=".png"):
    """An image of one grey value, which a PNG keeps exactly."""
    pixels = np.full((*size, 3), value, np.uint8)
    encode = tf.io.encode_png if suffix == ".png" else tf.io.encode_jpeg
    path = path.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels).numpy())
    return path


def write_folder(root, counts, **options):
    """A folder with so many images of each class, whose value tells class and number.

    Args:
        root: The folder.
        counts: {class: number of images}; a class may be "train/cat".
        options: Options of `write`.
    """
    for label, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write(root / name / f"{i:03d}", 60 * label + i, **options)
    return root
