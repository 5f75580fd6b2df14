"""Error messages of the library in the words of a command: its flags in place of arguments."""

import ast
import os
import re
from collections.abc import Mapping
from typing import Any

# Flags that an argument with another name is given by, in the order in which they are tried.
_GIVEN_BY = {
    "name": ("dataset",),
    "split": ("split", "train_split", "test_split"),
    "input_shape": ("image_size", "side"),
    "depth": ("network",),
    "width": ("width", "teacher_width"),
    "method": ("methods", "method"),
    "layers": ("layers", "bias_layers"),
    "loss": ("gradient_norm_loss", "jacobian_loss"),
    "steps_per_epoch": ("batch_size",),
    "step_size": ("step_size", "attack_step_size"),
}
# Arguments that are given by the flag that has their value.
_PATHS = ("path", "directory")
# Arguments of loading that no command has a flag for, each named in an advice to raise it.
_LIMITS = ("limit_bytes", "limit_seconds")
# The end of the temporary name under which a file or directory is written, and what is in it.
_TEMPORARY = re.compile(r"\.(?:tmp|new)-\d+-\d+[^']*(?=')")
# What the value of a flag is, for an argument with another name.
_VALUES = {"depth": "vgg{}"}

# Two messages of absl: of a flag that it does not know, and of a value that a flag does not have.
_UNKNOWN = re.compile(r"(Unknown command line flag '.*')\. Did you mean: (.+) \?", re.DOTALL)
_NO_CHOICE = re.compile(r"flag --(\w+)=(.*): value should be one of <(.*)>", re.DOTALL)

_LEADING = re.compile(r"([a-z_]+(?:, [a-z_]+)*): (?=got |')")
_ASSIGNED = re.compile(r"(?<![-\w.'\"/])([a-z_]+)=('[^']*'|\([^)]*\)|\w+(?:\.\w+)*)")
_BARE = re.compile(r"(?<![-\w.'\"/=])([a-z]+_[a-z_]+)(?![\w(='\"/]|\.\w)")
_GOT = re.compile(r": got ([^',; ]+)")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")


def of_parsing(message: str) -> str:
    """A message of absl about flags, with the most similar flag or value first.

    Args:
        message: Message of an error of absl.
    """
    from tfgrad.internal import arguments  # after `command` has started TensorFlow

    if found := _UNKNOWN.fullmatch(message):
        meant = " or ".join(f"--{name}" for name in found[2].split(", "))
        return f"{found[1]}; did you mean {meant}? See --help"
    if found := _NO_CHOICE.fullmatch(message):
        choices = found[3].split("|")
        meant = arguments.suggestion(found[2], choices)
        return f"--{found[1]}: got {found[2]!r}; {meant}{', '.join(choices)}; see --help"
    return f"{message}; see --help"


def as_flags(message: str, flags: Mapping[str, Any]) -> str:
    """A message about arguments, about flags where a command has flags for them.

    "split: got 'x'; … Pass download=True." becomes "--test_split: got 'x'; … Pass --download.", if
    'x' is the value of --test_split. Names for which the command has no flag stay as they are.

    Args:
        message: Message of an error or a warning of tfgrad.
        flags: {name: value} of the command's flags.
    """

    def flag(argument: str) -> str | None:
        known = [name for name in _GIVEN_BY.get(argument, (argument,)) if name in flags]
        return next(
            (name for name in known if _holds(flags[name], quoted)), next(iter(known), None)
        )

    def leading(match: re.Match[str]) -> str:
        names = []
        for argument in match[1].split(", "):
            name = flag(argument)
            if name is None and argument in _PATHS:
                name = next((n for n, value in flags.items() if _holds(value, quoted)), None)
                name = name or _parent(flags, quoted)
            names.append(argument if name is None else f"--{name}")
        return f"{', '.join(names)}: "

    def assigned(match: re.Match[str]) -> str:
        name = flag(match[1])
        return match[0] if name is None else _assignment(match[1], name, match[2])

    def bare(match: re.Match[str]) -> str:
        name = flag(match[1])
        return match[0] if name is None else f"--{name}"

    message = _TEMPORARY.sub("", message)
    for argument in _LIMITS:
        if argument not in flags:
            instead = f"or load it in Python with {argument}="
            message = message.replace(f"or raise {argument}=", instead)
    quoted = {*_QUOTED.findall(message), *_GOT.findall(message)}
    begun = _LEADING.match(message)
    head, rest = ("", message) if begun is None else (leading(begun), message[begun.end() :])
    # What is quoted is the user's own, except the values of arguments.
    parts = re.split(r"((?<!=)'(?:[^'\\]|\\.)*')", rest)
    parts[::2] = [_BARE.sub(bare, _ASSIGNED.sub(assigned, part)) for part in parts[::2]]
    return head + "".join(parts)


def _parent(flags: Mapping[str, Any], quoted: set[str]) -> str | None:
    """The flag that names a directory of one of the paths, the deepest one."""
    names = {
        os.path.join(os.path.normpath(value), ""): name
        for name, value in flags.items()
        if isinstance(value, str) and value.strip(os.sep)
    }
    paths = [os.path.normpath(path) for path in quoted]
    within = [d for d in names if any(path.startswith(d) for path in paths)]
    return names[max(within, key=len)] if within else None


def _holds(value: Any, quoted: set[str]) -> bool:
    """Whether a flag has one of the values, as its own, in its list, or as NAME=VALUE."""
    values = value if isinstance(value, list) else [value]
    return any(str(one) in quoted or str(one).partition("=")[2] in quoted for one in values)


def _assignment(argument: str, flag: str, text: str) -> str:
    """`--flag=value` for `argument=text`, where text is Python."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return f"--{flag}={text}"
    if value is None:
        return f"no --{flag}"
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no{flag}"
    if isinstance(value, tuple | list):
        value = ",".join(map(str, value))
    return f"--{flag}={_VALUES.get(argument, '{}').format(value)}"
