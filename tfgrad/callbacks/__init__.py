"""Keras callbacks: exact backups, a stop at NaN, records, progress, maps and exports."""

from tfgrad.callbacks.backup import Backup
from tfgrad.callbacks.explanations import Explanations
from tfgrad.callbacks.export_each_epoch import ExportEachEpoch
from tfgrad.callbacks.gradient_angle import GradientAngle
from tfgrad.callbacks.progress import JsonLines, TimeLeft, read_json_lines
from tfgrad.training.stop_on_non_finite import StopOnNonFinite

__all__ = [
    "Backup",
    "Explanations",
    "ExportEachEpoch",
    "GradientAngle",
    "JsonLines",
    "StopOnNonFinite",
    "TimeLeft",
    "read_json_lines",
]
