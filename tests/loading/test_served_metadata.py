"""What stands beside a SavedModel is JSON of the types that exporting writes, or is named."""

import json
import os

import pytest
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.internal.served_files import METADATA
from tfgrad.loading import served_metadata

RIGHT = {
    "name": "net",
    "classes": ["a", "b"],
    "input_shape": [None, 8, 8, 1],
    "image_range": [0, 255.0],
    "preprocess": None,
    "outputs": 2,
    "meaning": "exclusive",
    "signatures": ["encoded", "serving_default"],
    "methods": {"fullgrad": {"resize": "bilinear"}},
    "left_out": {"warmup": "too large"},
    "tfgrad": "0.3.0",
}


def written(tmp_path, content):
    path = tmp_path / METADATA
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(tmp_path)


def test_what_exporting_writes_and_what_later_versions_may_add(tmp_path):
    for content in (RIGHT, {}, RIGHT | {"classes": None, "image_range": None, "more": [1]}):
        assert served_metadata.read(written(tmp_path, content)) == content


def test_none(tmp_path):
    assert served_metadata.read(str(tmp_path)) == {}


WRONG = {
    "name": (3, ["net"]),
    "classes": ("ab", [1, 2], ["a", None], {"a": 1}, 7),
    "input_shape": (None, "8", [8, "8"], [-1], [8.5], [True]),
    "image_range": ([0], [1, 0], ["0", "1"], 5, [0, float("nan")], [0, float("inf")], [0, True]),
    "preprocess": (["a"], 0),
    "outputs": ("2", 2.5, None, True, -5, 0),
    "meaning": ("exlusive", ["exclusive"], None),
    "signatures": ("encoded", [["encoded"]], None),
    "methods": (["fullgrad"], {"fullgrad": None}, None),
    "left_out": ("encoded", {"encoded": 1}),
    "tfgrad": (3.1, None),
}


@pytest.mark.parametrize("name, value", [(n, v) for n, values in WRONG.items() for v in values])
def test_values_of_other_types(tmp_path, name, value):
    with pytest.raises(
        ModelError, match=rf"got {name}=.* in .*tfgrad.json; expected .*Try: export"
    ):
        served_metadata.read(written(tmp_path, RIGHT | {name: value}))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"null", b"3", b'"a"', b'{"name": "a"', b"\xff\xfe{", b'{"a": 1, "a": 2}'),
        *(b"[" * 100_000, b'{"outputs": ' + b"9" * 5000 + b"}"),
    ],
)
def test_no_json_object(tmp_path, content):
    with pytest.raises(ModelError, match=r"a .*tfgrad.json that (is not JSON|holds a)"):
        served_metadata.read(written(tmp_path, content))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"outputs": 3}, "got outputs=3 in .*; expected the 2 of the graph"),
        ({"classes": ["a"]}, "got classes of 1 names in .*; expected 2 names"),
        ({"signatures": ["nope"]}, "got the signature 'nope' in"),
    ],
)
def test_metadata_of_another_graph(changed, message):
    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def serve(x):
        return {"logits": x[:, :2]}

    signatures = dict.fromkeys(RIGHT["signatures"], serve.get_concrete_function())
    served_metadata.check_consistent("model", RIGHT, signatures)
    served_metadata.check_consistent("model", {}, signatures)
    with pytest.raises(ModelError, match=message):
        served_metadata.check_consistent("model", RIGHT | changed, signatures)


def test_no_file(tmp_path):
    os.makedirs(tmp_path / METADATA)
    with pytest.raises(ModelError, match=r"an unreadable .*a directory, not a regular file"):
        served_metadata.read(str(tmp_path))
