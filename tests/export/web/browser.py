"""Headless Chromium and a server of files, for the tests of the page."""

import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import threading

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[3]
# Where `make test-web` installs npm packages.
NODE_MODULES = pathlib.Path(os.environ.get("NODE_MODULES", ROOT / ".venv-web" / "node_modules"))
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT = 120_000  # milliseconds; on a machine that is busy with other things


def package(name):
    """The folder of an npm package; fails where it is missing."""
    if not (NODE_MODULES / name).is_dir():
        pytest.fail(f"the npm package {name} is missing; run make test-web, which installs it")
    return NODE_MODULES / name


@contextlib.contextmanager
def chromium():
    """A headless Chromium; fails where it is missing."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.fail("the browser is missing; install it: apt-get install chromium")
    try:
        from playwright import sync_api
    except ImportError:
        pytest.fail("the package playwright is missing; run make test-web, which installs it")
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox does not run as root.
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(folder):
    """The address of a server of the files in a folder."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Visit:
    """One tab that shows the page, and what it said to the console and requested.

    Attributes:
        page: The tab, of playwright.
        said: Errors and warnings in the console.
        requests: Every address that was requested.
    """

    def __init__(self, browser, address, expected_errors=(), routes=(), **options):
        self._expected = tuple(expected_errors)
        self.address, self.said, self.requests = address, [], []
        self.context = browser.new_context(**options)
        self.context.on("request", lambda request: self.requests.append(request.url))
        for pattern, answer in routes:
            self.context.route(pattern, answer)
        self.page = self.context.new_page()
        self.page.set_default_timeout(_TIMEOUT)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.page.goto(address)
        self.wait()

    def _heard(self, message):
        expected = any(words in message.text for words in self._expected)
        if message.type in ("error", "warning") and not expected:
            self.said.append(f"{message.type}: {message.text}")

    def wait(self):
        """Wait until the page has done what it was asked for."""
        self.page.wait_for_selector("#main[aria-busy=false]", state="attached")

    def choose(self, name, content):
        """Choose a file by the page's button."""
        self.page.locator("#file").set_input_files(
            {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        )
        self.wait()

    def sentence(self):
        """The error that the page shows; empty if there is none."""
        return self.page.get_by_role("alert").inner_text()

    def status(self):
        """What the page says that it has done."""
        return self.page.get_by_role("status").inner_text()

    def image(self):
        """The network's input as the page computed it, flat."""
        return np.float32(self.page.evaluate("Array.from(tfgrad.result.image)"))

    def output(self, name):
        """An output of `serving_default`, flat."""
        return np.float32(
            self.page.evaluate("name => Array.from(tfgrad.result.outputs[name].values)", name)
        )

    def maps(self):
        """{method: {"saliency": [H, W], "score", …}} of the class that is shown."""
        found = self.page.evaluate(
            "Object.entries(tfgrad.result.maps)"
            ".map(([name, map]) => [name, {...map, saliency: Array.from(map.saliency)}])"
        )
        for _, one in found:
            one["saliency"] = np.float32(one["saliency"]).reshape(one["height"], one["width"])
        return dict(found)

    def close(self):
        """Close the tab; nothing unexpected was said or requested."""
        self.context.close()
        assert not self.said
        elsewhere = [
            url for url in self.requests if not url.startswith((self.address, "blob:", "file:"))
        ]
        assert not elsewhere
