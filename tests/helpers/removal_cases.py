"""In what order pixels are removed, told apart from the code that removes them."""

import numpy as np


def ascending(row):
    """The pixels of a flat map from the least salient up; ties by one shuffle of all pixels."""
    shuffled = np.random.default_rng(0).permutation(row.size)
    return shuffled[np.argsort(row[shuffled], kind="stable")]
