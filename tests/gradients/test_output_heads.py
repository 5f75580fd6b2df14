"""Two heads on one trunk: labels for one, a teacher for the other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.transfer_cases import SHAPE, images, student, teacher
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.models import one_head, two_heads
from tfgrad.penalties import (
    ActivationMatching,
    AttentionMatching,
    GradientNorm,
    JacobianMatching,
    ScoreMatching,
)

L = keras.layers
SOURCE = 5  # the teacher's classes
LABELS = np.array([2, 0, 1, 1], "int32")


def x():
    return images(4).astype("float32")


def compiled(penalties, net=None, taught=None, optimizer=None, **options):
    net = two_heads(student(), SOURCE) if net is None else net
    if taught is None and any(p.teacher_needs() is not None for p in penalties):
        taught = teacher(SOURCE)
    model = tfgrad.PenalizedModel(net, penalties, teacher=taught, **options)
    model.compile(
        optimizer or keras.optimizers.SGD(0.1),
        loss={"target": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        metrics={"target": ["accuracy"]},
    )
    return model


def fit(model, y=None, **options):
    y = {"target": LABELS} if y is None else y
    return model.fit(x(), y, batch_size=4, shuffle=False, verbose=0, **options).history


# The networks


@pytest.mark.parametrize("kind", ["sequential", "functional", "resnet"])
def test_two_heads_share_a_trunk(kind):
    net = {
        "sequential": student,
        "functional": lambda: tfgrad.models.vgg(4, (8, 8, 1), 3, width=0.1),
        "resnet": lambda: tfgrad.models.get("resnet9", (8, 8, 1), 3, width=0.1),
    }[kind]()
    weights = [id(v) for v in net.weights]
    two = two_heads(net, SOURCE)
    batch = np.random.default_rng(0).normal(size=(2, *net.input_shape[1:])).astype("float32")
    logits = two(batch)
    np.testing.assert_array_equal(logits["target"], net(batch))
    assert logits["source"].shape == (2, SOURCE)
    assert set(weights) < {id(v) for v in two.weights}
    new = [v for v in two.weights if id(v) not in weights]
    assert [v.path for v in new] == ["source_logits/kernel", "source_logits/bias"]
    target = one_head(two)
    assert {id(v) for v in target.weights} == set(weights)
    np.testing.assert_array_equal(target(batch), net(batch))
    np.testing.assert_array_equal(one_head(two, "source")(batch), logits["source"])


def test_several_inputs_keep_their_names():
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    h = L.Dense(4)(L.Concatenate()([a, b]))
    net = keras.Model({"b": b, "a": a}, L.Dense(3)(h))
    two = two_heads(net, 2)
    batch = {"a": np.ones((1, 2), "float32"), "b": np.zeros((1, 3), "float32")}
    np.testing.assert_array_equal(two(batch)["target"], net(batch))
    np.testing.assert_array_equal(one_head(two)(batch), net(batch))


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: two_heads(student(), 0), "source_classes: got 0; expected an integer ≥ 1"),
        (lambda: two_heads(student(), 2.0), "source_classes: got 2.0; expected an integer"),
        (lambda: two_heads(Subclassed(name="s"), 2), "network: got 's'; expected a functional or"),
        (lambda: two_heads(two_heads(student(), 2), 2), "network: got 'student'; .* one output"),
        (
            lambda: two_heads(keras.Sequential([keras.Input((2,)), L.Dense(2), L.Softmax()]), 2),
            r"ends in 'softmax.*expected a dense layer of logits",
        ),
        (
            lambda: two_heads(keras.Sequential([keras.Input((2,)), L.Dense(2, "softmax")]), 2),
            "ends in the activation of 'dense",
        ),
        (
            lambda: one_head(two_heads(student(), 2), "targets"),
            r"head: got 'targets' for the network 'student'; .*'target', 'source'",
        ),
        (
            lambda: one_head(student()),
            "head: got 'target' for the network 'student'; expected a network with several heads",
        ),
        (
            lambda: one_head(Subclassed(name="s")),
            "head: got 'target' for the network 's'; expected a network with several",
        ),
    ],
)
def test_networks_that_will_not_do(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


# Training


@pytest.mark.long
def test_a_step_is_that_of_the_written_out_loss():
    """Cross-entropy of the labels on one head, the teacher's logits and gradients on the other."""
    penalties = [
        ActivationMatching(0.1, head="source"),
        JacobianMatching(0.1, head="source", target="predicted"),
        GradientNorm(0.1, head="target"),
        AttentionMatching(0.1, layers=[("conv1", "features")]),
    ]
    model, net = compiled(penalties), two_heads(student(), SOURCE)
    net.set_weights(model.network.get_weights())
    y, taught = {"target": LABELS}, teacher(SOURCE)
    with tf.GradientTape() as tape:
        logits = net(x())["target"]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits))
        means = {}
        for penalty in penalties:
            values = penalty.per_example(
                net, x(), y, None if penalty.teacher_needs() is None else taught
            )
            means[penalty.name] = tf.reduce_mean(values)
            loss += penalty.weight * means[penalty.name]
    gradients = tape.gradient(loss, [v.value for v in net.trainable_variables])
    history = fit(model)
    assert set(history) == {"loss", "accuracy", *means}
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    for name, mean in means.items():
        np.testing.assert_allclose(history[name], [mean], rtol=1e-5, err_msg=name)
    trained = zip(net.trainable_variables, gradients, model.trainable_variables, strict=True)
    for old, gradient, new in trained:
        np.testing.assert_allclose(new.numpy(), old.numpy() - 0.1 * gradient, rtol=0, atol=1e-5)


