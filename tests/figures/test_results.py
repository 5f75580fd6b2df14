"""What results show themselves with: pictures in pages, tables of text, figures of examples."""

import base64
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.pages import Page
from tfgrad.errors import ArgumentError
from tfgrad.figures import captions
from tfgrad.figures.explained_inputs import explained_input
from tfgrad.figures.inline import LARGEST, image_tag, series_tag, tinted
from tfgrad.figures.result_figures import result_figure
from tfgrad.figures.result_pages import HtmlTable, table_html
from tfgrad.figures.text_tables import text_table


def pixels(tag):
    (content,) = re.findall(r'src="data:image/png;base64,([^"]*)"', tag)
    return tf.io.decode_png(base64.b64decode(content)).numpy()


def test_a_picture_inside_of_a_page():
    picture = np.array([[[0.0], [1.0], [2.0]], [[0.5], [-1.0], [0.2]]])
    found = pixels(image_tag(picture, "x"))
    np.testing.assert_array_equal(found[..., 0], [[0, 255, 255], [128, 0, 51]])
    large = image_tag(np.ones([100, 3 * LARGEST, 3]) * [1, 0, 0.4], "x")
    assert pixels(large).shape == (round(100 / 3), LARGEST, 3)
    assert (pixels(large) == [255, 0, 102]).all() and f'width="{LARGEST}"' in large


def test_a_map_over_a_picture_is_clear_at_zero_red_above_and_blue_below():
    picture = np.full([2, 4, 3], 0.5) * [0.8, 1.0, 1.2]
    found = tinted(picture, np.array([[0.0, 1.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(found[0, :2], 0.5)
    np.testing.assert_allclose(found[1, 2:], 0.5)
    red, blue = found[0, 2], found[1, 0]
    assert red[0] > red[2] and blue[2] > blue[0]
    np.testing.assert_allclose(found[0, 2], 0.85 * np.array([178, 24, 43]) / 255 + 0.15 * 0.5)


def test_a_series_in_a_page():
    tag = series_tag(np.array([[0.0], [1.0], [0.5]]), np.array([0.0, 0.5, -1.0]), "s")
    page = Page(tag)
    assert page.tags.count("rect") == 1 + 2 and page.tags.count("polyline") == 1
    (points,) = [value for name, value in page.attributes if name == "points"]
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert heights == [92, 4, 48]


def test_a_table_of_text():
    text = text_table("title", ["name", "n"], [["a", "1"], ["b" * 60, "22"]], ["note"])
    lines = text.split("\n")
    assert lines[0] == "title" and lines[-1] == "note" and repr(text) == text
    assert len({len(line) for line in lines if line[0] == "─"}) == 1
    assert lines[4].endswith(" 1") and lines[5].endswith(" 22") and "…" in lines[5]
    assert len(lines[4]) == len(lines[5])


def test_a_table_of_a_page():
    table = HtmlTable(["<i>", "v"], [["a\nb", "1"]], ["<u>"], frozenset({(0, 1)}))
    content = table_html("<title>", table)
    assert "<strong>1</strong>" in content and content._repr_html_() == content
    page = Page(content)
    assert all(text in page.text for text in ("<title>", "<i>", "<u>", "a\\nb"))
    assert "title" not in page.tags and "u" not in page.tags


@pytest.mark.parametrize(
    ("values", "maps", "kind"),
    [
        (np.zeros([2, 4, 4, 3]), np.zeros([2, 4, 4]), "image"),
        (np.zeros([2, 4, 4]), np.zeros([2, 4, 4]), "image"),
        (np.zeros([2, 9, 5]), np.zeros([2, 9]), "series"),
        (np.zeros([2, 9]), np.zeros([2, 9]), "table"),
        (np.zeros([2, 90]), np.zeros([2, 90]), "series"),
        (np.zeros([2, 9], int), np.zeros([2, 9]), "tokens"),
        (np.array([["a", "b"]]), np.zeros([1, 2]), "tokens"),
        (np.zeros([2, 3, 4, 4, 1]), np.zeros([2, 3, 4, 4]), "volume"),
        (None, np.zeros([2, 3]), "words"),
        (np.zeros([2, 9]), np.full([2, 9], np.nan), "words"),
        (np.full([2, 9], np.inf), np.zeros([2, 9]), "words"),
        (np.zeros([2, 9]), np.zeros([2, 8]), "words"),
        (np.zeros([2, 9], int), np.zeros([2, 8]), "words"),
        (np.zeros([2, 3, 3, 3, 3, 1]), np.zeros([2, 3, 3, 3, 3]), "words"),
    ],
)
def test_kinds_of_inputs(values, maps, kind):
    found = explained_input("input", values, maps)
    assert found.kind == kind and (found.note.startswith("Not drawn: ") == (kind == "words"))
    if kind == "words":
        figure = result_figure(None, "title", "m", [found], ["one", "two"])
        assert found.note in figure.texts[0].get_text()


def test_a_map_far_above_zero_has_contrast():
    ramp = np.linspace(0, 1, 16).reshape(1, 4, 4)
    given = explained_input("input", np.zeros([1, 4, 4, 1]), 100 + ramp)

    def darkest_and_brightest(scale):
        figure = result_figure(None, "title", "m", [given], ["one"], scale)
        picture = figure.axes[1].images[0].get_array().mean(-1)
        return picture.min(), picture.max()

    low, high = darkest_and_brightest(None)
    assert low < 0.05 and high > 0.8
    assert darkest_and_brightest("contrast") == (low, high)
    assert darkest_and_brightest("percentile")[0] > 0.6


def test_names_of_classes():
    assert captions.class_names(("a", "b"), 2) == ["a", "b"]
    assert captions.class_names(None, 2) is None
    assert captions.named(1, ["a", "b"]) == "1 (b)" and captions.named(1, None) == "1"
    with pytest.raises(ArgumentError, match="got 2 names; expected at least 4, one for each"):
        captions.class_names(["a", "b"], largest=3)
