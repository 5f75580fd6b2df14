"""The 1,797 handwritten digits of the UCI repository, which scikit-learn ships."""

from __future__ import annotations

import re

import numpy as np

from tfgrad.errors import DataError

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
    match = re.fullmatch(r"(train|test)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if match is None:
        raise DataError(
            f"split: got {split!r}, which is unknown for 'digits'; expected 'train', 'test' or a "
            "slice such as 'train[:100]' or 'train[:80%]'."
        )
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
    is_train = match[1] == "train"
    chosen = np.sort(order[_TEST_EXAMPLES:] if is_train else order[:_TEST_EXAMPLES])
    chosen = _sliced(chosen, split, match)
    return (digits.images[chosen, ..., None] / 16.0).astype(np.float32), labels[chosen]


def _sliced(chosen: np.ndarray, split: str, match: re.Match[str]) -> np.ndarray:
    bounds = [_slice_bound(text, len(chosen)) for text in match.groups()[1:]]
    if any(bound is not None and abs(bound) > len(chosen) for bound in bounds):
        raise DataError(
            f"split: got {split!r}, which reaches beyond its {len(chosen)} {match[1]} examples in "
            "'digits'; expected a slice within them."
        )
    part = chosen[slice(*bounds)]
    if not len(part):
        raise DataError(
            f"split: got {split!r}, which is empty in 'digits'; expected at least one example. Try "
            f"'{match[1]}'."
        )
    return part


def _slice_bound(text: str | None, length: int) -> int | None:
    if text is None:
        return None
    if text.endswith("%"):
        return round(int(text[:-1]) * length / 100)  # TFDS rounds to the nearest example too.
    return int(text)
