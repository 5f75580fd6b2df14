"""Runs the cells of experiments: trains networks, examines them, and returns records."""
