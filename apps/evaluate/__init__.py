"""Tests of trained networks and of saliency methods, from the command line."""
