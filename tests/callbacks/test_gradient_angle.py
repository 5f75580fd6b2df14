"""The angle between a teacher's and a student's input-gradients, against angles known by hand."""

import contextlib
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgrad import PenalizedModel
from tfgrad.callbacks import GradientAngle, JsonLines
from tfgrad.errors import ArgumentError, DataError, LogitsWarning, ModelError
from tfgrad.layers import BatchNormalization
from tfgrad.penalties import GradientNorm

ROWS = np.eye(3, 4, dtype="float32")  # three images of four pixels
LABELS = np.array([0, 1, 0])


def linear(*gradients, name=None):
    """A network whose logit k has the gradient `gradients[k]` everywhere."""
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(len(gradients))], name=name)
    network.set_weights([np.array(gradients, "float32").T, np.zeros(len(gradients), "float32")])
    return network


def at(degrees, scale=1.0):
    """A gradient at that angle from the first pixel's axis."""
    angle = math.radians(degrees)
    return [scale * math.cos(angle), scale * math.sin(angle), 0.0, 0.0]


def fit(model, *hooks, epochs=1, rate=0.0, x=ROWS, y=LABELS, **compiled):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, **compiled)
    return model.fit(x, y, epochs=epochs, callbacks=list(hooks), verbose=0).history


def angle(student, teacher, x=ROWS, y=LABELS, **arguments):
    """What the end of an epoch logs, without the epoch."""
    hook, logs = GradientAngle(teacher, x, y, **arguments), {}
    hook.set_model(student)
    hook.set_params({"epochs": 1})
    hook.on_train_begin()
    hook.on_epoch_end(0, logs)
    return logs["gradient_angle"]


def small_network(seed, classes=3, head=None):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((6, 6, 2))
    h = layers.Conv2D(4, 3, activation="relu")(inputs)
    h = BatchNormalization()(h)
    h = layers.Dropout(0.5)(layers.Flatten()(h))
    logits = layers.Dense(classes, bias_initializer="normal")(h)
    outputs = {head: logits, "other": layers.Dense(2)(h)} if head else logits
    return keras.Model(inputs, outputs)


def images(n=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6, 6, 2)).astype("float32"), rng.integers(0, 3, n)


# What it measures


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (at(60), at(0), 60.0),
        (at(0), at(60), 60.0),
        (at(100, scale=5.0), at(-50, scale=0.01), 150.0),
        (at(180), at(0, scale=7.0), 180.0),
        (at(45, scale=3e-30), at(0), 45.0),  # the product of the norms is below float32's reach
    ],
)
def test_an_angle_known_by_hand(student, teacher, expected):
    gradients = [student] * 2, [teacher] * 2
    assert angle(*(linear(*g) for g in gradients)) == pytest.approx(expected, abs=1e-4)


def test_the_mean_over_the_images_of_the_labels_angle():
    # Class 0 is 30° apart, class 1 is 90°; two images are of class 0.
    networks = linear(at(30), at(90)), linear(at(0), at(0))
    assert angle(*networks) == pytest.approx((30 + 90 + 30) / 3, abs=1e-4)
    assert angle(*networks, y=None, target=1) == pytest.approx(90, abs=1e-4)
    targets = np.array([1, 1, 0])
    assert angle(*networks, y=None, target=targets) == pytest.approx(70, abs=1e-4)


def test_predicted_is_the_teachers_class_for_both():
    # On the first image the teacher prefers class 1 (logits 1, 2), the student class 0 (3, 0).
    student, teacher = linear(at(0, 3.0), at(90)), linear(at(0, 1.0), at(0, 2.0))
    assert angle(student, teacher, ROWS[:1], None, target="predicted") == pytest.approx(90)


def test_a_network_and_its_twin_have_no_angle():
    teacher, (x, y) = small_network(1), images()
    twin = keras.models.clone_model(teacher)
    twin.set_weights(teacher.get_weights())
    assert angle(twin, teacher, x, y) < 1e-5
    assert 60 < angle(small_network(2), teacher, x, y) < 120


def test_a_gradient_of_zero_is_at_right_angles_to_all():
    nothing, something = linear([0.0] * 4, [0.0] * 4), linear(at(10), at(20))
    assert angle(nothing, something) == 90.0
    assert angle(linear(at(10), at(20)), nothing) == 90.0
    assert angle(nothing, nothing) == 90.0


