"""Records of results that are kept on disk: reading them, and rejecting those of other settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfgrad.errors import ResumeError
from tfgrad.evaluation.digests import plain
from tfgrad.internal import regular_files


def read_record(path: str) -> dict[str, Any] | None:
    """The JSON object in a file, or None if there is no such file.

    Raises:
        ResumeError: The file holds something else.
        OSError: It cannot be read.
    """
    try:
        content = regular_files.read_json(path)
    except FileNotFoundError:
        return None
    except (ValueError, regular_files.NotRegularError):
        content = None
    if not isinstance(content, dict):
        raise ResumeError(
            f"directory: got {path!r}, which is damaged or not a record; expected a JSON object. "
            "Remove the file, or choose another directory."
        )
    return content


def check_same(path: str, earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that kept results were made under the settings that are wanted now.

    Args:
        path: The file or directory, as the message names it.
        earlier: The settings that were read from it.
        wanted: The settings of this call; they need not be in the form that JSON returns.

    Raises:
        ResumeError: Settings differ; the message names those that do.
    """
    different = differences(earlier, plain(wanted))
    if different:
        raise ResumeError(
            f"directory: {path!r} was made under other settings: {'; '.join(different)}. Choose "
            "another directory, or remove this one."
        )


def differences(earlier: Any, now: Any, name: str = "") -> list[str]:
    """The entries in which two nested mappings differ, one sentence for each.

    Args:
        earlier: The content that was kept, as JSON returns it.
        now: The content of this call, in the same form.
        name: The name of the content inside a larger one; empty for the whole.

    Returns:
        Sentences such as "options.samples was 2, now 3", in alphabetical order of the names.
    """
    if isinstance(earlier, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted({*earlier, *now}):
            inside = f"{name}.{key}" if name else key
            found += differences(earlier.get(key), now.get(key), inside)
        return found
    return [] if earlier == now else [f"{name} was {earlier!r}, now {now!r}"]
