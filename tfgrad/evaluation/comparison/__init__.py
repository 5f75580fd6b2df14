"""Saliency methods against tests, in one table."""