def test_all_pixels_of_an_image_count_together():
    # Flattened over height, width and channel: the gradients differ in one of 72 pixels.
    first, second = (np.ones((72, 3), "float32") for _ in range(2))
    second[5] = -1.0
    networks = []
    for kernel in (first, second):
        layers = [keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(3)]
        networks.append(keras.Sequential(layers))
        networks[-1].set_weights([kernel, np.zeros(3, "float32")])
    assert angle(*networks, *images()) == pytest.approx(math.degrees(math.acos(70 / 72)), abs=1e-4)


@pytest.mark.long
@pytest.mark.sample(4)
@pytest.mark.parametrize("batch_size", [1, 4, 10, 1000])
def test_batches_and_data_sets_measure_the_same(batch_size):
    teacher, student, (x, y) = small_network(1), small_network(2), images()
    expected = angle(student, teacher, x, y)
    assert angle(student, teacher, x, y, batch_size=batch_size) == pytest.approx(expected, abs=1e-4)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
    got = angle(student, teacher, dataset, None, batch_size=batch_size)
    assert got == pytest.approx(expected, abs=1e-4)


@pytest.mark.long
def test_a_shuffled_data_set_keeps_images_and_teacher_together():
    teacher, student, (x, y) = small_network(1), small_network(2), images(64)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(64).batch(8)
    history = fit(student, GradientAngle(teacher, dataset), epochs=3, x=x, y=y)
    # Nothing has changed since the last epoch's end.
    expected = angle(student, teacher, x, y)
    assert history["gradient_angle"][-1] == pytest.approx(expected, abs=1e-4)


def test_inference_mode_for_both():
    teacher, (x, y) = small_network(1), images()
    twin = keras.models.clone_model(teacher)
    twin.set_weights(teacher.get_weights())
    teacher.layers[2].moving_variance.assign([1.0, 100.0, 1.0, 1.0])
    twin.layers[2].moving_variance.assign([1.0, 100.0, 1.0, 1.0])
    before = [v.numpy() for v in teacher.variables]
    state = [v.numpy() for v in twin.variables]
    assert angle(twin, teacher, x, y) < 1e-5  # dropout or batch statistics would make it large
    for network, values in ((teacher, before), (twin, state)):
        for variable, value in zip(network.variables, values, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)


def test_one_head_of_several():
    teacher, (x, y) = small_network(1), images()
    student = small_network(2, head="target")
    plain = keras.Model(student.inputs, student.output["target"])
    of_the_head = angle(student, teacher, x, y, head="target")
    assert of_the_head == pytest.approx(angle(plain, teacher, x, y), abs=1e-4)
    with pytest.raises((ArgumentError, ModelError)):
        angle(student, teacher, x, y)


class Subclassed(keras.Model):
    def __init__(self, units, activation=None):
        super().__init__()
        self.hidden = keras.layers.Dense(5, activation="softplus")
        self.end = keras.layers.Dense(units, activation=activation)

    def call(self, x):
        return self.end(self.hidden(x))


def of_activation(kind, seed, units, activation):
    """A network that ends in an activation; the weights depend on the seed alone."""
    keras.utils.set_random_seed(seed)
    if kind == "subclassed":
        network = Subclassed(units, activation)
        network(ROWS)
        return network
    layers = [keras.layers.Dense(5, "softplus"), keras.layers.Dense(units, activation)]
    return keras.Sequential([keras.Input((4,)), *layers])


