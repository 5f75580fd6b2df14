"""Ends a process whose parent has ended: a runner that is killed leaves no worker behind."""

from __future__ import annotations

import os
import threading
import time


def watch(parent: int, interval: float = 1.0) -> None:
    """End this process, by a thread of its own, once it is no child of `parent` any more."""
    threading.Thread(target=_end_with, args=(parent, interval), daemon=True).start()


def _end_with(parent: int, interval: float) -> None:
    while os.getppid() == parent:
        time.sleep(interval)
    os._exit(1)
