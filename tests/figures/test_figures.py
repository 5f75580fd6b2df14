"""Pictures: what is in the files, what is refused, and what is left alone."""

import importlib.util
import os
import sys

import numpy as np
import pytest

from tfgrad import figures
from tfgrad.errors import ArgumentError
from tfgrad.figures import colouring

matplotlib = pytest.importorskip("matplotlib")
image_of = pytest.importorskip("matplotlib.image").imread

CURVES = {
    "plain": {0.0: (0.9, 0.01), 0.2: (0.5, 0.05)},
    "smooth": {0.2: (0.7, 0.02), 0.0: (0.9, 0)},
}
LABELS = {"x_label": "σ", "y_label": "accuracy"}


def digits(count=3):
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images[:count] / 16, data.target[:count]


def test_a_grid_of_digits(tmp_path):
    images, labels = digits()
    path = tmp_path / "maps.png"
    figures.saliency_grid(
        path,
        images,
        {"gradient": images - 0.5, "saliency": images[:, ::2, ::2]},
        labels=labels,
        predictions=[0, 1, 7],
        probabilities=[0.9, 0.8, 0.4],
        title="three digits",
    )
    picture = image_of(path)[..., :3]
    assert picture.shape[0] > 300 and picture.shape[1] > 400
    assert os.path.getsize(path) < 300_000
    assert os.listdir(tmp_path) == ["maps.png"]


def colours_of_captions(path):
    """Which of green and red occur left of the pictures, row by row."""
    picture = image_of(path)[..., :3].astype(float)
    left = picture[:, :90]
    rows = np.array_split(left, 2)
    return [
        ("green" if (r[..., 1] - r[..., 0]).max() > 0.2 else "")
        + ("red" if (r[..., 0] - r[..., 1]).max() > 0.4 else "")
        for r in rows
    ]


def test_captions_are_green_where_right_and_red_where_wrong(tmp_path):
    images, _ = digits(2)
    arguments = {"labels": ["cat", "dog"], "predictions": ["cat", "cat"]}
    path = tmp_path / "a.png"
    figures.saliency_grid(path, images, {"map": images}, **arguments)
    assert colours_of_captions(path) == ["green", "red"]


def test_class_names_are_no_formulas():
    images, _ = digits(1)
    figure = figures.saliency_grid(None, images, {"$a$": images}, labels=["$x_1$"])
    texts = [*figure.texts, *(axes.title for axes in figure.axes)]
    assert {"true: $x_1$", "$a$"} <= {text.get_text() for text in texts}
    assert not any(text.get_parse_math() for text in texts)


def test_headings_have_one_size():
    maps = {"fullgrad": np.ones([1, 2, 2]), "integrated_gradients": np.ones([1, 2, 2])}
    figure = figures.saliency_grid(None, np.ones([1, 2, 2, 1]), maps)
    assert len({axes.title.get_fontsize() for axes in figure.axes}) == 1


def test_nothing_is_clipped_at_the_edges(tmp_path):
    images, _ = digits(2)
    names = ["Siberian husky dog and more", "Alaskan malamute, a very long name indeed"]
    path = tmp_path / "a.png"
    figures.saliency_grid(
        path, images, {"m": images}, labels=names, predictions=names[::-1], title="T"
    )
    picture = image_of(path)[..., :3]
    for edge in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
        assert (edge == 1).all()


def test_a_signed_map_is_centred_and_an_unsigned_one_starts_dark():
    signed = colouring.coloured(np.array([[[-2.0, 0.0], [1.0, 2.0]]]))[0]
    assert signed[0, 0, 2] > signed[0, 0, 0]  # blue below
    assert np.ptp(signed[0, 1]) < 0.02 and signed[0, 1].min() > 0.9  # white at 0
    assert signed[1, 1, 0] > signed[1, 1, 2]  # red above
    unsigned = colouring.coloured(np.array([[[0.0, 1.0]]]))[0]
    assert unsigned[0, 0].max() < 0.05 and unsigned[0, 1].max() > 0.9


def test_one_hot_pixel_does_not_darken_the_map():
    values = np.tile(np.linspace(0, 1, 20), (20, 1))[np.newaxis]
    hot = values.copy()
    hot[0, 0, 0] = 1e6
    cooler, hotter = (colouring.coloured(v)[0] for v in (values, hot))
    np.testing.assert_array_equal(cooler[1:], hotter[1:])


def test_each_map_is_scaled_by_itself():
    values = np.arange(8.0).reshape(1, 2, 4)
    both = colouring.coloured(np.concatenate([values, 1000 * values]))
    np.testing.assert_allclose(both[0], both[1], atol=0.02)


