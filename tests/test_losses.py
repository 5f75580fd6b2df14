"""The equations, against numbers worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfgrad import losses

# Two inputs, two examples. Example 0: 9 + 16 + 1 + 4 = 30. Example 1: 1 + 4 + 0 + 4 = 9.
GRADIENT = {
    "a": tf.constant([[3.0, 4.0], [1.0, 2.0]], tf.float64),
    "b": tf.constant([[[1.0], [2.0]], [[0.0], [-2.0]]], tf.float64),
}


def test_squared_norm_adds_up_over_every_axis_and_every_input():
    np.testing.assert_array_equal(losses.squared_norm(GRADIENT), [30.0, 9.0])
    np.testing.assert_array_equal(losses.squared_norm(GRADIENT["a"]), [25.0, 5.0])
    np.testing.assert_array_equal(losses.squared_norm([GRADIENT["b"]]), [5.0, 4.0])


def test_tensors_of_two_dtypes_add_up_in_the_wider_one():
    mixed = {"a": tf.cast(GRADIENT["a"], tf.float32), "b": GRADIENT["b"]}
    unit, expected_unit = losses.normalized(mixed), losses.normalized(GRADIENT)
    cases = (
        (losses.squared_norm(mixed), losses.squared_norm(GRADIENT)),
        (losses.inner_product(mixed, GRADIENT), losses.squared_norm(GRADIENT)),
        *((unit[name], expected_unit[name]) for name in "ab"),
    )
    for got, expected in cases:
        assert got.dtype == tf.float64
        np.testing.assert_allclose(got, expected, rtol=1e-15)


def test_squared_norm_has_a_gradient_at_zero():
    g = tf.Variable(tf.zeros([2, 3]))
    with tf.GradientTape() as tape:
        value = losses.squared_norm(g)
    np.testing.assert_array_equal(tape.gradient(value, g), np.zeros((2, 3)))


def test_score_matching():
    # h + ½‖g‖² + μ h², μ = ½: 2 + 15 + ½·4 = 19 and −3 + 4.5 + ½·9 = 6.
    value = losses.score_matching(GRADIENT, tf.constant([2.0, -3.0], tf.float64), stability=0.5)
    np.testing.assert_array_equal(value, [19.0, 6.0])
    # Without the stabiliser: 2 + 15 and −3 + 4.5; μ = 10⁻⁴ by default.
    value = losses.score_matching(GRADIENT, tf.constant([2.0, -3.0], tf.float64), stability=0)
    np.testing.assert_array_equal(value, [17.0, 1.5])
    value = losses.score_matching(GRADIENT, tf.constant([2.0, -3.0], tf.float64))
    np.testing.assert_allclose(value, [17.0004, 1.5009], rtol=1e-15)


def test_score_matching_s_gradient_in_h():
    # ∂/∂h = 1 + 2 μ h: 1 + 2·½·2 = 3 and 1 − 2·½·3 = −2.
    h = tf.constant([2.0, -3.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(h)
        value = losses.score_matching(GRADIENT, h, stability=0.5)
    np.testing.assert_array_equal(tape.gradient(value, h), [3.0, -2.0])


def test_anti_score_matching_stops_at_the_threshold():
    h = tf.constant([-7.0, 4.0, 5.5, 900.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(h)
        value = losses.anti_score_matching(h, threshold=5.0)
    np.testing.assert_array_equal(value, [7.0, -4.0, -5.0, -5.0])
    np.testing.assert_array_equal(tape.gradient(value, h), [-1.0, -1.0, 0.0, 0.0])
    # τ = 1000 by default.
    np.testing.assert_array_equal(losses.anti_score_matching(h * 10), [70, -40, -55, -1000])


def test_taylor_trace():
    # 2/σ² · mean over draws of f(x+v) − f(x), σ = ½, so 8 × the mean.
    # Example 0: differences 1 and 2, mean 1.5 → 12. Example 1: −1 and 0.5, mean −0.25 → −2.
    clean = tf.constant([1.0, 2.0], tf.float64)
    noisy = tf.constant([[2.0, 1.0], [3.0, 2.5]], tf.float64)
    np.testing.assert_array_equal(losses.taylor_trace(clean, noisy, 0.5), [12.0, -2.0])


def test_antithetic_trace():
    # 1/σ² · mean of f(x+v) + f(x−v) − 2 f(x), σ = ½, so 4 × the mean.
    # Example 0: 2 + 1 − 2 = 1 and 3 + 0 − 2 = 1, mean 1 → 4.
    # Example 1: 1 + 4 − 4 = 1 and 2.5 + 4.5 − 4 = 3, mean 2 → 8.
    clean = tf.constant([1.0, 2.0], tf.float64)
    plus = tf.constant([[2.0, 1.0], [3.0, 2.5]], tf.float64)
    minus = tf.constant([[1.0, 4.0], [0.0, 4.5]], tf.float64)
    np.testing.assert_array_equal(losses.antithetic_trace(clean, plus, minus, 0.5), [4.0, 8.0])


def test_an_odd_function_has_no_antithetic_trace():
    # f linear: f(x ± v) = f ± g·v cancels to the last bit for representable numbers.
    clean, slope = tf.constant([1.0, 2.0]), tf.constant([[0.25, -8.0]])
    np.testing.assert_array_equal(
        losses.antithetic_trace(clean, clean + slope, clean - slope, 0.01), [0.0, 0.0]
    )
    np.testing.assert_allclose(
        losses.taylor_trace(clean, clean + slope, 0.01), [5e3, -1.6e5], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_at_least_float32_and_float64_stays(given, expected):
    values = tf.cast([[300.0, 1.0]], given)  # 300² = 9 · 10⁴ overflows float16
    h = tf.cast([300.0], given)
    results = [
        losses.squared_norm(values),
        losses.score_matching(values, h),
        losses.anti_score_matching(h, 299.0),
    ]
    assert [r.dtype.name for r in results] == [expected] * 3
    np.testing.assert_allclose(results[0], [90001.0])
    np.testing.assert_allclose(results[2], [-299.0])


def test_mixed_inputs_of_half_and_single_precision_add_up():
    gradient = [tf.constant([[1.0, 2.0]], tf.float16), tf.constant([[3.0]], tf.float32)]
    np.testing.assert_array_equal(losses.squared_norm(gradient), [14.0])


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_log_probability_is_log_softmax(classes):
    logits = np.random.default_rng(0).normal(scale=5, size=(7, classes))
    y = np.arange(7) % classes
    value = losses.log_probability(tf.constant(logits), tf.constant(y, tf.int32))
    expected = tf.nn.log_softmax(tf.constant(logits)).numpy()[np.arange(7), y]
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_the_gradient_of_a_sure_prediction_is_not_rounding(shift):
    # 1 − p_y = 2e-13 is nothing beside 1 in float32, and the gradient is made of it.
    logits = np.array([[29.0, 0.5, -1.0], [40.0, 39.0, 0.0]]) + shift
    x = tf.constant(logits, tf.float32)
    with tf.GradientTape(persistent=True) as second:
        second.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = losses.log_probability(x, tf.constant([0, 0]))
        gradient = tape.gradient(value, x)
        squared = tf.reduce_sum(gradient**2)
    others = np.exp(logits[:, 1:] - logits[:, :1])
    p = others / (1 + others.sum(-1, keepdims=True))
    expected = np.concatenate([p.sum(-1, keepdims=True), -p], -1)
    np.testing.assert_allclose(gradient, expected, rtol=2e-5)
    assert np.isfinite(second.gradient(squared, x)).all()


def test_the_gradient_of_the_only_logit_is_zero():
    x = tf.constant([[3.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = losses.log_probability(x, tf.constant([0]))
    np.testing.assert_array_equal(tape.gradient(value, x), [[0.0]])
    np.testing.assert_array_equal(value, [0.0])
