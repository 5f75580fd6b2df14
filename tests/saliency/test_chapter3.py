"""What Chapter 3 of the thesis proves and exemplifies, and maps worked out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps.common import architectures
from tfgrad import saliency

pytestmark = pytest.mark.usefixtures("one_output_is_a_number")

L = keras.layers


def relu_network(use_bias):
    net = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            L.Conv2D(4, 3, use_bias=use_bias, activation="relu"),
            L.MaxPooling2D(),
            L.Conv2D(3, 2, use_bias=use_bias),
            L.LeakyReLU(0.1),
            L.Flatten(),
            L.Dense(3, use_bias=use_bias),
        ]
    )
    return architectures.randomised(net)


def dense(*layers):
    """A network of one input from (kernel, bias, activation) triples."""
    net = keras.Sequential([keras.Input((np.shape(layers[0][0])[0],))])
    for kernel, bias, activation in layers:
        net.add(L.Dense(np.shape(kernel)[1], activation))
        net.layers[-1].set_weights([np.array(kernel, float), np.array(bias, float)])
    return net


def test_proposition_5_without_biases_the_input_gradient_is_complete(float64):
    net = relu_network(use_bias=False)
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2))
    full = tfgrad.full_gradients(net, x)
    assert not full.bias_gradients
    np.testing.assert_allclose(np.sum(full.input_term, (1, 2, 3)), full.score, rtol=1e-12)
    np.testing.assert_allclose(net(3.0 * x), 3.0 * net(x), rtol=1e-12)


def test_proposition_6_with_biases_the_bias_gradients_are_the_rest(float64):
    """∇_b f · b by differentiating with respect to the bias variables themselves."""
    net = relu_network(use_bias=True)
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 2))
    full = tfgrad.full_gradients(net, x, 1)
    biases = [v.value for v in net.trainable_variables if v.path.endswith("bias")]
    with tf.GradientTape() as tape:
        score = net(x)[0, 1]
    for (name, term), bias, gradient in zip(
        full.bias_gradients.items(), biases, tape.gradient(score, biases), strict=True
    ):
        axes = tuple(range(term.shape.rank - 1))
        np.testing.assert_allclose(
            np.sum(term, axes), gradient * bias, rtol=1e-10, atol=1e-14, err_msg=name
        )
    np.testing.assert_allclose(full.total(), full.score, rtol=1e-12)
    assert abs(np.sum(full.input_term) - full.score[0]) > 1e-2


def test_weak_dependence_within_a_linear_region(float64):
    """Input-gradient and bias-gradients are constant where the same ReLUs are on."""
    net = relu_network(use_bias=True)
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 2))
    step = np.random.default_rng(1).normal(size=x.shape)
    here, near, far = (tfgrad.full_gradients(net, x + e * step, 0) for e in (0.0, 1e-4, 3.0))
    np.testing.assert_allclose(near.input_gradient, here.input_gradient, rtol=1e-12)
    for name, value in here.bias_gradients.items():
        np.testing.assert_allclose(near.bias_gradients[name], value, rtol=1e-12, err_msg=name)
    assert np.abs(far.input_gradient - here.input_gradient).max() > 1e-3
    assert abs(near.score[0] - here.score[0]) > 1e-6


def test_saturation_is_attributed_to_the_biases(float64):
    """f(x) = a − ReLU(b − x), a = b = 1, x = 2: nothing to the input, (1, 0) to (a, b)."""
    net = dense(([[-1.0]], [1.0], "relu"), ([[-1.0]], [1.0], None))
    full = tfgrad.full_gradients(net, [[2.0]], 0)
    b, a = full.bias_gradients.values()
    assert float(full.score[0]) == 1.0
    assert (float(a[0, 0]), float(b[0, 0])) == (1.0, 0.0)
    np.testing.assert_array_equal(full.input_gradient, [[0.0]])


def test_example_2_the_last_bias_is_seen_by_full_gradients_alone(float64):
    """f(x) = w₁ ReLU(w₀ x + b₀) + b₁."""
    layers = [([[2.0]], [0.5], "relu"), ([[3.0]], [0.25], None)]
    changed = [layers[0], ([[3.0]], [7.25], None)]
    x = [[1.0]]
    before, after = (tfgrad.full_gradients(dense(*n), x, 0) for n in (layers, changed))
    np.testing.assert_array_equal(before.input_gradient, after.input_gradient)
    np.testing.assert_array_equal(before.input_gradient, [[6.0]])
    first, last = before.bias_gradients.values()
    assert (float(first[0, 0]), float(last[0, 0])) == (1.5, 0.25)
    assert float([*after.bias_gradients.values()][1][0, 0]) == 7.25
    assert float(after.score[0]) == float(before.score[0]) + 7.0


class Example1(L.Layer):
    """f(x₁, x₂) = x₁ + 3x₂ where both ≤ 1, 3x₁ + x₂ where both > 1, 0 otherwise."""

    def call(self, x):
        first, second = x[:, :1], x[:, 1:]
        low = tf.logical_and(first <= 1, second <= 1)
        high = tf.logical_and(first > 1, second > 1)
        zero = 0 * first
        return tf.where(low, first + 3 * second, tf.where(high, 3 * first + second, zero))


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("point", "attributed"), [(4.0, (10.0, 6.0)), (2.0, (4.0, 4.0)), (1.5, (2.5, 3.5))]
)
def test_example_1_integrated_gradients_change_within_one_linear_piece(point, attributed, float64):
    """With baseline 0; the function is 3x₁ + x₂ at all three points."""
    net = keras.Sequential([keras.Input((2,)), Example1()])
    # 600 midpoints put the step at 1/point between two of them for each of these points.
    method = saliency.IntegratedGradients(net, steps=600)
    np.testing.assert_allclose(method([[point, point]], 0), [attributed], rtol=1e-6)
    full = tfgrad.full_gradients(net, [[point, point]], 0)
    np.testing.assert_array_equal(full.input_gradient, [[3.0, 1.0]])
    np.testing.assert_allclose(full.completeness_error(), [0.0], atol=1e-12)


def test_the_intercept_of_a_fused_relu_is_the_pre_activation_term(float64):
    """φ′(z) b at the output times ∇_y f is ∇_z f ⊙ b at the pre-activation."""
    fused = relu_network(use_bias=True)
    apart = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            L.Conv2D(4, 3),
            L.ReLU(),
            *(layer.__class__.from_config(layer.get_config()) for layer in fused.layers[1:]),
        ]
    )
    apart.set_weights(fused.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2))
    one, two = (tfgrad.full_gradients(n, x, 1).bias_gradients for n in (fused, apart))
    for a, b in zip(one.values(), two.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
    first = fused.layers[0]
    z = keras.ops.conv(x, first.kernel) + first.bias
    off = np.asarray(z) <= 0
    assert 0 < off.sum() < off.size
    np.testing.assert_array_equal(np.asarray(next(iter(one.values())))[off], 0.0)


def test_the_intercept_of_a_fused_softplus_is_split_from_the_bias(float64):
    net = dense(([[2.0]], [0.5], "softplus"), ([[3.0]], [0.0], None))
    full = tfgrad.full_gradients(net, [[1.0]], 0)
    z = 2.5
    slope = 1 / (1 + np.exp(-z))
    bias, activation, last = (float(t[0, 0]) for t in full.bias_gradients.values())
    np.testing.assert_allclose(bias, 3.0 * slope * 0.5, rtol=1e-12)
    np.testing.assert_allclose(activation, 3.0 * (np.log1p(np.exp(z)) - slope * z), rtol=1e-12)
    assert last == 0.0


# One 1×1 convolution on a 2×2 image, ReLU, and a dense layer on the four positions.
#   x = [[1, 2], [−1, 3]], z = 2x + 1 = [[3, 5], [−1, 7]], f = Σ v ⊙ ReLU(z),  v = [[1, −1], [5, 2]]
#   ∇_z f = [[1, −1], [0, 2]],  ∇x f = 2 ∇_z f,  f^b = ∇_z f · 1
X = np.array([[1.0, 2.0], [-1.0, 3.0]]).reshape(1, 2, 2, 1)


def one_conv(v):
    net = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            L.Conv2D(1, 1, activation="relu", name="conv"),
            L.Flatten(),
            L.Dense(1, use_bias=False),
        ]
    )
    net.set_weights([np.full((1, 1, 1, 1), 2.0), np.ones(1), np.reshape(v, (4, 1))])
    return net


V = [[1.0, -1.0], [5.0, 2.0]]


def test_the_terms_of_one_convolution_by_hand(float64):
    full = tfgrad.full_gradients(one_conv(V), X, 0)
    assert float(full.score[0]) == 3.0 - 5.0 + 14.0
    np.testing.assert_array_equal(full.input_term[0, ..., 0], [[2.0, -4.0], [0.0, 12.0]])
    np.testing.assert_array_equal(full.bias_gradients["conv"][0, ..., 0], [[1.0, -1.0], [0.0, 2.0]])


@pytest.mark.sample(3, start=2)
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # |x∇f| = [2 4 0 12] / 12,  |f^b| = [1 1 0 2] / 2, ε apart
        (lambda n: saliency.FullGrad(n), [[2 / 12 + 0.5, 4 / 12 + 0.5], [0.0, 2.0]]),
        (lambda n: saliency.FullGrad(n, rescale=None), [[3.0, 5.0], [0.0, 14.0]]),
        (lambda n: saliency.FullGrad(n, "signed", None), [[3.0, -5.0], [0.0, 14.0]]),
        (lambda n: saliency.FullGrad(n, "positive", None), [[3.0, 0.0], [0.0, 14.0]]),
        (lambda n: saliency.FullGrad(n, "negative", None), [[0.0, 5.0], [0.0, 0.0]]),
        # ∇x f = [2 −2 0 4] without ⊙ x
        (
            lambda n: saliency.FullGrad(n, rescale=None, times_input=False),
            [[3.0, 3.0], [0.0, 6.0]],
        ),
        (lambda n: saliency.FullGrad(n, rescale="channel"), [[2 / 12 + 0.5, 4 / 12 + 0.5], [0, 2]]),
        # ∇_z f = [1 −1 0 2], here the bias is 1
        (lambda n: saliency.SimpleFullGrad(n, rescale=None), [[3.0, 5.0], [0.0, 14.0]]),
        (lambda n: saliency.FullJacobianMap(n), [[3.0, 5.0], [0.0, 14.0]]),
        (lambda n: saliency.BiasMap(n), [[1.0, 1.0], [0.0, 2.0]]),
        (lambda n: saliency.LayerMap(n, "conv"), [[1.0, -1.0], [0.0, 2.0]]),
        (lambda n: saliency.LayerMap(n, "conv", neuron=0), [[1.0, -1.0], [0.0, 2.0]]),
        (lambda n: saliency.LayerMap(n, "input"), [[2.0, -4.0], [0.0, 12.0]]),
    ],
)
def test_maps_of_one_convolution_by_hand(method, expected, float64):
    np.testing.assert_allclose(method(one_conv(V))(X, 0)[0], expected, rtol=1e-5)


def test_bias_terms_that_cancel_in_the_sum_show_in_the_map(float64):
    """∇_z f = [1, −1, 0, 0]: Σ f^b = 0, and the map of the biases is not zero."""
    net = one_conv([[1.0, -1.0], [5.0, 0.0]])
    full = tfgrad.full_gradients(net, X, 0)
    assert float(tf.reduce_sum(full.bias_gradients["conv"])) == 0.0
    np.testing.assert_array_equal(saliency.BiasMap(net)(X, 0)[0], [[1.0, 1.0], [0.0, 0.0]])


def test_channels_are_summed_after_abs_in_fullgrad_and_before_it_in_the_full_jacobian_map(float64):
    net = keras.Sequential(
        [
            keras.Input((1, 2, 1)),
            L.Conv2D(2, 1, name="conv"),
            L.Flatten(),
            L.Dense(1, use_bias=False),
        ]
    )
    net.set_weights(
        [np.zeros((1, 1, 1, 2)), np.array([1.0, 2.0]), np.array([[3.0], [-1], [1], [1]])]
    )
    x = np.ones((1, 1, 2, 1))  # f^b = [[3, −2], [1, 2]]
    np.testing.assert_allclose(saliency.BiasMap(net)(x, 0)[0], [[1.0, 3.0]])
    np.testing.assert_allclose(saliency.FullGrad(net, rescale=None)(x, 0)[0], [[5.0, 3.0]])
    # min 1, max 3 over all four; per channel: |3|, |1| → 1, 0 and |−2|, |2| → 0, 0
    np.testing.assert_allclose(saliency.FullGrad(net)(x, 0)[0], [[1.5, 0.5]], rtol=1e-5)
    by_channel = saliency.FullGrad(net, rescale="channel")
    np.testing.assert_allclose(by_channel(x, 0)[0], [[1.0, 0.0]], atol=1e-5)


def test_aligned_and_half_pixel_resizing_by_hand(float64):
    """A 1×2 layer [0, 1] under a 1×4 image, both ways."""
    net = keras.Sequential(
        [
            keras.Input((1, 4, 1)),
            L.AveragePooling2D((1, 2)),
            L.Conv2D(1, 1, name="conv"),
            L.Flatten(),
            L.Dense(1, use_bias=False),
        ]
    )
    net.set_weights([np.zeros((1, 1, 1, 1)), np.ones(1), np.array([[0.0], [1.0]])])
    x = np.zeros((1, 1, 4, 1))
    aligned = saliency.LayerMap(net, "conv", placement="stretch")(x, 0)[0, 0]
    np.testing.assert_allclose(aligned, [0, 1 / 3, 2 / 3, 1], rtol=1e-6)
    stretch = {"resize": "bilinear_half_pixel", "placement": "stretch"}
    halves = saliency.LayerMap(net, "conv", **stretch)(x, 0)[0, 0]
    np.testing.assert_allclose(halves, [0, 0.25, 0.75, 1], rtol=1e-6)
    own = saliency.LayerMap(net, "conv", resize=None)(x, 0)
    np.testing.assert_array_equal(own, [[[0.0, 1.0]]])


@pytest.mark.long
def test_tokens_are_laid_out_row_by_row_and_gates_are_left_out():
    vit = architectures.randomised(architectures.KINDS["vision transformer"]())
    x = architectures.random_inputs(vit)
    terms = saliency.FullGrad(vit).terms(x, tf.constant([0, 1]))
    assert terms["input"].shape == (2, 32, 32, 3)
    grids = {name: tuple(t.shape[1:3]) for name, t in terms.items() if name != "input"}
    assert set(grids.values()) == {(4, 4)}
    full = tfgrad.full_gradients(vit, x, [0, 1])
    assert {"query", "attention", "dense"} & {n.split("_")[0] for n in grids}
    name = next(n for n in grids if full.bias_gradients[n].shape[1] == 17)  # a class token first
    tokens = full.bias_gradients[name]
    np.testing.assert_allclose(terms[name][:, 2, 3], tokens[:, 1 + 2 * 4 + 3], rtol=1e-4, atol=1e-6)
    assert len(grids) < len(full.bias_gradients)

    gated = architectures.randomised(architectures.KINDS["squeeze-and-excite, SiLU, transposed"]())
    x = architectures.random_inputs(gated)
    laid = saliency.FullGrad(gated).terms(x, tf.constant([0, 1]))
    everything = tfgrad.full_gradients(gated, x, [0, 1]).bias_gradients
    left_out = set(everything) - set(laid)
    assert left_out and all(np.prod(everything[n].shape[1:-1]) == 1 for n in left_out)


def test_a_block_of_convolution_and_batch_norm_is_one_term(float64):
    net = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            L.Conv2D(2, 3, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(),
            L.Flatten(),
            L.Dense(2),
        ]
    )
    architectures.randomised(net)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 1))
    apart = saliency.FullJacobianMap(net).terms(tf.constant(x), tf.constant([0, 1]))
    blocks = saliency.FullJacobianMap(net, blocks=True).terms(tf.constant(x), tf.constant([0, 1]))
    assert list(apart) == ["input", "conv", "norm"] and list(blocks) == ["input", "norm"]
    np.testing.assert_allclose(blocks["norm"], apart["conv"] + apart["norm"], rtol=1e-12)
