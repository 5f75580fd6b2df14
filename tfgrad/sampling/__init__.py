"""Samples of a classifier's implicit density: gradient ascent on a logit, and Langevin."""

from tfgrad.sampling.samplers import Samples, gradient_ascent, langevin, noise, noised

__all__ = ["Samples", "gradient_ascent", "langevin", "noise", "noised"]
