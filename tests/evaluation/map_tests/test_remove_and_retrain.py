"""Remove and retrain, on images where one patch carries the label, and against plain `fit`."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.distribution.test_replicas import finish, run
from tests.helpers.removal_cases import ascending
from tests.helpers.retraining_cases import (
    CLASSES,
    PIXELS,
    SHAPE,
    TEST,
    TRAIN,
    build,
    patch,
    patched,
    retrained,
)
from tfgrad import data
from tfgrad.errors import DataError, ResumeError
from tfgrad.evaluation import saved_maps
from tfgrad.evaluation.map_tests.method_maps import MethodMaps


def test_the_patch_that_carries_the_label(tmp_path):
    """Without it nothing is left to learn; without anything else all is."""
    maps = {
        "patch": (patch(TRAIN), patch(TEST)),
        "opposite": (-patch(TRAIN), -patch(TEST)),
        "random": "random",
    }
    found = retrained(tmp_path, maps, fractions=(0.25, 0.75), epochs=6, batch_size=40)
    accuracy = {name: dict(zip(m.points, m.values, strict=True)) for name, m in found.items()}
    chance = 1 / CLASSES
    for name in maps:
        assert accuracy[name][0.0] > 0.95
    assert accuracy["patch"][0.25] < chance + 0.15  # deviation 0.043
    assert accuracy["patch"][0.75] < chance + 0.15
    assert accuracy["opposite"][0.75] > 0.95
    assert chance + 0.15 < accuracy["random"][0.75] < 0.95
    for measured in found.values():
        assert measured.direction == "lower"
        assert measured.name == "accuracy after removing the most salient pixels and retraining"
        assert (measured.examples, measured.over, measured.percent) == (TEST, "1 seed", True)
        assert measured.columns["failed runs"] == measured.columns["maps left out"] == (0.0,) * 3


@pytest.mark.long
@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("dtype", "fill", "remove"),
    [
        ("uint8", "mean", "most"),
        ("uint8", "image_mean", "least"),
        ("uint8", (0.25, 1.0), "most"),
        ("float32", "mean", "least"),
        ("float32", "image_mean", "most"),
        ("float32", 0.3, "most"),
    ],
)
def test_what_a_network_is_shown(tmp_path, remove, fill, dtype):
    """The images of training and test, against NumPy: exactly k pixels."""
    sets = [patched(TRAIN, 0), patched(TEST, 1)]
    if dtype == "float32":
        sets = [data.from_arrays(s.images / np.float32(255), s.labels, "abc") for s in sets]
    maps = [np.random.default_rng(i).integers(0, 9, (len(s), 6, 6)) for i, s in enumerate(sets)]
    shown = {True: [], False: []}

    class Seeing(keras.Sequential):
        def call(self, x, training=None):
            if not isinstance(x, keras.KerasTensor):
                tf.py_function(lambda t: shown[bool(training)].append(t.numpy()), [x], [])
            return super().call(x, training=training)

    def builder():
        model = Seeing([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    options = {"remove": remove, "fill": fill, "normalize": False, "fractions": (0.3,)}
    retrained(tmp_path, {"tied": tuple(maps)}, builder, sets=sets, **options)
    count = 11  # round(0.3 · 36)
    for training, dataset, saliency in ((True, sets[0], maps[0]), (False, sets[1], maps[1])):
        scale = 255 if dtype == "uint8" else 1
        colour = {
            "mean": sets[0].images.mean((0, 1, 2), np.float64),
            "image_mean": dataset.images.mean((1, 2), np.float64),
        }.get(fill, np.multiply(scale, fill) if not isinstance(fill, str) else None)
        colour = np.broadcast_to(colour, (len(dataset), 2))
        colour = np.round(colour) / 255 if dtype == "uint8" else colour
        x = dataset.images / scale
        expected = x.reshape(len(x), PIXELS, 2).copy()
        for i, one in enumerate(saliency.reshape(len(x), -1)):
            order = ascending(one)
            expected[i, order[:count] if remove == "least" else order[-count:]] = colour[i]
        # The first run, of all pixels, is not looked at.
        got = np.concatenate(shown[training])[-len(x) :].reshape(len(x), PIXELS, 2)
        if training:  # in the order of training; the images are all different
            got, expected = (np.sort(v.reshape(len(x), -1).sum(1)) for v in (got, expected))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
@pytest.mark.slow
def test_a_run_is_that_of_a_network_built_anew(tmp_path, monkeypatch):
    """Weights, statistics, dropout, the penalty's draws, Adam's moments; nothing is retraced."""
    traces, traced, weights = [], [], []
    step = tfgrad.PenalizedModel.train_step

    def counted(model, batch):
        traces.append(1)
        return step(model, batch)

    monkeypatch.setattr(tfgrad.PenalizedModel, "train_step", counted)

    class Look(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            traced.append(len(traces))
            weights.append([v.numpy() for v in self.model.variables])

    def builder():
        return build(penalty=0.01, dropout=0.3)

    options = {"epochs": 2, "batch_size": 50, "augment": "flip", "seeds": (3, 4)}
    measured = retrained(tmp_path, {"m": "random"}, builder, callbacks=[Look()], **options)["m"]
    assert len(traced) == 4
    assert len(set(traced)) == 1
    train, test = patched(TRAIN, 0), patched(TEST, 1)
    statistics = data.channel_statistics(train)
    keras.utils.set_random_seed(4)
    model = builder()
    stream = data.pipeline(train, 50, training=True, seed=4, normalize=statistics, augment="flip")
    model.fit(stream, epochs=2, steps_per_epoch=5, shuffle=False, verbose=0)
    batches = data.pipeline(test, 50, training=False, normalize=statistics)
    expected = model.evaluate(batches, verbose=0, return_dict=True)["accuracy"]
    for found, variable in zip(weights[1], model.variables, strict=True):
        np.testing.assert_allclose(found, variable.numpy(), rtol=0, atol=1e-6)
    # Seed 3 comes before it and seed 3 again after it, with other images.
    for other in (weights[0], weights[2]):
        assert max(np.abs(a - b).max() for a, b in zip(weights[1], other, strict=True)) > 1e-2
    seeds = [json.loads((tmp_path / f"all-0.0-seed{s}.json").read_text()) for s in (3, 4)]
    accuracies = [record["accuracy"] for record in seeds]
    assert accuracies[1] == pytest.approx(expected, abs=1e-6)
    assert measured.values[0] == pytest.approx(np.mean(accuracies))
    assert measured.deviations[0] == pytest.approx(np.std(accuracies, ddof=1))
    assert measured.over == "2 seeds"


@pytest.mark.long
def test_finished_runs_are_not_repeated_and_one_missing_is(tmp_path):
    fits, said = [], []

    class Counting(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            if len(fits) == 2:
                raise KeyboardInterrupt
            fits.append(1)

    maps = {"a/..": (patch(TRAIN), patch(TEST)), "random": "random"}
    options = {"callbacks": [Counting()], "progress": lambda *numbers: said.append(numbers)}
    with pytest.raises(KeyboardInterrupt):
        retrained(tmp_path, maps, **options)
    assert said == [(0, 3), (1, 3), (2, 3)]
    said.clear()
    resumed = retrained(tmp_path, maps, **{**options, "callbacks": ()})
    assert said == [(2, 3), (3, 3)]
    assert resumed == retrained(tmp_path / "whole", maps)
    assert sorted(p.name for p in tmp_path.glob("*.json")) == [
        "all-0.0-seed0.json",
        "of-a%2F..-0.25-seed0.json",
        "of-random-0.25-seed0.json",
    ]
    said.clear()
    assert resumed == retrained(tmp_path, maps, **options)  # not even begun, or it would stop
    assert said == [(3, 3)]


@pytest.mark.long
def test_runs_of_other_settings_are_refused_by_name(tmp_path):
    maps = {"patch": (patch(TRAIN), patch(TEST))}
    retrained(tmp_path, maps)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    changes = [
        ({"epochs": 2}, "settings: epochs was 1, now 2. Choose"),
        ({"batch_size": 30}, "batch_size was 60, now 30"),
        ({"augment": True}, "augment was False, now True"),
        ({"normalize": False}, "statistics was .*, now None"),
        ({"fill": 0.0}, r"settings: fill was \['mean'\], now \[0.0\]"),
        ({"remove": "least"}, "remove was 'most', now 'least'"),
        ({"builder": lambda: build(units=17)}, "settings: layers was"),
        (
            {"builder": lambda: build(rate=0.02)},
            r"optimizer\.config\.learning_rate was 0\.0.*, now",
        ),
        ({"builder": lambda: build(penalty=0.1)}, "penalties was"),
        ({"sets": (patched(TRAIN, 5), patched(TEST, 1))}, "train was"),
        ({"sets": (patched(TRAIN, 0), patched(TEST, 5))}, "settings: test was"),
        ({"maps": {"patch": (patch(TRAIN), -patch(TEST))}}, "settings: maps was"),
    ]
    for change, message in changes:
        with pytest.raises(ResumeError, match=message):
            retrained(tmp_path, **{"maps": maps, **change})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / "all-0.0-seed0.json").write_text("{")
    with pytest.raises(ResumeError, match=r"all-0.0-seed0\.json', which is damaged"):
        retrained(tmp_path, maps)


@pytest.mark.long
def test_images_whose_map_is_not_finite_are_done_without_and_reported(tmp_path):
    train, test = patched(TRAIN, 0), patched(TEST, 1)
    maps = [
        np.random.default_rng(i).normal(size=(len(s), 6, 6)) for i, s in enumerate((train, test))
    ]
    kept = [np.arange(len(s)) % 50 != 7 for s in (train, test)]
    fewer = [
        data.from_arrays(s.images[k], s.labels[k], "abc")
        for s, k in zip((train, test), kept, strict=True)
    ]
    expected = retrained(
        tmp_path / "fewer",
        {"m": tuple(m[k] for m, k in zip(maps, kept, strict=True))},
        sets=fewer,
        normalize=([0.5] * 2, [0.3] * 2),
        fill=0.5,
    )["m"]
    for m, k in zip(maps, kept, strict=True):
        m[~k, 2, 2] = np.nan
    with pytest.warns(UserWarning, match="image 7 holds NaN") as warned:
        found = retrained(
            tmp_path / "all", {"m": tuple(maps)}, normalize=([0.5] * 2, [0.3] * 2), fill=0.5
        )["m"]
    assert [str(w.message)[:24] for w in warned] == [
        "maps: 'm', training imag",
        "maps: 'm', test images: ",
    ]
    assert found.columns["maps left out"] == (0.0, 8.0)
    assert found.examples == TEST - 3
    assert found.values[1] == expected.values[1]


@pytest.mark.filterwarnings("ignore:maps")
def test_no_map_at_all(tmp_path):
    with pytest.raises(DataError, match="maps: 'none', training images: all 240 hold NaN"):
        retrained(tmp_path, {"none": (np.nan * patch(TRAIN), patch(TEST))})


@pytest.mark.long
def test_a_run_that_diverges_is_recorded_and_the_rest_goes_on(tmp_path):
    class Diverge(keras.callbacks.Callback):
        runs = 0

        def on_train_begin(self, logs=None):
            self.runs += 1
            if self.runs in (2, 3):
                self.model.layers[-1].bias.assign([np.nan] * 3)

    found = retrained(
        tmp_path, {"random": "random"}, fractions=(0.25, 0.5), seeds=(0, 1), callbacks=[Diverge()]
    )["random"]
    assert found.columns["failed runs"] == (1.0, 1.0, 0.0)
    assert np.isfinite(found.values).all()
    assert found.deviations[0] == found.deviations[1] == 0.0
    record = json.loads((tmp_path / "all-0.0-seed1.json").read_text())
    assert record["accuracy"] is None
    assert record["failed"].startswith("loss: nan at batch 1 of epoch 1")


@pytest.mark.long
def test_maps_from_shards_are_those_of_arrays(tmp_path):
    train, test = patched(TRAIN, 0), patched(TEST, 1)
    shards = tuple(
        saved_maps(lambda x, y: x[..., 0], s, tmp_path / s_name, shard_size=70, name="red")
        for s_name, s in (("train", train), ("test", test))
    )
    by_shards = retrained(tmp_path / "shards", {"red": shards})
    by_arrays = retrained(tmp_path / "arrays", {"red": tuple(map(np.asarray, shards))})
    assert by_shards == by_arrays


def on_ragged_batches(directory, strategy=None):
    """241 images in batches of 120, so that of the last one only one replica gets any."""
    return retrained(
        directory,
        {"random": "random"},
        lambda: build(penalty=0.01),
        sets=(patched(TRAIN + 1, 0), patched(TEST, 1)),
        epochs=2,
        batch_size=120,
        strategy=strategy,
    )["random"]


@pytest.mark.slow
def test_under_a_strategy(tmp_path):
    strategy, seen = tf.distribute.OneDeviceStrategy("CPU:0"), []

    def builder():
        seen.append(tf.distribute.get_strategy())
        return build()

    maps = {"random": "random"}
    found = retrained(tmp_path / "one", maps, builder, strategy=strategy)
    assert set(map(id, seen)) == {id(strategy)}
    assert found == retrained(tmp_path / "other", maps)


@pytest.mark.slow
def test_two_replicas_measure_what_one_device_does(tmp_path):
    """In a process of its own, since devices are fixed when TensorFlow starts."""
    script = (
        "import sys; from tests import test_retraining as t; from tfgrad import distribution; "
        "t.on_ragged_batches(sys.argv[1], distribution.strategy('mirrored', 2))"
    )
    process = run(["-c", script, str(tmp_path / "two")])
    one = on_ragged_batches(tmp_path / "one")
    finish(process)
    two = on_ragged_batches(tmp_path / "two")  # finished: only read
    assert one.values == pytest.approx(two.values, abs=0.017)  # two images of 120


@pytest.mark.long
def test_maps_that_rank_nothing_are_counted_and_refused_where_all_do(tmp_path):
    maps = patch(TRAIN), patch(TEST)
    maps[0][:5] = 0
    found = retrained(tmp_path, {"m": maps})["m"]
    assert found.columns["constant maps"] == (0.0, 5.0)
    with pytest.raises(DataError, match=r"'zero', test images: all 120 are constant"):
        retrained(tmp_path, {"zero": (patch(TRAIN), 0 * patch(TEST))})


@pytest.mark.long
def test_runs_from_other_first_weights_are_refused(tmp_path):
    def builder(start):
        model = build()
        model.layers[-1].kernel.assign(start * np.ones((16, CLASSES)))
        return model

    retrained(tmp_path, {"random": "random"}, lambda: builder(0.1))
    with pytest.raises(ResumeError, match="weights of seed 0 was "):
        retrained(tmp_path, {"random": "random"}, lambda: builder(0.2))


def test_the_control_s_maps_of_training_and_test_are_not_the_same():
    both = [patched(TEST, 1)] * 2
    train, test = (maps[:].numpy().ravel() for maps in MethodMaps("random", "random", *both)._maps)
    assert abs(np.corrcoef(train, test)[0, 1]) < 0.05
