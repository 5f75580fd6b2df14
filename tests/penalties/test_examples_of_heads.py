"""DerivativeMatching and GradientMask on dicts and lists of outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.transfer_cases import check_value_and_gradient, filled
from tfgrad.penalties import DerivativeMatching, Examples, GradientMask
from tfgrad.targets import Contrast, Output, Scalar

L = keras.layers
HEADS = {"price": ("regression", 1), "sizes": ("regression", 2), "kind": ("exclusive", 3)}
PLACE = {name: place for place, name in enumerate(HEADS)}
X = np.random.default_rng(0).normal(size=(3, 3))
SLOPES = np.where(X > 1, np.nan, np.cos(X))
GIVEN = {"derivatives": SLOPES, "rows": np.stack([SLOPES, X], 1), "mask": np.abs(X)}


def network(form):
    x = keras.Input((3,))
    hidden = L.Dense(4, "tanh")(x)
    outputs = {name: L.Dense(size, name=name)(hidden) for name, (_, size) in HEADS.items()}
    return filled(keras.Model(x, outputs if form is dict else [*outputs.values()]), 1)


def key(form, name):
    return name if form is dict else PLACE[name]


def slopes(form, name, function):
    """∂ function(the output of a head)/∂x by a tape, [batch, numbers, inputs]."""
    net, x = network(form), tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(net(x)[key(form, name)])
    return tape.batch_jacobian(y, x).numpy()


def log_probabilities(y):
    return tf.reduce_sum(tf.nn.log_softmax(y), 1, keepdims=True)


def column(k):
    return lambda y: y[:, k : k + 1]


CASES = {  # a penalty by the key of a head, and the scalar that it differentiates
    "output": (lambda k: DerivativeMatching(target=Output(k)), "price", column(0)),
    "number": (lambda k: DerivativeMatching(target=Output((k, 1))), "sizes", column(1)),
    "head": (lambda k: DerivativeMatching(head=k, target=Output(1)), "sizes", column(1)),
    "rows": (lambda k: DerivativeMatching(head=k, target="all", key="rows"), "sizes", lambda y: y),
    "function": (
        lambda k: DerivativeMatching(target=Scalar(lambda y: y[k][:, 0] ** 2, "square")),
        "price",
        lambda y: y**2,
    ),
    "mask": (lambda k: GradientMask(head=k), "kind", log_probabilities),
    "mask of output": (lambda k: GradientMask(target=Output((k, 0))), "sizes", column(0)),
    "mask of class": (
        lambda k: GradientMask(head=k, target=1),
        "kind",
        lambda y: tf.nn.log_softmax(y)[:, 1:2],
    ),
    "mask of contrast": (
        lambda k: GradientMask(target=Contrast(0, 2, output=k)),
        "kind",
        lambda y: y[:, :1] - y[:, 2:],
    ),
}


def case(name, form):
    """(values of the penalty as a function, its network, the values by a tape, the head)."""
    make, head, function = CASES[name]
    penalty, net = make(key(form, head)), network(form)
    rows = slopes(form, head, function)
    if isinstance(penalty, GradientMask):
        expected = np.sum((GIVEN["mask"] * rows[:, 0]) ** 2, 1)
    else:
        known = GIVEN["rows"] if penalty.key == "rows" else SLOPES[:, np.newaxis]
        expected = np.nansum((rows - known) ** 2, (1, 2))
    meaning = {key(form, n): kind for n, (kind, _) in HEADS.items()}
    examples = Examples(X, GIVEN)
    return lambda: penalty.per_example(net, examples, outputs=meaning), net, expected, head


FORMS = {name: (dict, list)[place % 2] for place, name in enumerate(CASES)}


@pytest.mark.parametrize("name", CASES)
def test_values(float64, name):
    values, _, expected, _ = case(name, FORMS[name])
    np.testing.assert_allclose(values(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("output", dict),
        ("mask", list),
        pytest.param("rows", list, marks=pytest.mark.slow),
        pytest.param("function", dict, marks=pytest.mark.slow),
        pytest.param("mask of contrast", dict, marks=pytest.mark.slow),
    ],
)
def test_weight_gradients(float64, name, form):
    """By central differences; the weights of the other heads get none."""
    values, net, expected, own = case(name, form)
    numerical = check_value_and_gradient(values, net, expected, name)
    of_heads = dict(zip([v.path for v in net.trainable_variables], numerical, strict=True))
    for head in HEADS:
        moved = np.abs(of_heads[f"{head}/kernel"]).max()
        assert moved > 1e-3 if head == own else moved < 1e-9, head


def test_heads_train_together():
    """The metrics are the means of each penalty, and `loss` has both terms."""
    penalties = [DerivativeMatching(0.5, target=Output(0)), GradientMask(0.3, head=2)]
    net, x = network(list), X.astype("float32")
    examples = Examples(x, {name: value.astype("float32") for name, value in GIVEN.items()})
    exclusive = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = ["mse", "mse", exclusive]
    labels = [x[:, :1], x[:, :2], np.array([0, 2, 1])]
    model = tfgrad.PenalizedModel(net, penalties)
    model.compile(keras.optimizers.SGD(0.1), losses)
    expected = [float(np.mean(penalty.per_example(net, examples))) for penalty in penalties]
    plain = model.evaluate(x, labels, verbose=0, return_dict=True)["loss"]
    logs = model.fit(examples, labels, verbose=0).history
    for penalty, value in zip(penalties, expected, strict=True):
        assert logs[penalty.name][0] == pytest.approx(value, rel=1e-5)
    total = plain + 0.5 * expected[0] + 0.3 * expected[1]
    assert logs["loss"][0] == pytest.approx(total, rel=1e-5)
