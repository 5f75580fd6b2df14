"""Progress of a long command: a line every few seconds, with the time left."""

import datetime
import sys
import time

SECONDS_BETWEEN_LINES = 5


class Progress:
    """Prints every few seconds how many items are done, and the time left.

    Args:
        count: Number of items.
        start: Number of items that were done before this process began.
        what: Name of the items, as the line calls them.
    """

    def __init__(self, count: int, start: int = 0, what: str = "images") -> None:
        self.count, self.start, self.what = count, start, what
        self.began = self.printed = time.monotonic()

    def done(self, finished: int) -> None:
        """Print a line if the last one is `SECONDS_BETWEEN_LINES` ago."""
        now = time.monotonic()
        if now - self.printed >= SECONDS_BETWEEN_LINES and self.start < finished < self.count:
            each = (now - self.began) / (finished - self.start)
            left = datetime.timedelta(seconds=round(each * (self.count - finished)))
            done = f"{finished} of {self.count} {self.what}"
            print(f"{done}  {each:.2f} s each, {left} left", flush=True)
            self.printed = now


class Counter:
    """A count that is overwritten on one line of a terminal.

    Where standard output is a pipe or a file, a line is printed every few seconds and at the end.

    Args:
        what: What is counted, such as "steps: round".
        count: The number at the end.
    """

    def __init__(self, what: str, count: int) -> None:
        self.what, self.count, self.printed = what, count, time.monotonic()

    def done(self, finished: int) -> None:
        """Show how far it is."""
        line, last = f"{self.what} {finished} of {self.count}", finished == self.count
        if sys.stdout.isatty():
            print(f"\r{line}", end="\n" if last else "", flush=True)
            return
        now = time.monotonic()
        if last or now - self.printed >= SECONDS_BETWEEN_LINES:
            print(line, flush=True)
            self.printed = now
