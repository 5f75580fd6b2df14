"""Keras callbacks: exact backups, a stop at NaN, a record, time left, the angle to a teacher."""

from tfgrad.callbacks.backup import Backup
from tfgrad.callbacks.gradient_angle import GradientAngle
from tfgrad.callbacks.progress import JsonLines, TimeLeft, read_json_lines
from tfgrad.training.stop_on_non_finite import StopOnNonFinite

__all__ = [
    "Backup",
    "GradientAngle",
    "JsonLines",
    "StopOnNonFinite",
    "TimeLeft",
    "read_json_lines",
]
