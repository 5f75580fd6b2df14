"""Maps of a data set: those of the live network, whole or not at all, whoever computes them."""

import json
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from apps.map_dataset import __main__ as module
from tests.helpers import map_dataset_cases as cases
from tests.helpers.app_run import in_process
from tfgrad import data
from tfgrad.evaluation import MapShards, saved_maps
from tfgrad.internal import ownership

OPTIONS = cases.options(methods=",".join(cases.METHODS), shard_size=5, batch_size=3)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(network, directory) of a served network."""
    return cases.exported(str(tmp_path_factory.mktemp("served") / "small"))


@pytest.fixture
def run(served, tmp_path):
    """Run the command with the model, and return its exit code."""
    command = cases.Command()
    with in_process(command) as within:

        def run(*arguments, runner=None, out="maps"):
            command.runner = runner or cases.Runner()
            own = cases.options(model=served[1], out=tmp_path / out)
            return within(*own, *OPTIONS, *arguments)

        yield run


@pytest.fixture
def folder(tmp_path):
    """A folder of 13 files of which three are no images, and the pixels of the others."""
    files, pixels = cases.pictures(10)
    broken = {1: b"no image", 6: files[0][:60], 12: b""}
    contents = iter(files)
    for index in range(13):
        path = tmp_path / "photos" / f"class {index // 5}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(broken[index] if index in broken else next(contents))
    (tmp_path / "photos" / "notes.txt").write_text("no image, and not one by its name")
    whole = np.full((13, *pixels.shape[1:]), np.nan, np.float32)
    whole[[i for i in range(13) if i not in broken]] = pixels
    return tmp_path / "photos", whole


def content(directory):
    """{path: bytes} of all files."""
    directory = pathlib.Path(directory)
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_maps_of_a_folder(run, served, folder, tmp_path, capfd):
    """Broken images are named and counted; the maps of the others are at their positions."""
    photos, pixels = folder
    assert run(f"--images={photos}", "--formats=tfrecord,parquet") == 0
    told = capfd.readouterr()
    assert "13 images in 3 shards; 0 images are done" in told.out
    assert "10 maps of 13 images" in told.out
    assert "3 images have no map" in told.err and "broken.jsonl names them" in told.err
    lines = (tmp_path / "maps" / "broken.jsonl").read_text().splitlines()
    broken = [json.loads(line) for line in lines]
    assert [one["index"] for one in broken] == [1, 6, 12]
    assert [one["key"] for one in broken] == ["class 0/01.png", "class 1/06.png", "class 2/12.png"]
    reasons = ("an unknown kind of file; expected a JPEG or a PNG", "PNG", "0 bytes; expected 1 to")
    for one, reason in zip(broken, reasons, strict=True):
        assert reason in one["reason"] and "\n" not in one["reason"], one
    good = np.isfinite(pixels).all((1, 2, 3))
    expected = cases.live(served[0], pixels[good])
    for method in cases.METHODS:
        maps = MapShards(tmp_path / "maps" / method)
        assert maps.shape == (13, *cases.SIZE)
        np.testing.assert_allclose(maps[:][good], expected[method], rtol=1e-4, atol=1e-6)
        assert np.isnan(maps[:][~good]).all()
        assert list(maps.column("key")[good])[:3] == [f"class 0/0{i}.png" for i in (0, 2, 3)]
        np.testing.assert_array_equal(maps.column("class")[~good], -1)
        assert sorted(path.suffix for path in (tmp_path / "maps" / method).iterdir()) == [
            ".json",
            *[".parquet"] * 3,
            *[".tfrecord"] * 3,
        ]
        assert maps.settings["broken"] == 3
    error = MapShards(tmp_path / "maps" / "fullgrad").column("completeness_error")
    assert (error[good] < 1e-4).all() and np.isnan(error[~good]).all()
    logits = served[0](pixels[good]).numpy()
    np.testing.assert_array_equal(maps.column("class")[good], logits.argmax(-1))
    np.testing.assert_allclose(maps.column("score")[good], logits.max(-1), rtol=1e-5)
    summary = json.loads((tmp_path / "maps" / "summary.json").read_text())
    assert summary == {"images": 13, "maps": 10, "broken": 3, "not_finite": 0}


@pytest.mark.long
def test_maps_of_records_with_labels(run, served, tmp_path):
    """Several files, one damaged; a label that is no class; records of something else."""
    files, pixels = cases.pictures(11)
    labels = np.arange(11) % 4
    cases.write_records(tmp_path / "b.tfrecord", files[:7], [*labels[:3], 9, *labels[4:7]])
    cases.write_records(tmp_path / "c.tfrecord", files[7:], labels[7:])
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as file:
        file.write(b"no example")
        file.write(tf.train.Example().SerializeToString())
    damaged = bytearray((tmp_path / "c.tfrecord").read_bytes())
    damaged[-9] ^= 1
    (tmp_path / "c.tfrecord").write_bytes(damaged)
    flags = cases.options(tfrecords=tmp_path / "*.tfrecord", label_key="label", target="label")
    assert run(*flags) == 0
    maps = MapShards(tmp_path / "maps" / "input_gradient")
    broken = [
        json.loads(line) for line in (tmp_path / "maps" / "broken.jsonl").read_text().splitlines()
    ]
    names = ["a.tfrecord:0", "a.tfrecord:1", "b.tfrecord:3", "c.tfrecord:3"]
    assert [one["key"] for one in broken] == names
    words = (
        "no tf.train.Example",
        "0 byte strings",
        "got 9 expected classes 0 to 3",
        "corrupted record",
    )
    assert all(word in one["reason"] for word, one in zip(words, broken, strict=True)), broken
    good = np.delete(np.arange(2, 13), [3, 10])
    expected = cases.live(served[0], pixels[good - 2], labels[good - 2])
    np.testing.assert_allclose(maps[:][good], expected["input_gradient"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(maps.column("class")[good], labels[good - 2])
    np.testing.assert_array_equal(maps.column("label")[good], labels[good - 2])


@pytest.mark.long
def test_a_data_set_by_its_name_is_what_saved_maps_reads(tmp_path, capfd):
    network, directory = cases.exported(str(tmp_path / "served"), (8, 8, 1))
    digits = data.load("digits", "test[:70]")
    flags = cases.options(
        model=directory, methods="fullgrad", dataset="digits", split="test[:70]", target=3
    )
    with in_process(cases.Command()) as run:
        assert run(*flags, f"--out={tmp_path / 'maps'}", "--shard_size=32") == 0
        method = cases.saliency.FullGrad(network)
        maps = saved_maps(method, digits, tmp_path / "maps" / "fullgrad", target=3)
        np.testing.assert_allclose(maps, method(digits.images, 3), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(maps.column("label"), digits.labels)
        assert list(maps.column("key")) == [str(i) for i in range(70)]
        # The training split of the command's default is another data set.
        assert run(*flags, f"--out={tmp_path / 'maps'}", "--overwrite", "--target=11") == 64
        assert "--target: got 11; expected 0 to 3" in capfd.readouterr().err


@pytest.mark.long
def test_a_killed_run_is_continued_and_ends_with_the_same_files(run, folder, tmp_path):
    flags = [f"--images={folder[0]}", "--formats=tfrecord,parquet"]
    assert run(*flags, out="whole") == 0
    assert run(*flags, runner=cases.Runner(1)) == 130
    assert not (tmp_path / "maps").exists()
    unfinished = tmp_path / "maps.unfinished"
    left = unfinished / "fullgrad" / "maps-00001-of-00003.parquet.tmp-1-2-3"
    left.write_bytes(b"half a shard")
    (unfinished / "done" / "00002.json").write_text("{}")  # without its shards
    second = cases.Runner()
    assert run(*flags, runner=second) == 0
    assert second.parts == [1, 2] and not unfinished.exists()
    whole, found = content(tmp_path / "whole"), content(tmp_path / "maps")
    assert whole == found and not [name for name in found if "tmp" in name]


@pytest.mark.slow
def test_batches_do_not_change_the_maps(run, folder, tmp_path):
    for out, size in (("three", 3), ("five", 5)):
        assert run(f"--images={folder[0]}", f"--batch_size={size}", out=out) == 0
    three, five = (MapShards(tmp_path / out / "fullgrad")[:] for out in ("three", "five"))
    np.testing.assert_allclose(three, five, rtol=1e-5, atol=1e-7)


def test_finished_and_foreign_directories_are_kept(run, folder, tmp_path, capfd):
    flags = [f"--images={folder[0]}"]
    assert run(*flags) == 0
    before = content(tmp_path / "maps")
    assert run(*flags) == 64
    assert "holds finished maps; expected a new directory" in capfd.readouterr().err
    assert content(tmp_path / "maps") == before
    assert run(*flags, "--overwrite", "--shard_size=13") == 0
    assert "fullgrad/maps-00000-of-00001.parquet" in content(tmp_path / "maps")
    assert not (tmp_path / "maps.old").exists()
    assert run(*flags, "--overwrite", out="photos") == 64  # the images themselves
    assert "holds something else than maps" in capfd.readouterr().err
    assert len(content(folder[0])) == 14
    assert run(*flags, "--overwrite", out="empty") == 0
    (tmp_path / "new").mkdir()
    assert run(*flags, out="new") == 0


def test_an_unfinished_output_of_other_flags_is_not_continued(run, folder, capfd):
    flags = [f"--images={folder[0]}"]
    assert run(*flags, runner=cases.Runner(1)) == 130
    assert run(*flags, "--shard_size=4") == 64
    assert "shard_size was 5, now 4" in capfd.readouterr().err
    (folder[0] / "new.png").write_bytes(b"")
    assert run(*flags) == 64
    assert "source.images was 13, now 14" in capfd.readouterr().err
    assert run(*flags, "--overwrite") == 0


def test_a_second_process_is_refused(run, folder, tmp_path, capfd):
    os.makedirs(tmp_path / "maps.unfinished")
    if os.fork() == 0:  # another process, which owns the directory until it is told to end
        ownership.own(tmp_path / "maps.unfinished" / ".lock", "--out", "maps")
        (tmp_path / "owned").touch()
        while not (tmp_path / "end").exists():
            pass
        os._exit(0)
    while not (tmp_path / "owned").exists():
        pass
    try:
        assert run(f"--images={folder[0]}") == 73
        assert "is writing" in capfd.readouterr().err
    finally:
        (tmp_path / "end").touch()
        os.wait()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "--dataset, --images, --tfrecords: got 0 of them"),
        ({"images": "x", "dataset": "digits"}, "got 2 of them; expected exactly one"),
        ({"images": "nowhere"}, "--images: got 'nowhere', which does not exist"),
        ({"images": "here", "methods": "gradcam"}, "--methods: got 'gradcam'.*fullgrad, input_gr"),
        ({"images": "here", "methods": ""}, "--methods: got none"),
        ({"images": "here", "formats": "csv"}, "--formats: got csv; expected some of parquet"),
        ({"images": "here", "image_size": "4,4"}, r"--image_size: got \(4, 4\); expected \(8, 9\)"),
        ({"images": "here", "image_range": "0,255"}, r"--image_range: got \(0.0, 255.0\)"),
        ({"images": "here", "target": "label"}, "--target: got label for images without labels"),
        ({"images": "here", "target": "first"}, "--target: got first; expected predicted"),
        ({"images": "here", "target": "4"}, "--target: got 4; expected 0 to 3"),
        ({"tfrecords": "nowhere*"}, r"--tfrecords: got 'nowhere\*', which names no file"),
        ({"dataset": "digits"}, r"--dataset: got 'digits', whose images are \(8, 8, 1\)|--image_s"),
    ],
)
def test_wrong_flags(run, folder, tmp_path, capfd, flags, words):
    flags = {k: str(folder[0]) if v == "here" else v for k, v in flags.items()}
    assert run(*cases.options(**flags)) in (64, 65)
    found = capfd.readouterr().err
    assert re.search(words, found), found
    assert not (tmp_path / "maps.unfinished").exists()


def test_without_beam_the_extra_is_named(served, monkeypatch, capfd):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with in_process(module) as run:
        assert run(*cases.options(model=served[1], images="x", out="y")) == 64
    assert "try pip install 'tfgrad[beam]'" in capfd.readouterr().err
