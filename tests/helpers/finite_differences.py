"""Numerical gradients, the oracle of every second-order test."""

import numpy as np


def numerical_gradient(value, variable, step=1e-3):
    """Central differences of a float64 scalar over every entry of a variable.

    Five points: (f(−2h) − 8 f(−h) + 8 f(h) − f(2h)) / 12h, so the truncation error is O(h⁴)
    and h can stay large enough for the rounding error to vanish.

    Args:
        value: a function of no argument that returns a float64 scalar.
        variable: a Keras or TensorFlow variable; restored before the function returns.
        step: h.

    Returns:
        An array with the variable's shape.
    """
    base = np.array(variable.numpy())
    gradient = np.zeros_like(base)
    for index in np.ndindex(base.shape):
        total = 0.0
        for offset, factor in ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0)):
            shifted = base.copy()
            shifted[index] += offset * step
            variable.assign(shifted)
            total += factor * float(value())
        gradient[index] = total / (12.0 * step)
    variable.assign(base)
    return gradient


def worst_relative_error(exact, numerical):
    """max|g − ĝ| over a tensor ÷ that tensor's max|ĝ|, worst tensor of the network.

    A tensor whose gradient vanishes (below 1e-9 of the network's largest) is judged against the
    network's largest entry: there is nothing of its own to be relative to.
    """
    largest = max(np.max(np.abs(n)) for n in numerical)
    worst = 0.0
    for e, n in zip(exact, numerical, strict=True):
        own = np.max(np.abs(n))
        scale = own if own > 1e-9 * largest else largest
        worst = max(worst, float(np.max(np.abs(np.asarray(e) - n)) / scale))
    return worst
