"""Maps that were written as records: read by position, and only as maps of the right network."""

import json

import keras
import numpy as np
import pytest

from tfgrad import data, saliency
from tfgrad.errors import ArgumentError, DataError, ResumeError
from tfgrad.evaluation import MapShards, pixel_perturbation, saved_maps
from tfgrad.evaluation.map_tests import map_records, record_formats

SHAPE = (5, 4, 3)
COLUMNS = {
    "index": ["int64", []],
    "key": ["string", []],
    "saliency": ["float32", [5, 4]],
    "score": ["float32", []],
    "class": ["int32", []],
}


def network(seed=0):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3, "softplus")]
    return keras.Sequential([*layers, keras.layers.Dense(3)])


def dataset(n=7, seed=0):
    rng = np.random.default_rng(seed)
    return data.from_arrays(rng.integers(0, 256, (n, *SHAPE), np.uint8), np.arange(n) % 3, "abc")


def written(directory, maps, left_out=(), size=3, kind="tfrecord", **settings):
    """A directory of records; the images of `left_out` have none."""
    directory.mkdir()
    count = -(-len(maps) // size)
    manifest = {
        "format": map_records.FORMAT,
        "method": "input_gradient",
        "target": "predicted",
        "shape": list(maps.shape),
        "shard_size": size,
        "formats": [kind],
        "columns": COLUMNS,
        **settings,
    }
    for shard in range(count):
        rows = np.arange(shard * size, min(shard * size + size, len(maps)))
        rows = np.setdiff1d(rows, left_out)
        path = directory / map_records.shard_name(shard, count, kind)
        with record_formats.writer(str(path), kind, COLUMNS) as writer:
            for part in (rows[:2], rows[2:]):
                writer.add(
                    {
                        "index": part,
                        "key": [f"image {row}\udce9" for row in part],
                        "saliency": maps[part],
                        "score": part / np.float32(3),
                        "class": part % 3,
                    }
                )
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def numbers(n=7):
    return np.random.default_rng(1).normal(size=(n, 5, 4)).astype("float32")


KINDS = pytest.mark.parametrize("kind", ["tfrecord", "parquet"])


@pytest.mark.long
@KINDS
def test_rows_are_the_images_positions(tmp_path, kind):
    """Whatever has no record, at the start, at the end or a whole shard, is NaN."""
    maps, left_out = numbers(), [0, 3, 4, 5, 6]
    found = MapShards(written(tmp_path / "maps", maps, left_out, kind=kind))
    expected = maps.copy()
    expected[left_out] = np.nan
    for low, high in ((0, 7), (1, 3), (2, 5), (6, 7), (4, 4)):
        np.testing.assert_array_equal(found[low:high], expected[low:high])
    assert (found.shape, found.left_out, found[:].dtype) == ((7, 5, 4), 5, np.float32)
    there = [1, 2]
    np.testing.assert_array_equal(found.column("class"), [-1, 1, 2, -1, -1, -1, -1])
    np.testing.assert_array_equal(found.column("score")[there], np.float32(there) / np.float32(3))
    assert np.isnan(np.delete(found.column("score"), there)).all()
    byte = "\udce9" if kind == "tfrecord" else r"\udce9"  # of a name that is not UTF-8
    assert list(found.column("key")) == ["", f"image 1{byte}", f"image 2{byte}", *[""] * 4]


@pytest.mark.long
def test_tests_of_maps_take_them(tmp_path):
    maps, images = numbers(), dataset()
    found = MapShards(written(tmp_path / "maps", maps))
    batches = data.pipeline(images, 4, training=False)
    found, expected = (pixel_perturbation(network(), batches, m, (0.2,)) for m in (found, maps))
    assert found == expected


@KINDS
def test_a_damaged_shard_is_an_error(tmp_path, kind):
    directory = written(tmp_path / "maps", numbers(), kind=kind)
    path = directory / map_records.shard_name(1, 3, kind)
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(DataError, match=r"00001-of.* Call apps.map_dataset again with"):
        MapShards(directory)[:]
    with pytest.raises(DataError, match="damaged shard"):
        MapShards(directory).column("score")
    # A shard with another one's records.
    path.write_bytes((directory / map_records.shard_name(0, 3, kind)).read_bytes())
    with pytest.raises(DataError, match="missing or damaged"):
        MapShards(directory)[3:4]
    path.unlink()
    assert MapShards(directory)[:3].shape == (3, 5, 4)
    with pytest.raises(ArgumentError, match="name: got 'area'; expected one of the columns index"):
        MapShards(directory).column("area")


@pytest.mark.parametrize(
    "settings",
    [
        {"columns": {"index": ["int64", []]}},
        {"columns": {**COLUMNS, "saliency": ["object", [5, 4]]}},
        {"columns": {**COLUMNS, "saliency": ["float32", [-5, 4]]}},
        {"formats": ["pickle"]},
        {"formats": []},
        {"shape": [7]},
        {"shard_size": 0},
    ],
)
def test_a_manifest_of_another_form_is_an_error(tmp_path, settings):
    directory = written(tmp_path / "maps", numbers(), **{"shard_size": 3, **settings})
    with pytest.raises(ResumeError, match=r"got .*manifest"):
        MapShards(directory)


@pytest.mark.long
def test_saved_maps_reads_them_for_the_same_method_and_images(tmp_path):
    images, method = dataset(), saliency.InputGradient(network())
    maps = method(images.images / np.float32(255)).numpy()
    directory = written(tmp_path / "maps", maps, [0], options=method.options())
    found = saved_maps(method, images, directory)
    np.testing.assert_array_equal(found[1:], maps[1:])
    np.testing.assert_array_equal(saved_maps(None, images, directory)[1:], maps[1:])
    np.testing.assert_array_equal(saved_maps(None, None, directory)[1:], maps[1:])
    named = saved_maps(lambda x, y: method(x), images, directory, name="input_gradient")
    assert named.shape == maps.shape
    assert sorted(p.suffix for p in directory.iterdir() if p.name != ".lock") == [
        ".json",
        *[".tfrecord"] * 3,
    ]

    def refused(words, method=method, images=images, **options):
        with pytest.raises(ResumeError, match=words):
            saved_maps(method, images, directory, **options)

    refused(r"map of image 1 differs by .* expected the maps of this network", other_network())
    refused(r"map of image 1 differs", images=dataset(seed=1))
    refused(r"map of image 1 differs", normalize=([0.1, 0.2, 0.3], [0.5, 1, 2]))
    refused(r"target was 'predicted', now 2", target=2)
    refused(
        r"options.reduce was 'abs_sum', now 'sum'", saliency.InputGradient(network(), reduce="sum")
    )
    refused(r"method was 'input_gradient', now 'smoothgrad'", saliency.SmoothGrad(network()))
    refused(r"shape was \[7, 5, 4\], now \[6, 5, 4\]", images=dataset(6))
    refused(r"shape was", None, dataset(6))


def other_network():
    return saliency.InputGradient(network(seed=5))
