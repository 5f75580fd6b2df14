"""Experiments on a trained model: each a function from model and data to a small table."""

from tfgrad.evaluation.axioms import (
    bias_sensitivity,
    completeness,
    shift_agreement,
    weak_dependence,
)
from tfgrad.evaluation.class_flip import class_flip
from tfgrad.evaluation.comparing import compare
from tfgrad.evaluation.comparison import Comparison, Cost
from tfgrad.evaluation.density import density_ratios
from tfgrad.evaluation.energy import energy_share
from tfgrad.evaluation.judged import gan_test
from tfgrad.evaluation.map_shards import MapShards, saved_maps
from tfgrad.evaluation.measurement import Measurement
from tfgrad.evaluation.noise import noise_robustness
from tfgrad.evaluation.pixels import pixel_perturbation
from tfgrad.evaluation.randomisation import label_randomisation, permuted_labels, randomisation
from tfgrad.evaluation.retraining import remove_and_retrain
from tfgrad.evaluation.transfer_bound import TransferBound, transfer_bound

__all__ = [
    "Comparison",
    "Cost",
    "MapShards",
    "Measurement",
    "TransferBound",
    "bias_sensitivity",
    "class_flip",
    "compare",
    "completeness",
    "density_ratios",
    "energy_share",
    "gan_test",
    "label_randomisation",
    "noise_robustness",
    "permuted_labels",
    "pixel_perturbation",
    "randomisation",
    "remove_and_retrain",
    "saved_maps",
    "shift_agreement",
    "transfer_bound",
    "weak_dependence",
]
