"""Maps of a data set on disk: computed once, resumed shard by shard, never another's."""

import concurrent.futures
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.faults import no_file_above
from tests.helpers.removal_cases import ascending
from tfgrad import data, saliency, targets
from tfgrad.errors import ArgumentError, DataError, ModelError, ResumeError
from tfgrad.evaluation import pixel_perturbation
from tfgrad.evaluation.digests import layers_digest
from tfgrad.evaluation.map_tests.map_shards import MapShards
from tfgrad.evaluation.map_tests.saved_maps import saved_maps
from tfgrad.internal.files import alone

SHAPE = (5, 4, 3)
SHARD = {"shard_size": 8, "batch_size": 3}


def network(seed=0, activation="softplus", bias=0.0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(4, 3, activation=activation),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    kernel, old = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, old + bias])
    return model


def dataset(n=21, seed=0):
    rng = np.random.default_rng(seed)
    return data.from_arrays(
        rng.integers(0, 256, (n, *SHAPE), np.uint8), rng.permutation(n) % 3, classes="abc"
    )


class Counting:
    """A method that counts its images and may be killed."""

    def __init__(self, method, stop_after=10**9):
        self.method, self.stop_after, self.images = method, stop_after, 0
        self.network, self.options = method.network, method.options

    def __call__(self, x, target):
        self.images += len(x)
        if self.images > self.stop_after:
            raise KeyboardInterrupt
        return self.method(x, target)


def files(directory):
    return {path.name: path.read_bytes() for path in pathlib.Path(directory).iterdir()}


@pytest.mark.sample(3)
@pytest.mark.parametrize("target", [None, "label", 2])
def test_the_maps_are_the_methods(tmp_path, target):
    images, method = dataset(), saliency.InputGradient(network())
    statistics = data.channel_statistics(images)
    said = []
    maps = saved_maps(
        method,
        images,
        tmp_path / "maps",
        target=target,
        normalize=statistics,
        progress=lambda *numbers: said.append(numbers),
        **SHARD,
    )
    x = (images.images / np.float32(255) - statistics[0]) / statistics[1]
    expected = method(x, images.labels if target == "label" else target).numpy()
    np.testing.assert_allclose(maps[:], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(maps), maps[:])
    assert (len(maps), maps.shape, maps[:].dtype, maps.left_out) == (21, (21, 5, 4), np.float32, 0)
    for low, high in ((0, 21), (3, 5), (7, 9), (6, 21), (8, 16), (20, 30), (-3, None), (4, 4)):
        np.testing.assert_array_equal(maps[low:high], np.asarray(maps)[low:high])
    assert said == [(n, 21) for n in (0, 3, 6, 8, 11, 14, 16, 19, 21)]
    order = [ascending(one.ravel()) for one in maps[:]]
    ranks = maps.ranks()
    assert ranks.dtype == np.uint8
    np.testing.assert_array_equal(np.argsort(ranks.reshape(21, -1), axis=1), order)


def test_a_finished_directory_is_only_read(tmp_path):
    first = Counting(saliency.InputGradient(network()))
    made = np.asarray(saved_maps(first, dataset(), tmp_path, **SHARD))
    before, again, said = files(tmp_path), Counting(saliency.InputGradient(network())), []
    maps = saved_maps(
        again,
        dataset(),
        tmp_path,
        shard_size=8,
        batch_size=21,
        progress=lambda *numbers: said.append(numbers),
    )
    assert (first.images, again.images, said) == (21, 0, [(21, 21)])
    assert files(tmp_path) == before
    np.testing.assert_array_equal(maps, made)
    np.testing.assert_array_equal(MapShards(tmp_path), made)


