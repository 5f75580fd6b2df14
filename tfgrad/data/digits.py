"""The 1,797 handwritten digits of the UCI repository, which scikit-learn ships."""

from __future__ import annotations

import numpy as np

from tfgrad.data import splits

NAME = "digits"
CLASSES = tuple("0123456789")

_TEST_EXAMPLES = 360


def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 8, 8, 1] float32 in [0, 1] and labels [n] int32 of one split.

    The split into 1,437 training and 360 test examples is stratified: shuffle each class, spread
    its examples evenly over [0, 1), and give the test split the lowest positions.

    Args:
        split: "train", "test", or a slice of one of them, such as "train[:100]" or "train[:80%]".

    Raises:
        DataError: The split is unknown, empty or reaches beyond the examples.
    """
    name, first, last = splits.parsed(split, ("train", "test"), NAME)
    from sklearn.datasets import load_digits  # Slow to import, and only needed here.

    digits = load_digits()
    labels = digits.target.astype(np.int32)
    # RandomState's stream is frozen for good, unlike Generator's.
    random = np.random.RandomState(0)
    position = np.empty(len(labels))
    for label in range(10):
        members = random.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.argsort(position, kind="stable")
    chosen = np.sort(order[_TEST_EXAMPLES:] if name == "train" else order[:_TEST_EXAMPLES])
    chosen = chosen[splits.within(first, last, len(chosen), split, name, NAME)]
    return (digits.images[chosen, ..., None] / 16.0).astype(np.float32), labels[chosen]