@pytest.mark.long
@pytest.mark.diagonal
@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
@pytest.mark.parametrize(("units", "activation"), [(2, "softmax"), (1, "sigmoid")])
def test_logits_are_compared_where_a_network_ends_in_probabilities(kind, units, activation):
    target = {"y": None, "target": 0}

    def pair(end_of_student, end_of_teacher):
        ends = enumerate((end_of_student, end_of_teacher))
        return [of_activation(kind, seed, units, end) for seed, end in ends]

    outputs = "exclusive" if units == 2 else "binary"
    expected = angle(*pair(None, None), **target, outputs=outputs)
    for ends in ((activation, activation), (None, activation), (activation, None)):
        with pytest.warns(LogitsWarning, match=f"the {activation} of .* is left out"):
            found = angle(*pair(*ends), **target, outputs=outputs)
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.sample(2)
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_the_one_output_of_a_student_that_fit_builds(activation):
    teacher = of_activation("subclassed", 0, 1, None)
    student = Subclassed(1, activation)
    loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    student.compile(keras.optimizers.SGD(0.0), loss)
    hook, warned = GradientAngle(teacher, ROWS, LABELS), contextlib.nullcontext()
    with pytest.warns(LogitsWarning) if activation else warned:
        found = student.fit(ROWS, LABELS, callbacks=[hook], verbose=0).history["gradient_angle"]
    plain = of_activation("subclassed", 0, 1, None)
    plain.set_weights(student.get_weights())
    assert found == [pytest.approx(angle(plain, teacher, outputs="binary"), abs=1e-4)]


@pytest.mark.long
def test_a_student_that_learns_under_a_softmax_is_followed():
    teacher, student = linear(at(0), at(0)), of_activation("sequential", 0, 2, "softmax")
    hook = GradientAngle(teacher, ROWS, LABELS)
    student.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    with pytest.warns(LogitsWarning):
        history = student.fit(ROWS, LABELS, epochs=2, callbacks=[hook], verbose=0).history
    plain = of_activation("sequential", 0, 2, None)
    before = angle(plain, teacher)
    plain.set_weights(student.get_weights())
    assert history["gradient_angle"][-1] == pytest.approx(angle(plain, teacher), abs=1e-4)
    assert abs(history["gradient_angle"][-1] - before) > 0.01
    # Between two runs the activation goes: the student is looked at again.
    student.layers[-1].activation = keras.activations.linear
    student.compile(keras.optimizers.SGD(0.0), "mean_squared_error")
    history = student.fit(ROWS, np.eye(2)[LABELS], callbacks=[hook], verbose=0).history
    assert history["gradient_angle"] == [pytest.approx(angle(plain, teacher), abs=1e-4)]


# When, and who hears of it


def test_a_student_that_learns_is_followed_and_the_teacher_is_not():
    teacher, student = linear(at(0), at(0)), linear(at(60), at(60))
    hook = GradientAngle(teacher, ROWS, LABELS)
    turn = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: student.layers[0].kernel.assign(
            np.array([at(60 - 20 * epoch)] * 2, "float32").T
        ),
        on_epoch_end=lambda epoch, logs: teacher.layers[0].kernel.assign(
            np.array([at(123 + epoch)] * 2, "float32").T
        ),
    )
    history = fit(student, turn, hook, epochs=3)
    np.testing.assert_allclose(history["gradient_angle"], [60, 40, 20], atol=1e-4)


def test_real_training_moves_the_student_only():
    teacher, student, (x, y) = small_network(1), small_network(2), images()
    before = [v.numpy() for v in teacher.variables]
    history = fit(student, GradientAngle(teacher, x, y), epochs=3, rate=0.1, x=x, y=y)
    assert len(set(history["gradient_angle"])) == 3
    for variable, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.long
def test_the_student_of_a_penalized_model_is_its_network():
    teacher, student, (x, y) = small_network(1), small_network(2), images()
    expected = angle(student, teacher, x, y)
    history = fit(
        PenalizedModel(student, [GradientNorm(0.1)]), GradientAngle(teacher, x, y), x=x, y=y
    )
    # Batch norm's moving statistics have moved by the time an epoch ends.
    again = angle(student, teacher, x, y)
    assert history["gradient_angle"] == pytest.approx([again], abs=1e-4)
    assert abs(again - expected) > 1e-3


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("every", "epochs", "measured"), [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (10, 3, [3])]
)
def test_every_nth_epoch_and_the_last(every, epochs, measured, tmp_path):
    path = tmp_path / "log.jsonl"
    hook = GradientAngle(linear(at(0), at(0)), ROWS, LABELS, every=every, name="angle")
    history = fit(linear(at(60), at(60)), hook, JsonLines(path), epochs=epochs)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["epoch"] for r in records if "angle" in r] == measured
    assert len(records) == len(history["loss"]) == epochs
    np.testing.assert_allclose(history["angle"], [60.0] * len(measured), atol=1e-4)


