"""The page's folder, without a browser: what is in it, and what is rejected."""

import html.parser
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfgrad import images
from tfgrad.errors import ArgumentError, DataError, WriteError
from tfgrad.export import web
from tfgrad.export.web import runtime
from tfgrad.internal.served_files import METADATA

HOSTILE = '</script><img src="x" onerror="alert(1)">&amp;\u2028\ud800'
METADATA_OF_A_MODEL = {
    "name": "digits",
    "input_shape": [None, 8, 6, 1],
    "image_range": [0.0, 1.0],
    "methods": {"fullgrad": {}, "input_gradient": {}},
    "classes": ["cat", HOSTILE],
}
# Everything that the page consists of beside the model's files.
ASSETS = {
    *("index.html", "style.css", "icon.svg", "start.js", "app.js", "photograph.js"),
    *("resizing.js", "refusal.js", "colours.js", "engine.js", "worker.js"),
}


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A directory with files of the names of a model's; no npm package lies above it."""
    directory = tmp_path / "1"
    directory.mkdir()
    for name in ("serving_default", "fullgrad", "input_gradient"):
        (directory / f"{name}.onnx").write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "_installed", lambda: None)
    return directory


@pytest.fixture
def package(tmp_path):
    """A directory with files of the names of ONNX Runtime Web's."""
    dist = tmp_path / "node_modules" / runtime.PACKAGE / "dist"
    dist.mkdir(parents=True)
    (dist / runtime.SCRIPT).write_text("// script")
    (dist / runtime.BINARY).write_bytes(b"binary")
    (dist.parent / "package.json").write_text('{"version": "9.8.7"}')
    return dist


def written(exported, metadata=None, **options):
    folder = exported.parent / "page"
    assert web.write(exported, folder, METADATA_OF_A_MODEL | (metadata or {}), **options) == str(
        folder
    )
    return folder, json.loads((folder / "model.json").read_text())


def test_the_folder_has_the_page_the_model_and_its_description(exported):
    folder, model = written(exported)
    models = {"serving_default.onnx", "fullgrad.onnx", "input_gradient.onnx"}
    assert set(os.listdir(folder)) == ASSETS | models | {"model.json"}
    assert (folder / "fullgrad.onnx").read_bytes() == b"fullgrad"
    assert model["methods"] == ["fullgrad", "input_gradient"]
    assert (model["height"], model["width"], model["channels"]) == (8, 6, 1)
    assert model["input_shape"] == [8, 6, 1] and not model["channels_first"]
    assert model["image_range"] == [0, 1] and model["batch_size"] == 1
    assert model["limits"] == {"bytes": images.MAX_BYTES, "pixels": images.MAX_PIXELS}
    assert model["samples"] == [] and model["left_out"] == {}


def test_every_asset_that_the_page_names_is_there(exported):
    folder, _ = written(exported)
    text = "".join((folder / name).read_text() for name in ASSETS)
    named = re.findall(r'(?:href=|src=|src = |from |Worker\()"(?:\./)?([\w.]+)"', text)
    assert set(named) == ASSETS - {"index.html"}
    assert "{{" not in (folder / "index.html").read_text()


