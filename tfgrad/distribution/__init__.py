"""Strategies by name, a replica's share of the global batch, and workers that are lost."""

from tfgrad.distribution.shares import Share, local_slices, local_value, one_at_least, share_of
from tfgrad.distribution.strategies import NAMES, is_chief, is_multi_worker, strategy
from tfgrad.distribution.workers import lost_worker

__all__ = [
    "NAMES",
    "Share",
    "is_chief",
    "is_multi_worker",
    "local_slices",
    "local_value",
    "lost_worker",
    "one_at_least",
    "share_of",
    "strategy",
]
