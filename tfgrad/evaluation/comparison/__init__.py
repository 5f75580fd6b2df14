"""Saliency methods and tests of them, in one table."""
