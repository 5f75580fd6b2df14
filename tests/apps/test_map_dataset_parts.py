"""What `apps.map_dataset` is made of: flags that are passed on, parts, records, storage."""

import pickle

import numpy as np
import pytest
import tensorflow as tf

from apps.map_dataset import folder_sources, image_sources, pipeline_flags, storage, tfrecord_files
from apps.map_dataset.part_run import _in_a_line
from tests.helpers import map_dataset_cases as cases
from tfgrad import data
from tfgrad.errors import ArgumentError, DataError

OWN = ("model", "out", "overwrite", "batch_size")
BEAM = ("runner", "direct_num_workers", "save_main_session")


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (["--model=m", "--runner=FlinkRunner"], ["--runner=FlinkRunner"]),
        (["--runner", "FlinkRunner", "--model", "m"], ["--runner", "FlinkRunner"]),
        (["--overwrite", "--nooverwrite", "--save_main_session"], ["--save_main_session"]),
        (["--batch_size", "-3", "--experiments", "a", "b"], ["--experiments", "a", "b"]),
        (["--model=m", "stray"], []),
        (["--runner=x", "--overwrite", "stray"], ["--runner=x"]),
        (["-model=m", "--nothing=--model=m"], ["--nothing=--model=m"]),
        ([], []),
    ],
)
def test_other_flags_are_passed_on(arguments, passed):
    own, found = pipeline_flags.split(arguments, OWN, ["overwrite"])
    assert found == passed
    assert sorted([*own, *found]) == sorted(arguments)


def test_misspelt_flags_are_named():
    def check(argument, runner="DirectRunner"):
        pipeline_flags.check([argument, "value"], BEAM, OWN, runner)

    check("--runner=x")
    check("--no_save_main_session")
    check("--dask_client_address=x", "apache_beam.runners.dask.dask_runner.DaskRunner")
    check("--job_server_option=x", "PortableRunner")
    for name, close in (("batchsize", "batch_size"), ("direct_num_worker", "direct_num_workers")):
        with pytest.raises(ArgumentError, match=f"--{name}: got .*did you mean --{close}"):
            check(f"--{name}=3")
    with pytest.raises(ArgumentError, match=r"did you mean --batch_size"):
        check("--batchsize=3", "PortableRunner")
    with pytest.raises(ArgumentError, match=r"--colour: got a flag that neither"):
        check("--colour=red")


def test_records_are_counted_and_shared_out(tmp_path):
    for name, count in (("a", 3), ("b", 0), ("c", 9)):
        cases.write_records(tmp_path / name, [bytes(count)] * count)
    paths = tuple(str(tmp_path / name) for name in "abc")
    assert tfrecord_files.counts(paths) == [3, 0, 9]
    found = tfrecord_files.slices([3, 0, 9], 5)
    assert found == [((0, 0, 3), (2, 0, 2)), ((2, 2, 5),), ((2, 7, 2),)]
    source = image_sources.Records(paths, "image/encoded")
    parts = source.parts(5)
    assert [(part.first, part.last) for part in parts] == [(0, 5), (5, 10), (10, 12)]
    keys = [[item.key for item in source.read(part)] for part in parts]
    assert keys[0] == ["a:0", "a:1", "a:2", "c:0", "c:1"] and keys[2] == ["c:7", "c:8"]


def test_records_of_files_with_one_name_have_keys_of_their_own(tmp_path):
    for name in ("train", "trial"):
        (tmp_path / name).mkdir()
        cases.write_records(tmp_path / name / "a", [b"content"])
    source = image_sources.Records(tfrecord_files.paths([f"{tmp_path}/*/a"]), "image/encoded")
    assert [item.key for item in source.read(source.parts(9)[0])] == ["train/a:0", "trial/a:0"]


@pytest.mark.parametrize("cut", [1, 6, 20])
def test_a_file_that_is_cut_short_is_named(tmp_path, cut):
    cases.write_records(tmp_path / "a", [b"12", b"34"])
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:-cut])
    with pytest.raises(DataError, match=r"tfrecords: got '.*a', in which record 1 does not end"):
        tfrecord_files.count(str(tmp_path / "a"))


