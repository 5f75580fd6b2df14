"""Untrusted images: sizes are checked before pixels are decoded, eagerly and in a graph alike."""

import io
import os

import numpy as np
import pytest
import tensorflow as tf

from tfgrad import images
from tfgrad.errors import ArgumentError, DataError


def pixels(height=12, width=9, channels=3, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def png(array=None):
    return tf.io.encode_png(pixels() if array is None else array).numpy()


def jpeg(array=None):
    return tf.io.encode_jpeg(pixels() if array is None else array, quality=95).numpy()


def with_png_size(height, width):
    content = png()
    return content[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:]


def with_jpeg_size(height, width):
    content = jpeg()
    size = content.index(b"\xff\xc0") + 5  # marker, length, precision
    return (
        content[:size] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[size + 4 :]
    )


def chunk(name, body):
    return len(body).to_bytes(4, "big") + name + body + b"\0\0\0\0"


HOSTILE = {
    "empty": (b"", "got 0 bytes; expected 1 to"),
    "long": (png() + b"\0" * 2000, r"got \d+ bytes; expected 1 to 2000"),
    "gif": (b"GIF89a\x01\0\x01\0\0\0\0;", "got a GIF; expected a JPEG or a PNG"),
    "webp": (b"RIFF\0\0\0\0WEBPVP8 ", "got a WebP"),
    "text": (b"hello, I am no image", "got an unknown kind of file"),
    "markup": (b"<svg xmlns=''/>", "got markup"),
    "base64": (b"iVBORw0KGgoAAAANSUhEUg", "got a PNG in base64 .JSON holds it as"),
    "magic alone": (b"\x89PNG\r\n\x1a\n", "got an unknown kind of file"),
    "animated": (
        png()[:33] + chunk(b"acTL", b"\0\0\0\2\0\0\0\0") + png()[33:],
        "got an animated PNG",
    ),
    "huge png": (with_png_size(100_000, 100_000), "got 100000 × 100000 pixels; expected 1 to 1000"),
    "product overflows": (with_png_size(1 << 31, 1 << 31), "got 2147483648 × 2147483648 pixels"),
    "wide png": (with_png_size(1, 1001), "got 1 × 1001 pixels"),
    "flat png": (with_png_size(0, 5), "got 0 × 5 pixels"),
    "huge jpeg": (with_jpeg_size(65_000, 65_000), "got 65000 × 65000 pixels"),
}
DAMAGED = {
    "png": png()[:200],
    "png without its end": png()[:-12],
    "png header": png()[:24],
    "jpeg": jpeg()[:400],
    "jpeg without its end": jpeg()[:-2],
    "jpeg header": jpeg()[:4],
    "noise in png": png()[:60] + b"\x55" * 40 + png()[100:],
}
LIMITS = {"max_bytes": 2000, "max_pixels": 1000}


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def traced(content):
    return images.decode(content, (4, 5), **LIMITS)


def test_png_is_lossless_in_8_and_16_bits():
    for dtype in ("uint8", "uint16"):
        array = pixels(dtype=dtype)
        decoded = images.decode(png(array))
        assert decoded.dtype == tf.float32
        expected = array / np.float64(np.iinfo(dtype).max)
        np.testing.assert_allclose(decoded, expected, rtol=1e-6)


def test_jpeg_matches_its_accurate_decoding():
    smooth = np.linspace(0, 255, 12 * 9 * 3).reshape(12, 9, 3).astype("uint8")
    expected = tf.io.decode_jpeg(jpeg(smooth), dct_method="INTEGER_ACCURATE") / 255
    np.testing.assert_allclose(images.decode(jpeg(smooth)), expected, rtol=1e-6)
    np.testing.assert_allclose(expected, smooth / 255, atol=0.03)


@pytest.mark.parametrize("encode", [png, jpeg])
def test_gray_and_color_become_what_is_asked_for(encode):
    gray = np.full((8, 8, 1), 51, "uint8")
    for channels in (1, 3):
        np.testing.assert_allclose(
            images.decode(encode(gray), channels=channels),
            np.full((8, 8, channels), 0.2),
            rtol=1e-6,
        )
    colors = np.zeros((8, 8, 3), "uint8")
    colors[..., 0], colors[..., 1] = 255, 51
    luma = images.decode(encode(colors), channels=1)
    np.testing.assert_allclose(luma, np.full((8, 8, 1), 0.299 + 0.587 * 0.2), atol=0.01)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_transparency_is_dropped(dtype):
    for count in (2, 4):
        array = pixels(channels=count, dtype=dtype)
        decoded = images.decode(png(array))
        expected = np.broadcast_to(array[..., : count - 1], (12, 9, 3)) / np.iinfo(dtype).max
        np.testing.assert_allclose(decoded, expected, rtol=1e-6)


def test_cmyk_jpeg_and_palette_png():
    Image = pytest.importorskip("PIL.Image")
    picture = Image.fromarray(pixels())
    for mode, kind in (("CMYK", "jpeg"), ("P", "png"), ("1", "png")):
        file = io.BytesIO()
        picture.convert(mode).save(file, kind)
        color = np.asarray(Image.open(file).convert("RGB")) / 255
        np.testing.assert_allclose(images.decode(file.getvalue()), color, atol=1e-6)
        gray = images.decode(file.getvalue(), channels=1)[..., 0]
        np.testing.assert_allclose(gray, color @ [0.299, 0.587, 0.114], atol=1 / 255)


@pytest.mark.long
@pytest.mark.parametrize("encode", [png, jpeg])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_bilinear_with_antialiasing_and_the_same_in_a_graph(encode, channels):
    content = encode(pixels(20, 30))
    whole = images.decode(content, channels=channels)
    assert whole.shape == (20, 30, channels)
    small = images.decode(content, (7, 8), channels)
    np.testing.assert_allclose(small, tf.image.resize(whole, (7, 8), antialias=True), atol=1e-6)
    function = tf.function(lambda c: images.decode(c, (7, 8), channels), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec([], tf.string))
    assert concrete.structured_outputs.shape == (7, 8, channels)
    np.testing.assert_allclose(concrete(tf.constant(content)), small, atol=1e-6)


def test_few_long_rows_are_shortened_first(monkeypatch):
    """The kernel would hold size[0] × width values: gigabytes, of a small file."""
    resize, seen = tf.image.resize, []

    def spy(pixels, size, **options):
        seen.append((tuple(pixels.shape[:2]), tuple(int(n) for n in size)))
        return resize(pixels, size, **options)

    array = pixels(2, 500)
    expected = resize(array / 255, (7, 8), antialias=True)
    monkeypatch.setattr(tf.image, "resize", spy)
    np.testing.assert_allclose(images.decode(png(array), (7, 8)), expected, atol=1e-5)
    images.decode(png(pixels(500, 2)), (7, 8))
    images.decode(png(pixels(30, 40)), (7, 8))
    columns, rows = ((2, 500), (2, 8)), ((2, 8), (7, 8))
    assert seen == [columns, rows, ((500, 2), (7, 8)), ((30, 40), (7, 8))]


def test_values_stay_in_range_when_resized():
    white = np.full((11, 13, 3), 255, "uint8")
    for size in ((3, 4), (40, 50)):
        resized = images.decode(png(white), size).numpy()
        assert resized.max() <= 1 and resized.min() > 1 - 1e-6


def test_a_batch_holds_both_formats_and_any_sizes():
    contents = [png(), jpeg(pixels(30, 5)), png(pixels(1, 1))]
    expected = np.stack([images.decode(c, (4, 5)) for c in contents])
    np.testing.assert_array_equal(images.decode_batch(contents, (4, 5)), expected)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def batched(image_bytes):
        return images.decode_batch(image_bytes, (4, 5))

    for count in (3, 1, 0):
        given = tf.constant(contents[:count], tf.string)
        np.testing.assert_allclose(batched(given), expected[:count], atol=1e-6)
        assert images.decode_batch(given, (4, 5)).shape == (count, 4, 5, 3)
    contents[1] = b"GIF89a"
    with pytest.raises(DataError, match=r"^image_bytes\[1\]: got a GIF"):
        images.decode_batch(contents, (4, 5))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[1\]: got a GIF"):
        batched(tf.constant(contents))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_fail_alike_eagerly_and_in_a_graph(case):
    content, message = HOSTILE[case]
    with pytest.raises(DataError, match=f"^image_bytes: {message}"):
        images.decode(content, (4, 5), **LIMITS)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"image_bytes: {message}"):
        traced(tf.constant(content))


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_images_fail_alike_eagerly_and_in_a_graph(case):
    with pytest.raises(
        DataError, match=r"got a damaged image \(.*\); expected a whole JPEG or PNG"
    ):
        images.decode(DAMAGED[case])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Invalid (PNG|JPEG)"):
        traced(tf.constant(DAMAGED[case]))


