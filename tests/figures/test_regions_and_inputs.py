"""Outlines of regions, and the maps of several inputs in one figure."""

import numpy as np
import pytest

from tfgrad import figures
from tfgrad.errors import ArgumentError
from tfgrad.figures import outlines

pytest.importorskip("matplotlib")

RNG = np.random.default_rng(0)
IMAGES, SERIES = RNG.random((2, 6, 8)), RNG.normal(size=(2, 20, 2))
MASKS = np.zeros((2, 6, 8))
MASKS[0, 1:3, 2:5] = 0.5
MAPS = {
    "image": IMAGES - 0.5,
    "table": RNG.normal(size=(2, 3)),
    "ids": RNG.normal(size=(2, 4)),
    "series": SERIES[..., 0],
}
INPUTS = {
    "image": IMAGES[..., np.newaxis],
    "table": RNG.normal(size=(2, 3)),
    "ids": np.arange(8, dtype="int32").reshape(2, 4),
    "series": SERIES,
    "held": np.zeros((2, 5)),
}


def segments(x, y):
    """The set of the straight pieces of a line with gaps."""
    points = np.stack([x, y], 1).reshape(-1, 3, 2)
    return {tuple(map(tuple, piece[:2].tolist())) for piece in points}


def test_edges_of_a_mask_are_those_of_its_cells():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 0:2] = True
    mask[3, 3] = True
    expected = {
        *{((0, 1), (0, 3)), ((2, 1), (2, 3)), ((0, 1), (2, 1)), ((0, 3), (2, 3))},
        *{((3, 3), (3, 4)), ((4, 3), (4, 4)), ((3, 3), (4, 3)), ((3, 4), (4, 4))},
    }
    assert segments(*outlines.edges(mask)) == expected


def test_edges_of_any_mask_are_where_neighbours_differ():
    mask = RNG.random((7, 5)) > 0.5
    length = sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in segments(*outlines.edges(mask)))
    padded = np.pad(mask, 1).astype(int)
    assert length == np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()


def corners(axes):
    """The smallest and the largest coordinates of each line."""
    return [
        tuple(float(end(values)) for values in line.get_data() for end in (np.nanmin, np.nanmax))
        for line in axes.lines
    ]


def test_regions_are_outlined_on_images_and_on_maps_of_any_size():
    figure = figures.saliency_grid(
        None, IMAGES, {"map": IMAGES[:, ::2, ::2]}, regions=MASKS, overlay=0.5
    )
    image, overlaid, *second = figure.axes
    assert corners(image) == corners(overlaid) == [(1.5, 4.5, 0.5, 2.5)] * 2  # black and white
    assert not any(len(line.get_xdata()) for axes in second for line in axes.lines)
    assert image.get_xlim() == (-0.5, 7.5)
    plain = figures.saliency_grid(None, IMAGES, {"map": IMAGES[:, ::2, ::2]}, regions=MASKS)
    assert corners(plain.axes[1])[0] == (0.5, 2.0, 0.0, 1.0)  # in pixels of the smaller map


def test_regions_of_slices_and_of_series():
    volumes, masks = RNG.random((1, 3, 6, 8)), np.zeros((1, 3, 3, 4))
    masks[0, 1, 0, 0] = 1
    figure = figures.saliency_slices(None, volumes, {"map": volumes}, regions=masks)
    drawn = [bool(np.isfinite(axes.lines[0].get_xdata()).any()) for axes in figure.axes]
    assert drawn == [False, True, False] * 2
    assert corners(figure.axes[1])[0] == (-0.5, 1.5, -0.5, 1.5)
    region = np.array([[0, 1, 1, 0], [1, 0, 0, 1]])
    figure = figures.saliency_series(None, SERIES, {"map": SERIES[..., 0]}, regions=region)
    first, second = (list(axes.collections) for axes in figure.axes)
    spans = [[s[:, 0].tolist() for s in c.get_segments()] for c in (*first, *second)]
    assert spans == [[[4.5, 14.5]], [[-0.5, 4.5], [14.5, 19.5]]]


