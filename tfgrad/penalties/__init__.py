"""Penalties on gradients: what to differentiate, and which loss."""

from tfgrad.penalties.base import Penalty
from tfgrad.penalties.gradient_norm import GradientNorm
from tfgrad.penalties.score import ESTIMATORS, AntiScoreMatching, ScoreMatching

__all__ = ["ESTIMATORS", "AntiScoreMatching", "GradientNorm", "Penalty", "ScoreMatching"]
