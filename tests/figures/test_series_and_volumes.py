"""Figures of series, volumes and tables, and figures as objects that notebooks show."""

import os

import numpy as np
import pytest

from tfgrad import figures
from tfgrad.errors import ArgumentError

matplotlib = pytest.importorskip("matplotlib")
Figure = pytest.importorskip("matplotlib.figure").Figure
image_of = pytest.importorskip("matplotlib.image").imread

RNG = np.random.default_rng(0)
IMAGES = RNG.random((2, 4, 5))
SERIES = RNG.normal(size=(2, 30, 2))
VOLUMES = RNG.random((2, 9, 4, 5))
TOKENS = [["a", "film", "of", "two", "hours"]] * 2
IDS = np.arange(10).reshape(2, 5)
BUMP = np.exp(-np.square(np.arange(30) - 20) / 8)[np.newaxis].repeat(2, 0)

DRAW = {
    "saliency_grid": lambda path: figures.saliency_grid(path, IMAGES, {"map": IMAGES}),
    "grid": lambda path: figures.grid(path, [list(IMAGES)]),
    "curves": lambda path: figures.curves(path, {"a": {0: (1, 0)}}, x_label="x", y_label="y"),
    "history": lambda path: figures.history(path, {"loss": [1, 2]}),
    "functions": lambda path: figures.functions(path, [0, 1], {"f": [1, 2]}),
    "bars": lambda path: figures.bars(path, {"test": {"a": (1, 0.1)}}),
    "saliency_series": lambda path: figures.saliency_series(path, SERIES, {"map": BUMP}),
    "saliency_slices": lambda path: figures.saliency_slices(path, VOLUMES, {"map": VOLUMES}),
    "saliency_bars": lambda path: figures.saliency_bars(path, {"map": SERIES[..., 0]}),
    "saliency_tokens": lambda path: figures.saliency_tokens(path, TOKENS, {"map": IMAGES[:, 0]}),
    "saliency_of_inputs": lambda path: figures.saliency_of_inputs(
        path, {"image": IMAGES, "ids": IDS}, {"map": {"image": IMAGES, "ids": IDS - 4.0}}
    ),
}


def test_every_drawing_function_is_listed():
    functions = {name for name in figures.__all__ if callable(getattr(figures, name))}
    assert functions == {*DRAW, "tokens_html"}  # which is text


@pytest.mark.parametrize("name", DRAW)
def test_figures_are_returned_and_written_where_a_path_is_given(name, tmp_path):
    figure = DRAW[name](None)
    assert isinstance(figure, Figure) and not os.listdir(tmp_path)
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    path = tmp_path / "a.png"
    assert isinstance(DRAW[name](path), Figure)
    assert image_of(path).shape[1] > 100 and os.path.getsize(path) < 300_000


def backgrounds(axes):
    """The colours behind the curves of a panel, step by step."""
    (image,) = axes.images
    return np.asarray(image.get_array())[0]


def test_colours_behind_curves_are_those_of_the_steps():
    figure = figures.saliency_series(None, SERIES, {"plain": BUMP, "signed": BUMP - 0.5})
    plain, signed, *_ = figure.axes
    np.testing.assert_allclose([line.get_ydata() for line in plain.lines], SERIES[0].T)
    green = backgrounds(plain)[:, 1]
    assert green.argmin() in (19, 20) and green[20] < 0.4 < 0.9 < green[0]
    colours = backgrounds(signed)
    assert colours[0, 2] > colours[0, 0] and colours[20, 0] > colours[20, 2]  # blue, red
    assert colours.min() > 0.2  # curves stay visible
    assert plain.images[0].get_extent()[:2] == [-0.5, 29.5]


def test_many_channels_are_drawn_one_above_the_other():
    many = np.random.default_rng(1).normal(size=(1, 20, 6))
    names = list("abcdef")
    (axes,) = figures.saliency_series(None, many, {"map": many[..., 0]}, channels=names).axes
    heights = [np.mean(line.get_ydata()) for line in axes.lines]
    assert heights == sorted(heights, reverse=True) and len(heights) == 6
    assert [text.get_text() for text in axes.get_yticklabels()] == names


def test_the_most_salient_slice_is_drawn_and_marked():
    maps = 0.01 * VOLUMES
    maps[0, 4] += 1
    maps[1, 7] += 1
    figure = figures.saliency_slices(None, VOLUMES, {"map": maps}, slices=3)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["slice 0", "slice 4", "slice 8", "slice 0", "slice 4", "slice 7"]
    marked = [i for i, axes in enumerate(figure.axes) if axes.spines["top"].get_visible()]
    assert marked == [4, 11]  # the second and the third picture of the rows of maps
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert pictures[4].sum() > 10 * pictures[3].sum()  # scaled over the whole volume


def test_maps_are_laid_over_slices():
    maps = {"map": VOLUMES[..., ::2, :]}
    plain, over = (
        [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
        for figure in (
            figures.saliency_slices(None, VOLUMES, maps, slices=2, overlay=share)
            for share in (0.0, 0.25)
        )
    )
    np.testing.assert_array_equal(plain[0], over[0])  # the volume itself
    wide = plain[2].repeat(2, 0)
    np.testing.assert_allclose(over[2], 0.25 * wide + 0.75 * VOLUMES[0, 0][..., np.newaxis])


def test_bars_of_tables():
    values = np.array([[1.0, -2.0, 0.5]])
    (axes,) = figures.saliency_bars(None, {"map": values}, features=["a", "b", "c"]).axes
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], values[0])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[2] != colours[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.saliency_series(None, SERIES[0, 0], {}), r"series: got shape \(2,\)"),
        (lambda: figures.saliency_series(None, SERIES, {"m": SERIES}), r"maps\['m'\]: got shape"),
        (lambda: figures.saliency_series(None, SERIES, {}, channels=["a"]), "channels: got 1"),
        (lambda: figures.saliency_series(None, SERIES, {}, labels=[1]), "labels: got shape"),
        (lambda: figures.saliency_slices(None, IMAGES, {}), "volumes: got shape"),
        (lambda: figures.saliency_slices(None, VOLUMES, {"m": IMAGES}), r"maps\['m'\]: got shape"),
        (lambda: figures.saliency_slices(None, VOLUMES, {}, slices=0), "slices: got 0"),
        (lambda: figures.saliency_bars(None, {}), "maps: got {}"),
        (lambda: figures.saliency_bars(None, {"m": IMAGES}), "maps: got {'m'"),
        (lambda: figures.saliency_bars(None, {"m": IMAGES[0]}, rows=["a"]), "rows: got 1"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