def test_a_penalty_on_one_head_is_that_of_the_plain_network():
    net = student()
    two = two_heads(net, SOURCE)
    y = {"target": LABELS}
    for make in (
        lambda head: GradientNorm(head=head),
        lambda head: GradientNorm(target="all", head=head),
        lambda head: ScoreMatching(sigma=0.1, head=head),
        lambda head: ScoreMatching(estimator="hutchinson", head=head),
    ):
        expected = make(None).per_example(net, x(), LABELS)
        got = make("target").per_example(two, x(), y)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    taught = teacher()
    expected = JacobianMatching().per_example(net, x(), LABELS, teacher=taught)
    got = JacobianMatching(head="target").per_example(two, x(), y, teacher=taught)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_teacher_with_heads_of_its_own():
    """head=(the network's, the teacher's)."""
    taught = two_heads(teacher(4), SOURCE)
    single = one_head(taught, "source")
    net = two_heads(student(), SOURCE)
    own = one_head(net, "source")
    for cls in (ActivationMatching, JacobianMatching):
        options = {} if cls is ActivationMatching else {"target": "predicted"}
        expected = cls(**options).per_example(own, x(), teacher=single)
        for head in ("source", ("source", "source")):
            got = cls(head=head, **options).per_example(net, x(), teacher=taught)
            np.testing.assert_allclose(got, expected, rtol=1e-5)
    with pytest.raises(ArgumentError, match=r"teacher: got 4 logits; expected 5, as many"):
        ActivationMatching(head=("source", "target")).per_example(net, x(), teacher=taught)


@pytest.mark.long
def test_evaluate_and_predict():
    model = compiled([ActivationMatching(0.1, head="source")])
    y = {"target": LABELS}
    assert set(model.evaluate(x(), y, verbose=0, return_dict=True)) == {"loss", "accuracy"}
    predicted = model.predict(x(), verbose=0)
    assert {k: v.shape for k, v in predicted.items()} == {"target": (4, 3), "source": (4, SOURCE)}
    both = compiled([ActivationMatching(0.1, head="source")], evaluate_penalties=True)
    both.network.set_weights(model.network.get_weights())
    plain = model.evaluate(x(), y, verbose=0, return_dict=True)
    full = both.evaluate(x(), y, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        full["loss"], plain["loss"] + 0.1 * full["activation_matching"], rtol=1e-5
    )
    history = fit(model, validation_data=(x(), y))
    assert "val_accuracy" in history and "val_activation_matching" not in history


