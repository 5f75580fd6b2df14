"""Tests of a trained network."""
