"""Derivatives that TensorFlow lacks, for Jacobian-vector products through any layer.

A Jacobian-vector product differentiates a gradient. Where TensorFlow computes that gradient by an
operation of its own (`ResizeBilinearGrad`, `SoftsignGrad`, …), it has often no derivative: none is
registered, or it is registered as not differentiable and dropped without an error.
"""

from tfgrad.internal.derivatives.installed import KNOWN
from tfgrad.internal.derivatives.registry import additional_derivatives

__all__ = ["KNOWN", "additional_derivatives"]
