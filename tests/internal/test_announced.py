"""Parts of a long call that are announced to a listener."""

import pytest

from tfgrad.internal import announced


def test_parts_are_announced_before_they_begin():
    heard = []
    with announced.to(heard.append):
        announced.part("first")
        for name, value in announced.each("tracing", {"a": 1, "b": 2}):
            heard.append((name, value))
    announced.part("nobody listens")
    assert heard == ["first", "tracing a (1 of 2)", ("a", 1), "tracing b (2 of 2)", ("b", 2)]


def test_an_error_ends_the_listening():
    heard = []
    with pytest.raises(ZeroDivisionError), announced.to(heard.append):
        raise ZeroDivisionError
    announced.part("later")
    assert heard == []
