"""Training with penalties on gradients."""

from tfgrad.training.penalized_model import PenalizedModel

__all__ = ["PenalizedModel"]