@pytest.mark.long
def test_a_killed_call_recomputes_the_open_shard_alone(tmp_path):
    method, images = saliency.SmoothGrad(network(), samples=3), dataset()
    with pytest.raises(KeyboardInterrupt):
        saved_maps(Counting(method, 13), images, tmp_path / "killed", **SHARD)
    with pytest.raises(DataError, match=r"-00001\.npy' is missing or damaged; .* Call tfgrad"):
        MapShards(tmp_path / "killed")[:]
    counting = Counting(method)
    resumed = saved_maps(counting, images, tmp_path / "killed", **SHARD)
    assert counting.images == 21 - 8
    whole = saved_maps(Counting(method), images, tmp_path / "whole", **SHARD)
    np.testing.assert_array_equal(resumed, whole)
    assert set(files(tmp_path / "killed")) == set(files(tmp_path / "whole"))


def test_files_that_a_killed_process_left_are_removed(tmp_path):
    """Neither those of this version nor that of 0.1 stay; other files do."""
    for name in ("0123abcd-00001.npy.tmp-12-34.npy", "unfinished.npy", "notes.npy"):
        (tmp_path / name).write_bytes(b"cut short")
    saved_maps(saliency.InputGradient(network()), dataset(), tmp_path)
    assert [name for name in files(tmp_path) if "tmp" in name or "unfinished" in name] == []
    assert (tmp_path / "notes.npy").exists()


def test_a_directory_in_use_is_waited_for(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with alone(tmp_path):
            counting = Counting(saliency.InputGradient(network()))
            call = pool.submit(saved_maps, counting, dataset(), tmp_path, **SHARD)
            with pytest.raises(TimeoutError):
                call.result(timeout=0.5)
            assert counting.images == 0 and not (tmp_path / "manifest.json").exists()
        assert len(call.result()) == counting.images == 21


def test_a_system_without_locks_waits_for_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("tfgrad.internal.files.fcntl", None)
    with alone(tmp_path):
        assert len(saved_maps(saliency.InputGradient(network()), dataset(), tmp_path)) == 21


def replaced(shard, kind):
    whole = np.load(shard)
    if kind == "truncated":
        shard.write_bytes(shard.read_bytes()[:-5])
    elif kind == "empty":
        shard.write_bytes(b"")
    elif kind == "text":
        shard.write_text("not an array")
    elif kind == "objects":
        np.save(shard, np.array([{}] * 8), allow_pickle=True)
    else:
        np.save(shard, whole.astype(np.float64) if kind == "float64" else whole[:, :3])


@pytest.mark.long
@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "objects", "float64", "shape"])
def test_a_damaged_shard_is_computed_anew(tmp_path, kind):
    method = saliency.InputGradient(network())
    maps = saved_maps(Counting(method), dataset(), tmp_path, **SHARD)
    made, before = np.asarray(maps), files(tmp_path)
    replaced(pathlib.Path(maps._files.path(1)), kind)
    with pytest.raises(DataError, match="missing or damaged"):
        maps[:]
    counting = Counting(method)
    again = saved_maps(counting, dataset(), tmp_path, **SHARD)
    assert counting.images == 8
    np.testing.assert_array_equal(again, made)
    assert files(tmp_path) == before


@pytest.mark.long
def test_other_settings_are_refused_by_name(tmp_path):
    def saved(method=None, images=None, **options):
        method = method or saliency.SmoothGrad(network(), samples=2)
        return saved_maps(method, images or dataset(), tmp_path, **{**SHARD, **options})

    saved()
    before = files(tmp_path)
    saved()  # with the network built anew, under other names
    for change, message in (
        ({"method": saliency.InputGradient(network())}, "method was 'SmoothGrad', now 'InputGrad"),
        (
            {"method": saliency.SmoothGrad(network(), samples=3)},
            "settings: options.samples was 2, now 3",
        ),
        ({"method": saliency.SmoothGrad(network(1), samples=2)}, "weights was '[0-9a-f]+', now"),
        ({"method": saliency.SmoothGrad(network(bias=1e-3), samples=2)}, "settings: weights was"),
        (
            {"method": saliency.SmoothGrad(network(activation="elu"), samples=2)},
            "settings: layers was '[0-9a-f]+', now '[0-9a-f]+'. Choose",
        ),
        ({"images": dataset(seed=1)}, "settings: images was"),
        ({"target": "label"}, "labels was None, now .*; target was None, now 'label'"),
        ({"target": 1}, "settings: target was None, now 1. Choose another"),
        ({"normalize": ([0.5] * 3, [1.0] * 3)}, r"normalize was None, now \[\[0.5"),
        ({"shard_size": 9}, "shard_size was 8, now 9"),
    ):
        with pytest.raises(ResumeError, match=message):
            saved(**change)
    assert files(tmp_path) == before
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResumeError, match=r"manifest\.json', which is damaged"):
        saved()


