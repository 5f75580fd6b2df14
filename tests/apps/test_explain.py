"""`python -m apps.explain`: from every kind of model, of files and data sets, and its refusals."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps.common import digits_network, progress
from apps.explain import __main__ as explain
from tests.apps.test_commands import ROOT
from tests.helpers.app_run import in_process
from tfgrad import saliency
from tfgrad.internal import files

METHODS = ("input_gradient", "input_times_gradient", "gradcam", "fullgrad")
CHOSEN = f"--methods={','.join(METHODS)}"


@pytest.fixture(scope="module")
def app():
    with in_process(explain) as run:
        yield run


def network(channels=1, size=8):
    """Random weights, biases and statistics: every term of a decomposition is there."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((size, size, channels))
    x = keras.layers.Conv2D(6, 3, padding="same", name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.MaxPooling2D()(keras.layers.ReLU()(x))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="second")(x)
    logits = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, logits)
    random = np.random.default_rng(0)
    for v in model.weights:
        spread = random.normal(size=v.shape, scale=0.5)
        v.assign(1 + np.abs(spread) if "variance" in v.path else spread)
    return model


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "gray.keras"
    network().save(path)
    files.write_json(path.with_suffix(".json"), {"normalize": None})  # it takes pixels in [0, 1]
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images of several kinds and sizes, three broken ones and a text."""
    path = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(3)
    for name, shape in (("a", (8, 8, 1)), ("c", (20, 12, 3)), ("e", (8, 8, 3))):
        pixels = tf.constant(random.integers(0, 256, shape), tf.uint8)
        tf.io.write_file(str(path / f"{name}.png"), tf.io.encode_png(pixels))
    pixels = tf.constant(random.integers(0, 256, (9, 9, 3)), tf.uint8)
    tf.io.write_file(str(path / "d.JPG"), tf.io.encode_jpeg(pixels))
    whole = (path / "a.png").read_bytes()
    (path / "b.png").write_bytes(whole[: len(whole) // 2])
    (path / "empty.jpeg").write_bytes(b"")
    (path / "gif.png").write_bytes(b"GIF89a" + bytes(20))
    (path / "notes.txt").write_text("not an image")
    return path


def record_of(out):
    return json.loads((out / "explanations.json").read_text())


@pytest.mark.long
def test_a_folder_with_broken_files(app, keras_file, folder, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    few = ("--batch_size=2", "--rows=3", f"--out={out}/")
    assert app(f"--model={keras_file}", f"--images={folder}", CHOSEN, *few) == 0
    printed = capsys.readouterr()
    assert "4 images explained, 3 left out" in printed.out
    assert printed.err.count("left out: path: ") == 3
    assert sorted(os.listdir(out)) == ["explanations.json", "explanations.png", "maps.npz"]
    assert os.listdir(out.parent) == ["out"]
    picture = (out / "explanations.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 300_000

    record = record_of(out)
    assert [os.path.basename(r["file"]) for r in record["images"]] == [
        *("a.png", "c.png", "d.JPG", "e.png")
    ]
    reasons = {os.path.basename(s["file"]): s["reason"] for s in record["skipped"]}
    assert list(reasons) == ["b.png", "empty.jpeg", "gif.png"]
    assert "damaged" in reasons["b.png"] and "GIF" in reasons["gif.png"]
    assert record["methods"]["fullgrad"]["rescale"] == "layer"
    assert record["flags"]["batch_size"] == 2 and "tfgrad" in record["versions"]

    model = network()
    with np.load(out / "maps.npz") as maps:
        assert set(maps) == {*METHODS, "names", "images", "classes"}
        x = maps["images"]
        assert x.shape == (4, 8, 8, 1) and x.min() >= 0 and x.max() <= 1
        decoded = tf.io.decode_png((folder / "a.png").read_bytes()).numpy() / 255
        np.testing.assert_allclose(x[0], decoded, atol=1e-6)
        assert [os.path.basename(n) for n in maps["names"]][1] == "c.png"
        logits = model(x).numpy()
        np.testing.assert_array_equal(maps["classes"], logits.argmax(1))
        for name in METHODS:
            expected = saliency.get(name)(model)(x)
            np.testing.assert_allclose(maps[name], expected, rtol=1e-3, atol=1e-5)
    for row, values in zip(record["images"], logits, strict=True):
        assert row["class"] == row["predicted"] == values.argmax()
        assert row["score"] == pytest.approx(values.max(), rel=1e-4)
        assert row["probability"] == pytest.approx(tf.nn.softmax(values).numpy().max(), rel=1e-4)
        assert 0 <= row["completeness_error"] < 1e-4


def test_maps_of_zeros_and_no_completeness_are_told_below_the_table(app, tmp_path, capsys):
    """Of a class that one feature argues against, Grad-CAM is 0; its logit is −2 mean(x)."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(1, 1, activation="relu", use_bias=False)(inputs)
    x = keras.layers.Dense(2, use_bias=False)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    model.set_weights([np.ones((1, 1, 1, 1)), np.array([[1.0, -2.0]])])
    model.save(tmp_path / "m.keras")
    given = (f"--model={tmp_path}/m.keras", "--dataset=digits", "--count=2", f"--out={tmp_path}/a")
    given += ("--image_range=0,1", "--target=1")
    assert app(*given, "--methods=gradcam,input_gradient") == 0
    out = capsys.readouterr().out
    told = "gradcam is 0 everywhere for example 0, example 1: negative values are left out"
    assert out.count(told) == 1 and "input_gradient is 0" not in out
    assert out.count("no completeness: none of these methods") == 1
    rows = record_of(tmp_path / "a")["images"]
    assert [row["zero_maps"] for row in rows] == [["gradcam"]] * 2
    assert app(*given, "--methods=fullgrad") == 0
    out = capsys.readouterr().out
    assert "0 everywhere" not in out and "no completeness" not in out


