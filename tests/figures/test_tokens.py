"""Tokens as coloured text: colours, lines, texts that are hard to draw, and HTML."""

import html.parser
import os
import re
import warnings

import numpy as np
import pytest

from tfgrad import figures
from tfgrad.errors import ArgumentError, WriteError
from tfgrad.figures import colouring, token_texts

pytest.importorskip("matplotlib")

WORDS = [["[CLS]", "a", "good", "film", "[SEP]"], ["[CLS]", "bad", "[SEP]", "[PAD]", "[PAD]"]]
VALUES = np.array([[0.0, 0.5, 2.0, -1.0, 0.0], [0.0, -2.0, 0.1, 0.0, 0.0]])


def shown(figure):
    """{text: (its box's colour, its own colour)} of a figure, methods and captions left out."""
    (axes,) = figure.axes
    boxes = []
    for collection in axes.collections:
        for path, colour in zip(collection.get_paths(), collection.get_facecolors(), strict=True):
            (left, top), (right, bottom) = path.get_extents().get_points()
            boxes.append((left, right, top, bottom, colour[:3]))
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        for left, right, top, bottom, colour in boxes:
            if left < x < right and top < y < bottom:
                found[text.get_text()] = colour, np.array(text.get_color(), ndmin=1)
    return found


def test_tokens_have_the_colour_of_their_saliency():
    words = shown(figures.saliency_tokens(None, WORDS[:1], {"map": VALUES[:1]}, scale="minmax"))
    assert [*words] == WORDS[0]
    good, film, cls = (words[word][0] for word in ("good", "film", "[CLS]"))
    assert good[0] > good[2] and film[2] > film[0]  # red above zero, blue below
    assert cls.min() > 0.95  # white at zero
    np.testing.assert_array_equal(words["good"][1], 1.0)  # white on dark red
    np.testing.assert_array_equal(words["a"][1], 0.0)
    assert 0.3 < words["[CLS]"][1].max() < 0.6  # a special token is grey


def test_padding_is_written_once_and_other_values_are_kept():
    words = [*WORDS[1], "[PAD]", "[PAD]"]
    values = np.zeros((1, 7))
    values[0, 1] = 1
    texts = [*shown(figures.saliency_tokens(None, [words], {"map": values}))]
    assert texts == ["[CLS]", "bad", "[SEP]", "[PAD]", "×4"]
    values[0, -1] = 0.5  # then there is something to see
    figure = figures.saliency_tokens(None, [words], {"map": values})
    assert [text.get_text() for text in figure.axes[0].texts].count("[PAD]") == 4


def test_texts_that_are_hard_to_draw():
    tokens = [
        "$x^2$",
        "a\x07b",
        "\u202eabc",
        "two\n",
        " the",
        "中文",
        "",
        b"caf\xc3\xa9",
        "w" * 300,
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of missing glyphs
        figure = figures.saliency_tokens(
            None,
            [tokens],
            {"$a$ 中": np.ones((1, len(tokens)))},
            labels=["$b$ 中"],
            title="$",
            special=(),
        )
        figure._repr_png_()
    words = [*shown(figure)]
    assert words[:3] == ["$x^2$", "a\\x07b", "\\u202eabc"]
    assert words[3:8] == ["two\\n", "␣the", "\\u4e2d\\u6587", "·", "café"]
    assert len(words[8]) == 40 and "…" in words[8]
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"$a$ \\u4e2d", "true: $b$ \\u4e2d", "$"} <= texts
    assert not any(text.get_parse_math() for text in figure.axes[0].texts)


def test_a_row_of_hebrew_runs_from_the_right():
    tokens = [["זה", "(", "סרט"], ["a", "(", "film"]]
    figure = figures.saliency_tokens(None, tokens, {"map": np.ones((2, 3))})
    x = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert x["סרט"] < x[")"] < x["זה"] and x["a"] < x["("] < x["film"]


@pytest.mark.long
def test_many_tokens_are_broken_into_lines_and_stay_small(tmp_path):
    tokens = [[f"word{i % 60}" for i in range(512)]]
    path = tmp_path / "a.png"
    values = np.random.default_rng(0).normal(size=(1, 512))
    figure = figures.saliency_tokens(path, tokens, {"map": values})
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text().startswith("word")]
    places = np.array([text.get_position() for text in texts])
    assert len(texts) == 512 and len(np.unique(places[:, 1])) > 20
    assert places[:, 0].min() > 0 and places[:, 0].max() < figure.get_size_inches()[0]
    assert os.path.getsize(path) < 300_000
    from matplotlib.image import imread

    assert imread(path).shape[1] > 110 * 6  # and is not written more coarsely


def test_unequal_lengths_and_tensors_of_bytes():
    import tensorflow as tf

    ragged = [["a", "film"], ["good"]]
    figures.saliency_tokens(None, ragged, {"map": np.array([[1.0, 2.0], [3.0, 0.0]])})
    words = shown(figures.saliency_tokens(None, tf.constant([["a", "film"]]), {"m": np.eye(1, 2)}))
    assert [*words] == ["a", "film"]
    with pytest.raises(
        ArgumentError, match=r"values other than 0 after the last token of exam.* 1"
    ):
        figures.saliency_tokens(None, ragged, {"map": np.ones((2, 2))})