@pytest.mark.long
def test_shards_of_other_maps_are_never_taken_for_these(tmp_path):
    saved_maps(saliency.InputGradient(network()), dataset(), tmp_path, **SHARD)
    (tmp_path / "manifest.json").unlink()
    counting = Counting(saliency.InputGradient(network(1)))
    saved_maps(counting, dataset(), tmp_path, **SHARD)
    assert counting.images == 21


@pytest.mark.long
def test_a_map_that_is_not_finite_is_kept_counted_and_left_out(tmp_path):
    def method(x, target):
        found = tf.reduce_sum(x, -1).numpy()
        found[np.isclose(found, (images.images[9] / 255).sum(-1)).all((1, 2)), 0, 0] = np.nan
        return found

    images = dataset()
    maps = saved_maps(method, images, tmp_path, name="sum", **SHARD)
    assert maps.left_out == 1
    assert np.flatnonzero(np.isnan(maps[:]).any((1, 2))).tolist() == [9]
    batches = data.pipeline(images, 6, training=False)
    with pytest.warns(UserWarning, match="maps: that of image 9 .* as 1 of 21 do"):
        by_shards = pixel_perturbation(network(), batches, maps, (0.2, 0.5))
    with pytest.warns(UserWarning, match="maps: that of image 9"):
        by_array = pixel_perturbation(network(), batches, maps[:], (0.2, 0.5))
    assert by_shards == by_array
    with pytest.raises(ArgumentError, match="maps: got 21 for 4 images"):
        pixel_perturbation(network(), batches.unbatch().take(4).batch(4), maps, (0.2,))


def test_a_shard_grows_on_the_disk_as_its_maps_are_computed(tmp_path):
    """It is written, not mapped into memory, where a full disk ends the process."""
    sizes = []

    def method(x, y):
        sizes.extend(path.stat().st_size for path in tmp_path.glob("*.tmp-*"))
        return np.zeros(x.shape[:3], np.float32)

    rows = 128 + 21 * int(np.prod(SHAPE[:2])) * 4
    with no_file_above(rows - 1), pytest.raises(OSError, match="File too large") as error:
        saved_maps(method, dataset(), tmp_path, name="zeros", shard_size=21, batch_size=7)
    assert error.value.filename.endswith("-00000.npy")
    assert not list(tmp_path.glob("*.npy*"))
    with no_file_above(rows):
        saved_maps(method, dataset(), tmp_path, name="zeros", shard_size=21, batch_size=7)
    assert max(sizes) < rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": lambda x, y: x[..., 0]}, "name: got None with a plain function"),
        ({"method": "fullgrad"}, "method: got a str; expected a function"),
        ({"method": lambda x, y: x, "name": "x"}, r"maps of shape \(3, 5, 4, 3\) .*\(3, 5, 4\)"),
        ({"dataset": np.zeros((3, *SHAPE))}, "dataset: got a ndarray; expected a tfgrad.data.Data"),
        ({"target": "predicted"}, "target: got 'predicted'"),
        ({"target": -1}, "target: got -1"),
        ({"shard_size": 0}, "shard_size: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    arguments = {"method": saliency.InputGradient(network()), "dataset": dataset(), **arguments}
    with pytest.raises(ArgumentError, match=message):
        saved_maps(directory=tmp_path, **{**SHARD, **arguments})


def test_what_is_no_directory_of_maps_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"has no manifest\.json"):
        MapShards(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"file/maps'.* cannot be written"):
        saved_maps(saliency.InputGradient(network()), dataset(), tmp_path / "file" / "maps")
    maps = saved_maps(saliency.InputGradient(network()), dataset(), tmp_path / "maps", **SHARD)
    with pytest.raises(ArgumentError, match=r"maps: got \[3\]; expected a range of images"):
        maps[3]
    assert json.loads((tmp_path / "maps" / "manifest.json").read_text())["shape"] == [21, 5, 4]


