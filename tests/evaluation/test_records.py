"""Kept records: what is read, and how differences between settings are named."""

import pytest

from tfgrad.errors import ResumeError
from tfgrad.evaluation.records import check_same, differences, read_record


def test_differences_are_named_by_their_path():
    earlier = {"a": 1, "options": {"samples": 2, "gone": True}, "same": [1, 2]}
    now = {"a": 1, "options": {"samples": 3}, "new": "x", "same": [1, 2]}
    assert differences(earlier, now) == [
        "new was None, now 'x'",
        "options.gone was True, now None",
        "options.samples was 2, now 3",
    ]
    assert differences(now, now) == []
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a was {'b': 1}, now 1"]


def test_settings_are_compared_in_the_form_of_json():
    check_same("maps", {"fractions": [0.5]}, {"fractions": (0.5,)})
    with pytest.raises(ResumeError, match=r"directory: 'maps' was made under other settings: f"):
        check_same("maps", {"fractions": [0.5]}, {"fractions": (0.25,)})


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_a_file_that_is_no_record(tmp_path, content):
    path = tmp_path / "record.json"
    assert read_record(str(path)) is None
    path.write_text(content)
    with pytest.raises(ResumeError, match=r"directory: got .*, which is damaged or not a record"):
        read_record(str(path))
