"""Whatever goes wrong, the page says it in one sentence and can be used further."""

import json
import shutil
import struct

import pytest

from tests.export.web import browser
from tests.export.web.conftest import jpeg, photograph, png
from tfgrad import images
from tfgrad.export import web
from tfgrad.export.web import runtime

pytestmark = [pytest.mark.browser, pytest.mark.slow]

JPEG = jpeg(photograph())
PNG_OF_40_MILLION = png(photograph())[:16] + struct.pack(">II", 8000, 5000)
FILES = {
    "text": (b"Dear reader,\nthis is no photograph.\n", "is a text file, not a JPEG or PNG image."),
    "empty": (b"", "is an empty file, not a JPEG or PNG image."),
    "markup": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is a text file, not a JPEG"),
    "gif": (b"GIF89a" + bytes(20), "is a GIF, not a JPEG or PNG image."),
    "webp": (b"RIFF\0\0\0\0WEBPVP8 ", "is a WebP image, not a JPEG or PNG image."),
    "pdf": (b"%PDF-1.7\n", "is a PDF document, not a JPEG or PNG image."),
    "heic": (b"\0\0\0\x18ftypheic", "is a HEIC or AVIF image, not a JPEG or PNG image."),
    "bytes": (bytes(range(256)), "is a file of another kind, not a JPEG or PNG image."),
    "large": (PNG_OF_40_MILLION, "has 8,000 × 5,000 pixels; at most 33,554,432 in all, and"),
    "long": (PNG_OF_40_MILLION[:16] + struct.pack(">II", 20000, 1), "has 20,000 × 1 pixels;"),
    "heavy": (JPEG + bytes(images.MAX_BYTES), "MiB; at most 16 MiB can be read."),
    "no size": (JPEG[:20], "is damaged: it does not tell its size."),
    "no pixels": (PNG_OF_40_MILLION[:16] + struct.pack(">II", 0, 5), "is damaged: it does not"),
    "cut": (png(photograph())[:60], "is damaged: the browser cannot decode it."),
}


def test_files_that_are_no_photographs_are_refused(visit):
    tab = visit()
    for name, (content, words) in FILES.items():
        tab.choose(f"{name}.jpg", content)
        sentence = tab.sentence()
        assert sentence.startswith(f"“{name}.jpg” ") and words in sentence, (name, sentence)
        assert sentence.endswith(".") and "Choose a " in sentence
        assert tab.page.evaluate("tfgrad.error") == sentence and tab.status() == ""
        assert tab.page.evaluate("tfgrad.result") is None
        assert not tab.page.locator("#maps").is_visible()
    tab.choose("photo.jpg", JPEG)
    assert tab.sentence() == "" and len(tab.maps()) == 4


@pytest.fixture
def page_folder(exported, tmp_path):
    """Function that writes a page of its own for a test."""

    def written(source=None):
        folder = tmp_path / "page"
        source = browser.package("onnxruntime-web") if source is None else source
        return web.write(exported("colour"), folder, samples=[photograph()], runtime=source)

    return written


NO_FILE = "Failed to load resource"


def opened(chromium, folder, **options):
    with browser.served(folder) as address:
        tab = browser.Visit(chromium, address, **options)
        tab.choose("photo.jpg", JPEG)
        yield tab
        tab.close()


def test_a_missing_model_is_told(chromium, page_folder, tmp_path):
    folder = page_folder()
    (tmp_path / "page" / "serving_default.onnx").unlink()
    for tab in opened(chromium, folder, expected_errors=[NO_FILE]):
        assert tab.sentence().startswith("serving_default.onnx could not be loaded")
        assert "404" in tab.sentence() and tab.page.evaluate("tfgrad.result") is None


