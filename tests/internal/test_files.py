"""Files and directories appear as a whole or not at all, and a failure leaves the old ones."""

import json
import os
import stat
import threading

import h5py
import keras
import numpy as np
import pytest
from keras.src.saving import saving_lib

from tests.helpers.faults import another_process, no_file_above
from tfgrad.errors import ArgumentError
from tfgrad.internal import files


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_is_replaced(tmp_path, old):
    path = tmp_path / "note.txt"
    if old is not None:
        path.write_text(old)
    with files.replaced(path) as temporary:
        assert os.path.dirname(temporary) == str(tmp_path)
        with open(temporary, "w") as file:
            file.write("new")
        assert (path.read_text() if path.exists() else None) == old
    assert path.read_text() == "new"
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(type(error)), files.replaced(path) as temporary:
        with open(temporary, "w") as file:
            file.write("ne")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_a_failed_renaming_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    path.write_text("old")

    def fail(source, target):
        raise PermissionError(f"{source} to {target}")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(PermissionError):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_the_temporary_name_can_have_an_ending(tmp_path):
    with files.replaced(tmp_path / "model.keras", ".keras") as temporary:
        assert temporary.endswith(".keras")
        open(temporary, "w").close()
    assert names(tmp_path) == ["model.keras"]


def test_texts_bytes_and_json(tmp_path):
    files.write_text(tmp_path / "text", "‖∇f‖\n")
    files.write_bytes(tmp_path / "bytes", b"\x00\r\n\xff")
    files.write_json(tmp_path / "json", {"epoch": 1, "loss": [0.5]})
    assert (tmp_path / "text").read_bytes() == "‖∇f‖\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\r\n\xff"
    text = (tmp_path / "json").read_text()
    assert json.loads(text) == {"epoch": 1, "loss": [0.5]}
    assert text.startswith('{\n  "epoch"') and text.endswith("}\n")


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    files.write_json(path, [1])
    with pytest.raises(TypeError):
        files.write_json(path, {1, 2})
    assert json.loads(path.read_text()) == [1]


