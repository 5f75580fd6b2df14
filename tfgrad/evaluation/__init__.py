"""Experiments on a trained model: each is a function from model and data to a small table."""

from tfgrad.evaluation.comparison.compare import compare
from tfgrad.evaluation.comparison.result import Comparison, Cost
from tfgrad.evaluation.map_tests.bias_sensitivity import bias_sensitivity
from tfgrad.evaluation.map_tests.class_flip import class_flip
from tfgrad.evaluation.map_tests.completeness import completeness
from tfgrad.evaluation.map_tests.label_randomisation import label_randomisation, permuted_labels
from tfgrad.evaluation.map_tests.map_shards import MapShards
from tfgrad.evaluation.map_tests.pixel_perturbation import pixel_perturbation
from tfgrad.evaluation.map_tests.randomisation import randomisation
from tfgrad.evaluation.map_tests.remove_and_retrain import remove_and_retrain
from tfgrad.evaluation.map_tests.saved_maps import saved_maps
from tfgrad.evaluation.map_tests.shift_agreement import shift_agreement
from tfgrad.evaluation.map_tests.weak_dependence import weak_dependence
from tfgrad.evaluation.measurement import Measurement
from tfgrad.evaluation.network_tests.adversarial_robustness import adversarial_robustness
from tfgrad.evaluation.network_tests.density_ratios import density_ratios
from tfgrad.evaluation.network_tests.energy_share import energy_share
from tfgrad.evaluation.network_tests.gan import gan_test
from tfgrad.evaluation.network_tests.noise_robustness import noise_robustness
from tfgrad.evaluation.network_tests.transfer_bound import TransferBound, transfer_bound

__all__ = [
    "Comparison",
    "Cost",
    "MapShards",
    "Measurement",
    "TransferBound",
    "adversarial_robustness",
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