def test_the_other_maps_are_shown_where_one_fails(chromium, page_folder, tmp_path):
    folder = page_folder()
    (tmp_path / "page" / "input_gradient.onnx").write_bytes(b"no model")
    for tab in opened(chromium, folder):
        assert tab.sentence().startswith("input_gradient.onnx could not be opened")
        assert tab.sentence().endswith("The other maps are complete.")
        assert list(tab.maps()) == ["fullgrad", "integrated_gradients", "gradcam"]
        # It is tried again.
        shutil.copyfile(
            tmp_path / "page" / "fullgrad.onnx", tmp_path / "page" / "input_gradient.onnx"
        )
        tab.page.get_by_role("radio").nth(1).check()
        tab.wait()
        assert tab.sentence() == "" and len(tab.maps()) == 4


def test_a_missing_description_and_a_missing_script_are_told(chromium, page_folder, tmp_path):
    folder = page_folder()
    for name, words in (("model.json", "model.json could not be loaded."), ("app.js", "app.js, a")):
        (tmp_path / "page" / name).rename(tmp_path / name)
        with browser.served(folder) as address:
            tab = browser.Visit(chromium, address, expected_errors=[NO_FILE])
            assert tab.sentence().startswith(words)
            tab.close()
        (tmp_path / name).rename(tmp_path / "page" / name)


def test_a_worker_that_is_missing_is_told(chromium, page_folder, tmp_path):
    folder = page_folder()
    (tmp_path / "page" / "worker.js").unlink()
    for tab in opened(chromium, folder, expected_errors=[NO_FILE]):
        for _ in range(2):
            assert tab.sentence().startswith("The part of this page that computes has stopped (")
            tab.choose("photo.jpg", JPEG)


def test_an_input_that_the_page_lacks_is_told(chromium, page_folder, tmp_path):
    folder = page_folder()
    path = tmp_path / "page"
    shutil.copyfile(path / "fullgrad.onnx", path / "serving_default.onnx")
    for tab in opened(chromium, folder):
        assert (
            "serving_default.onnx takes “target”, which this page does not have" in tab.sentence()
        )


def test_a_page_that_was_opened_as_a_file_says_how_to_serve_it(chromium, page_folder, tmp_path):
    page_folder()
    tab = browser.Visit(chromium, (tmp_path / "page" / "index.html").as_uri())
    assert "python -m http.server" in tab.sentence()
    tab.close()


def published(change=lambda name, content: content):
    """An answer for the published address: the files of the npm package, changed."""

    def answer(route):
        name = route.request.url.rpartition("/")[2]
        content = (browser.package("onnxruntime-web") / "dist" / name).read_bytes()
        headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "text/javascript"}
        route.fulfill(body=change(name, content), headers=headers)

    return answer


def test_the_published_runtime_is_run_if_it_is_the_expected_one(chromium, page_folder, tmp_path):
    folder = page_folder(web.PUBLISHED)
    model = json.loads((tmp_path / "page" / "model.json").read_text())
    address = model["runtime"]["address"]
    for tab in opened(chromium, folder, routes=[(f"{address}*", published())]):
        assert tab.sentence() == "" and len(tab.maps()) == 4
        elsewhere = [url for url in tab.requests if not url.startswith((tab.address, "blob:"))]
        assert elsewhere == [f"{address}{runtime.BINARY}", f"{address}{runtime.SCRIPT}"]
        tab.requests.clear()


@pytest.mark.parametrize("changed", [runtime.SCRIPT, runtime.BINARY])
def test_a_published_runtime_that_was_changed_is_not_run(chromium, page_folder, changed):
    folder = page_folder(web.PUBLISHED)
    route = published(lambda name, content: content + b"\n" * (name == changed))
    quiet = ["Failed to find a valid digest", NO_FILE]
    for tab in opened(chromium, folder, routes=[("https://**", route)], expected_errors=quiet):
        assert "ONNX Runtime Web could not be loaded from https://" in tab.sentence()
        assert tab.page.evaluate("tfgrad.result") is None
        tab.requests.clear()


def test_a_published_runtime_that_is_out_of_reach_is_told(chromium, page_folder):
    folder = page_folder(web.PUBLISHED)
    routes = [("https://**", lambda route: route.abort())]
    for tab in opened(chromium, folder, routes=routes, expected_errors=[NO_FILE]):
        assert "Check the connection" in tab.sentence() and tab.sentence().endswith(".")
        tab.requests.clear()
