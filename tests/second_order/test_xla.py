"""Second derivatives that only XLA computes wrong: found, and refused where XLA compiles."""

import keras
import pytest
import tensorflow as tf

from tests.helpers.guard_cases import SHAPE, Lambda, found, network_with
from tfgrad import layers, second_order
from tfgrad.errors import SecondOrderError
from tfgrad.internal import xla
from tfgrad.internal.derivatives import corrected_derivatives

L = keras.layers

POOLED = {
    "layer": lambda n: L.MaxPooling2D(3, 2, name=n),
    "operation": lambda n: Lambda(lambda x: keras.ops.max_pool(x, 2), name=n),
    "tensorflow": lambda n: Lambda(lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"), name=n),
    "series": lambda n: Lambda(lambda x: tf.nn.max_pool1d(x[:, 0], 2, 2, "SAME"), name=n),
    "volume": lambda n: Lambda(lambda x: keras.ops.max_pool(tf.stack([x, x], 1), 2), name=n),
}
# On a CPU its first derivative is wrong without XLA, which a step of `PenalizedModel` corrects.
ALWAYS = {"volume": [("at", "MaxPool3D", "warning")]}

RIGHT = {
    "reduced": lambda n: Lambda(lambda x: x + tf.reduce_max(x, 1, keepdims=True), name=n),
    "global": lambda n: L.GlobalMaxPooling2D(name=n),
    "average": lambda n: L.AveragePooling2D(2, name=n),
    "ours": lambda n: layers.MaxPooling2D(3, 2, padding="same", name=n),
}


@pytest.mark.parametrize("case", POOLED)
def test_max_pooling_is_refused_under_xla_alone(case):
    network = network_with(POOLED[case]("at"))
    assert found(network) == ALWAYS.get(case, [])
    with corrected_derivatives():
        assert [f.layer for f in second_order.check(network).under_xla] == ["at"]
    with pytest.raises(
        SecondOrderError, match=r"layer 'at' .*XLA \(jit_compile=True\).*MaxPooling2D"
    ):
        second_order.check(network, by_xla=True)


@pytest.mark.parametrize("case", RIGHT)
def test_silent_on_what_xla_computes_right(case):
    assert second_order.check(network_with(RIGHT[case]("at")), by_xla=True).under_xla == ()


def test_a_function_that_is_being_compiled_is_recognised():
    network = network_with(L.MaxPooling2D(name="pool"))
    x = tf.zeros((1, *SHAPE))

    def step(x):
        second_order.check(network, x)
        return tf.function(lambda y: y + (1 if xla.compiles() else 0))(tf.constant(0))

    assert int(tf.function(step, autograph=False)(x)) == 0
    with pytest.raises(SecondOrderError, match="'pool'"):
        tf.function(step, autograph=False, jit_compile=True)(x)
    assert not xla.compiles()
    nested = tf.function(lambda: tf.function(lambda: tf.constant(xla.compiles()))())
    assert not bool(nested())
    inside = tf.function(lambda: tf.constant(xla.compiles()), jit_compile=True)
    assert bool(inside())


def test_a_layer_that_compiles_its_own_call():
    pool = tf.function(lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"), jit_compile=True)
    network = network_with(Lambda(pool, name="pool"), L.MaxPooling2D(2, name="plain"))
    assert found(network) == [("pool", "MaxPoolGrad", "error")]
    assert [f.layer for f in second_order.inspect(network).under_xla] == ["plain"]


@pytest.mark.parametrize(
    ("flags", "clusters"),
    [
        ("--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit", True),
        ("--tf_xla_auto_jit=fusible --tf_xla_cpu_global_jit=true", True),
        ("--tf_xla_auto_jit=2", False),  # not on a CPU
        ("--tf_xla_auto_jit=0 --tf_xla_cpu_global_jit", False),
        ("", False),
    ],
)
def test_automatic_clustering(monkeypatch, flags, clusters):
    monkeypatch.setenv("TF_XLA_FLAGS", flags)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    assert bool(tf.function(lambda: tf.constant(xla.compiles()))()) == clusters
    assert not xla.compiles()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])
    on_device = "auto_jit" in flags and "auto_jit=0" not in flags
    assert bool(tf.function(lambda: tf.constant(xla.compiles()))()) == on_device