def test_a_data_set_a_class_and_the_layers(app, keras_file, tmp_path):
    out = tmp_path / "out"
    asked = ("--dataset=digits", "--first=5", "--count=3", "--target=8", "--methods=fullgrad")
    drawn = ("--layers=auto", "--rows=2", "--magnitude", "--scale=minmax", "--colours=gray")
    assert app(f"--model={keras_file}", *asked, *drawn, "--overlay=0.5", f"--out={out}") == 0
    test, rows = tfgrad.data.load("digits", "test"), record_of(out)["images"]
    assert [(r["index"], r["label"], r["class"]) for r in rows] == [
        (i, int(test.labels[i]), 8) for i in (5, 6, 7)
    ]
    assert rows[0]["class_name"] == "8" and rows[0]["label_name"] == str(test.labels[5])
    model = network()
    with np.load(out / "maps.npz") as maps, np.load(out / "layers.npz") as layers:
        np.testing.assert_array_equal(maps["images"], test.images[5:8])
        # The convolution's bias goes on in the norm's: one entry a block, in order.
        assert list(layers) == ["input", "norm", "second"]
        for call in layers:
            expected = saliency.LayerMap(model, call)(test.images[5:7], 8)
            np.testing.assert_allclose(layers[call], expected, rtol=1e-3, atol=1e-5)
    assert (out / "layers.png").read_bytes().startswith(b"\x89PNG")

    # The same place again, for a slice and other methods: replaced as a whole.
    again = ("--dataset=digits", "--split=train[:4]", "--count=2", "--methods=random")
    assert app(f"--model={keras_file}", *again, f"--out={out}") == 0
    assert sorted(os.listdir(out)) == ["explanations.json", "explanations.png", "maps.npz"]
    assert record_of(out)["images"][0]["completeness_error"] is None
    assert len(record_of(out)["images"]) == 2 and os.listdir(tmp_path) == ["out"]


