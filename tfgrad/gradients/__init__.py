"""Gradients of one scalar per example: one forward pass, each distinct gradient once."""
