"""What is no regular file, is too large, or holds less than it declares."""

import os
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.loading_cases import build
from tfgrad import export, loading
from tfgrad.errors import ModelError
from tfgrad.loading import archive_checks, h5_checks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_pipe_in_the_place_of_a_model(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    os.mkfifo(path)
    with pytest.raises(ModelError, match="got a named pipe, not a regular file; expected a"):
        loading.load(path)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "model"
    export.save(build(), directory, methods=[], image_range=(0, 1))
    return directory / "1"


PLACES = ["saved_model.pb", "fingerprint.pb", "variables/variables.index", "assets.extra/x", "x/y"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["a named pipe", "a device"])
def test_no_file_in_a_savedmodel(served, tmp_path, place, kind):
    path = tmp_path / "1" / place
    shutil.copytree(served, tmp_path / "1")
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "a named pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=f"got {kind} in the place of a file, '{place}'"):
        loading.load_served(tmp_path / "1")


def test_sizes_of_a_savedmodel(served, tmp_path):
    shutil.copytree(served, tmp_path / "1")
    with pytest.raises(ModelError, match=r"files of .* GiB; expected at most .*limit_bytes="):
        loading.load_served(tmp_path / "1", limit_bytes=1000)
    size = sum(len(p.read_bytes()) for p in (tmp_path / "1").rglob("*") if p.is_file())
    with pytest.raises(ModelError, match=r"a saved_model.pb of .* GiB; expected at most"):
        loading.load_served(tmp_path / "1", limit_bytes=size)
    os.truncate(tmp_path / "1" / "saved_model.pb", 1 << 40)
    with pytest.raises(ModelError, match=r"files of 1.02e\+03 GiB"):
        loading.load_served(tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").write_bytes(bytes(1 << 20))
    with pytest.raises(ModelError, match="it begins with"):
        loading.load_served(tmp_path / "1")


def test_variables_that_their_files_do_not_hold(served, tmp_path):
    shutil.copytree(served, tmp_path / "1")
    shutil.rmtree(tmp_path / "1" / "variables")
    large = tf.train.Checkpoint(v=tf.Variable(np.zeros(1 << 20, "float32")))
    large.write(str(tmp_path / "1" / "variables" / "variables"))
    data = tmp_path / "1" / "variables" / "variables.data-00000-of-00001"
    os.truncate(data, 1000)
    with pytest.raises(ModelError, match="damaged variables, 4194304 bytes in files of 1000"):
        loading.load_served(tmp_path / "1")


def test_files_that_change_while_they_are_read(served, tmp_path, monkeypatch):
    shutil.copytree(served, tmp_path / "1")
    load = tf.saved_model.load

    def loaded(path, **kwargs):
        (tmp_path / "1" / "fingerprint.pb").write_bytes(b"")
        return load(path, **kwargs)

    monkeypatch.setattr(tf.saved_model, "load", loaded)
    with pytest.raises(ModelError, match="files that changed while they were read, 'fingerprint"):
        loading.load_served(tmp_path / "1")


def test_archives(tmp_path, monkeypatch):
    build().save(tmp_path / "model.keras")
    for name, value, message in [
        ("MAX_DIRECTORY", 10, "whose list of members has"),
        ("MAX_MEMBERS", 2, "members; expected at most 2 members"),
        ("SMALL", 10, None),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(archive_checks, name, value)
            if message is None:
                assert loading.load(tmp_path / "model.keras")
                continue
            with pytest.raises(ModelError, match=message):
                loading.load(tmp_path / "model.keras")


def test_arrays(tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    build().save(path)
    monkeypatch.setattr(h5_checks, "_FILTERS", set())
    with h5py.File(path, "r+") as file:
        file["model_weights"].create_dataset(
            "x", data=np.ones(4, "f4"), chunks=(4,), compression="gzip"
        )
    with pytest.raises(ModelError, match="that the filter 1 packed, 'x'"):
        loading.load(path)
    monkeypatch.undo()
    assert loading.load(path)
    with h5py.File(path, "r+") as file:
        file["model_weights"].create_dataset("t", (1,), h5py.string_dtype())
    with pytest.raises(ModelError, match="an array of object in model"):
        loading.load(path)
    monkeypatch.setattr(h5_checks, "MAX_ITEMS", 3)
    with pytest.raises(ModelError, match="more than 3 groups and arrays"):
        loading.load(path)
