"""The exact full-gradient decomposition of a scalar (thesis §3.3, Eq. 3.1 and 3.3).

    f(x) = ∇x f · x + Σ_l ∇_{z_l} f · b_l

    full = tfgrad.full_gradients(model, x)          # for the predicted class
    full.input_gradient                             # like x
    full.bias_gradients["conv2d_3"]                 # like that layer's output
    full.completeness_error()                       # [batch], rounding only

It holds for any Keras model: b_l is the intercept of a call, see `tfgrad.gradients.intercepts`.
"""

from tfgrad.decomposition.decomposing import (
    MISSES,
    NEEDS,
    TARGET,
    check,
    full_gradients,
    misses,
    of_probe,
    sums_of_probe,
    term_sums_of_probe,
)
from tfgrad.decomposition.result import FullGradients
from tfgrad.decomposition.term_shares import Share, Shares

__all__ = [
    "MISSES",
    "NEEDS",
    "TARGET",
    "FullGradients",
    "Share",
    "Shares",
    "check",
    "full_gradients",
    "misses",
    "of_probe",
    "sums_of_probe",
    "term_sums_of_probe",
]
