"""The commands of tfgrad: models whose gradients matter, trained, explained, tested and served.

    tfgrad COMMAND [--flag=value …]
    tfgrad COMMAND --help
    tfgrad --version
    tfgrad --print-completion=SHELL      bash, zsh or tcsh

Commands:
"""

import ast
import importlib.metadata
import importlib.util
import pathlib
import runpy
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from .common import invocation

USAGE = 64
SHELLS = ("bash", "zsh", "tcsh")
_HERE = pathlib.Path(__file__).parent


def main() -> None:
    """Start the command that the first argument names."""
    invocation.by_program()
    arguments = sys.argv[1:]
    first = arguments[0] if arguments else "--help"
    option, _, value = first.partition("=")
    if option in ("--help", "-h", "help"):
        print(_page())
    elif option in ("--version", "-V"):
        print(f"{invocation.PROGRAM} {importlib.metadata.version('tfgrad')}")
    elif option == "--print-completion":
        _print_completion(value or "".join(arguments[1:2]))
    elif first.startswith("-"):
        _fail(f"unexpected flag {first!r} before a command")
    else:
        _start(first, arguments[1:])


def commands() -> dict[str, str]:
    """{command: the first line of its manual page}, read without importing any."""
    return {name: page.split("\n")[0] for name, page in manual_pages().items()}


def manual_pages() -> dict[str, str]:
    """{command: its manual page}, read without importing any."""
    found = {}
    for path in [*_HERE.glob("[a-z]*.py"), *_HERE.glob("[a-z]*/__main__.py")]:
        name = path.parent.name if path.stem == "__main__" else path.stem
        text = path.read_text(encoding="utf-8")
        page = ast.get_docstring(ast.parse(text))
        if page and "if __name__ ==" in text:
            found[name.replace("_", "-")] = page
    return dict(sorted(found.items()))


def _page() -> str:
    known = commands()
    width = max(map(len, known))
    assert __doc__ is not None
    lines = [__doc__.rstrip()]
    columns = max(shutil.get_terminal_size().columns, 2 * width)
    for name, line in known.items():
        lines += textwrap.wrap(
            f"{name:<{width}}  {invocation.in_text(line)}",
            columns,
            initial_indent="  ",
            subsequent_indent=" " * (width + 4),
        )
    return "\n".join(lines)


def _start(name: str, arguments: Sequence[str]) -> None:
    known = commands()
    if name.replace("_", "-") not in known:
        import difflib

        close = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        _fail(f"unknown command {name!r}; {meant}expected one of {', '.join(known)}")
    module = f"{__package__}.{name.replace('-', '_')}"
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    sys.argv = [found.origin, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _print_completion(shell: str) -> None:
    if shell not in SHELLS:
        _fail(f"--print-completion: got {shell!r}; expected one of {', '.join(SHELLS)}")
    from . import shell_completion

    print(shell_completion.script(commands(), shell))


def _fail(message: str) -> NoReturn:
    print(f"{invocation.PROGRAM}: {message}; see --help", file=sys.stderr)
    sys.exit(USAGE)


if __name__ == "__main__":
    main()
