"""How this command, and others, are called: `tfgrad train`, or `python -m apps.train`.

The package of the commands is `apps` in a checkout and `tfgrad_apps` in an installation, where the
program `tfgrad` starts them.
"""

import re

PROGRAM = "tfgrad"
# The commands may be installed under another name than `apps`.
PACKAGE = __package__.rpartition(".")[0]

_called_by_program = False


def by_program() -> None:
    """Note that the program `tfgrad` starts this command."""
    global _called_by_program
    _called_by_program = True


def named(command: str, program: bool | None = None) -> str:
    """Another command's name: `apps.map_dataset`, or `tfgrad map-dataset`.

    Args:
        command: The name of its module.
        program: Whether the program starts it; None: as it starts this one.
    """
    if _called_by_program if program is None else program:
        return f"{PROGRAM} {command.replace('_', '-')}"
    return f"{PACKAGE}.{command}"


def words(command: str, program: bool | None = None) -> list[str]:
    """The words that start another command: python, -m, apps.train; or tfgrad, train."""
    name = named(command, program)
    return name.split() if name.startswith(f"{PROGRAM} ") else ["python", "-m", name]


def line(command: str, program: bool | None = None) -> str:
    """What starts another command, as one line."""
    return " ".join(words(command, program))


def in_text(text: str, program: bool | None = None) -> str:
    """A text that names commands as `apps.train`, with their names as they are called here."""
    text = re.sub(r"\bpython -m apps\.([a-z]\w*)", lambda found: line(found[1], program), text)
    return re.sub(r"\bapps\.([a-z]\w*)", lambda found: named(found[1], program), text)
