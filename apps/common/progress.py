"""Progress of a long command: how far it is, how fast, and the time left.

In a terminal, one line is overwritten; where standard output is a pipe or a file, a line is printed
every few seconds.
"""

import datetime
import time

from tfgrad.internal import live_line

SECONDS_BETWEEN_LINES = 5


class Progress:
    """Shows how many items are done, how many a second, and the time left.

    Args:
        count: Number of items.
        start: Number of items that were done before this process began.
        what: Name of the items, as the line calls them.
    """

    def __init__(self, count: int, start: int = 0, what: str = "images") -> None:
        self.count, self.start, self.what = count, start, what
        self.began = self.printed = time.monotonic()
        self._line = live_line.opened()

    def done(self, finished: int) -> None:
        """Show it; in a pipe, if the last line is `SECONDS_BETWEEN_LINES` ago."""
        now = time.monotonic()
        going_on = self.start < finished < self.count
        if self._line is not None:
            if going_on:
                text = f"{finished} of {self.count} {self.what}  {self._speed(finished, now)}"
                self._line.show("", finished, self.count, text)
            elif finished >= self.count:
                self._line.close()
        elif now - self.printed >= SECONDS_BETWEEN_LINES and going_on:
            speed = self._speed(finished, now)
            print(f"{finished} of {self.count} {self.what}  {speed}", flush=True)
            self.printed = now

    def _speed(self, finished: int, now: float) -> str:
        each = (now - self.began) / (finished - self.start)
        left = datetime.timedelta(seconds=round(each * (self.count - finished)))
        return f"{1 / max(each, 1e-9):.3g} a second, {left} left"


class Counter:
    """A count that is overwritten on one line of a terminal.

    Where standard output is a pipe or a file, a line is printed every few seconds and at the end.

    Args:
        what: What is counted, such as "steps: round".
        count: The number at the end.
    """

    def __init__(self, what: str, count: int) -> None:
        self.what, self.count, self.printed = what, count, time.monotonic()
        self._line = live_line.opened()

    def done(self, finished: int) -> None:
        """Show how far it is."""
        line, last = f"{self.what} {finished} of {self.count}", finished == self.count
        if self._line is not None:
            self._line.show(self.what, finished, self.count, f"{finished} of {self.count}")
            if not last:
                return
            self._line.close()
        now = time.monotonic()
        if last or now - self.printed >= SECONDS_BETWEEN_LINES:
            print(line, flush=True)
            self.printed = now
