"""Penalties on gradients: what to differentiate, and which loss."""

from tfgrad.penalties.advice import advise
from tfgrad.penalties.attention import AttentionJacobianMatching, AttentionMatching
from tfgrad.penalties.base import Penalty
from tfgrad.penalties.bias_gradients import (
    BiasGradientMatching,
    BiasGradientNorm,
    full_gradient_matching,
)
from tfgrad.penalties.derivative_matching import DerivativeMatching
from tfgrad.penalties.examples import Examples
from tfgrad.penalties.fooling import SaliencyFooling
from tfgrad.penalties.gradient_mask import GradientMask
from tfgrad.penalties.gradient_norm import GradientNorm
from tfgrad.penalties.layer_pairs import matching_layers
from tfgrad.penalties.logits_and_jacobians import ActivationMatching, JacobianMatching
from tfgrad.penalties.score_matching import ESTIMATORS, AntiScoreMatching, ScoreMatching

__all__ = [
    "ESTIMATORS",
    "ActivationMatching",
    "AntiScoreMatching",
    "AttentionJacobianMatching",
    "AttentionMatching",
    "BiasGradientMatching",
    "BiasGradientNorm",
    "DerivativeMatching",
    "Examples",
    "GradientMask",
    "GradientNorm",
    "JacobianMatching",
    "Penalty",
    "SaliencyFooling",
    "ScoreMatching",
    "advise",
    "full_gradient_matching",
    "matching_layers",
]
