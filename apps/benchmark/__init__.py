"""Costs of training steps, maps, sampling and tests, as ratios measured in one run."""
