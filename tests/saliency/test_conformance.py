"""The battery that every saliency method registered in saliency_cases.py passes."""

import functools
import json
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tests.helpers.saliency_cases import CASES, CLASSES, SHAPE, VARIANTS, images, network, policy
from tests.helpers.variants import one_of_each, with_slow
from tfgrad import saliency

TARGETS = np.array([2, 0, 1], "int32")
TRACED = [name for name, case in VARIANTS.items() if not case.plain]
DIFFERENTIABLE = [name for name, case in VARIANTS.items() if case.differentiable]
# Enough where a method's options cannot matter: the first variant of each.
ONE_OF_EACH = [f"{name}-{next(iter(variants))}" for name, variants in CASES.items()]
# Enough where only what all methods inherit can matter: terms that are summed, a gradient, samples.
SHARED = [
    name for name in ONE_OF_EACH if name.startswith(("fullgrad-", "input_gradient-", "smoothgrad-"))
]
# Float16 for every method; bfloat16 is no other computation.
PRECISIONS = with_slow(
    [
        (name, precision)
        for name in ONE_OF_EACH
        for precision in VARIANTS[name].policies
        if precision == "mixed_float16" or name in SHARED
    ],
    [
        (name, precision)
        for name in ONE_OF_EACH
        for precision in VARIANTS[name].policies
        if precision != "mixed_float16" and name not in SHARED
    ],
)


@pytest.fixture(params=VARIANTS)
def case(request):
    return VARIANTS[request.param]


@pytest.fixture(params=one_of_each(VARIANTS))
def method_or_variant(request):
    """Every method; its other variants are slow."""
    return VARIANTS[request.param]


@pytest.fixture(params=ONE_OF_EACH)
def method_case(request):
    return VARIANTS[request.param]


@pytest.fixture(
    params=[
        name if name in SHARED else pytest.param(name, marks=pytest.mark.slow)
        for name in ONE_OF_EACH
    ]
)
def shared_case(request):
    """For what the base class does: some methods, and the others slow."""
    return VARIANTS[request.param]


@pytest.fixture(params=[name for name in ONE_OF_EACH if name in TRACED])
def exportable(request):
    return VARIANTS[request.param]


def close(got, expected, relative=1e-5):
    """Equal up to float32 rounding, relative to the largest value, as entries may cancel."""
    got, expected = np.asarray(got), np.asarray(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=relative * np.abs(expected).max())


@functools.cache
def reference(case):
    """The maps of the functional network in float32."""
    return case.make(network(case.activation))(images(), TARGETS).numpy()


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def test_every_method_is_registered():
    assert set(saliency.METHODS) == set(CASES)
    for name, variants in CASES.items():
        for case in variants.values():
            method = case.make(network(case.activation))
            assert type(method) is saliency.METHODS[name] is saliency.get(name)
            assert method.name == name


def test_options_rebuild_the_method(case):
    """Through JSON, where a record of a run keeps them."""
    model = network(case.activation)
    method = case.make(model)
    options = json.loads(json.dumps(method.options()))
    if type(method) is not saliency.Smooth:
        assert type(method)(model, **options).options() == method.options()
    assert repr(method).startswith(f"{type(method).__name__}({model.name!r}")


@pytest.mark.sample(6)
def test_a_batch_is_its_examples(method_or_variant):
    """And another batch size is no reason to trace again."""
    model, x = network(method_or_variant.activation), images()
    method, whole = method_or_variant.make(model), reference(method_or_variant)
    assert whole.shape == (3, *SHAPE[:2]) and whole.dtype == "float32"
    assert np.isfinite(whole).all() and np.ptp(whole) > 0
    assert np.abs(whole[0] - whole[1]).max() > 0
    assert method(x, TARGETS).dtype == tf.float32
    traced = method._shapes.functions()
    for i in range(3):
        close(method(x[i : i + 1], TARGETS[i]), whole[i : i + 1])
    close(method(x.astype("float64").tolist(), list(TARGETS)), whole)
    assert method._shapes.functions() == traced
    close(method_or_variant.make(model, chunk_size=2)(tf.constant(x), TARGETS), whole)
    # The class is what is explained, and the predicted one if none is named.
    predicted = np.argmax(model(x), -1)
    np.testing.assert_array_equal(method(x), method(x, predicted))
    np.testing.assert_array_equal(method(x, [-1, 0, 1]), method(x, [predicted[0], 0, 1]))
    if method.name != "random":
        assert np.abs(method(x, (predicted + 1) % CLASSES) - method(x)).max() > 0


@pytest.mark.sample(5)
@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_half_precision(name, precision):
    case = VARIANTS[name]
    with policy(precision):
        model = network(case.activation)
    assert model.get_layer("second").compute_dtype == precision.removeprefix("mixed_")
    got = case.make(model)(images(), TARGETS)
    assert got.dtype == tf.float32 and np.isfinite(got).all()
    assert correlation(got, reference(case)) > case.policies[precision]


@pytest.mark.sample(5, start=4)
def test_float64(exportable):
    with policy("float64"):
        model = network(exportable.activation)
        got = exportable.make(model)(images(), TARGETS)
    assert model.get_layer("second").compute_dtype == "float64" and got.dtype == tf.float32
    close(got, reference(exportable), 0 if exportable.exact else 2e-5)


