"""Experiments on a trained model: each a function from model and data to a small table."""

from tfgrad.evaluation.noise import NoiseRobustness, noise_robustness

__all__ = ["NoiseRobustness", "noise_robustness"]
