"""Only regular files are read, and no more of them than is allowed."""

import os
import socket

import pytest

from tfgrad.internal import regular_files


def pipe(path):
    os.mkfifo(path)


def a_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


KINDS = {
    "a named pipe": pipe,
    "a socket": a_socket,
    "a device": lambda path: path.symlink_to("/dev/null"),
    "a directory": os.mkdir,
    "a file of the kernel": lambda path: path.symlink_to("/proc/self/status"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_files(tmp_path, kind):
    path = tmp_path / "x"
    KINDS[kind](path)
    for read in (regular_files.opened, regular_files.read_json):
        with pytest.raises(regular_files.NotRegularError, match=f"{kind}, not a regular file"):
            read(path)


def test_a_file_exchanged_for_a_pipe_before_it_is_opened(tmp_path, monkeypatch):
    path, other = tmp_path / "x", tmp_path / "regular"
    os.mkfifo(path)
    other.write_text("{}")
    status = os.stat(other)
    monkeypatch.setattr(regular_files.os, "stat", lambda _: status)
    with pytest.raises(regular_files.NotRegularError, match="a named pipe"):
        regular_files.opened(path)


def test_links_and_missing_files(tmp_path):
    (tmp_path / "content").write_text('{"a": [1]}')
    (tmp_path / "link").symlink_to(tmp_path / "content")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    assert regular_files.read_json(tmp_path / "link") == {"a": [1]}
    with pytest.raises(OSError, match="symbolic links"):
        regular_files.opened(tmp_path / "ring")
    with pytest.raises(FileNotFoundError):
        regular_files.opened(tmp_path / "missing")


def test_sizes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(10))
    assert regular_files.read(path, 10) == bytes(10)
    os.truncate(path, 1 << 40)  # holes: it takes nothing on the disk
    with pytest.raises(OSError, match="more than 10 bytes"):
        regular_files.read(path, 10)


@pytest.mark.parametrize(
    "text, message",
    {
        b'{"a": 1, "b": 2, "a": 3}': "the key 'a' twice",
        b"[" * 100_000: "nested too deeply",
        b"1" * 5000: "digits",
        b"\xff\xfe\x00": "decode",
        b"": "Expecting value",
    }.items(),
)
def test_json_that_is_none(text, message):
    with pytest.raises(ValueError, match=message):
        regular_files.parse_json(text)


def test_json_of_too_many_items(monkeypatch):
    monkeypatch.setattr(regular_files, "MAX_JSON_ITEMS", 10)
    assert regular_files.parse_json(b"[1, 2, 3]") == [1, 2, 3]
    with pytest.raises(ValueError, match="of 20 items; at most"):
        regular_files.parse_json(b"[" * 20)