@pytest.mark.long
def test_saved_and_loaded(tmp_path):
    model = compiled([ActivationMatching(0.1, head="source")], optimizer=keras.optimizers.Adam(0.1))
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.penalties[0].head == "source"
    for twin in (model, loaded):
        fit(twin)
    for a, b in zip(model.network.get_weights(), loaded.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_export_holds_the_student_alone(tmp_path):
    model = compiled([ActivationMatching(0.1, head="source")])
    fit(model)
    net = one_head(model.network, "target")
    loaded = tf.saved_model.load(tfgrad.export.save(net, tmp_path / "m", methods=[]))
    shapes = sorted(tuple(v.shape) for v in loaded.variables_of_network)
    assert shapes == sorted(tuple(v.shape) for v in net.variables)
    with pytest.raises(ModelError, match="expected one tensor of logits"):
        tfgrad.export.save(model, tmp_path / "two", methods=[])


# Labels and weights


@pytest.mark.parametrize(
    "penalty",
    [
        GradientNorm(head="source"),
        ScoreMatching(head="source"),
        JacobianMatching(head="source"),
    ],
    ids=lambda p: p.name,
)
def test_labels_do_not_belong_to_the_other_head(penalty):
    with pytest.raises(ArgumentError, match="target: got 'label' on head 'source', to which no"):
        fit(compiled([penalty]))


def test_heads_that_are_not_there():
    with pytest.raises(ArgumentError, match="head: got 'src'; network 'student' has heads 'target"):
        fit(compiled([ActivationMatching(head="src")]))
    with pytest.raises(ModelError, match=r"got 2 outputs, heads 'target', 'source'.*head="):
        fit(compiled([GradientNorm()]))
    with pytest.raises(ArgumentError, match=r"head: got 'target'; .* one output and needs no head"):
        GradientNorm(head="target").per_example(student(), x(), LABELS)


@pytest.mark.parametrize("by_label", [False, True], ids=["loss", "penalty"])
def test_labels_out_of_range(by_label):
    penalties = [ActivationMatching(0.1, head="source")]
    if by_label:
        penalties.append(GradientNorm(0.1, head="target"))
    with pytest.raises(
        DataError, match=r"y: got labels from 0 to 7; expected 0 to 2, head target has 3 logits"
    ):
        fit(compiled(penalties), {"target": np.array([0, 7, 1, 1])})


@pytest.mark.parametrize("y", [LABELS, {"targt": LABELS}], ids=["array", "typo"])
def test_labels_say_whose_they_are(y):
    with pytest.raises(ArgumentError, match=r"y: got .*has heads 'target', 'source'; expected la"):
        fit(compiled([ActivationMatching(0.1, head="source")]), y)


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("by_head", [False, True], ids=["array", "dict"])
def test_sample_weights(by_head):
    """Those of the labelled head, for the penalties on the other one as well."""
    w = np.array([2.0, 0.0, 1.0, 0.5], "float32")
    penalty = ActivationMatching(0.1, head="source")
    model = compiled([penalty])
    values = penalty.per_example(model.network, x(), teacher=teacher(SOURCE))
    history = fit(model, sample_weight={"target": w} if by_head else w)
    np.testing.assert_allclose(history["activation_matching"], [np.mean(w * values)], rtol=1e-5)


def test_class_weights_are_refused_by_keras():
    with pytest.raises(ValueError, match="class_weight"):
        fit(compiled([ActivationMatching(0.1, head="source")]), class_weight={0: 1.0, 1: 2.0, 2: 1})


def test_heads_in_a_list():
    net = two_heads(student(), SOURCE)
    listed = keras.Model(net.input, [net.output["target"], net.output["source"]])
    expected = ActivationMatching(head="source").per_example(net, x(), teacher=teacher(SOURCE))
    got = ActivationMatching(head=1).per_example(listed, x(), teacher=teacher(SOURCE))
    np.testing.assert_array_equal(got, expected)
    assert one_head(listed, 1).output_shape == (None, SOURCE)
    assert listed.input_shape[1:] == SHAPE
