"""`GradientNorm(estimator="difference")`: exact values, weight gradients to first order."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.training_cases import LOSS, examples, sequential
from tfgrad import PenalizedModel, targets
from tfgrad.errors import ArgumentError
from tfgrad.layers import BatchNormalization
from tfgrad.penalties import GradientNorm

L = keras.layers
SHAPE, LABELS = (4, 4, 2), np.array([0, 2, 1, 2, 0])


def images(dtype="float64"):
    return np.random.default_rng(2).normal(size=(5, *SHAPE)).astype(dtype)


def network(*more, dtype="float64", activation="softplus"):
    keras.utils.set_random_seed(4)
    layers = [
        L.Conv2D(4, 3, activation=activation, dtype=dtype),
        *more,
        L.Flatten(dtype=dtype),
        L.Dense(3, activation="tanh", dtype=dtype),
        L.Dense(3, dtype=dtype),
    ]
    of_inputs = "float64" if dtype == "float64" else "float32"
    return keras.Sequential([keras.Input(SHAPE, dtype=of_inputs), *layers])


def values_and_gradient(penalty, net, x, labels, weights=1.0, **options):
    """A penalty per example, and the gradient of its weighted sum as one vector."""
    variables = [v.value for v in net.trainable_variables]
    with tf.GradientTape() as tape:
        values = penalty.per_example(net, x, labels, **options)
        total = tf.reduce_sum(weights * values)
    gradient = tape.gradient(total, variables, unconnected_gradients="zero")
    return values.numpy(), np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradient])


def check_first_order(net, x, labels=LABELS, steps=(2e-3, 1e-3), bound=0.1, **options):
    """The error of the gradient is proportional to the step, the values have none."""
    call = {name: options.pop(name) for name in ("training", "weights") if name in options}
    exact = values_and_gradient(GradientNorm(**options), net, x, labels, **call)
    errors = []
    for step in steps:
        penalty = GradientNorm(estimator="difference", step=step, **options)
        values, gradient = values_and_gradient(penalty, net, x, labels, **call)
        np.testing.assert_allclose(values, exact[0], rtol=1e-9)
        errors.append(np.linalg.norm(gradient - exact[1]) / np.linalg.norm(exact[1]))
    assert errors[0] < bound * steps[0] / 2e-3
    assert errors[0] / errors[1] == pytest.approx(steps[0] / steps[1], rel=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "predicted", "loss": "cross_entropy"},
        {"target": targets.Contrast(0, 1)},
        {"target": "projected", "projections": 2, "seed": 1},
    ],
    ids=["label", "cross_entropy", "contrast", "projected"],
)
def test_error_is_proportional_to_the_step(options):
    check_first_order(network(), images(), **options)


def test_weights_of_examples():
    check_first_order(network(), images(), weights=np.array([2.0, 0.0, 1.0, 0.5, 3.0]))


def test_examples_that_batch_norm_couples():
    norm = BatchNormalization(dtype="float64")
    check_first_order(network(norm), images(), training=True)


def test_random_masks_are_those_of_the_first_pass():
    check_first_order(network(L.Dropout(0.4, seed=1, dtype="float64")), images(), training=True)


def test_embeddings_and_their_table():
    keras.utils.set_random_seed(4)
    table = L.Embedding(7, 4, embeddings_initializer="uniform", dtype="float64")
    net = keras.Sequential(
        [
            *(keras.Input((3,), dtype="int32"), table, L.Flatten(dtype="float64")),
            *(L.Dense(5, "tanh", dtype="float64"), L.Dense(3, dtype="float64")),
        ]
    )
    table.embeddings.assign(20 * table.embeddings.value)
    ids = np.random.default_rng(0).integers(0, 7, (5, 3))
    check_first_order(net, ids, steps=(2e-2, 1e-2))


def test_a_regression():
    keras.utils.set_random_seed(4)
    net = keras.Sequential(
        [keras.Input((5,)), L.Dense(6, "tanh", dtype="float64"), L.Dense(1, dtype="float64")]
    )
    net.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(5, 5))
    check_first_order(net, x, None, target=0)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-2), ("float64", 1e-4)])
def test_default_step(dtype, bound):
    net, x = network(dtype=dtype), images(dtype)
    _, exact = values_and_gradient(GradientNorm(), net, x, LABELS)
    _, gradient = values_and_gradient(GradientNorm(estimator="difference"), net, x, LABELS)
    assert np.linalg.norm(gradient - exact) < bound * np.linalg.norm(exact)


def test_half_precision_layers_compute_in_float32():
    net, half = network(dtype="float32"), network(dtype="mixed_float16")
    half.set_weights(net.get_weights())
    x = images("float32")
    _, exact = values_and_gradient(GradientNorm(), net, x, LABELS)
    _, gradient = values_and_gradient(GradientNorm(estimator="difference"), half, x, LABELS)
    assert np.linalg.norm(gradient - exact) < 2e-2 * np.linalg.norm(exact)


def test_networks_without_second_derivatives():
    """TensorFlow has none of the bilinear upsampling of Keras; a difference needs none."""
    net = network(L.UpSampling2D(2, interpolation="bilinear", dtype="float64"))
    values, gradient = values_and_gradient(
        GradientNorm(estimator="difference"), net, images(), LABELS
    )
    assert values.min() > 0 and np.linalg.norm(gradient) > 0


def test_a_constant_network_has_no_gradient():
    net = network()
    net.layers[-1].kernel.assign(0 * net.layers[-1].kernel)
    values, gradient = values_and_gradient(
        GradientNorm(estimator="difference"), net, 0 * images(), LABELS
    )
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(gradient, 0)


def trained(penalty, weights=None, loss=LOSS, layers=(), **options):
    """Weights after a step of SGD from the same network, and its model."""
    net = network(*layers, dtype="float32")
    model = PenalizedModel(net, [penalty])
    model.compile(keras.optimizers.SGD(0.1), loss, **{"jit_compile": False, **options})
    model.fit(images("float32"), LABELS, 5, sample_weight=weights, shuffle=False, verbose=0)
    return net.get_weights(), model


@pytest.mark.long
@pytest.mark.parametrize(
    ("every", "reduction"),
    [(1, "sum_over_batch_size"), pytest.param(2, "sum", marks=pytest.mark.slow)],
)
def test_training(every, reduction):
    weights = np.array([2.0, 0.0, 1.0, 0.5, 3.0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    exact, _ = trained(GradientNorm(0.05, every=every), weights, loss)
    none, _ = trained(GradientNorm(0.0), weights, loss)
    penalty = GradientNorm(0.05, estimator="difference", every=every)
    got, model = trained(penalty, weights, loss)
    for a, b, plain in zip(got, exact, none, strict=True):
        largest = np.abs(b - plain).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-2 * largest + 1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(penalty))
    assert again.get_config() == penalty.get_config()
    assert model.get_metrics_result()["gradient_norm"] > 0


@pytest.mark.long
def test_statistics_and_seeds_move_once():
    def layers():
        return BatchNormalization(), L.Dropout(0.5, seed=3)

    moved = []
    for penalty in (GradientNorm(0.0), GradientNorm(0.0, estimator="difference")):
        _, model = trained(penalty, layers=layers())
        moved.append([v.numpy() for v in model.network.non_trainable_variables])
    for a, b in zip(*moved, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_additional_pass_follows_the_gradients_of_the_first():
    """So that the memory of one pass is free for the other."""
    model = PenalizedModel(sequential(), [GradientNorm(0.1, estimator="difference")])
    model.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=False)
    x, y = map(tf.constant, examples())
    model.optimizer.build(model.trainable_variables)
    graph = tf.function(model.train_step, autograph=False).get_concrete_function((x, y)).graph
    gates = [op for op in graph.get_operations() if op.type == "IdentityN"]
    (held,) = [op for op in gates if len(op.inputs) == 1 + len(model.trainable_variables)]
    of_weights = [t.op.type for t in held.inputs][1:]
    assert of_weights == ["MatMul", "BiasAddGrad"] * 2

    def follows(op):
        sources = [t.op for t in op.inputs]
        return held in sources or any(map(follows, sources))

    products = [op for op in graph.get_operations() if op.type == "MatMul"]
    forward = [follows(op) for op in products if "gradient" not in op.name]
    assert forward == [False, False, True, True]


@pytest.mark.slow
def test_equal_steps_of_several_models():
    """The graph of a step is optimised anew for each."""
    first, _ = trained(GradientNorm(0.05, estimator="difference"))
    for _ in range(10):
        again, _ = trained(GradientNorm(0.05, estimator="difference"))
        for a, b in zip(again, first, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "all"}, "target: got 'all' with estimator='difference'.*; expected one scalar"),
        ({"step": 0.0}, "step: got 0.0; expected a finite number above 0"),
        ({"estimator": "differences"}, "estimator: got 'differences'; did you mean 'difference'"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ArgumentError, match=message):
        GradientNorm(**{"estimator": "difference", **options})
