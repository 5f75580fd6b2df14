"""`python -m apps.distill` and `python -m apps.transfer`: whole runs, cut ones, and refusals."""

import importlib
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps import distill, transfer
from apps.common import (
    recorded_lessons,
    shared_flags,
    teacher_flags,
    trained_networks,
    training_run,
)
from tests.apps.test_commands import run as run_alone
from tests.apps.test_train import record_without_times
from tests.helpers.teaching_runs import EPOCHS, SMALL, TAUGHT, accuracy, call, parity, results_of
from tfgrad import callbacks, data, models, penalties
from tfgrad.errors import ArgumentError, ModelError


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A work directory of apps.distill, from beginning to end."""
    directory = tmp_path_factory.mktemp("distilled") / "run"
    assert call(distill, [*TAUGHT, f"--work_dir={directory}"]) == 0
    return directory


@pytest.fixture
def refused(capsys):
    """What an app writes to stderr while it exits with a code."""

    def run(code, module, *arguments):
        assert call(module, arguments) == code
        message = capsys.readouterr().err.strip()
        assert message.startswith(f"{module.__name__.split('.')[-1]}: ")
        assert len(message.splitlines()) == 1
        return message

    return run


# A student and its teacher


@pytest.mark.long
def test_a_student_and_the_teacher_it_asked_for(distilled):
    files = {"run.json", "history.jsonl", "tensorboard", "state", "network.keras", "model.keras"}
    files |= {"results.json", "noise.md", "history.png"}
    assert set(os.listdir(distilled)) == files | {"teacher"}
    assert set(os.listdir(distilled / "teacher")) == files
    assert all(name in distill.__doc__ for name in files - {"tensorboard"})
    own, teacher = results_of(distilled), results_of(distilled / "teacher")
    # The teacher saw the whole split, and the student's pixels are scaled as the teacher's were.
    mean, deviation = data.channel_statistics(data.load("digits"))
    np.testing.assert_allclose(teacher["normalize"], [mean, deviation], rtol=1e-6)
    assert own["normalize"] == teacher["normalize"]
    assert own["teacher"]["accuracy"] == teacher["test"]["val_accuracy"] > 0.5
    for directory, results in ((distilled, own), (distilled / "teacher", teacher)):
        assert results["noise"][0]["accuracy"] == pytest.approx(accuracy(directory))
        assert results["test"]["val_accuracy"] == pytest.approx(accuracy(directory))
    label = "match activations 1 + jacobian 0.1 + attention 1"
    assert own["label"] == label and label in (distilled / "noise.md").read_text()
    lines = record_without_times(distilled)
    assert len(lines) == EPOCHS and lines[-1]["loss"] < lines[0]["loss"]
    assert ["gradient_angle" in line for line in lines] == [False, True, True]
    assert own["gradient_angle"] == lines[-1]["gradient_angle"]
    events = b"".join(p.read_bytes() for p in (distilled / "tensorboard" / "train").iterdir())
    assert b"epoch_gradient_angle" in events
    model = keras.models.load_model(distilled / "model.keras")
    assert [p.name for p in model.penalties] == [
        "activation_matching",
        "jacobian_matching",
        "attention_matching",
    ]
    kept = keras.models.load_model(distilled / "teacher" / "network.keras")
    for a, b in zip(model.teacher.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # Nobody taught the teacher.


def test_the_angle_is_that_of_the_networks(distilled):
    student, teacher = (
        tfgrad.loading.load(d / "network.keras") for d in (distilled, distilled / "teacher")
    )
    train = data.subset(data.load("digits"), 12, 0)
    mean, deviation = (np.array(s, "float32") for s in results_of(distilled)["normalize"])
    x = (train.images - mean) / deviation
    a, b = (_input_gradients(network, x, train.labels) for network in (student, teacher))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected = np.degrees(np.arccos(cosine)).mean()
    assert results_of(distilled)["gradient_angle"] == pytest.approx(expected, abs=1e-2)


def _input_gradients(network, x, labels):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.reduce_sum(tf.gather(network(x, training=False), labels, batch_dims=1))
    return tape.gradient(score, x).numpy().reshape(len(labels), -1).astype("float64")


@pytest.mark.slow
def test_cut_twice_and_resumed_is_uninterrupted_bit_by_bit(distilled, monkeypatch, tmp_path):
    directory = tmp_path / "cut"
    arguments = [*TAUGHT, f"--work_dir={directory}"]

    for done in (directory / "teacher", directory):  # In the teacher's first epoch; the student's.

        class Cut(callbacks.Backup):
            def on_epoch_end(self, epoch, logs=None, cut=str(done / "state")):
                super().on_epoch_end(epoch, logs)
                if self.directory == cut:
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(callbacks, "Backup", Cut)
            assert call(distill, arguments) == 130
        assert len(record_without_times(done)) == 1
        assert not (done / "results.json").exists()
    assert call(distill, arguments) == 0
    for part in (".", "teacher"):
        assert record_without_times(directory / part) == record_without_times(distilled / part)
        a, b = (keras.models.load_model(d / part / "model.keras") for d in (directory, distilled))
        for mine, its in zip(a.variables, b.variables, strict=True):
            np.testing.assert_array_equal(mine.numpy(), its.numpy())


@pytest.mark.slow  # training of lessons and of a live teacher is compared in tests/penalties
def test_a_live_teacher_says_what_was_recorded(distilled, tmp_path, capsys):
    """And a directory is a teacher like any other."""
    directory = tmp_path / "live"
    flags_ = [f for f in TAUGHT if not f.startswith(("--teacher", "--normalize"))]
    arguments = [*flags_, f"--teacher={distilled / 'teacher'}", "--live_teacher"]
    assert call(distill, [*arguments, f"--work_dir={directory}"]) == 0
    assert "recorded once" not in capsys.readouterr().out
    assert not (directory / "teacher").exists()
    assert results_of(directory)["normalize"] == results_of(distilled)["normalize"]
    for mine, its in zip(*map(record_without_times, (directory, distilled)), strict=True):
        assert mine == pytest.approx(its, rel=1e-3)


def test_a_teacher_that_changed_is_refused(distilled, refused, tmp_path):
    teacher, directory = distilled / "teacher", tmp_path / "run"
    arguments = [*SMALL, f"--teacher={teacher}", f"--work_dir={directory}"]
    call(distill, arguments, lambda: training_run.begin({"teacher_digest": "of other weights"}))
    (directory / "state").mkdir()
    message = refused(64, distill, *arguments)
    assert "--teacher_digest was 'of other weights', now '" in message
    assert "Try another --work_dir" in message


@pytest.mark.long
def test_answers_that_do_not_fit_are_not_recorded(monkeypatch, capsys):
    def lessons():
        train = data.subset(data.load("digits"), 2, 0)
        images = np.concatenate(
            [x for x, _ in training_run.Run(None, "", 1, 20, False).images(train)]
        )
        networks = [models.vgg(4, (8, 8, 1), 10, width=0.1) for _ in range(2)]
        model = tfgrad.PenalizedModel(
            networks[0], [penalties.ActivationMatching()], teacher=networks[1]
        )
        return recorded_lessons.recorded(model, train, images, lambda y: y), networks[1]

    (positions, lesson), teacher = lessons()
    x, index = next(iter(data.pipeline(positions, 20, training=True, seed=3)))
    train = data.subset(data.load("digits"), 2, 0)
    np.testing.assert_array_equal(x, train.images[index])
    (inputs, taught), labels = lesson(x, index)
    np.testing.assert_array_equal(inputs, x)
    np.testing.assert_array_equal(labels, train.labels[index])
    np.testing.assert_allclose(taught["logits"], teacher(x), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(recorded_lessons, "MAX_BYTES", 20 * 10 * 4 - 1)
    assert lessons()[0] is None
    assert "the teacher runs in every step" in capsys.readouterr().out


# Which layers, which penalties


def built(*arguments, teacher=None):
    student = models.vgg(4, (8, 8, 1), 10, width=0.1)
    teacher = teacher or models.vgg(4, (8, 8, 1), 10, width=0.2)
    train = data.load("digits", "train[:1]")
    return call(distill, arguments, lambda: teacher_flags.build(student, teacher, train))


def test_every_flag_makes_its_penalty(capsys):
    (only,) = built()
    assert isinstance(only, penalties.ActivationMatching) and only.weight == 1
    chosen = built(
        "--match_activations=0",
        "--match_jacobian=2",
        "--target=predicted",
        "--jacobian_loss=cross_entropy",
        "--temperature=3",
        "--match_attention=4",
        "--attention_power=1",
        "--match_attention_jacobian=5",
        "--window=0",
        "--layers=act2 ,act3:act4, conv1:1:conv2",
        "--match_bias_gradients=6",
        "--pairs=1",
    )
    jacobian, attention, slopes, biases = [p.get_config() for p in chosen]
    assert (jacobian["weight"], jacobian["target"], jacobian["loss"], jacobian["temperature"]) == (
        2,
        "predicted",
        "cross_entropy",
        3,
    )
    pairs = [["act2", "act2"], ["act3", "act4"], ["conv1:1", "conv2"]]
    assert (attention["weight"], attention["power"], attention["layers"]) == (4, 1, pairs)
    assert (slopes["weight"], slopes["window"], slopes["layers"]) == (5, None, pairs)
    assert (biases["weight"], biases["target"]) == (6, "predicted")
    assert biases["layers"] == [["conv1", "conv1"]]
    assert "vgg4/conv1 learns from vgg4/conv1" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("entry_", ["act1:act2:act3", ":act1", "act1:", "act1::act2", "1:2", ""])
def test_layers_that_are_no_pair(entry_):
    with pytest.raises(ArgumentError, match=f"--layers: got '{entry_}'; expected STUDENT:TEACHER"):
        built("--match_attention=1", f"--layers=act1,{entry_}")


def test_networks_with_nothing_in_common():
    dense = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    dense.add(keras.layers.Dense(10))
    with pytest.raises(ArgumentError, match="--layers: not given, and none can be chosen"):
        built("--match_attention=1", teacher=dense)


def test_teachers_that_are_none():
    train = data.load("digits", "train[:1]")
    assert teacher_flags.check_teacher(models.vgg(4, (8, 8, 1), 7, width=0.1), train) == 7
    any_size = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(3, 1)])
    any_size.add(keras.layers.GlobalAveragePooling2D())
    assert teacher_flags.check_teacher(any_size, train) == 3
    with pytest.raises(
        ModelError, match=r"takes inputs \(None, 9, 8, 1\); expected .*, the images of 'digits'"
    ):
        teacher_flags.check_teacher(models.vgg(4, (9, 8, 1), 7, width=0.1), train)
    heads = models.two_heads(models.vgg(4, (8, 8, 1), 7, width=0.1), 3)
    with pytest.raises(ModelError, match=r"of a run with two heads, try network\.keras"):
        teacher_flags.check_teacher(heads, train)


# Other classes


@pytest.fixture(scope="module")
def transferred(distilled, tmp_path_factory):
    directory = tmp_path_factory.mktemp("transferred") / "run"
    arguments = [
        *SMALL,
        f"--teacher={distilled / 'teacher'}",
        "--dataset=parity",
        "--epochs=2",
        "--pairs=1",
        "--bound=30",
        "--source_dataset=digits",
        f"--work_dir={directory}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", parity)
        patch.setattr(shared_flags, "check_dataset", lambda: None)  # which opens it by its name
        assert call(transfer, arguments) == 0
    return directory


@pytest.mark.slow
def test_new_classes_beside_the_old_ones(transferred, distilled):
    results = results_of(transferred)
    assert results["classes"] == ["even", "odd"]
    assert results["normalize"] == results_of(distilled / "teacher")["normalize"]
    assert accuracy(transferred, lambda test: test.labels % 2) == pytest.approx(
        results["noise"][0]["accuracy"]
    )
    assert results["test"]["val_accuracy"] == pytest.approx(results["noise"][0]["accuracy"])
    assert results["label"] == "match activations 10 + attention 10 + attention jacobian 10"
    lines = record_without_times(transferred)
    assert lines[1]["activation_matching"] < lines[0]["activation_matching"]
    assert {"accuracy", "val_accuracy", "attention_jacobian_matching"} <= set(lines[0])
    model = keras.models.load_model(transferred / "model.keras")
    assert {k: v.shape[-1] for k, v in model.network.output.items()} == {"target": 2, "source": 10}
    network, classes = trained_networks.from_run(transferred)
    assert network.output_shape == (None, 2) and classes == ["even", "odd"]


@pytest.mark.long
def test_the_bound_before_and_after(transferred):
    bound = results_of(transferred)["bound"]
    assert list(bound) == ["before training", "after training"]
    before, after = bound.values()
    assert before["holds"] and after["holds"] and before["images"] == [30, 24]
    assert before["hausdorff"] == after["hausdorff"] > 0  # The images do not change, …
    assert after["target_mean"] < before["target_mean"]  # … the source head does.
    assert "| after training | pixels | " in (transferred / "bound.md").read_text()


# Refusals


@pytest.mark.parametrize(
    ("app", "flag", "message"),
    [
        (
            "distill",
            "--epochs=1",
            "--teacher: got none; expected a file, a directory or one of vgg4",
        ),
        ("transfer", "--epochs=1", "--teacher: got none; expected a .keras file"),
        ("distill", "--match_jacobian=-1", "flag --match_jacobian=-1: -1.0 is not"),
        ("transfer", "--match_jacobian=1", "Unknown command line flag 'match_jacobian'"),
        ("distill", "--teacher=vgg4 --window=2", "flag --window=2: 2.0 is not"),
        ("distill", "--teacher=vgg4 --layers=a:b:c", "--layers: got 'a:b:c'"),
        (
            "distill",
            "--teacher=vgg4 --match_activations=0",
            "or else the teacher has no effect; try apps.train",
        ),
        (
            "distill",
            "--teacher=vgg4 --match_attention=1 --layers=act9",
            "act9",
        ),
        ("distill", "--teacher=vgg4 --teacher_width=0", "--teacher_width: got 0.0; expected"),
        ("distill", "--teacher=vgg4 --match_jacobian=1 --temperature=2", "temperature: got 2.0"),
        (
            "transfer",
            "--teacher=x --bound=3",
            "--bound, --source_dataset: got one of them; expected both or none",
        ),
    ],
)
def test_usage(refused, tmp_path, app, flag, message):
    module = importlib.import_module(f"apps.{app}")
    run = tmp_path / "run"
    assert message in refused(64, module, *SMALL, *flag.split(), f"--work_dir={run}")
    assert not (run / "teacher").exists()  # Nothing was trained before the refusal.


@pytest.mark.long
def test_teachers_that_do_not_fit(refused, tmp_path):
    run = f"--work_dir={tmp_path}/run"
    for module in (distill, transfer):
        message = refused(65, module, "--teacher=nowhere/it.keras", run)
        assert "nowhere/it.keras" in message
    models.vgg(4, (9, 9, 1), 10, width=0.1).save(tmp_path / "large.keras")
    for module in (distill, transfer):
        message = refused(65, module, *SMALL, f"--teacher={tmp_path}/large.keras", run)
        assert "--teacher: got one that takes inputs (None, 9, 9, 1); expected" in message
        assert "the images of 'digits'; try --image_size" in message
    models.vgg(4, (8, 8, 1), 3, width=0.1).save(tmp_path / "few.keras")
    message = refused(65, distill, *SMALL, f"--teacher={tmp_path}/few.keras", run)
    assert "got one of 3 classes; expected 10, those of 'digits'; try apps.transfer" in message
    (tmp_path / "broken.keras").write_bytes(b"PK no")
    message = refused(65, distill, *SMALL, f"--teacher={tmp_path}/broken.keras", run)
    assert "damaged zip archive" in message


@pytest.mark.slow
def test_help():
    for module in (distill, transfer):
        out = run_alone(module.__name__.split(".")[-1], "--help")
        assert out.startswith(module.__doc__.split("\n")[0])
        for flag in ("teacher", "match_attention", "epochs", "dataset", "network", "gradient_norm"):
            assert f"\n  --{flag}: " in out


@pytest.mark.slow
def test_two_replicas(distilled, tmp_path):
    """The gradients of one device, to rounding; two heads too."""
    # Batch normalisation takes the statistics of a replica.
    common = [*SMALL, "--nobatch_norm", f"--teacher={distilled / 'teacher'}", "--epochs=2"]
    for app, more in (("distill", ["--match_jacobian=0.1"]), ("transfer", ["--pairs=1"])):
        histories = []
        for strategy in ("one_device", "mirrored"):
            directory = tmp_path / f"{app}-{strategy}"
            run_alone(app, *common, *more, f"--strategy={strategy}", f"--work_dir={directory}")
            histories.append(record_without_times(directory))
        for one, two in zip(*histories, strict=True):
            assert two == pytest.approx(one, rel=1e-3)
