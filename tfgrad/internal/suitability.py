"""What fits a model and what does not, as rows that show themselves as a table."""

from __future__ import annotations

import dataclasses
import html
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import one_of

# The words of an error or a warning that begin what to try; the dialect of `tfgrad.errors`.
_VERBS = r"(?:[Tt]ry|[Uu]se|[Pp]ass|[Aa]dd|[Bb]uild|[Nn]ame)\s"
_ADVICE = re.compile(rf"[;.:,]\s+(?:or\s+)?(?={_VERBS})")
_WIDTH = 100  # characters of a printed line


@dataclasses.dataclass(frozen=True)
class Row:
    """Whether one thing fits a model.

    Attributes:
        kind: "penalty", "method" or "target".
        name: Its name.
        fits: Whether it was computed without an error.
        reason: Why it does not fit; of what fits, what to know before it is used, or "".
        advice: What to try, or "".
        tried: The penalty, method or target as it was tried; None if it could not be built.
    """

    kind: str
    name: str
    fits: bool
    reason: str = ""
    advice: str = ""
    tried: Any = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def verdict(self) -> str:
        """ "yes", "no", or "with care" for what fits and has a reason to think twice."""
        if not self.fits:
            return "no"
        return "with care" if self.advice else "yes"


def row(kind: str, name: str, fits: bool, messages: Sequence[str], tried: Any = None) -> Row:
    """A row of the messages of an error or of warnings.

    What to try comes last in each line of a message. A line of a list is a message of its own.
    """
    parts = [_parted(*line) for text in messages for line in enumerate(text.strip().splitlines())]
    reason = "; ".join(reason for reason, _ in parts if reason).replace(":; ", ": ")
    advice = "; ".join(dict.fromkeys(advice for _, advice in parts if advice))
    return Row(kind, name, fits, reason, advice, tried)


def _parted(number: int, line: str) -> tuple[str, str]:
    """(reason, what to try) of a line; all of a further one may be what to try."""
    line, end = line.strip().rstrip(".;"), 0
    start = 0 if number and re.match(_VERBS, line) else None
    if start is None and (found := _ADVICE.search(line)):
        start, end = found.span()
    if start is None:
        return line, ""
    advice = line[end:]
    return line[:start], advice[:1].lower() + advice[1:]


def chosen_of(known: Mapping[str, Any], only: Sequence[str] | None) -> dict[str, Any]:
    """The entries with these names, in the order of `known`; None for all.

    Raises:
        ArgumentError: A name is unknown, or one string stands in the place of a list.
    """
    if only is None:
        return dict(known)
    if isinstance(only, str):
        raise ArgumentError(f"only: got {only!r}; expected a list of names; try [{only!r}].")
    for name in only:
        one_of("only", name, known)
    return {name: one for name, one in known.items() if name in only}


@dataclasses.dataclass(frozen=True, repr=False)
class Suitability:
    """Which penalties, methods and targets fit a model; printed, a table.

    Attributes:
        network: Name of the network.
        rows: One for each penalty, method or target.
    """

    network: str
    rows: tuple[Row, ...]

    @property
    def fitting(self) -> tuple[str, ...]:
        """The names of all that fits."""
        return tuple(one.name for one in self.rows if one.fits)

    def __getitem__(self, name: str) -> Row:
        for one in self.rows:
            if one.name == name:
                return one
        raise KeyError(name)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Name and rows, as JSON can hold them."""
        rows = [
            {f.name: getattr(one, f.name) for f in dataclasses.fields(one) if f.name != "tried"}
            for one in self.rows
        ]
        return {"network": self.network, "rows": rows}

    def __str__(self) -> str:
        names = max([len(one.name) for one in self.rows] or [0])
        verdicts = max([len(one.verdict) for one in self.rows] or [0])
        left = names + verdicts + 4
        lines = [f"network {self.network!r}:"]
        told: dict[str, str] = {}  # what was said, and of what
        for one in self.rows:
            head = f"{one.name:<{names}}  {one.verdict:<{verdicts}}  "
            text = one.reason + (f" → {one.advice}" if one.advice else "")
            if len(text) > _WIDTH and text in told:
                text = f"as {told[text]}"
            told.setdefault(text, one.name)
            parts = textwrap.wrap(" ".join(text.split()), _WIDTH - left) or [""]
            lines += [f"{head}{parts[0]}".rstrip(), *(" " * left + part for part in parts[1:])]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        left = ' style="text-align:left"'  # notebooks write cells at the right
        titles = "".join(f"<th{left}>{t}</th>" for t in ("", "fits", "why", "what to try"))
        lines = [
            "".join(
                f"<td{left}>{html.escape(text)}</td>"
                for text in (one.name, one.verdict, one.reason, one.advice)
            )
            for one in self.rows
        ]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        caption = f"<caption>{html.escape(self.network)}</caption>"
        return f"<table>{caption}<tr>{titles}</tr>{body}</table>"
