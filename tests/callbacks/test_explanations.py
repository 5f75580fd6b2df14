"""Maps of every epoch: what is written, what it shows, and that training does not notice."""

import builtins
import glob
import importlib.util
import io
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from PIL import Image
from tensorflow.python.summary.summary_iterator import summary_iterator

from tfgrad import PenalizedModel, models, saliency
from tfgrad.callbacks import Explanations
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.penalties import GradientNorm
from tfgrad.targets import Contrast

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(5)
X, Y = RNG.uniform(size=(16, 6, 6, 1)).astype("float32"), RNG.integers(0, 3, 16)
METHODS = ("fullgrad", "input_gradient")


def network(softmax=False):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            L.Conv2D(2, 3, activation="relu"),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(3, dtype="float32"),
            *([L.Softmax()] if softmax else []),
        ]
    )


def penalized():
    """With dropout, shuffled batches and averaged weights."""
    model = PenalizedModel(network(), [GradientNorm(0.1)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), LOSS)
    return model


def fit(model, *hooks, epochs=2, **options):
    return model.fit(X, Y, 8, epochs, callbacks=list(hooks), verbose=0, **options)


class Keep(keras.callbacks.Callback):
    """Keeps the weights of every epoch; comes before the callback that is tested."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def events(directory):
    """{(tag, step): value} of the one event file in a directory; images as arrays."""
    (path,) = glob.glob(f"{directory}/explanations/events.*")
    found = {}
    for event in summary_iterator(path):
        for value in event.summary.value:
            content = tf.make_ndarray(value.tensor)
            if value.metadata.plugin_data.plugin_name == "images":
                content = np.asarray(Image.open(io.BytesIO(content[2])))
            found[value.tag, event.step] = content
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two epochs: (directory, weights at their ends, maps drawn, traces, state)."""
    path = tmp_path_factory.mktemp("maps")
    traces, maps = dict.fromkeys(METHODS, 0), []
    with pytest.MonkeyPatch.context() as patch:
        for name in METHODS:
            kind = saliency.get(name)

            def explain(self, x, target=None, name=name, original=kind.explain):
                traces[name] += 1
                return original(self, x, target)

            patch.setattr(kind, "explain", explain)
        from tfgrad.callbacks import explanations

        drawn = explanations.picture

        def picture(name, x, found, names=None, title=None):
            maps.append((title, name, found))
            return drawn(name, x, found, names, title)

        patch.setattr(explanations, "picture", picture)
        model, keep = penalized(), Keep()
        hook = Explanations(X[:3], METHODS, log_dir=path / "tb", directory=path / "png")
        fit(model, keep, hook)
    ends = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    return path, keep.weights, maps, traces, ends


@pytest.mark.long
def test_every_method_is_traced_once(run):
    assert run[3] == dict.fromkeys(METHODS, 1)


def test_maps_are_those_of_the_weights_of_their_epoch(run):
    _, weights, maps, *_ = run
    shown = {(title, name): found for title, name, found in maps if title}
    assert len(shown) == 4
    model = penalized()
    methods = {name: saliency.get(name)(model) for name in METHODS}
    for epoch, values in enumerate(weights, 1):
        model.set_weights(values)
        for name in METHODS:
            found = shown[f"epoch {epoch}", name]
            expected = methods[name](X[:3]).numpy()
            np.testing.assert_allclose(found["saliency"], expected, rtol=1e-5, atol=1e-6)
            logits = model.network(X[:3]).numpy()
            np.testing.assert_allclose(found["score"], logits.max(1), rtol=1e-5)
    for name in METHODS:
        change = shown["epoch 2", name]["saliency"] - shown["epoch 1", name]["saliency"]
        assert np.abs(change).max() > 1e-4


def test_files_of_every_epoch(run):
    names = sorted(path.name for path in (run[0] / "png").iterdir())
    assert names == [f"epoch_000{n}_{name}.png" for n in (1, 2) for name in METHODS]
    shown = Image.open(run[0] / "png" / names[0])
    assert shown.width > 100 and np.ptp(np.asarray(shown.convert("RGB"))) == 255