def test_threads_that_write_one_file_do_not_mix_their_texts(tmp_path):
    path, texts = tmp_path / "note.txt", [str(i) * 100_000 for i in range(4)]
    seen, barrier = [], threading.Barrier(len(texts))

    def write(text):
        barrier.wait()
        for _ in range(20):
            files.write_text(path, text)
            seen.append(path.read_text())

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 20 * len(texts)
    assert set(seen) <= set(texts)
    assert names(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_is_replaced_as_a_whole(tmp_path, exists):
    path = tmp_path / "model"
    if exists:
        path.mkdir()
        (path / "old").touch()
    with files.replaced_directory(path) as temporary:
        open(os.path.join(temporary, "new"), "w").close()
        assert path.exists() == exists
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


def test_threads_that_replace_one_directory_leave_a_whole_one(tmp_path):
    path, failures, barrier = tmp_path / "out", [], threading.Barrier(4)

    def replace(number):
        barrier.wait()
        try:
            for _ in range(25):
                with files.replaced_directory(path) as directory:
                    for name in "ab":
                        with open(os.path.join(directory, name), "w") as file:
                            file.write(str(number))
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(tmp_path) == ["out"] and names(path) == ["a", "b"]
    assert (path / "a").read_text() == (path / "b").read_text()


def test_a_failure_leaves_the_old_directory(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ValueError, match="half"), files.replaced_directory(path) as temporary:
        open(os.path.join(temporary, "new"), "w").close()
        raise ValueError("half written")
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


def test_a_failed_renaming_brings_the_old_directory_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    rename = os.rename

    def second_fails(source, target):
        if target == str(path) and ".tmp-" in str(source):
            raise PermissionError(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(PermissionError), files.replaced_directory(path):
        pass
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


def test_a_directory_is_made_with_its_parents(tmp_path):
    path = tmp_path / "a" / "b"
    assert files.make_directory(path) == str(path)
    assert stat.S_ISDIR(path.stat().st_mode)
    assert files.make_directory(path) == str(path)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    message = r"directory: got '.*file/maps', which cannot be written \(Not a directory\); expected"
    with pytest.raises(ArgumentError, match=message):
        files.make_directory(tmp_path / "file" / "maps")


# Files that cannot be written


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    name = "é" * 127  # 254 bytes
    files.write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]
    with pytest.raises(OSError, match="File name too long") as error:
        files.write_text(tmp_path / (name + "éé"), "text")
    assert error.value.filename == str(tmp_path / (name + "éé"))


@pytest.mark.parametrize("writer", ["write_text", "write_bytes", "write_arrays", "write_weights"])
def test_what_cannot_be_written_names_the_file_and_leaves_nothing(tmp_path, writer):
    path = tmp_path / "file"
    path.write_text("old")
    write, content = getattr(files, writer), {"write_text": "x" * 100, "write_bytes": b"x" * 100}
    with no_file_above(10), pytest.raises(OSError, match="File too large") as error:
        if writer == "write_arrays":
            write(path, a=np.zeros(100))
        else:
            write(path, content.get(writer) or dense())
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_directory_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        files.write_text(tmp_path / "file", "text")
    assert str(error.value) == f"[Errno 21] Is a directory: '{tmp_path / 'file'}'"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("enough", [True, False])
def test_a_keras_file_is_written_without_the_hdf5_library_touching_the_disk(
    tmp_path, monkeypatch, enough
):
    """Keras saves memory by a file of that library beside the other; it ends the process."""
    model, path = dense(), tmp_path / "model.keras"
    monkeypatch.setattr(saving_lib, "is_memory_sufficient", lambda _: enough)
    monkeypatch.setattr(saving_lib.tempfile, "NamedTemporaryFile", None)
    files.write_model(path, model)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    content = path.read_bytes()
    with no_file_above(500), pytest.raises(OSError, match="File too large"):
        files.write_model(path, model)
    assert path.read_bytes() == content
    assert names(tmp_path) == ["model.keras"]


def test_a_file_of_weights_is_the_one_that_keras_writes(tmp_path):
    model = dense()
    model.save_weights(tmp_path / "keras.weights.h5")
    files.write_weights(tmp_path / "ours.weights.h5", model)
    found = []
    for name in ("keras", "ours"):
        with h5py.File(tmp_path / f"{name}.weights.h5") as file:
            found.append({})
            file.visititems(
                lambda key, item: (
                    found[-1].update({key: item[()]}) if isinstance(item, h5py.Dataset) else None
                )
            )
    assert found[0].keys() == found[1].keys() and len(found[0]) >= 2
    for key, values in found[0].items():
        np.testing.assert_array_equal(found[1][key], values)


def test_an_abandoned_directory_is_removed_and_one_in_use_is_not(tmp_path):
    path = tmp_path / "out"

    def begin():
        # Kept open by the generator, which nobody ends.
        begun.append(files.replaced_directory(path))
        return begun[-1].__enter__()

    begun = []
    with another_process(begin) as (_, theirs):
        assert os.path.isdir(theirs)
        with files.replaced_directory(path):
            pass
        assert os.path.isdir(theirs)
    assert names(tmp_path) == ["out", os.path.basename(theirs)]
    with files.replaced_directory(path):
        pass
    assert names(tmp_path) == ["out"]


def dense():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def test_one_thread_at_a_time_holds_a_directory(tmp_path):
    inside, most = [], []

    def work():
        with files.alone(str(tmp_path)):
            inside.append(None)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_an_error_releases_the_directory(tmp_path):
    with pytest.raises(ValueError, match="inside"), files.alone(str(tmp_path)):
        raise ValueError("inside")
    with files.alone(str(tmp_path)):
        pass
