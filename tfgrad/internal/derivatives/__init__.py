"""Derivatives that TensorFlow lacks, for Jacobian-vector products through any layer.

A Jacobian-vector product differentiates a gradient. Where TensorFlow computes that gradient by an
operation of its own (`ResizeBilinearGrad`, `SoftsignGrad`, …), it has often no derivative: none is
registered, or it is registered as not differentiable and dropped without an error.
"""

from tfgrad.internal.derivatives import crops, refused, resizing, unary
from tfgrad.internal.derivatives.registry import additional_derivatives, install

KNOWN = install({**resizing.GRADIENTS, **crops.GRADIENTS, **unary.GRADIENTS}, refused.REASONS)

__all__ = ["KNOWN", "additional_derivatives"]
