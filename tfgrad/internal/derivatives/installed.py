"""Registers the derivatives when it is imported."""

from tfgrad.internal.derivatives import crops, refused, resizing, unary
from tfgrad.internal.derivatives.registry import install

# The operations that have derivatives inside `additional_derivatives()`.
KNOWN = install({**resizing.GRADIENTS, **crops.GRADIENTS, **unary.GRADIENTS}, refused.REASONS)
