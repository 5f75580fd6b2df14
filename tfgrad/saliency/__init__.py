"""Saliency methods: a model and images in, raw maps [B, H, W] out."""

from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import suggestion
from tfgrad.saliency.base import Method
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

# In the order in which tables and figures show them.
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
    """The class of a method by its registry name.

    Raises:
        ArgumentError: there is no such method; the message suggests one.
    """
    if not isinstance(name, str) or name not in METHODS:
        known = ", ".join(map(repr, METHODS))
        raise ArgumentError(f"method: got {name!r}; {suggestion(name, METHODS)}{known}.")
    return METHODS[name]


__all__ = [
    "METHODS",
    "BiasMap",
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
    "get",
]
