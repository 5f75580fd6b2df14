"""Labelled images in memory, and the streams of batches that training and evaluation read.

A `Dataset` holds one split as arrays: the embedded 8×8 digits, a folder of images with a sub-folder
for each class, any image classification set of TensorFlow Datasets (TFDS), or the caller's own
arrays. `pipeline` turns it into a
`tf.data.Dataset` whose every batch is a function of (seed, epoch, position) alone.
"""

from tfgrad.data.batching import pipeline, steps_per_epoch
from tfgrad.data.dataset import Dataset, channel_statistics, from_arrays, subset
from tfgrad.data.named_sets import load

__all__ = [
    "Dataset",
    "channel_statistics",
    "from_arrays",
    "load",
    "pipeline",
    "steps_per_epoch",
    "subset",
]
