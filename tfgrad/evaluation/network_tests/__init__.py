"""Tests of a trained network: robustness, gradients and implicit density."""
