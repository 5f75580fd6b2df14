"""One page for each command: its manual page, and its flags as absl has them."""

import functools
import html
import inspect
import pathlib
import re
from collections.abc import Iterable

from apps import __main__ as program
from apps import shell_completion
from apps.common import command as common
from apps.common import invocation

# isort: split
from absl import flags

DOCS = pathlib.Path(__file__).parents[2] / "docs"
FOLDER = "commands"
_INTRODUCTION = (
    "The wheel installs the program `tfgrad`, which starts these commands; the extras `apps` and "
    "`figures` have what they need. In a checkout, `python -m apps.train` is the same as "
    "`tfgrad train`.",
    "`tfgrad COMMAND --help` prints the pages below, `tfgrad --version` the version, and "
    "`tfgrad --print-completion=bash` a script that completes commands, flags and values in bash, "
    "zsh or tcsh. A value follows an equals sign or a space (`--epochs=3`, `--epochs 3`), lists "
    "are separated by commas, and a flag that is on or off is switched off by `--noFLAG`.",
)
# How the paragraphs begin that tell which files a command leaves.
_WRITES = ("Writes ", "The directory --out ", "The work directory receives ")
_EXIT_CODES = "Exit codes: "
_KINDS = {"int": "an integer", "float": "a number"}


def pages() -> dict[str, str]:
    """{page: its text} of every command, and their list."""
    known = {name: invocation.in_text(line, True) for name, line in program.commands().items()}
    rows = "\n".join(f"| [`tfgrad {name}`]({name}.md) | {line} |" for name, line in known.items())
    described = inspect.getdoc(common) or ""
    listed = [
        "# Commands",
        *_INTRODUCTION,
        f"| command | what it does |\n|---|---|\n{rows}",
        "## Exit codes",
        _exit_codes(described[described.index(_EXIT_CODES) :]),
        "A command that is interrupted from the keyboard ends with 130. An error takes one line, "
        "which names the flag, what was expected, and what to try.",
    ]
    found = {page_of(name): _page(name, page) for name, page in program.manual_pages().items()}
    return {**found, f"{FOLDER}/index.md": "\n\n".join(listed) + "\n"}


def page_of(name: str) -> str:
    """The page of a command in the site."""
    return f"{FOLDER}/{name}.md"


@functools.cache
def addresses() -> dict[str, str]:
    """{command as it is called: address in the site}."""
    return {
        f"{invocation.PROGRAM} {name}": page_of(name).removesuffix(".md") + ".html"
        for name in program.commands()
    }


def _page(name: str, described: str) -> str:
    known = {flag.name: flag for flag in shell_completion.flags_of(name)}
    manual = invocation.in_text(described, True).split("\n\n")
    codes = [part for part in manual if part.startswith(_EXIT_CODES)]
    writes = [part for part in manual if part.startswith(_WRITES)]
    parts = [f"# tfgrad {name}"]
    parts += [_markdown(part, known) for part in manual if part not in codes + writes]
    parts += ["## What it writes", *(_markdown(part, known) for part in writes)] * bool(writes)
    parts += ["## Flags", _table(known.values(), known)] * bool(known)
    parts += ["## Exit codes", _exit_codes(codes[0])]
    if guides := _guides(name):
        parts.append(f"Pages that use this command: {guides}.")
    return "\n\n".join(parts) + "\n"


def _markdown(part: str, known: Iterable[str]) -> str:
    """A paragraph of a manual page: an example, or text with lines of lists in it."""
    lines = part.split("\n")
    if all(line.startswith("    ") for line in lines):
        return "\n".join(["```bash", *(line[4:] for line in lines), "```"])
    found: list[str] = []
    for line in lines:
        if item := re.match(r" {2}(\S.*?)(?: {2,}(\S.*))?$", line):
            if found and not found[-1].startswith("-   "):
                found.append("")  # which begins a list
            name, text = item.groups()
            found.append(f"-   {_text(name, known)}" if text is None else f"-   {_term(name)}: ")
            found[-1] += _text(text or "", known)
        elif found and found[-1].startswith("-   ") and line.startswith("  "):
            found[-1] += " " + _text(line.strip(), known)
        else:
            if found and found[-1].startswith("-   "):
                found.append("")  # which ends it
            found.append(_text(line, known))
    return "\n".join(found)


def _term(name: str) -> str:
    return ", ".join(f"`{one}`" for one in name.split(", "))


def _text(line: str, known: Iterable[str]) -> str:
    """A line of a manual page as Markdown: flags with links to their rows, names as code."""

    def flag(found: re.Match[str]) -> str:
        named = found[1]
        name = next((n for n in (named, named.removeprefix("no")) if n in known), None)
        return f"`{found[0]}`" if name is None else f"[`{found[0]}`](#flag-{name})"

    parts = re.split(r"(`[^`]*`)", line)
    for i in range(0, len(parts), 2):
        part = html.escape(parts[i], quote=False).replace("*", r"\*")
        part = re.sub(r"--(\w+)(?:=[^\s,;)]*[^\s,;:.)])?", flag, part)
        parts[i] = re.sub(r"(?<![\w`/])tfgrad(?:(?:\.\w+)+| [a-z]+(?:-[a-z]+)*)", _named, part)
    return "".join(parts)


def _named(found: re.Match[str]) -> str:
    """A name of the library, or a command, as code."""
    name = found[0]
    return f"`{name}`" if "." in name or name in addresses() else name


def _table(listed: Iterable[flags.Flag], known: Iterable[str]) -> str:
    rows = ['<div class="flags" markdown>\n', "| flag | default | meaning |", "|---|---|---|"]
    for flag in listed:
        no = "[no]" if isinstance(flag, flags.BooleanFlag) else ""
        values = getattr(flag.parser, "enum_values", None)
        said = re.sub(r"^<[^>]*>: ", "", flag.help or "") if values else flag.help or ""
        meaning = _text(invocation.in_text(" ".join(said.split()), True), known)
        if values:
            meaning += f" One of {', '.join(f'`{value}`' for value in values)}."
        elif kind := _kind(flag):
            meaning += f" <small>({kind})</small>"
        cells = [f"`--{no}{flag.name}`{{ #flag-{flag.name} }}", _default(flag)]
        rows.append(f"| {' | '.join(cells)} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join([*rows, "\n</div>"])


def _kind(flag: flags.Flag) -> str:
    """What a value of a flag is, with its bounds; "" of a text or a switch."""
    said: str = getattr(flag.parser, "syntactic_help", "")
    return said or _KINDS.get(flag.flag_type(), "")


def _default(flag: flags.Flag) -> str:
    value = flag.default
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ("", []):
        return "none"
    listed = isinstance(value, list) and flag.serializer  # quotes what holds a comma
    text = str(listed.serialize(value) if listed else value)
    shown = html.escape(text).replace("|", "&#124;").replace(",", ",<wbr>")  # lines break there
    return f"<code>{shown}</code>"


def _exit_codes(paragraph: str) -> str:
    text = " ".join(paragraph.split()).removeprefix(_EXIT_CODES).removesuffix(".")
    rows = [f"| {entry.replace(' ', ' | ', 1)} |" for entry in re.split(r", (?=\d+ )", text)]
    return "\n".join(["| code | meaning |", "|---|---|", *rows])


def _guides(name: str) -> str:
    """Links to the pages of docs/ that call a command, by their titles."""
    found = []
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if re.search(rf"\btfgrad {name}\b(?!-)", text):
            title = text.split("\n", 1)[0].lstrip("# ")
            found.append(f"[{title}](../{path.relative_to(DOCS)})")
    return ", ".join(found)