def test_the_page_allows_no_address_but_its_own(exported):
    folder, _ = written(exported)
    text = (folder / "index.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("img-src") == "'self' blob:"
    assert rules.pop("default-src") == "'none'"
    assert set(rules.values()) <= {"'self'", "'none'"} and "script-src" in rules
    for name in ASSETS - {"icon.svg"}:
        found = re.findall(r"https?://[\w./]+", (folder / name).read_text())
        assert set(found) <= {"http://localhost"}, name
    # The policy forbids scripts and styles within the page.
    assert "<style" not in text and " style=" not in text and " onload" not in text
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_hostile_names_stay_text(exported):
    plain, _ = written(exported)
    tags = _Tags()
    tags.feed((plain / "index.html").read_text())
    folder, model = written(exported, {"name": HOSTILE}, samples={HOSTILE: np.zeros((8, 6, 1))})
    hostile = _Tags()
    hostile.feed((folder / "index.html").read_text())
    assert hostile.tags == tags.tags
    assert HOSTILE.replace("\ud800", "?") in hostile.texts
    # ASCII alone, so that no reader splits it, and it is read back as it was.
    assert (folder / "model.json").read_bytes().isascii()
    assert model["classes"] == ["cat", HOSTILE]
    assert model["samples"] == [{"name": HOSTILE, "file": "samples/1.png"}]


def test_texts_from_elsewhere_are_never_read_as_html(exported):
    folder, _ = written(exported)
    for name in ASSETS:
        text = (folder / name).read_text()
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way not in text, (name, way)


@pytest.mark.parametrize(
    ("shape", "first", "sizes"),
    [
        ([None, 4, 5, 3], False, (4, 5, 3)),
        ([None, 3, 4, 5], True, (4, 5, 3)),
        ([None, 1, 4, 5], True, (4, 5, 1)),
        ([None, 3, 3, 3], False, (3, 3, 3)),
    ],
)
def test_channels_are_found_in_the_shape(exported, shape, first, sizes):
    _, model = written(exported, {"input_shape": shape})
    assert model["channels_first"] == first
    assert (model["height"], model["width"], model["channels"]) == sizes


def test_methods_without_a_file_are_named_with_their_reason(exported):
    why = {"onnx": {"batch_size": 3, "left_out": {"smoothgrad": "its runtime lacks Multinomial"}}}
    methods = {"smoothgrad": {}, "fullgrad": {}, "gradcam": {}}
    folder, model = written(exported, {"methods": methods, "formats": why})
    assert model["methods"] == ["fullgrad"] and model["batch_size"] == 3
    assert model["left_out"] == {
        "smoothgrad": "its runtime lacks Multinomial",
        "gradcam": "no ONNX file",
    }
    assert not (folder / "input_gradient.onnx").exists()


def test_the_metadata_is_read_from_the_version(exported):
    path = exported / METADATA
    path.parent.mkdir()
    path.write_text(json.dumps(METADATA_OF_A_MODEL))
    web.write(exported, exported / "web", title="A title", batch_size=4)
    model = json.loads((exported / "web" / "model.json").read_text())
    assert model["classes"] == ["cat", HOSTILE] and model["batch_size"] == 4
    assert "<h1>A title</h1>" in (exported / "web" / "index.html").read_text()


def test_a_page_replaces_an_earlier_one_and_nothing_else(exported):
    folder, _ = written(exported, samples=[np.zeros((8, 6))])
    assert (folder / "samples" / "1.png").exists()
    folder, _ = written(exported)
    assert not (folder / "samples").exists()
    other = exported.parent / "other"
    other.mkdir()
    web.write(exported, other, METADATA_OF_A_MODEL)  # an empty folder is taken
    mine = exported.parent / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("mine")
    with pytest.raises(ArgumentError, match=r"^folder: got .*mine.*; expected a new or empty"):
        web.write(exported, mine, METADATA_OF_A_MODEL)
    assert os.listdir(mine) == ["index.html"]


def test_a_failure_leaves_nothing(exported):
    before = sorted(os.listdir(exported.parent))
    with pytest.raises(DataError):
        written(exported, samples=[exported / "fullgrad.onnx"])
    assert sorted(os.listdir(exported.parent)) == before
    (exported.parent / "file").write_text("")
    with pytest.raises(WriteError, match=r"^folder: got .*which cannot be written"):
        web.write(exported, exported.parent / "file" / "page", METADATA_OF_A_MODEL)


def test_a_copy_of_the_runtime_is_put_beside_the_page(exported, package):
    for given in (package, package.parent, str(package)):
        folder, model = written(exported, runtime=given)
        assert model["runtime"] == {
            "version": "9.8.7",
            "address": "onnxruntime-web/",
            "integrity": None,
        }
        copied = folder / "onnxruntime-web"
        assert (copied / "ort.wasm.bundle.min.js").read_text() == "// script"
        assert (copied / runtime.BINARY).read_bytes() == b"binary"
    (package.parent / "package.json").unlink()
    assert written(exported, runtime=package)[1]["runtime"]["version"] == "of unknown version"


def test_the_installed_package_is_found_from_the_working_directory(exported, package, monkeypatch):
    monkeypatch.undo()
    inner = exported.parent / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert written(exported)[1]["runtime"]["version"] == "9.8.7"
    assert written(exported, runtime=web.PUBLISHED)[1]["runtime"]["version"] == runtime.VERSION
    shutil.rmtree(package.parent)
    assert written(exported)[1]["runtime"]["integrity"] is not None


def test_without_a_copy_the_published_files_are_pinned(exported):
    folder, model = written(exported)
    found = model["runtime"]
    assert found["address"].startswith("https://") and f"@{found['version']}/" in found["address"]
    assert set(found["integrity"]) == {runtime.SCRIPT, runtime.BINARY}
    assert all(value.startswith("sha384-") for value in found["integrity"].values())
    assert not (folder / "onnxruntime-web").exists()


def test_the_browser_tests_install_the_version_that_is_pinned():
    makefile = (pathlib.Path(__file__).parents[3] / "Makefile").read_text()
    assert f"{runtime.PACKAGE}@{runtime.VERSION} " in makefile


def test_samples_are_files_or_arrays(exported):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 6, 1), np.uint8)
    jpeg = exported.parent / "a photo.jpeg"
    jpeg.write_bytes(tf.io.encode_jpeg(pixels).numpy())
    folder, model = written(
        exported,
        {"image_range": [-1, 1]},
        samples=[jpeg, pixels, pixels / 127.5 - 1, pixels[..., 0]],
    )
    assert [one["name"] for one in model["samples"]] == [
        *("a photo.jpeg", "sample 2", "sample 3", "sample 4")
    ]
    first, *others = [folder / one["file"] for one in model["samples"]]
    assert first.read_bytes() == jpeg.read_bytes() and first.suffix == ".jpg"
    for path in others:
        np.testing.assert_array_equal(tf.io.decode_png(path.read_bytes()), pixels)


