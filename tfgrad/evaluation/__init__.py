"""Experiments on a trained model: each a function from model and data to a small table."""

from tfgrad.evaluation.density import density_ratios
from tfgrad.evaluation.energy import energy_share
from tfgrad.evaluation.judged import gan_test
from tfgrad.evaluation.measurement import Measurement
from tfgrad.evaluation.noise import noise_robustness
from tfgrad.evaluation.pixels import pixel_perturbation
from tfgrad.evaluation.transfer_bound import TransferBound, transfer_bound

__all__ = [
    "Measurement",
    "TransferBound",
    "density_ratios",
    "energy_share",
    "gan_test",
    "noise_robustness",
    "pixel_perturbation",
    "transfer_bound",
]
