"""Runs commands in the test's own process, which saves the start of TensorFlow."""

import contextlib
import sys
from unittest import mock

import pytest
from absl import flags

from apps.common import command


@contextlib.contextmanager
def in_process(module):
    """Define the flags of a command while the context is open.

    Args:
        module: Module of `apps` with `define_flags` and `main`.

    Yields:
        run(*arguments), which runs the command and returns its exit code; all other flags have
        their defaults.
    """
    before = set(flags.FLAGS)
    module.define_flags()
    mine = sorted(set(flags.FLAGS) - before)
    script = f"{module.__name__.replace('.', '/')}.py"

    def run(*arguments):
        flags.FLAGS.unparse_flags()
        for name in mine:
            flags.FLAGS[name].unparse()
        argv = [script, *map(str, arguments)]
        with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit) as exit_:
            command.run(module.main, getattr(module, "POSITIONAL", None))
        return exit_.value.code or 0

    try:
        yield run
    finally:
        for name in mine:
            delattr(flags.FLAGS, name)
