"""A line of a terminal that is overwritten while something runs, drawn by rich.

What is printed meanwhile appears above it, whole. Where standard output is no terminal, or rich is
not installed (`pip install 'tfgrad[apps]'`), there is no such line, and callers print plain ones.
"""

from __future__ import annotations

import atexit
import importlib.util
import sys
import time
from typing import Any

_SECONDS_BETWEEN_DRAWINGS = 0.1
_BAR = 20  # characters

_open: list[LiveLine] = []


def opened() -> LiveLine | None:
    """A line on standard output; None where there is none, or where another one is open."""
    if _open or not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        return None
    from rich.console import Console

    console = Console()
    return None if console.is_dumb_terminal else LiveLine(console)


class LiveLine:
    """A title, a bar and figures, and a second line of details; to be closed.

    Args:
        console: The terminal, a `rich.console.Console`.
    """

    def __init__(self, console: Any) -> None:
        from rich.live import Live

        # Without a thread of its own, which would draw while a step is timed.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = -_SECONDS_BETWEEN_DRAWINGS
        self._live.start()
        _open.append(self)
        atexit.register(self.close)  # an error may end a run without closing; the cursor returns

    def show(
        self, title: str, done: int, count: int | None, figures: str, details: str = ""
    ) -> None:
        """Draw the line, unless it was drawn a moment ago.

        Args:
            title: Text before the bar.
            done: How many are done.
            count: Of how many; None if that is not known, which leaves the bar out.
            figures: Text behind the bar.
            details: The second line, which is folded where it is wider than the terminal.
        """
        now = time.monotonic()
        if now - self._drawn < _SECONDS_BETWEEN_DRAWINGS and done != count:
            return
        self._drawn = now
        self._live.update(_drawing(title, done, count, figures, details), refresh=True)

    def close(self) -> None:
        """Remove the line."""
        if self in _open:
            _open.remove(self)
            self._live.stop()
            atexit.unregister(self.close)


def _drawing(title: str, done: int, count: int | None, figures: str, details: str) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    parts: list[Any] = [Text(title)]
    if count is not None:
        parts.append(ProgressBar(total=count, completed=done, width=_BAR))
    row.add_row(*parts, Text(figures))
    return Group(row, Text(details)) if details else row
