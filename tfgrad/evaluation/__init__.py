"""Experiments on a trained model: each a function from model and data to a small table."""

from tfgrad.evaluation.noise import NoiseRobustness, noise_robustness
from tfgrad.evaluation.transfer_bound import TransferBound, transfer_bound

__all__ = ["NoiseRobustness", "TransferBound", "noise_robustness", "transfer_bound"]