def test_the_event_file_has_a_picture_and_scalars_of_every_epoch(run):
    path, _, maps, *_ = run
    found = events(path / "tb")
    for epoch in (1, 2):
        for name in METHODS:
            file = Image.open(path / "png" / f"epoch_000{epoch}_{name}.png").convert("RGB")
            np.testing.assert_array_equal(found[name, epoch], np.asarray(file))
        (shown,) = [f for title, name, f in maps if (title, name) == (f"epoch {epoch}", METHODS[0])]
        assert found["fullgrad/score", epoch] == pytest.approx(shown["score"].mean())
        assert 0 <= found["fullgrad/completeness_error", epoch] < 1e-5
    assert {step for _, step in found} == {1, 2}


def test_training_ends_in_the_same_weights_to_the_bit(run):
    model = penalized()
    fit(model)
    alone = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    for with_maps, without in zip(run[4], alone, strict=True):
        np.testing.assert_array_equal(with_maps, without)


@pytest.mark.filterwarnings("ignore::tfgrad.errors.LogitsWarning")
def test_every_second_epoch_the_last_one_and_a_resumed_run(tmp_path):
    model = network(softmax=True)
    model.compile("sgd", "sparse_categorical_crossentropy")
    logits = models.logits(model)
    method = saliency.InputGradient(model)
    hook = Explanations(X[:1], [method], every=2, directory=tmp_path, target=2)
    fit(model, hook, epochs=3)
    assert sorted(p.name[:10] for p in tmp_path.iterdir()) == ["epoch_0002", "epoch_0003"]
    fit(model, hook, epochs=4, initial_epoch=3)
    assert sorted(p.name[:10] for p in tmp_path.iterdir()) == [f"epoch_000{n}" for n in (2, 3, 4)]
    found = hook._built["input_gradient"]()
    assert found["class"] == [2]
    np.testing.assert_allclose(found["score"][0], logits(X[:1])[0, 2], rtol=1e-6)