class Reader(html.parser.HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.titles = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.titles += [value for name, value in attributes if name == "title"]
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attributes)

    def handle_data(self, data):
        self.texts.append(data)


def test_html_is_escaped_and_has_every_value(tmp_path):
    words = [['<i>x</i>"', "film", "&amp;", "\u202eabc"], ["good", "[PAD]", "[PAD]", "[PAD]"]]
    values = np.array([[1.5, -0.25, 0, 1], [2, 0, 0, 0]])
    path = tmp_path / "a.html"
    found = figures.tokens_html(
        path, words, {"<u>map</u>": values}, labels=["<b>", 1], predictions=["<b>", 2], title="<s>"
    )
    assert isinstance(found, str) and found._repr_html_() == found
    page = path.read_text(encoding="utf-8")
    assert found in page and page.startswith("<!DOCTYPE html>")
    reader = Reader(page)
    assert not {"i", "u", "b", "s", "script", "img"} & {*reader.tags}
    assert reader.titles == ["1.5", "-0.25", "0", "1", "2", "0"]
    assert {'<i>x</i>"', "&amp;", "\\u202eabc", "×3", "<u>map</u>"} <= {*reader.texts}
    assert {" 1.5", " -0.25"} <= {*reader.texts}  # for screen readers
    assert re.search('class="right">true: &lt;b&gt; ·', found) and 'class="wrong"' in found
    styles = re.findall(r'title="(\S+)" style="background:rgb\((\d+)', found)
    assert [(value, int(red) > 100) for value, red in styles] == [
        ("1.5", True),
        ("-0.25", False),
        ("1", True),
        ("2", True),
    ]


def test_html_needs_no_matplotlib(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "good" in figures.tokens_html(None, WORDS, {"map": VALUES})
    with pytest.raises(ImportError, match=r"tfgrad\[figures\]"):
        figures.saliency_tokens(None, WORDS, {"map": VALUES})


def test_html_runs_from_the_right_where_letters_do():
    found = figures.tokens_html(None, [["זה", "סרט"], ["a", "film"]], {"map": np.ones((2, 2))})
    assert re.findall(r'<ol role="list" dir="(\w+)"', found) == ["rtl", "ltr"]


@pytest.mark.parametrize("inked", [colouring.ink, colouring.grey_ink])
def test_text_has_contrast(inked):
    def luminance(colour):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    for colour in colouring.white_to_red(np.linspace(-1, 1, 41)):
        pair = sorted([luminance(colour), luminance(inked(colour))])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


@pytest.mark.parametrize("text", ["plain", "naïve", "a b", "👩\u200d👧", "می\u200cخواهم"])
def test_ordinary_texts_are_left_alone(text):
    assert token_texts.readable(text) == text


@pytest.mark.parametrize(
    ("tokens", "maps", "options", "message"),
    [
        ("a b", {"m": VALUES}, {}, r"tokens: got one text; .*\[text.split\(\)\]"),
        (["a", "b"], {"m": VALUES}, {}, r"tokens\[0\]: got 'a'; expected a list of tokens"),
        ([[1, 2]], {"m": VALUES}, {}, r"tokens\[0\]: got 1; expected texts; .*vocabulary\[id\]"),
        ([[]], {"m": VALUES}, {}, r"tokens\[0\]: got no token"),
        ([], {"m": VALUES}, {}, "tokens: got none"),
        (WORDS, {}, {}, "maps: got none"),
        (WORDS, {"m": VALUES[:, :4]}, {}, r"maps\['m'\]: got shape \(2, 4\); expected \[2, T\]"),
        (WORDS, {"m": VALUES[..., None]}, {}, r"maps\['m'\]: .*over the axis of the embedding"),
        (WORDS, {"m": VALUES + np.nan}, {}, r"maps\['m'\]: got NaN"),
        (WORDS, {"m": VALUES}, {"scale": "log"}, "scale: got 'log'"),
        (WORDS, {"m": VALUES}, {"labels": [1]}, "labels: got shape"),
    ],
)
@pytest.mark.parametrize("draw", [figures.saliency_tokens, figures.tokens_html])
def test_what_is_refused(draw, tokens, maps, options, message):
    with pytest.raises(ArgumentError, match=message):
        draw(None, tokens, maps, **options)


def test_what_pictures_alone_refuse(tmp_path):
    with pytest.raises(ArgumentError, match="font: got 'No Such Font'"):
        figures.saliency_tokens(None, WORDS, {"m": VALUES}, font="No Such Font")
    with pytest.raises(ArgumentError, match=r"got a text of \d+ lines; .*tokens_html"):
        figures.saliency_tokens(None, [["a"]] * 1200, {"m": np.ones((1200, 1))})
    with pytest.raises(WriteError, match=r"path: .*cannot be written"):
        figures.tokens_html(tmp_path / "no" / "a.html", WORDS, {"m": VALUES})
