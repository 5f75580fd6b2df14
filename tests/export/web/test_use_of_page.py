"""Using the page: by keyboard, by dropping and pasting, in both colour schemes, on a phone."""

import base64
import re

import pytest

from tests.export.web import browser
from tests.export.web.conftest import CLASSES, METHODS_OF_IMAGES, photograph, png

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = {"viewport": {"width": 320, "height": 640}}
# Whether the focused element has an outline.
FOCUS = "() => getComputedStyle(document.activeElement).outlineStyle"


def focused(page):
    """What has the focus, by its role and name."""
    return page.evaluate(
        "() => { const e = document.activeElement; return [e.tagName.toLowerCase(), e.id || "
        "e.textContent.trim() || e.value]; }"
    )


def test_the_page_is_used_by_keyboard_alone(visit):
    tab = visit()
    page, keys = tab.page, tab.page.keyboard
    keys.press("Tab")
    assert focused(page) == ["input", "file"]
    label = page.locator("#drop label")
    assert label.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    with page.expect_file_chooser() as opened:
        keys.press("Enter")
    content = {"name": "photo.png", "mimeType": "image/png", "buffer": png(photograph())}
    opened.value.set_files(content)
    tab.wait()
    assert tab.status().startswith("4 maps of")
    keys.press("Tab")
    assert focused(page) == ["button", "a sample"] and page.evaluate(FOCUS) == "solid"
    keys.press("Enter")
    tab.wait()
    assert tab.page.locator("#photograph-caption").inner_text().startswith("a sample:")
    keys.press("Tab")
    keys.press("Tab")
    first = page.get_by_role("radio").nth(0)
    assert page.evaluate("() => document.activeElement.type") == "radio" and first.is_checked()
    assert page.evaluate(FOCUS) == "solid"
    keys.press("ArrowDown")
    tab.wait()
    assert page.get_by_role("radio").nth(1).is_checked()
    chosen = int(page.get_by_role("radio").nth(1).input_value())
    assert page.evaluate("tfgrad.result.class") == chosen
    assert CLASSES[chosen] in page.locator("#maps-heading").inner_text()
    keys.press("Tab")
    assert focused(page)[1] == "opacity"
    over = page.locator(".over").first
    before = float(over.evaluate("e => getComputedStyle(e).opacity"))
    keys.press("Home")
    assert float(over.evaluate("e => getComputedStyle(e).opacity")) == 0 < before
    assert page.locator("#opacity-value").inner_text() == "0 %"
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "0 %"
    keys.press("End")
    assert float(over.evaluate("e => getComputedStyle(e).opacity")) == 1


def test_roles_names_and_live_regions(visit):
    tab = visit()
    page = tab.page
    assert tab.status().startswith("Ready.") and page.get_by_role("alert").inner_text() == ""
    page.get_by_role("button", name="a sample").click()
    tab.wait()
    assert page.get_by_role("group", name="Samples").is_visible()
    assert page.get_by_role("group", name="Class to explain").get_by_role("radio").count() == 5
    assert page.get_by_role("slider", name="Opacity of the maps").is_visible()
    assert page.get_by_label("Choose a photograph").is_enabled()
    assert page.get_by_role("img", name="The photograph “a sample”").is_visible()
    for method in METHODS_OF_IMAGES:
        name = f"Map of {method.replace('_', ' ')} over the photograph, strongest "
        assert page.get_by_role("img", name=re.compile(name)).is_visible()
    assert [h.inner_text() for h in page.get_by_role("heading", level=1).all()] == ["A title"]
    assert re.fullmatch(r"4 maps of “.+” in \d+ ms\.", tab.status())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_in_both_colour_schemes(visit, scheme):
    axe = (browser.package("axe-core") / "axe.min.js").read_text()
    grounds = {"light": "rgb(251, 251, 253)", "dark": "rgb(21, 20, 26)"}
    tab = visit(color_scheme=scheme, **PHONE)
    tab.choose("notes.txt", b"not a photograph")
    # Its colours are checked, too.
    assert tab.sentence()
    for _ in range(2):
        tab.page.evaluate(axe)
        found = tab.page.evaluate("async () => (await axe.run(document)).violations")
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        tab.page.get_by_role("button", name="a sample").click()
        tab.wait()
        assert len(tab.maps()) == 4
    body = tab.page.locator("body")
    assert body.evaluate("e => getComputedStyle(e).backgroundColor") == grounds[scheme]


def test_nothing_is_wider_than_a_phone(visit):
    tab = visit(**PHONE)
    tab.choose(f"{'long' * 40}.png", png(photograph(20, 400)))
    assert tab.page.evaluate("() => document.documentElement.scrollWidth") <= 320
    for box in tab.page.locator("#figures figure").all():
        assert box.bounding_box()["width"] > 240


def drop(page, kind, script):
    """Send an event with files or text, as dropping and pasting do."""
    content = base64.b64encode(png(photograph(seed=5))).decode()
    page.evaluate(
        """([kind, script, content]) => {
          const transfer = new DataTransfer();
          if (script === "file") {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            transfer.items.add(new File([bytes], "other.png", { type: "image/png" }));
          } else transfer.setData("text/plain", "https://example.com/photo.png");
          const options = { bubbles: true, cancelable: true };
          const event = kind === "drop"
            ? new DragEvent("drop", { ...options, dataTransfer: transfer })
            : new ClipboardEvent("paste", { ...options, clipboardData: transfer });
          document.querySelector("main").dispatchEvent(event);
        }""",
        [kind, script, content],
    )


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_dropping_and_pasting(visit, kind):
    tab = visit()
    drop(tab.page, kind, "text")
    assert "is no file. Choose a JPEG or PNG file." in tab.sentence()
    drop(tab.page, kind, "file")
    tab.wait()
    assert tab.sentence() == "" and len(tab.maps()) == 4
    assert tab.page.locator("#photograph-caption").inner_text().startswith("other.png:")


def test_the_last_choice_is_the_one_that_is_shown(visit):
    tab = visit()
    first, second = tab.page.locator("#samples button").all()
    first.click(no_wait_after=True)
    second.click(no_wait_after=True)
    tab.wait()
    shown = tab.image()
    assert tab.page.locator("#photograph-caption").inner_text().startswith(CLASSES[-1])
    assert len(tab.maps()) == 4
    first.click()
    tab.wait()
    other = tab.image()
    second.click()
    tab.wait()
    assert (tab.image() == shown).all() and (other != shown).any()


def test_hostile_names_are_shown_as_text(visit):
    tab = visit()
    tab.choose("<img src=x onerror=alert(2)>.png", png(photograph()))
    names = tab.page.locator("#classes .name").all_inner_texts()
    assert set(names) <= set(CLASSES) and len(names) == 5
    sources = tab.page.locator("img").evaluate_all("all => all.map((e) => e.getAttribute('src'))")
    assert sources == ["samples/1.png", "samples/2.png"]
    assert tab.page.locator("b").count() == 0
    assert CLASSES[-1] in tab.page.locator("#samples").inner_text()


def test_the_page_that_an_export_writes(chromium, exported_page):
    with browser.served(exported_page) as address:
        tab = browser.Visit(chromium, address)
        tab.page.get_by_role("button", name="sample 1").click()
        tab.wait()
        assert list(tab.maps()) == ["fullgrad"] and tab.sentence() == ""
        tab.close()


def test_networks_run_in_a_thread_of_their_own(visit):
    tab = visit()
    tab.choose("photo.png", png(photograph()))
    assert [worker.url for worker in tab.page.workers] == [f"{tab.address}worker.js"]
    assert tab.page.evaluate("typeof window.ort") == "undefined"
