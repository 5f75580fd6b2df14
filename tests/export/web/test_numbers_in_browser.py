"""What the page computes is what TensorFlow and ONNX Runtime compute from the same pixels."""

import io
import os
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.export.web.conftest import (
    CLASSES,
    METHODS,
    METHODS_OF_IMAGES,
    in_layout,
    jpeg,
    photograph,
    png,
)
from tfgrad import images

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# (height, width, channels), range and methods of each kind of model.
KINDS = {
    "colour": ((24, 20, 3), (0, 1), METHODS_OF_IMAGES),
    "gray": ((12, 16, 1), (-1, 1), METHODS),
    "channels_first": ((9, 7, 3), (0, 255), ("input_gradient",)),
    "regression": ((24, 20, 3), (0, 1), ("input_gradient",)),
}


def live(version, image, target):
    """What the SavedModel returns for every signature of (image, target)."""
    signatures = tf.saved_model.load(version).signatures
    found = {"serving_default": signatures["serving_default"](image=tf.constant(image))}
    for name in set(signatures) - {"serving_default", "encoded"}:
        found[name] = signatures[name](image=tf.constant(image), target=tf.constant([target]))
    return {n: {k: v.numpy() for k, v in outputs.items()} for n, outputs in found.items()}


def in_onnx_runtime(version, name, image, target, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(os.path.join(version, f"{name}.onnx"))
    keys = [output.name for output in session.get_outputs()]
    given = {"image": np.repeat(image, batch, 0), "target": np.full(batch, target, np.int32)}
    return dict(zip(keys, session.run(keys, given), strict=True))


def close(found, expected):
    """Equal to 1e-4 of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_tensorflow_and_onnx_runtime(visit, exported, kind):
    size, (low, high), methods = KINDS[kind]
    tab = visit(kind)
    pixels = photograph(50, 70, channels=size[-1], seed=7)
    tab.choose("photo.png", png(pixels))
    assert tab.sentence() == ""

    # The input: TensorFlow's decoding and resizing.
    server = images.decode(png(pixels), size[:2], size[-1]).numpy()
    expected = in_layout(kind, low + (high - low) * server)[None]
    image = tab.image().reshape(expected.shape)
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5 * (high - low))

    logits = live(exported(kind), image, 0)["serving_default"]["logits"][0]
    close(tab.output("logits"), logits)
    for place in range(min(2, len(logits))):  # the likeliest class, and another one
        chosen = int(np.argsort(-logits)[place])
        tab.page.get_by_role("radio").nth(place).check()
        tab.wait()
        maps, served = tab.maps(), live(exported(kind), image, chosen)
        assert list(maps) == list(methods)
        for name, found in maps.items():
            assert found["class"] == chosen
            close(found["saliency"], served[name]["saliency"][0])
            close(found["score"], served[name]["score"])
            batch = 2 if kind == "gray" else 1
            other = in_onnx_runtime(exported(kind), name, image, chosen, batch)
            close(found["saliency"], other["saliency"][0])
            assert found["milliseconds"] >= 0
            assert ("completeness_error" in found) == ("completeness_error" in other)
    if "fullgrad" in maps:
        assert maps["fullgrad"]["completeness_error"] < 1e-5


def test_the_five_likeliest_classes_are_shown(visit):
    tab = visit()
    tab.choose("photo.png", png(photograph()))
    probabilities = tab.output("probabilities")
    best = np.argsort(-probabilities)[:5]
    rows = tab.page.locator("#classes label")
    assert rows.count() == 5
    for row, index in zip(rows.all(), best, strict=True):
        name, value = row.locator(".name"), row.locator(".value")
        assert name.inner_text() == CLASSES[index]
        assert float(value.inner_text().rstrip(" %")) == pytest.approx(
            100 * probabilities[index], abs=0.51
        )
        wide = row.locator(".bar").bounding_box()["width"] / row.bounding_box()["width"]
        assert wide == pytest.approx(probabilities[index], abs=0.05)
    assert tab.page.get_by_role("heading", name="Likeliest classes").is_visible()


def test_numbers_that_are_no_probabilities_are_shown_as_outputs(visit):
    tab = visit("regression")
    tab.choose("photo.png", png(photograph()))
    assert tab.page.get_by_role("heading", name="Largest outputs").is_visible()
    assert not tab.page.locator(".bar").first.is_visible()
    value = tab.page.locator("#classes .value").inner_text()
    assert float(value) == pytest.approx(tab.output("logits")[0], rel=0.01)


def test_a_photograph_of_twelve_million_pixels(visit):
    pixels = photograph(3000, 4000)
    content = jpeg(pixels)
    assert 1 << 20 < len(content) < images.MAX_BYTES
    tab = visit()
    start = time.perf_counter()
    tab.choose("large.jpg", content)
    assert tab.sentence() == "" and time.perf_counter() - start < 60
    assert "4000 × 3000 pixels" in tab.page.locator("#photograph-caption").inner_text()
    # Decoders of JPEG round differently: by less than one of 255 after resizing.
    server = images.decode(content, (24, 20), 3).numpy()
    np.testing.assert_allclose(tab.image().reshape(24, 20, 3), server, rtol=0, atol=1 / 255)
    assert len(tab.maps()) == 4


def test_a_photograph_is_turned_as_its_orientation_says(visit):
    from PIL import Image

    pixels = photograph(30, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "jpeg", quality=100, subsampling=0, exif=exif)
    tab = visit()
    tab.choose("turned.jpg", content.getvalue())
    assert "30 × 40 pixels" in tab.page.locator("#photograph-caption").inner_text()
    upright = images.decode(png(np.rot90(pixels, -1)), (24, 20), 3).numpy()
    np.testing.assert_allclose(tab.image().reshape(24, 20, 3), upright, rtol=0, atol=4 / 255)


def test_transparent_pixels_lie_on_white(visit):
    pixels = np.full((10, 10, 4), 255, np.uint8)
    pixels[..., :3] = photograph(10, 10)
    pixels[:5, :, 3] = 0
    tab = visit()
    tab.choose("transparent.png", png(pixels))
    image = tab.image().reshape(24, 20, 3)
    assert (image[:8] == 1).all() and (image[14:] < 1).any()


def test_a_map_is_drawn_in_its_colours(visit):
    tab = visit()
    tab.choose("photo.png", png(photograph()))
    saliency = tab.maps()["fullgrad"]["saliency"]
    drawn = np.uint8(
        tab.page.evaluate(
            "() => { const c = document.querySelector('.over'); return Array.from("
            "c.getContext('2d').getImageData(0, 0, c.width, c.height).data); }"
        )
    ).reshape(*saliency.shape, 4)
    assert (drawn[..., 3] == 255).all()
    least, most = saliency.argmin(), saliency.argmax()
    assert drawn.reshape(-1, 4)[least, :3].tolist() == [0, 0, 4]  # of matplotlib's inferno
    assert drawn.reshape(-1, 4)[most, :3].tolist() == [252, 255, 164]
    brightness = drawn[..., :3].sum(-1).astype(int)
    order = np.argsort(saliency, axis=None)
    assert np.corrcoef(np.arange(order.size), brightness.ravel()[order])[0, 1] > 0.9