def test_scales_differ_in_what_is_dark_and_what_is_bright():
    values = np.linspace(1, 2, 400).reshape(1, 20, 20)
    values[0, -1, -1] = 10.0

    def brightness(scale):
        picture = colouring.coloured(values, scale=scale, sequential="gray")[0][..., 0]
        return picture[0, 0], picture[-1, -2]  # the minimum, and nearly the 99th percentile

    assert brightness("percentile") == pytest.approx((0.5, 1), abs=0.02)
    assert brightness("contrast") == pytest.approx((0, 1), abs=0.02)
    assert brightness("minmax") == pytest.approx((0, 1 / 9), abs=0.02)


def test_magnitudes_are_drawn_without_signs(tmp_path):
    maps = {"m": np.array([[[-1.0, 0.0], [0.5, 1.0]]])}
    options = {"scale": "minmax", "sequential": "gray", "magnitude": True}
    path = tmp_path / "a.png"
    figures.saliency_grid(path, np.zeros((1, 2, 2)), maps, **options)
    picture = image_of(path)[..., :3]
    assert np.ptp(picture, axis=-1).max() == 0  # greys alone
    right = picture[:, picture.shape[1] // 2 :]
    assert right[-40, -40, 0] == right[40, 20, 0] == 1 and right[40, -40, 0] == 0


def test_an_overlay_mixes_colours_and_the_image_at_its_size():
    image, colours = np.full((4, 4, 3), 0.5), np.zeros((2, 2, 3))
    colours[0, 1] = 1.0
    mixed = colouring.laid_over(colours, image, 0.25)
    assert mixed.shape == (4, 4, 3)
    np.testing.assert_allclose(mixed[:2, 2:], 0.25 * 1 + 0.75 * 0.5)
    np.testing.assert_allclose(mixed[2:], 0.75 * 0.5)


@pytest.mark.parametrize("values", [np.zeros((1, 3, 3)), np.eye(32)[None] * (np.arange(32) == 5)])
def test_empty_and_sparse_maps_have_colours(values):
    picture = colouring.coloured(values)[0]
    assert np.isfinite(picture).all()
    assert (picture.max() > 0.9) == bool(values.any())


def test_images_of_other_ranges_are_stretched_alike():
    images = np.array([[[[-2.0]]], [[[2.0]]], [[[0.0]]]])
    np.testing.assert_array_equal(colouring.stretched(images).ravel(), [0, 1, 0.5])
    assert np.isfinite(colouring.stretched(np.full((1, 2, 2, 1), 7.0))).all()


def test_curves(tmp_path):
    path = tmp_path / "curves.png"
    figures.curves(path, CURVES, **LABELS, title="noise")
    assert image_of(path).shape[0] > 300 and os.path.getsize(path) < 300_000
    path = tmp_path / "history.png"
    figures.history(path, {"loss": [2, 1, 0.5], "val_loss": [2, 2, 1]})
    assert image_of(path).shape[0] > 300


def bars(container):
    """[n, 2]: the lower and the upper end of each error bar."""
    (collection,) = container.lines[2]
    return np.array([[segment[0][1], segment[1][1]] for segment in collection.get_segments()])


def test_points_are_marked_on_functions():
    x = np.linspace(0, 1, 5)
    figure = figures.functions(None, x, {"square": x**2, "line": x}, points=([0, 1], [0.1, 0.9]))
    (axes,) = figure.axes
    (marked,) = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(marked.get_xydata(), [[0, 0.1], [1, 0.9]])


def test_curves_have_bars_axes_and_a_reference():
    skewed = {1e-3: (1.0, 0.5, 3.0), 1e-1: (10.0, 9.0, 40.0)}
    options = {"log_x": True, "log_y": True, "horizontal": (2.0, "chance")}
    curves = {"even": {1e-2: (1.0, 0.25)}, "skewed": skewed}
    (drawn,) = figures.curves(None, curves, **LABELS, **options).axes
    even, other = drawn.containers
    np.testing.assert_allclose(bars(even), [[0.75, 1.25]])
    np.testing.assert_allclose(bars(other), [[0.5, 3.0], [9.0, 40.0]])
    np.testing.assert_allclose(other.lines[0].get_xydata(), [[1e-3, 1.0], [1e-1, 10.0]])
    assert (drawn.get_xscale(), drawn.get_yscale()) == ("log", "log")
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("σ", "accuracy")
    (line,) = (line for line in drawn.lines if line.get_label() == "chance")
    assert set(line.get_ydata()) == {2.0}
    names = {text.get_text() for text in drawn.get_legend().get_texts()}
    assert names == {"even", "skewed", "chance"}


def test_points_are_drawn_in_order():
    axes = figures.curves(None, CURVES, **LABELS).axes
    lines = [container.lines[0].get_xdata().tolist() for container in axes[0].containers]
    assert lines == [[0.0, 0.2], [0.0, 0.2]]
    assert axes[0].get_xscale() == axes[0].get_yscale() == "linear"


def test_points_may_have_names():
    axes = figures.curves(None, CURVES, **LABELS, x_names={0.0: "none", 0.2: "conv1"}).axes
    assert axes[0].get_xticks().tolist() == [0.0, 0.2]
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["none", "conv1"]


@pytest.mark.long
def test_photographs_stay_small(tmp_path):
    images = np.random.default_rng(0).random((6, 224, 224, 3))
    maps = dict.fromkeys("ab", images[..., 0])
    path = tmp_path / "a.png"
    figures.saliency_grid(path, images, maps, notes=["noise"] * 6)
    assert os.path.getsize(path) < 300_000
    picture = image_of(path)[..., :3]
    assert (picture[:2] == 1).all() and (picture[:, :2] == 1).all()  # fewer colours, white kept


IMAGES = np.zeros((2, 4, 4, 1))
NAN = np.full((2, 4, 4), np.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: figures.grid(p, []), r"rows: got rows of \[\]"),
        (lambda p: figures.grid(p, [[IMAGES[0]], []]), r"rows: got rows of \[1, 0\]"),
        (lambda p: figures.grid(p, [[np.zeros(3)]]), r"rows\[0\]\[0\]: got shape \(3,\)"),
        (
            lambda p: figures.grid(p, [[IMAGES[0]]], columns=["a", "b"]),
            "columns: got 2; .* 1, one",
        ),
        (lambda p: figures.saliency_grid(p, np.zeros((2, 4, 4, 2)), {}), "images: .* 1 or 3"),
        (lambda p: figures.saliency_grid(p, IMAGES, {"g": NAN}), r"maps\['g'\]: got NaN"),
        (
            lambda p: figures.saliency_grid(p, IMAGES, {"g": np.zeros((2, 4, 4, 3))}),
            r"maps\['g'\]: got shape .*expected \[2, H, W\].*over its channels",
        ),
        (lambda p: figures.saliency_grid(p, IMAGES, {}, labels=[1]), "labels: got shape"),
        (lambda p: figures.saliency_grid(p, IMAGES, {}, notes=["1"]), "notes: got shape"),
        (lambda p: figures.saliency_grid(p, IMAGES, {}, scale="log"), "scale: got 'log'"),
        (lambda p: figures.saliency_grid(p, IMAGES, {}, sequential="jet"), "sequential: got 'jet'"),
        (lambda p: figures.saliency_grid(p, IMAGES, {}, overlay=2), "overlay: got 2"),
        (lambda p: figures.curves(p, {}, **LABELS), "curves: got nothing to draw"),
        (lambda p: figures.curves(p, {"a": {}}, **LABELS), "curves: got nothing to draw"),
        (
            lambda p: figures.curves(p, {"a": {0.1: (1, 2, 3, 4)}}, **LABELS),
            r"curves\['a'\]: .*expected \{x: \(mean, deviation\)\} or \{x: \(mean, low, high\)\}",
        ),
        (lambda p: figures.curves(p, {"a": {0: (1, 1), 1: (1, 1, 1)}}, **LABELS), "expected {x:"),
        (lambda p: figures.curves(p, {"a": {0: (1, np.inf)}}, **LABELS), r"curves\['a'\]: got NaN"),
        (
            lambda p: figures.curves(p, {"a": {0: (1, -1)}}, **LABELS),
            "a bar that ends before its mean",
        ),
        (lambda p: figures.curves(p, {"a": {0: (1, 2, 3)}}, **LABELS), "low ≤ mean ≤ high"),
        (
            lambda p: figures.curves(p, {"a": {0: (1, 0)}}, **LABELS, log_x=True),
            r"log_x: got 0 in curves\['a'\]; expected values above 0 on a logarithmic axis",
        ),
        (
            lambda p: figures.curves(p, {"a": {1: (-2, 0)}}, **LABELS, log_y=True),
            r"log_y: got -2 in curves\['a'\]",
        ),
        (lambda p: figures.history(p, {"loss": [np.nan]}), r"metrics\['loss'\]: got NaN"),
        (lambda p: figures.history(p / "no" / "x.png", {"loss": [1]}), "path: .*cannot be written"),
    ],
)
def test_what_is_refused(tmp_path, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(tmp_path / "a.png" if "x.png" not in message else tmp_path)
    assert not os.listdir(tmp_path)


def test_matplotlib_is_needed_only_to_draw(tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    spec = importlib.util.spec_from_file_location("fresh_figures", figures.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    for draw in (
        lambda: fresh.history(tmp_path / "a.png", {"loss": [1, 2]}),
        lambda: fresh.saliency_grid(tmp_path / "a.png", IMAGES, {"m": IMAGES}),
    ):
        with pytest.raises(ImportError, match=r"pip install 'tfgrad\[figures\]'"):
            draw()


def test_the_callers_figures_and_backend_are_left_alone(tmp_path):
    from matplotlib import pyplot

    before = (matplotlib.get_backend(), pyplot.get_fignums())
    figures.history(tmp_path / "a.png", {"loss": [1, 2]})
    assert (matplotlib.get_backend(), pyplot.get_fignums()) == before
