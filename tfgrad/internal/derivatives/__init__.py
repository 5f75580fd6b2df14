"""Derivatives that TensorFlow lacks or has wrong, in the contexts of one thread.

A Jacobian-vector product differentiates a gradient. Where TensorFlow computes that gradient by an
operation of its own (`ResizeBilinearGrad`, `SoftsignGrad`, …), it has often no derivative: none is
registered, or it is registered as not differentiable and dropped without an error. These are
`additional_derivatives`. `corrected_derivatives` are first derivatives that are wrong: those of
max-pooling of volumes, and of slices of tensors with more than eight axes.
"""

from tfgrad.internal.derivatives.installed import KNOWN
from tfgrad.internal.derivatives.registry import (
    additional_derivatives,
    are_corrected,
    corrected_derivatives,
)

__all__ = ["KNOWN", "additional_derivatives", "are_corrected", "corrected_derivatives"]