@pytest.mark.long
def test_a_run_is_explained_on_pixels(app, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    network(3).save(run / "network.keras")
    statistics = [[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]]
    names = [f"class {i}" for i in range(10)]
    files.write_json(run / "results.json", {"normalize": statistics, "classes": names})
    asked = ("--dataset=digits", "--count=2", "--methods=input_gradient,fullgrad")
    assert app(f"--work_dir={run}", *asked, "--layers=second,normalize", f"--out={out}") == 0
    row = record_of(out)["images"][0]
    pixels = np.repeat(tfgrad.data.load("digits", "test").images[:1], 3, -1)
    mean, deviation = (np.array(s, "float32") for s in statistics)
    logits = network(3)((pixels - mean) / deviation).numpy()[0]
    assert row["score"] == pytest.approx(logits.max(), rel=1e-4)
    assert row["class_name"] == f"class {logits.argmax()}"
    assert row["completeness_error"] < 1e-4
    with np.load(out / "layers.npz") as layers:
        assert list(layers) == ["input", "second", "normalize"]


@pytest.mark.long
def test_a_served_model_gives_the_maps_of_the_live_one(app, folder, tmp_path):
    model, names = network(3), [*"abcdefghij"]
    tfgrad.export.save(
        model, tmp_path / "served", ["fullgrad"], names, image_range=(0, 255), warmup=False
    )
    model.save(tmp_path / "model.keras")
    both = (f"--images={folder / 'c.png'},{folder / 'e.png'}", "--methods=fullgrad", "--target=2")
    assert app(f"--served={tmp_path / 'served'}", *both, f"--out={tmp_path / 'a'}") == 0
    live = ("--image_range=0,255", f"--out={tmp_path / 'b'}")
    (tmp_path / "names.txt").write_text("\n".join(names))
    named = f"--class_names={tmp_path / 'names.txt'}"
    assert app(f"--model={tmp_path / 'model.keras'}", *both, *live, named) == 0
    a, b = record_of(tmp_path / "a"), record_of(tmp_path / "b")
    assert a["image_range"] == b["image_range"] == [0, 255]
    assert a["methods"] == b["methods"]
    assert [r["class_name"] for r in a["images"]] == ["c", "c"]
    for mine, its in zip(a["images"], b["images"], strict=True):
        assert mine.pop("completeness_error") < 1e-4 and its.pop("completeness_error") < 1e-4
        numbers = [{k: r.pop(k) for k in ("score", "probability")} for r in (mine, its)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)
        assert mine == its
    with np.load(tmp_path / "a" / "maps.npz") as x, np.load(tmp_path / "b" / "maps.npz") as y:
        np.testing.assert_allclose(x["fullgrad"], y["fullgrad"], rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_the_likeliest_classes_have_maps_of_their_own(app, keras_file, folder, tmp_path, capsys):
    """Images may stand before the flags; a row of each class holds that class's map."""
    out = tmp_path / "out"
    asked = ("--methods=fullgrad", "--top_maps=3", "--batch_size=2", f"--out={out}")
    assert app(folder / "a.png", folder / "c.png", f"--model={keras_file}", *asked) == 0
    shown = capsys.readouterr().out
    assert "2 images explained, 0 left out" in shown
    assert shown.count("methods ready: 1 of 1") == 1  # and not again for another batch
    model, rows = network(), record_of(out)["images"]
    with np.load(out / "maps.npz") as maps:
        x, classes = maps["images"], maps["classes"]
        assert x.shape == (6, 8, 8, 1)
        np.testing.assert_array_equal(x[0], x[2])
        probabilities = tf.nn.softmax(model(x[::3])).numpy()
        np.testing.assert_array_equal(classes.reshape(2, 3), np.argsort(-probabilities)[:, :3])
        expected = saliency.FullGrad(model)(x, classes)
        np.testing.assert_allclose(maps["fullgrad"], expected, rtol=1e-3, atol=1e-5)
    for row, among in zip(rows[::3], probabilities, strict=True):
        found = [one["class"] for one in row["likeliest"]]
        assert found == np.argsort(-among)[:5].tolist()
        given = [one["probability"] for one in row["likeliest"]]
        np.testing.assert_allclose(given, np.sort(among)[:-6:-1], rtol=1e-4)
    assert [os.path.basename(r["file"]) for r in rows] == ["a.png"] * 3 + ["c.png"] * 3


@pytest.mark.long
def test_a_regression_explains_the_output_that_is_named(app, tmp_path, capsys):
    for outputs in (1, 2):
        inputs = keras.Input((8, 8, 1))
        model = keras.Model(inputs, keras.layers.Dense(outputs)(keras.layers.Flatten()(inputs)))
        model.compile("sgd", "mse")
        model.save(tmp_path / f"{outputs}.keras")
    asked = (DIGITS, "--image_range=0,1", "--count=2", "--methods=fullgrad")
    out = f"--out={tmp_path / 'out'}"
    assert app(f"--model={tmp_path / '1.keras'}", *asked, out) == 0
    assert app(f"--model={tmp_path / '2.keras'}", *asked, "--target=1", out) == 0
    images = tfgrad.data.load("digits", "test").images[:2]
    rows = record_of(tmp_path / "out")["images"]
    expected = model.predict(images, verbose=0)[:, 1]
    np.testing.assert_allclose([row["score"] for row in rows], expected, rtol=1e-4, atol=1e-6)
    assert [row["probability"] for row in rows] == [None, None]
    assert app(f"--model={tmp_path / '2.keras'}", *asked, out) == 64
    assert "--target: got none for" in capsys.readouterr().err


def test_folders_below_a_folder_and_files_of_one_name(app, keras_file, folder, tmp_path, capsys):
    for part in ("one", "two"):
        (tmp_path / "all" / part).mkdir(parents=True)
        (tmp_path / "all" / part / "a.png").write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "all/one/b.png").write_bytes((folder / "c.png").read_bytes())
    out = tmp_path / "out"
    assert app(tmp_path / "all", f"--model={keras_file}", "--methods=random", f"--out={out}") == 0
    shown = capsys.readouterr().out
    assert (
        "--class_names=FILE" in shown and " label " not in shown and "| completeness" not in shown
    )
    assert "| one/a.png |" in shown and "| two/a.png |" in shown and "| b.png |" in shown
    assert len(record_of(out)["images"]) == 3


@pytest.mark.long
def test_a_network_by_its_name_explains_photographs(app, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ("--weights=random", "--image_size=32,32", "--methods=input_gradient", "--top_maps=2")
    assert app("--model=MobileNet", *asked, f"--out={out}") == 0
    rows = record_of(out)["images"]
    assert [os.path.basename(r["file"]) for r in rows] == ["china.jpg"] * 2 + ["flower.jpg"] * 2
    assert record_of(out)["image_range"] == [0, 255] and rows[0]["class_name"].isdecimal()


@pytest.mark.long
def test_digits_need_no_download(app, tmp_path, capsys, monkeypatch):
    trained = digits_network.trained
    monkeypatch.setattr(digits_network, "trained", lambda: trained(epochs=1))
    asked = ("--methods=fullgrad", "--count=3", f"--out={tmp_path / 'out'}")
    assert app("--model=digits", *asked) == 0
    assert "training VGG-4" in capsys.readouterr().out
    test = tfgrad.data.load("digits", "test")
    rows = record_of(tmp_path / "out")["images"]
    assert [r["label"] for r in rows] == test.labels[:3].tolist()


# Refusals

DIGITS = "--dataset=digits"
RANDOM = "--random_weights"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            (DIGITS,),
            64,
            "--model: got none; expected one model; try --model=MobileNetV2, or --model=digits",
        ),
        (
            ("--model=a", "--served=b", DIGITS),
            64,
            "--model: got --model and --served; expected one",
        ),
        (("--model=a",), 64, "neither a file or directory nor the name of a network"),
        (("--model=runs/nope",), 64, "got 'runs/nope', and there is no such path; expected a file"),
        (("--model=mobilenet",), 64, "did you mean 'MobileNet'?"),
        (("--model=MODEL",), 64, "--images, --dataset: got none; expected one of them"),
        (("--model=MODEL", DIGITS, "--images=FOLDER"), 64, "--images, --dataset: got both"),
        (("--model=MODEL", DIGITS, "--top_maps=2", "--target=1"), 64, "--top_maps: got with"),
        (("--model=MODEL", DIGITS, "--top_maps=11"), 64, "expected at most the number of its"),
        (("--model=MODEL", DIGITS, "--methods=gradcma"), 64, "did you mean 'gradcam'?"),
        (("--model=MODEL", DIGITS, "--methods="), 64, "--methods: got none, and no --layers"),
        (("--model=MODEL", DIGITS, "--target=10"), 64, "expected a class from 0 to 9"),
        (
            ("--model=MODEL", DIGITS, "--image_size=9,9"),
            64,
            "expected (8, 8), which the model takes",
        ),
        (("--model=MODEL", DIGITS, "--image_range=1,0"), 64, "--image_range: got 1,0"),
        (
            ("--work_dir=x", DIGITS, "--image_range=0,1"),
            64,
            "expected only with a file or a SavedModel",
        ),
        (("--model=MODEL", DIGITS, "--class_names=FOLDER/notes.txt"), 64, "1 lines; expected 10"),
        (("--model=MODEL", DIGITS, "--layers=frist"), 64, "did you mean 'first'? Expected calls"),
        (("--model=MODEL", DIGITS, "--out=FOLDER"), 64, "an earlier result of this command"),
        (("--model=MODEL", DIGITS, "--out=FOLDER/notes.txt/x"), 64, "--out: .*cannot be written"),
        (("--model=MODEL", DIGITS, RANDOM), 64, "expected only with a name"),
        (("--served=x", DIGITS, "--layers=auto"), 64, "got with a SavedModel, which has no layers"),
        (("--application=VVG16", DIGITS, RANDOM), 64, "did you mean 'VGG16'?"),
        (("--model=VGG16", DIGITS, RANDOM, "--weights=x.h5"), 64, "got both; expected at most"),
        (
            ("--application=VGG16", DIGITS, RANDOM, "--image_size=8,8"),
            64,
            "--image_size: got (8, 8), which VGG16 rejects",
        ),
        (
            ("--application=MobileNet", DIGITS, "--weights=no.h5"),
            65,
            "which does not exist; expected",
        ),
        (("--model=nothing.keras", DIGITS), 65, "--model: 'nothing.keras' cannot be loaded"),
        (("--work_dir=nowhere", DIGITS), 65, "holds no finished run"),
        (("--served=nowhere", DIGITS), 65, "no such directory"),
        (("--model=MODEL", DIGITS, "--first=400"), 65, "reaches beyond its 360"),
        (
            ("--model=MODEL", DIGITS, "--split=test[:2]", "--first=2"),
            65,
            "expected less than 2, the number",
        ),
        (("--model=MODEL", "--images=nowhere"), 65, "'nowhere', which does not exist"),
        (
            ("--model=MODEL", "--images=EMPTY"),
            65,
            "a folder without images; expected files that end in .jpg",
        ),
        (
            ("--model=MODEL", "--images=FOLDER/b.png,FOLDER/gif.png"),
            65,
            "got 2 files, none of which can",
        ),
    ],
)
def test_refusals(app, keras_file, folder, tmp_path, capsys, arguments, code, message):
    (tmp_path / "empty").mkdir()
    places = {"MODEL": keras_file, "FOLDER": folder, "EMPTY": tmp_path / "empty"}
    for word, path in places.items():
        arguments = [a.replace(word, str(path)) for a in arguments]
    before = sorted(os.listdir(folder))
    out = [] if any(a.startswith("--out") for a in arguments) else [f"--out={tmp_path / 'out'}"]
    methods = [] if any(a.startswith("--methods") for a in arguments) else ["--methods=random"]
    assert app(*arguments, *out, *methods) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("explain: ")
    assert all(part in error for part in message.split(".*"))
    assert os.listdir(tmp_path) == ["empty"] and sorted(os.listdir(folder)) == before


def test_a_failure_half_way_leaves_the_earlier_result(app, keras_file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    asked = (f"--model={keras_file}", DIGITS, "--methods=random", "--count=4", f"--out={out}")
    assert app(*asked) == 0
    before = {name: (out / name).read_bytes() for name in os.listdir(out)}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert app(*asked, "--first=4") == 74
    assert {name: (out / name).read_bytes() for name in os.listdir(out)} == before
    assert os.listdir(tmp_path) == ["out"]


def test_progress_says_what_is_left(capsys, monkeypatch):
    now = iter([0.0, 4.0, 10.0, 11.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    clock = progress.Progress(40)
    for finished in (5, 10, 15, 40):
        clock.done(finished)
    assert capsys.readouterr().out == "10 of 40 images  1 a second, 0:00:30 left\n"


@pytest.mark.slow  # test_train.py reads the manual page of one command
def test_help():
    command = [sys.executable, "-m", "apps.explain", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(explain.__doc__.split("\n")[0])
    for flag in ("work_dir", "application", "[no]random_weights", "methods", "dataset", "layers"):
        assert f"\n  --{flag}: " in done.stdout
