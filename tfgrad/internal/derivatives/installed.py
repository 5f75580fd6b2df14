"""Registers the derivatives when it is imported."""

from tfgrad.internal.derivatives import crops, pooling, refused, resizing, slices, unary
from tfgrad.internal.derivatives.registry import install

# The operations that have derivatives inside `additional_derivatives()`.
KNOWN = install(
    {**resizing.GRADIENTS, **crops.GRADIENTS, **unary.GRADIENTS},
    {**pooling.GRADIENTS, **slices.GRADIENTS},
    refused.REASONS,
)