@pytest.mark.sample(5, start=2)
@pytest.mark.parametrize("form", with_slow(["nested"], ["subclassed"]))
def test_functional_nested_and_subclassed_agree(exportable, form):
    close(
        exportable.make(network(exportable.activation, form))(images(), TARGETS),
        reference(exportable),
    )


def test_two_threads_get_what_one_gets(shared_case):
    """The first calls of both, so that both want the trace."""
    method, x = shared_case.make(network(shared_case.activation)), images()
    got, start = [None, None], threading.Barrier(2)

    def run(i):
        start.wait()
        got[i] = method(x[i : i + 2], TARGETS[i : i + 2])

    threads = [threading.Thread(target=run, args=[i]) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        close(got[i], reference(shared_case)[i : i + 2])


@pytest.mark.sample(5, start=1)
def test_traced_by_the_user_and_exported(exportable, tmp_path):
    model, x = network(exportable.activation), images()
    method = exportable.make(model)
    # With tf.function's own conversion of Python code on.
    close(tf.function(method)(x, TARGETS), reference(exportable))
    signature = tf.function(
        method.explain,
        input_signature=[
            tf.TensorSpec([None, *SHAPE], tf.float32, "image"),
            tf.TensorSpec([None], tf.int32, "target"),
        ],
    )
    module = tf.Module()
    module.variables_of_model = [v.value for v in model.variables]
    tf.saved_model.save(module, tmp_path, signatures=signature)
    served = tf.saved_model.load(tmp_path).signatures["serving_default"]
    outputs = served(image=tf.constant(x), target=tf.constant(TARGETS))
    close(outputs["saliency"], reference(exportable))
    np.testing.assert_array_equal(outputs["class"], TARGETS)
    close(outputs["score"], model(x).numpy()[np.arange(3), TARGETS])
    for name, value in outputs.items():
        assert value.shape[0] == 3, name
        assert value.dtype == (tf.int32 if name == "class" else tf.float32), name


@pytest.mark.sample(5, start=3)
def test_the_model_stays_as_it_was_and_its_weights_count(method_case):
    """The call leaves nothing behind, and reads the weights as they are, not as once traced."""
    model, x = network(method_case.activation), images()
    method = method_case.make(model)
    method(x, TARGETS)
    model.set_weights([0.7 * w for w in model.get_weights()])
    hooks = (keras.layers.Layer.__call__, keras.Operation.__call__)
    before = [np.array(v) for v in model.variables]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    attributes = [set(vars(layer)) for layer in model.layers]
    logits, losses = model(x), len(model.losses)
    if method_case.plain:
        fresh = method_case.make(model)(x, TARGETS)
    else:
        fresh = method.explain(tf.constant(x), tf.constant(TARGETS))["saliency"]
    close(method(x, TARGETS), fresh)
    for old, v in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(v, old)
    assert (keras.layers.Layer.__call__, keras.Operation.__call__) == hooks
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert [set(vars(layer)) for layer in model.layers] == attributes
    assert not model.losses  # any call drops those of the call before
    np.testing.assert_array_equal(model(x), logits)
    assert len(model.losses) == losses


class Along:
    """A variable's place on random lines through where it stands: a variable of few numbers."""

    def __init__(self, variable, lines=4):
        self.variable, self.start = variable, variable.numpy()
        # Unit length, and short steps: absolute values have kinks to stay on one side of.
        lines = np.random.default_rng(6).normal(size=(lines, self.start.size))
        lines /= np.linalg.norm(lines, axis=1, keepdims=True)
        self.lines = lines.reshape(-1, *self.start.shape)

    def numpy(self):
        return np.zeros(len(self.lines))

    def assign(self, steps):
        self.variable.assign(self.start + np.tensordot(steps, self.lines, 1))

    def slopes(self, gradient):
        return np.reshape(self.lines, (len(self.lines), -1)) @ np.ravel(gradient)


@pytest.mark.sample(5, start=2)
@pytest.mark.parametrize("name", one_of_each(DIFFERENTIABLE))
def test_gradient_of_the_map(name):
    """With respect to pixels and to weights, against central differences in float64."""
    case = VARIANTS[name]
    with policy("float64"):
        model = network(case.activation)
    method = case.make(model)
    pixels = tf.Variable(images(1, "float64"))
    weigh = np.random.default_rng(5).normal(size=(1, *SHAPE[:2]))
    classes = tf.constant([1])

    @tf.function(autograph=False)
    def value():
        x = tf.convert_to_tensor(pixels)
        return tf.reduce_sum(weigh * method.assemble(method.terms(x, classes), x))

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            total = value()
        return tape.gradient(total, [pixels, kernel.value])

    kernel = model.get_layer("second").kernel
    exact = gradient()
    assert exact[0].dtype == tf.float64
    lines = [Along(pixels), Along(kernel)]
    numerical = [numerical_gradient(value, line, 1e-5) for line in lines]
    slopes = [line.slopes(g) for line, g in zip(lines, exact, strict=True)]
    assert worst_relative_error(slopes, numerical) < 1e-6