class Opaque(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def test_a_layer_that_cannot_say_its_options_is_refused():
    """Two networks that differ in it alone would have one name."""
    x = keras.Input((4,))
    network = keras.Model(x, keras.layers.Dense(2)(Opaque(lambda t: 2.0 * t)(x)))
    with pytest.raises(ModelError, match=r"\(Opaque\): got no get_config.*Write its get_config"):
        layers_digest(network)


def wired(skip):
    x = keras.Input((4,))
    first = keras.layers.Dense(4)(x)
    second = keras.layers.Dense(4)(first)
    return keras.Model(x, keras.layers.Add()([second, first if skip else second]))


def sequence(layer):
    return keras.Sequential([keras.Input((5, 4)), layer])


def scaled(factor):
    def times(t):
        return factor * t

    return keras.layers.Dense(3, activation=times)


def directed(mode):
    return keras.layers.Bidirectional(keras.layers.LSTM(3), merge_mode=mode)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (wired, (False, True)),
        (lambda back: sequence(keras.layers.LSTM(3, go_backwards=back)), (False, True)),
        (lambda mode: sequence(directed(mode)), ("sum", "mul")),
        (lambda factor: sequence(scaled(factor)), (1.0, 2.0)),
    ],
    ids=["wiring", "layer of layers", "wrapper", "closure"],
)
def test_the_digest_of_layers_tells_networks_of_the_same_weights_apart(make, options):
    one, again, other = (layers_digest(make(option)) for option in (*options[:1], *options))
    assert one == again != other


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "change",
    [
        lambda model, k: saliency.LayerMap(model, model.layers[0].name, neuron=np.arange(2)[k]),
        lambda model, k: saliency.IntegratedGradients(model, np.full(SHAPE, 0.5 * k)),
        lambda model, k: saliency.Smooth(
            saliency.InputGradient(model, reduce=("sum", "max_abs")[k]), samples=2
        ),
    ],
    ids=["NumPy number", "array", "method around a method"],
)
def test_other_options_are_other_maps(tmp_path, change):
    model, images = network(), dataset(3)
    model.layers[0].bias.assign(np.arange(1.0, 5.0))
    made = np.asarray(saved_maps(change(model, 0), images, tmp_path / "0"))
    with pytest.raises(ResumeError, match="was made under other settings: options"):
        saved_maps(change(model, 1), images, tmp_path / "0")
    assert np.abs(saved_maps(change(model, 1), images, tmp_path / "1") - made).max() > 1e-3


def test_two_calls_at_once_make_the_maps_once(tmp_path):
    method, images = Counting(saliency.InputGradient(network())), dataset()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(saved_maps, method, images, tmp_path, **SHARD) for _ in range(2)]
    for call in calls:
        np.testing.assert_array_equal(call.result(), MapShards(tmp_path))
    assert method.images == len(images)


def test_maps_of_a_target_are_those_of_no_other(tmp_path):
    x = np.random.default_rng(0).uniform(size=(4, 3, 3, 1)).astype("float32")
    dataset = data.from_arrays(x, np.arange(4) % 2)
    image = keras.Input((3, 3, 1))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))

    def method(a, b):
        return saliency.InputGradient(model, reduce="sum", target=targets.Contrast(a, b))

    found = saved_maps(method(0, 1), dataset, tmp_path / "maps")
    np.testing.assert_allclose(found[:], method(0, 1)(x), rtol=1e-6)
    with pytest.raises(ResumeError, match=r"explains\.config\.a was 0, now 1"):
        saved_maps(method(1, 0), dataset, tmp_path / "maps")
    with pytest.raises(ArgumentError, match=r"target: got 1 for a method built with target=Contr"):
        saved_maps(method(0, 1), dataset, tmp_path / "other", target=1)