def test_tensorboard_writes_it(tmp_path):
    hook = GradientAngle(linear(at(0), at(0)), ROWS, LABELS, every=2)
    fit(linear(at(60), at(60)), hook, keras.callbacks.TensorBoard(tmp_path), epochs=3)
    written = {}
    for path in (tmp_path / "train").glob("events*"):
        for raw in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(raw.numpy())
            for value in event.summary.value:
                if value.tag == "epoch_gradient_angle":
                    written[event.step] = float(tf.make_ndarray(value.tensor))
    assert written == {1: pytest.approx(60.0, abs=1e-4), 2: pytest.approx(60.0, abs=1e-4)}


def test_early_stopping_can_watch_it():
    hook = GradientAngle(linear(at(0), at(0)), ROWS, LABELS)
    stop = keras.callbacks.EarlyStopping("gradient_angle", patience=1, mode="min")
    assert len(fit(linear(at(60), at(60)), hook, stop, epochs=9)["loss"]) == 2


@pytest.mark.long
def test_one_trace_and_one_visit_to_the_teacher(monkeypatch):
    teacher, student, (x, y) = small_network(1), small_network(2), images()
    visits = []
    monkeypatch.setattr(
        type(teacher), "__call__", counting(type(teacher).__call__, teacher, visits)
    )
    hook = GradientAngle(teacher, x, y, batch_size=4)  # 4, 4 and 2 images
    fit(student, hook, epochs=3, x=x, y=y)
    fit(student, hook, epochs=2, x=x, y=y)
    assert hook._angles.experimental_get_tracing_count() == 1
    assert len(visits) == 3


def counting(original, watched, visits):
    def call(model, *args, **kwargs):
        if model is watched and tf.executing_eagerly():  # a trace computes nothing
            visits.append(model)
        return original(model, *args, **kwargs)

    return call


# Wrong arguments

DEFAULTS = {"x": ROWS, "y": LABELS}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": "vgg9"}, r"teacher: got str; expected a keras.Model"),
        ({"target": "all"}, r"target: got 'all'"),
        ({"every": 0}, r"every: got 0; expected an integer ≥ 1"),
        ({"batch_size": 2.5}, r"batch_size: got 2.5; expected an integer ≥ 1"),
        ({"y": None}, r"y: got None; expected labels, which target='label' needs"),
        ({"y": LABELS[:2]}, r"y: got 2 labels for 3 images"),
        ({"x": ROWS[:0]}, r"x: got shape \(0, 4\); expected images"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        GradientAngle(**{"teacher": linear(at(0), at(0)), **DEFAULTS, **arguments})


def test_wrong_data_sets():
    teacher = linear(at(0), at(0))
    batches = tf.data.Dataset.from_tensor_slices((ROWS, LABELS)).batch(2)
    with pytest.raises(ArgumentError, match=r"y: got labels beside a data set"):
        GradientAngle(teacher, batches, LABELS)
    with pytest.raises(ArgumentError, match=r"x: got a data set without end"):
        GradientAngle(teacher, batches.repeat())
    with pytest.raises(ArgumentError, match=r"x: got shape \(0,\)"):
        GradientAngle(teacher, batches.take(0))
    with pytest.raises(ArgumentError, match=r"y: got None"):
        GradientAngle(teacher, batches.map(lambda x, y: x))


def test_wrong_at_the_first_use():
    def begin(**arguments):
        hook = GradientAngle(linear(at(0), at(0)), **{"x": ROWS, "y": LABELS, **arguments})
        hook.set_model(linear(at(60), at(60)))
        hook.on_train_begin()

    with pytest.raises(ArgumentError, match=r"y: got classes from 0 to 2; expected 0 to 1"):
        begin(y=LABELS * 2)
    with pytest.raises(ArgumentError, match=r"y: got shape .*one-hot"):
        begin(y=np.eye(3)[LABELS])
    with pytest.raises(ArgumentError, match=r"target: got 2 classes for 3 images"):
        begin(y=None, target=[0, 1])
    with pytest.raises(ArgumentError, match=r"x: got uint8"):
        begin(x=ROWS.astype("uint8"))
    broken = ROWS.copy()
    broken[1, 2] = np.nan
    with pytest.raises(DataError, match=r"x: example 1 of 3 holds NaN or infinite pixels"):
        begin(x=broken)