def test_nothing_is_decoded_before_the_checks():
    """The pixels of these are damaged: decoding them would fail with other words."""
    for content in (with_png_size(100_000, 100_000), with_jpeg_size(60_000, 60_000)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="pixels; expected 1 to 1000"):
            traced(tf.constant(content[:-40]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="bytes; expected 1 to 2000"):
        traced(tf.constant(jpeg()[:400] + b"\0" * 2000))


def test_limits_are_inclusive():
    content = png()
    images.decode(content, max_bytes=len(content), max_pixels=12 * 9)
    for limits in ({"max_bytes": len(content) - 1}, {"max_pixels": 12 * 9 - 1}):
        with pytest.raises(DataError):
            images.decode(content, **limits)


def test_files(tmp_path):
    path = tmp_path / "picture"  # the name says nothing
    path.write_bytes(png())
    np.testing.assert_array_equal(images.read(path), images.decode(png()))
    assert images.read(str(path), (4, 5), 1).shape == (4, 5, 1)


def test_files_that_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "long.png").write_bytes(png() + b"\0" * 2000)
    (tmp_path / "cut.jpg").write_bytes(jpeg()[:400])
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in {
        "absent.png": "got no such file; expected .*Check the path",
        "text.png": "got an unknown kind of file; expected a JPEG or a PNG",
        "long.png": r"got \d+ bytes; expected 1 to 2000",
        "cut.jpg": "got a damaged image",
        "pipe.png": "got a named pipe, not a regular file",
        ".": "got a directory, not a regular file",
        "nul\0.png": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=f"^path: .*{message}"):
            images.read(tmp_path / name, **LIMITS)


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(png())

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(.*Permission denied"):
        images.read(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 5)}, r"size: got \(0, 5\); expected \(height, width\)"),
        ({"size": 224}, "size: got 224"),
        ({"size": (2.0, 3)}, "size: got"),
        ({"channels": 4}, r"channels: got 4; expected 3 \(RGB\) or 1"),
        ({"max_bytes": 0}, "max_bytes: got 0; expected an integer ≥ 1"),
        ({"max_pixels": 1e6}, "max_pixels: got 1000000.0"),
        ({"image_bytes": pixels()}, "image_bytes: got a ndarray; expected the content of image"),
        ({"image_bytes": tf.zeros([3])}, "image_bytes: got float32"),
        ({"image_bytes": [png()]}, "expected strings of rank 0. Try images.decode_batch"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        images.decode(**{"image_bytes": png(), **arguments})


def test_a_batch_needs_a_list_and_one_size():
    with pytest.raises(ArgumentError, match=r"expected strings of rank 1. Try images.decode,"):
        images.decode_batch(png(), (4, 5))
    with pytest.raises(ArgumentError, match="size: got None"):
        images.decode_batch([png()], None)
