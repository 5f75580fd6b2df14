"""Saliency methods: raw maps [B, H, W] of a model's logits for images."""

from tfgrad.internal.arguments import one_of
from tfgrad.saliency.applicability import applicable
from tfgrad.saliency.base import Method
from tfgrad.saliency.explanation import Explanation
from tfgrad.saliency.fullgrad import FullGrad, SimpleFullGrad, SmoothFullGrad
from tfgrad.saliency.gradcam import GradCAM
from tfgrad.saliency.guided_backprop import GuidedBackprop
from tfgrad.saliency.input_gradient import InputGradient, InputTimesGradient
from tfgrad.saliency.integrated_gradients import IntegratedGradients
from tfgrad.saliency.jacobian_map import BiasMap, FullJacobianMap
from tfgrad.saliency.layer_map import LayerMap
from tfgrad.saliency.random_map import Random
from tfgrad.saliency.smoothing import Smooth, SmoothGrad, SmoothGradSquared
from tfgrad.saliency.tf_keras_vis import (
    GradCAMPlusPlus,
    LayerCAM,
    ScoreCAM,
    activation_maximization,
)

# The order is that of tables and figures.
METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        FullGrad,
        SimpleFullGrad,
        SmoothFullGrad,
        FullJacobianMap,
        BiasMap,
        LayerMap,
        InputGradient,
        InputTimesGradient,
        IntegratedGradients,
        SmoothGrad,
        SmoothGradSquared,
        GradCAM,
        GradCAMPlusPlus,
        LayerCAM,
        ScoreCAM,
        GuidedBackprop,
        Random,
    )
}


def get(name: str) -> type[Method]:
    """The class of a method.

    Args:
        name: Name of the method, a key of `METHODS`.

    Raises:
        ArgumentError: There is no such method; the message suggests one.
    """
    return METHODS[one_of("method", name, METHODS)]


__all__ = [
    "METHODS",
    "BiasMap",
    "Explanation",
    "FullGrad",
    "FullJacobianMap",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "InputGradient",
    "InputTimesGradient",
    "IntegratedGradients",
    "LayerCAM",
    "LayerMap",
    "Method",
    "Random",
    "ScoreCAM",
    "SimpleFullGrad",
    "Smooth",
    "SmoothFullGrad",
    "SmoothGrad",
    "SmoothGradSquared",
    "activation_maximization",
    "applicable",
    "get",
]
