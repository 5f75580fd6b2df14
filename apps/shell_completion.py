"""Completion of commands, flags and values in shells."""

import argparse
import importlib
from collections.abc import Mapping

# The first import of the commands' common parts quietens TensorFlow.
from .common import command  # noqa: F401

# isort: split
from absl import flags

from .common import invocation


def script(commands: Mapping[str, str], shell: str) -> str:
    """The script that completes `tfgrad` in a shell.

    Args:
        commands: {command: what it does}.
        shell: "bash", "zsh" or "tcsh".
    """
    try:
        import shtab
    except ImportError as missing:
        raise SystemExit(
            f"completion needs shtab ({missing}); try pip install 'tfgrad[apps]'"
        ) from None
    return shtab.complete(_parser(commands), shell)


def _parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """A parser with all commands and their flags, for completion alone."""
    import shtab

    parser = argparse.ArgumentParser(prog=invocation.PROGRAM)
    parser.add_argument("--version", action="store_true", help="Print the version.")
    parts = parser.add_subparsers()
    for name, line in commands.items():
        part = parts.add_parser(name, help=line.replace("%", "%%"))
        for flag in flags_of(name):
            if isinstance(flag, flags.BooleanFlag):
                part.add_argument(f"--{flag.name}", f"--no{flag.name}", action="store_true")
                continue
            choices = getattr(flag.parser, "enum_values", None)
            added = part.add_argument(f"--{flag.name}", choices=choices)
            if choices is None:
                added.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser


def flags_of(name: str) -> list[flags.Flag]:
    """The flags of a command, which are undefined again: several define the same ones."""
    module = f"{__package__}.{name.replace('-', '_')}"
    package = importlib.import_module(module)
    if hasattr(package, "__path__"):
        package = importlib.import_module(f"{module}.__main__")
    before = set(flags.FLAGS)
    package.define_flags()
    found = [flags.FLAGS[name] for name in sorted(set(flags.FLAGS) - before)]
    for flag in found:
        delattr(flags.FLAGS, flag.name)
    return found
