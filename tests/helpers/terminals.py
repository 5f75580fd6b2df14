"""A terminal that remembers what was written to it."""

import contextlib
import io
import re
import sys
from unittest import mock

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def lines(self):
        """Everything that was ever shown, without control codes."""
        return [line.strip() for line in re.split(r"[\r\n]+", _CODES.sub("", self.getvalue()))]


@contextlib.contextmanager
def terminal(columns=100, kind="xterm-256color"):
    """Standard output is a `Terminal`."""
    size = {"TERM": kind, "COLUMNS": str(columns), "LINES": "24"}
    shown = Terminal()
    with mock.patch.dict("os.environ", size), mock.patch.object(sys, "stdout", shown):
        yield shown