@pytest.mark.slow
def test_half_precision_and_another_target(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = penalized()
        hook = Explanations(X[:2], ["input_gradient"], directory=tmp_path, target=Contrast())
        fit(model, hook, epochs=1)
    finally:
        keras.config.set_dtype_policy(before)
    found = hook._built["input_gradient"]()
    assert "class" not in found and found["saliency"].dtype == "float32"
    assert np.isfinite(found["saliency"]).all() and np.any(found["saliency"])


class Break(keras.callbacks.Callback):
    """Makes the loss, or a weight, NaN at the end of an epoch."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def on_epoch_end(self, epoch, logs=None):
        if self.what == "loss":
            logs["loss"] = float("nan")
        else:
            self.model.layers[-1].bias.assign([float("nan")] * 3)


@pytest.mark.parametrize("what", ["loss", "weight"])
def test_what_is_not_finite_is_not_explained(tmp_path, what):
    model = network()
    model.compile("sgd", LOSS)
    fit(model, Break(what), Explanations(X[:1], ["random"], directory=tmp_path), epochs=1)
    assert not list(tmp_path.iterdir())


def test_series_tables_and_channels_first_are_drawn(tmp_path):
    from tfgrad.callbacks.map_records import picture

    scores = {"score": np.ones(2), "class": np.array([0, 1])}
    for x, shape in (
        (X[:2, :, :, 0], (2, 6)),
        (X[:2, 0, :, 0], (2, 6)),
        (np.repeat(X[:2], 2, 3).transpose(0, 3, 1, 2), (2, 6, 6)),
        (np.repeat(X[:2, ..., np.newaxis], 2, 3), (2, 6, 6, 2)),
    ):
        figure = picture("m", x, {"saliency": np.ones(shape), **scores}, ["a", "b"], "title")
        assert figure.axes


# Errors before the first epoch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"directory": None}, "log_dir, directory: got None for both"),
        ({"methods": ["fulgrad"]}, "method: got 'fulgrad'; did you mean 'fullgrad'"),
        ({"methods": "fullgrad"}, "methods: got 'fullgrad'; expected a list"),
        ({"methods": []}, "methods: got .*at least one"),
        ({"every": 0}, "every: got 0; expected an integer ≥ 1"),
        ({"x": X[:0]}, "x: got arrays of shapes .* one to 64 examples"),
        ({"x": np.zeros((65, 2))}, "x: got arrays of shapes .* try x"),
        ({"x": [X[:2], X[:3]]}, "x: got arrays of shapes"),
        ({"x": tf.data.Dataset.range(3)}, "x: got a .*Dataset; expected the examples themselves"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    given = {"x": X[:2], "directory": tmp_path} | arguments
    with pytest.raises(ArgumentError, match=message):
        Explanations(given.pop("x"), **given)


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": X[:2, :5]}, ArgumentError, r"x: got shape \(2, 5, 6, 1\); expected"),
        ({"x": np.uint8(X[:2])}, ArgumentError, "x: got uint8 images; expected float ones"),
        ({"x": np.full((1, 6, 6, 1), np.nan, "float32")}, DataError, "x: example 0 of 1 holds NaN"),
        ({"target": 7}, ArgumentError, "target: got class 7; the model has 3"),
        ({"target": [1, 2, 0]}, ArgumentError, "target: got"),
        ({"class_names": ["one"], "target": 2}, ArgumentError, "class_names: got 1 names"),
        ({"directory": "/dev/null/maps"}, ArgumentError, "which cannot be written"),
        ({"directory": None, "log_dir": "/dev/null"}, ArgumentError, "log_dir: got '/dev/null"),
    ],
)
def test_errors_come_before_the_first_epoch(tmp_path, arguments, error, message):
    given = {"x": X[:2], "methods": ["input_gradient"], "directory": tmp_path} | arguments
    model, keep = network(), Keep()
    model.compile("sgd", LOSS)
    with pytest.raises(error, match=message):
        fit(model, keep, Explanations(given.pop("x"), **given))
    assert not keep.weights


def test_a_method_of_another_model_is_refused(tmp_path):
    model, other = penalized(), saliency.InputGradient(network())
    with pytest.raises(ArgumentError, match=r"methods: got .*, built on another model"):
        fit(model, Explanations(X[:1], [other], directory=tmp_path))


def test_a_model_without_feature_maps_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 1)), L.Flatten(), L.Dense(3)])
    model.compile("sgd", LOSS)
    with pytest.raises(ModelError, match="no layer puts out feature maps"):
        fit(model, Explanations(X[:1], ["gradcam"], directory=tmp_path))


def test_missing_packages_are_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "tensorboard" else found(n, *a)
    )
    Explanations(X[:1], directory=tmp_path)
    with pytest.raises(ImportError, match=r"tfgrad\[apps\]"):
        Explanations(X[:1], log_dir=tmp_path)
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"tfgrad\[figures\]"):
        Explanations(X[:1], directory=tmp_path)


# Several devices

MIRRORED = """
import sys
from tfgrad import PenalizedModel, distribution, saliency

strategy = distribution.strategy("mirrored", 2)
import numpy as np
from tests.callbacks.test_explanations import LOSS, X, Y, network
from tfgrad.callbacks import Explanations
from tfgrad.penalties import GradientNorm

with strategy.scope():
    model = PenalizedModel(network(), [GradientNorm(0.1)])
    model.compile("sgd", LOSS)
hook = Explanations(X[:2], directory=sys.argv[1])
model.fit(X, Y, 8, 2, callbacks=[hook], verbose=0)
shown = hook._built["fullgrad"]()["saliency"]
copied = network()
copied.set_weights(model.network.get_weights())
np.testing.assert_allclose(shown, saliency.FullGrad(copied)(X[:2]), rtol=1e-5, atol=1e-6)
"""


@pytest.mark.slow
def test_several_devices(tmp_path):
    subprocess.run([sys.executable, "-c", MIRRORED, str(tmp_path)], check=True, timeout=300)
    assert len(list(tmp_path.iterdir())) == 4
