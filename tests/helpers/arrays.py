"""Arrays of files, which are closed."""

import numpy as np


def arrays_of(path):
    """{name: array} of an .npz file."""
    with np.load(path) as file:
        return dict(file)