def test_each_input_is_drawn_by_its_kind():
    words = [["a", "film", "of", "two"]] * 2
    figure = figures.saliency_of_inputs(
        None,
        INPUTS,
        {"one": MAPS, "two": {"table": abs(MAPS["table"])}},
        tokens={"ids": words},
        features={"table": ["x", "y", "z"]},
        labels=[1, 2],
        notes=["file_$1$", "b"],
    )
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == words[0] * 2
    bars = [axes for axes in figure.axes if axes.patches]
    np.testing.assert_allclose([bar.get_width() for bar in bars[0].patches], MAPS["table"][0])
    assert [text.get_text() for text in bars[0].get_yticklabels()] == ["x", "y", "z"]
    curves = [axes for axes in figure.axes if len(axes.lines) == 2]
    np.testing.assert_allclose(curves[0].lines[0].get_ydata(), SERIES[0, :, 0])
    assert len(bars) == 4 and len(curves) == 2  # two methods, of which one has all maps
    assert len(figure.axes) == 2 * (2 + 1 + 1 + 1) + 2
    captions = {text.get_text() for text in figure.texts}
    assert {"image", "table", "ids", "series", "true: 1\nfile_$1$\none"} <= captions
    assert "held" not in captions


def test_lists_single_inputs_and_ids_as_numbers():
    given, maps = [INPUTS["table"], INPUTS["ids"]], [None, MAPS["ids"]]
    figure = figures.saliency_of_inputs(None, given, {"map": maps})
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == [*"01234567"]
    rows = [text.get_text() for text in figure.texts if "example" in text.get_text()]
    assert rows == ["example 0\nmap", "example 1\nmap"]
    (first, second) = figures.saliency_of_inputs(
        None, INPUTS["table"], {"map": MAPS["table"]}, kinds={0: "series"}
    ).axes
    assert first.lines and not first.patches and second.lines


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.saliency_grid(None, IMAGES, {}, regions=MASKS[:1]), "regions: got shape"),
        (
            lambda: figures.saliency_grid(None, IMAGES, {}, regions=-MASKS),
            "regions: got values dow",
        ),
        (lambda: figures.saliency_grid(None, IMAGES, {}, regions=MASKS / 0), "regions: got NaN"),
        (lambda: figures.grid(None, [[IMAGES[0]]], outlines=[]), "outlines: got 0; expected 1"),
        (
            lambda: figures.saliency_slices(None, IMAGES[None], {}, regions=MASKS),
            r"regions: got shape .*\[1, 2, H, W\]",
        ),
        (
            lambda: figures.saliency_series(None, SERIES, {}, regions=MASKS),
            r"regions: got shape .*\[2, T\]",
        ),
        (lambda: figures.saliency_of_inputs(None, INPUTS, {}), "maps: got no map"),
        (
            lambda: figures.saliency_of_inputs(None, INPUTS, MAPS),
            r"maps\['image'\]: got maps of \[0\]; .*name of a method",
        ),
        (
            lambda: figures.saliency_of_inputs(None, [IMAGES, IMAGES], {"m": [IMAGES]}),
            r"maps\['m'\]: got a list of 1 maps; expected 2.*None in the place",
        ),
        (
            lambda: figures.saliency_of_inputs(None, INPUTS, {"m": MAPS}, kinds={"held": "image"}),
            r"kinds: got \['held'\]; expected keys of explained inputs",
        ),
        (
            lambda: figures.saliency_of_inputs(None, INPUTS, {"m": MAPS}, kinds={"ids": "words"}),
            "kinds: got 'words'",
        ),
        (
            lambda: figures.saliency_of_inputs(None, IMAGES[None], {"m": IMAGES[None]}),
            "inputs: got 'input' .*saliency_slices",
        ),
        (
            lambda: figures.saliency_of_inputs(
                None, {"a": IMAGES, "b": IMAGES[:1]}, {"m": {"a": IMAGES, "b": IMAGES[:1]}}
            ),
            "inputs: got .*expected equal numbers",
        ),
    ],
)
def test_what_is_refused(call, message):
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        pytest.raises(ArgumentError, match=message),
    ):
        call()
