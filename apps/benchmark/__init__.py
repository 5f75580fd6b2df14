"""Ratios of the costs of training steps, maps, sampling and tests, measured in one run."""
