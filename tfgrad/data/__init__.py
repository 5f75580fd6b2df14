"""Labelled images in memory, and the streams of batches that training and evaluation read."""

from tfgrad.data.batching import pipeline, steps_per_epoch
from tfgrad.data.dataset import Dataset, channel_statistics, from_arrays, load, subset

__all__ = [
    "Dataset",
    "channel_statistics",
    "from_arrays",
    "load",
    "pipeline",
    "steps_per_epoch",
    "subset",
]
