"""The command line of this command: its own flags, and the options of Beam, which are passed on."""

import difflib
from collections.abc import Collection, Sequence

from tfgrad.errors import ArgumentError

# Runners of which Beam's Python package does not know all options.
_OTHER_RUNNERS = ("PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner")


def split(
    arguments: Sequence[str], known: Collection[str], without_value: Collection[str]
) -> tuple[list[str], list[str]]:
    """(arguments of this command, arguments of Beam).

    An argument of Beam is a flag that this command does not know, with what follows it up to the
    next flag.

    Args:
        arguments: The command line without the program's name.
        known: Names of this command's flags.
        without_value: Those of them that take no value, such as booleans.
    """
    own: list[str] = []
    passed: list[str] = []
    current, wants = own, False
    for argument in arguments:
        name, equals, _ = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or wants:
            current.append(argument)
            wants = False
            continue
        positive = name[2:] if name.startswith("no") and name[2:] in without_value else name
        if positive in known:
            current = own
            wants = not equals and positive not in without_value
        else:
            current = passed
        current.append(argument)
    return own, passed


def check(passed: Sequence[str], known: Collection[str], own: Collection[str], runner: str) -> None:
    """Check that Beam knows the options that are passed on.

    Args:
        passed: Arguments of Beam.
        known: Names of the options of Beam's Python package.
        own: Names of this command's flags, for a suggestion.
        runner: Name of the runner; the servers of some know more options.

    Raises:
        ArgumentError: One is unknown.
    """
    is_other = runner in _OTHER_RUNNERS or "." in runner  # a class outside of Beam's own names
    for argument in passed:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-") or {name, name.removeprefix("no_")} & set(known):
            continue
        words = own if is_other else [*own, *known]
        close = difflib.get_close_matches(name, words, n=1, cutoff=0.85 if is_other else 0.6)
        if close or not is_other:
            hint = f"did you mean --{close[0]}?" if close else "see --help, and Beam's own options."
            raise ArgumentError(
                f"--{name}: got a flag that neither this command nor Apache Beam has; {hint}"
            )
