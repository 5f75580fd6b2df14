"""What both suites of tests, of networks and of maps, offer to the command."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tfgrad import data

from .networks import NetworkUnderTest
from .report import Report

Networks = Mapping[str, NetworkUnderTest]


@dataclasses.dataclass(frozen=True)
class Suite:
    """Tests, what they require of flags and images, and how they are run.

    Attributes:
        tests: Names of the tests.
        default: Names of the tests that run where --tests is left out.
        files: Names of the files that a result may hold beside those of every suite.
        choose: Words that tell how to choose this suite, after the name of one of its tests.
        check: Takes (tests, names of the networks); raises if flags are wrong.
        check_images: Takes (tests, images); raises if these lack a class or a region.
        rehearse: Takes (tests, networks, images); raises on a first batch what would otherwise
            be raised after a part of the work.
        run: Takes (tests, networks, images); returns the `Report`.
    """

    tests: tuple[str, ...]
    default: tuple[str, ...]
    files: tuple[str, ...]
    choose: str
    check: Callable[[Sequence[str], Collection[str]], None]
    check_images: Callable[[Sequence[str], data.Dataset], None]
    rehearse: Callable[[Sequence[str], Networks, data.Dataset], None]
    run: Callable[[Sequence[str], Networks, data.Dataset], Report]


def no_rehearsal(*_: Any) -> None:
    """For suites that report a failing test beside the others instead of raising."""