def test_samples_of_a_model_with_channels_first(exported):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6), np.uint8)
    folder, model = written(exported, {"input_shape": [None, 3, 8, 6]}, samples={"one": pixels})
    read = tf.io.decode_png((folder / model["samples"][0]["file"]).read_bytes())
    np.testing.assert_array_equal(read, np.moveaxis(pixels, 0, -1))


@pytest.mark.parametrize(
    ("metadata", "options", "message"),
    [
        (
            {"input_shape": [None, None, None, 3]},
            {},
            r"input_shape: got .*None.*; expected .*fixed",
        ),
        ({"input_shape": [None, 16]}, {}, r"input_shape: got \[None, 16\]; expected"),
        ({"input_shape": [None, 8, 8, 4]}, {}, r"input_shape: .* 1 or 3 channels"),
        ({"input_shape": None}, {}, r"input_shape: got None"),
        ({"image_range": None}, {}, r"image_range: got None; .*try image_range=\(0, 1\)"),
        ({"methods": {"gradcam": {}}}, {}, r"directory: .* no file of the methods \['gradcam'\]"),
        ({"methods": {}}, {}, r"directory: .* no file of the methods"),
        ({}, {"batch_size": 0}, r"batch_size: got 0; expected an integer ≥ 1"),
        ({}, {"runtime": "nowhere"}, r"runtime: got 'nowhere'.*try npm install onnxruntime-web@"),
        ({}, {"samples": "a.png"}, r"samples: got 'a.png'; expected a list"),
        ({}, {"samples": [np.zeros((2, 2, 4))]}, r"samples: got 'sample 1' of shape \(2, 2, 4\)"),
        (
            {},
            {"samples": [np.full((2, 2), 7.0)]},
            r"samples: .*values from 7 to 7; expected .*0 to 1",
        ),
        ({}, {"samples": [np.full((2, 2), np.nan)]}, r"samples: .*values from nan to nan"),
        ({}, {"samples": [np.full((2, 2), "x")]}, r"samples: got 'sample 1' of <U1"),
    ],
)
def test_what_is_rejected(exported, metadata, options, message):
    with pytest.raises(ArgumentError, match=rf"^{message}"):
        written(exported, metadata, **options)
    assert not (exported.parent / "page").exists()


def test_a_directory_without_a_model_is_rejected(exported):
    with pytest.raises(ArgumentError, match=r"^directory: got .*cannot be read.*formats=\('onnx'"):
        web.write(exported, exported.parent / "page")
    (exported / "serving_default.onnx").unlink()
    with pytest.raises(
        ArgumentError, match=r"^directory: got .* no serving_default.onnx; expected"
    ):
        written(exported)