def test_parts_of_a_data_set_are_its_examples():
    source = image_sources.Named("digits", "test[:23]")
    loaded = data.load("digits", "test[:23]")
    parts = pickle.loads(pickle.dumps(source)).parts(10)
    items = [item for part in parts for item in source.read(part)]
    np.testing.assert_array_equal([item.content for item in items], loaded.images)
    assert [item.label for item in items] == loaded.labels.tolist()
    assert [item.index for item in items] == list(range(23))


class Encoded:
    """A split of TFDS with PNG files in place of a set on the disk."""

    def __init__(self, files, damaged=10**9):
        self.files, self.damaged = files, damaged

    def encoded(self, first, last):
        rows = tf.data.Dataset.range(first, last)
        files = tf.constant(self.files)

        def row(i):
            with tf.control_dependencies([tf.debugging.assert_less(i, np.int64(self.damaged))]):
                return files[i], tf.cast(i, tf.int32) % 4

        return rows.map(row)

    def image_shape(self, size):
        return *cases.SIZE, 3

    def pixels(self, content, size):
        return tf.io.decode_png(content)


@pytest.fixture
def encoded(monkeypatch):
    """Pixels of 90 files, the last three of which are damaged, and their source."""
    files, pixels = cases.pictures(90)
    split = Encoded(files, damaged=87)
    monkeypatch.setattr(image_sources, "_opened", lambda source: split)
    return pixels, image_sources.Named("photos", "test")


def test_pixels_are_those_of_the_pipeline_to_the_bit(encoded):
    """A graph would multiply by a rounded inverse of 255, which moves gradients at kinks."""
    pixels, source = encoded
    decode = source.pixels(cases.SIZE, 3)
    items = list(source.read(image_sources.Part(0, 3, 87)))
    np.testing.assert_array_equal([decode(item.content) for item in items], pixels[3:87])
    assert [item.label for item in items] == [i % 4 for i in range(3, 87)]
    with pytest.raises(ArgumentError, match=r"expected \(8, 8, 3\), .* --image_size=8,8"):
        source.pixels((8, 8), 3)


def test_examples_before_a_damaged_one_are_read(encoded):
    items = list(encoded[1].read(image_sources.Part(0, 60, 90)))
    assert [item.key for item in items] == [str(i) for i in range(60, 90)]
    readable = [item.index for item in items if item.content is not None]
    assert readable == list(range(60, 87))
    assert all("damaged file behind example 87" in item.reason for item in items[-3:])


def test_a_worker_gets_no_listing_of_all_files(tmp_path):
    for index in range(50):
        (tmp_path / f"{index:02d}.jpg").write_bytes(b"")
    source = folder_sources.Folder(str(tmp_path))
    part = source.parts(20)[1]
    content = pickle.dumps(source)
    assert len(content) < 500
    found = [item.key for item in pickle.loads(content).read(part)]
    assert found == [f"{index}.jpg" for index in range(20, 40)]


def test_unreadable_files_are_items_with_a_reason(tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a.png" / "b.png").write_bytes(b"content")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere")
    source = folder_sources.Folder(str(tmp_path))
    items = list(source.read(source.parts(9)[0]))
    assert [(item.key, item.content) for item in items] == [
        ("a.png/b.png", b"content"),
        ("c.png", None),
    ]
    assert "No such file" in items[1].reason


def test_reasons_take_one_line():
    @tf.function
    def fails(x):
        with tf.control_dependencies([tf.debugging.Assert(x < 3, ["x: got", x, "expected < 3"])]):
            return tf.identity(x)

    with pytest.raises(tf.errors.InvalidArgumentError) as failed:
        fails(tf.constant(7))
    assert _in_a_line(failed.value.message) == "x: got 7 expected < 3"
    assert _in_a_line("\n") == "unreadable"
    assert _in_a_line("image: got\nno PNG") == "image: got"


def test_storage_writes_whole_files(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(RuntimeError), storage.replaced(str(path), ".x") as temporary:
        assert temporary.endswith(".x")
        with open(temporary, "w") as file:
            file.write("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    storage.write_text(str(path), "whole")
    assert (path.read_text(), storage.names(str(tmp_path))) == ("whole", ["file"])
    storage.remove(str(path))
    storage.remove(str(path))
    assert storage.names(str(path)) == [] and not storage.exists(str(path))
