"""Samples of a classifier's implicit density: gradient ascent on a logit, Langevin dynamics."""

from tfgrad.sampling.chain import Samples
from tfgrad.sampling.samplers import gradient_ascent, langevin
from tfgrad.sampling.starting_images import noise, noised

__all__ = ["Samples", "gradient_ascent", "langevin", "noise", "noised"]
