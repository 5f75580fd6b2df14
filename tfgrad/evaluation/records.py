"""Records of results that are kept on disk: reading them, and refusing those of other settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tfgrad.errors import ResumeError
from tfgrad.evaluation.digests import plain


def read_record(path: str) -> dict[str, Any] | None:
    """The JSON object in a file, None if there is no file.

    Raises:
        ResumeError: the file holds something else.
    """
    try:
        with open(path) as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ResumeError(
            f"directory: {path!r} is damaged or not ours; remove it, or choose another directory."
        )
    return content


def check_same(path: str, earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with what was made under other settings.

    Raises:
        ResumeError: settings differ; it names those that do.
    """
    different = list(_differences(earlier, plain(wanted)))
    if different:
        raise ResumeError(
            f"directory: {path!r} was made under other settings: {'; '.join(different)}. Choose "
            "another directory, or remove this one."
        )


def _differences(earlier: Any, wanted: Any, at: str = "") -> Iterator[str]:
    if isinstance(earlier, Mapping) and isinstance(wanted, Mapping):
        for name in sorted({*earlier, *wanted}):
            inside = f"{at}.{name}" if at else name
            yield from _differences(earlier.get(name), wanted.get(name), inside)
    elif earlier != wanted:
        yield f"{at} was {earlier!r}, now {wanted!r}"
