"""Input-gradients, integrated gradients and smoothing against closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.saliency_cases import images, network, policy
from tfgrad import saliency
from tfgrad.errors import ArgumentError
from tfgrad.internal.stateless_noise import Draws

SHAPE = (3, 2, 2)


def linear(weights, bias=0.0):
    """f(x) = Wᵀx + b on flattened images [3, 2, 2]."""
    model = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(weights.shape[1])]
    )
    model.layers[-1].kernel.assign(weights)
    model.layers[-1].bias.assign(np.full(weights.shape[1], bias))
    return model


class Square(keras.layers.Layer):
    """Logits (Σ w x², Σ v x²)."""

    def __init__(self, weights):
        super().__init__()
        self.weights_of_classes = weights

    def call(self, x):
        return tf.stack([tf.reduce_sum(w * x**2, [1, 2, 3]) for w in self.weights_of_classes], -1)


def quadratic():
    """Its gradient at x is 2 w ⊙ x."""
    weights = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(keras.config.floatx())
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, Square(weights)(inputs)), weights


@pytest.fixture
def weights():
    return np.random.default_rng(1).normal(size=(12, 3)).astype("float32")


@pytest.fixture
def x():
    return np.random.default_rng(2).normal(size=(2, *SHAPE)).astype("float32")


class TestLinear:
    def test_the_gradient_is_the_weights(self, weights, x):
        model = linear(weights)
        classes = np.array([2, 0])
        gradient = weights.T[classes].reshape(2, *SHAPE)
        expected = {
            "abs_sum": np.abs(gradient).sum(-1),
            "sum": gradient.sum(-1),
            "max_abs": np.abs(gradient).max(-1),
        }
        for reduce, value in expected.items():
            maps = saliency.InputGradient(model, reduce=reduce)(x, classes)
            np.testing.assert_allclose(maps, value, rtol=1e-6)
        np.testing.assert_allclose(saliency.InputGradient(model)(x, classes), expected["abs_sum"])

    def test_explain_returns_gradient_score_and_class(self, weights, x):
        outputs = saliency.InputGradient(linear(weights, 0.3)).explain(x)
        scores = x.reshape(2, 12) @ weights + 0.3
        np.testing.assert_array_equal(outputs["class"], scores.argmax(-1))
        np.testing.assert_allclose(outputs["score"], scores.max(-1), rtol=1e-5)
        expected = weights.T[scores.argmax(-1)].reshape(2, *SHAPE)
        np.testing.assert_allclose(outputs["gradient"], expected, rtol=1e-6)

    @pytest.mark.parametrize("temperature", [1.0, 50.0])
    def test_the_gradient_of_the_loss(self, weights, x, temperature):
        """∇ −log softmax(f/T)_y = W (p − e_y) / T, thesis §5.2."""
        model = linear(weights)
        logits = x.reshape(2, 12) @ weights / temperature
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = ((p - np.eye(3)[[1, 2]]) @ weights.T / temperature).reshape(2, *SHAPE).sum(-1)
        options = {"temperature": temperature, "reduce": "sum"}
        loss = saliency.InputGradient(model, of="loss", **options)(x, [1, 2])
        np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-7)
        log_probability = saliency.InputGradient(model, of="log_probability", **options)
        np.testing.assert_array_equal(log_probability(x, [1, 2]), -loss)

    def test_input_times_gradient_sums_to_the_score_without_a_bias(self, weights, x):
        maps = saliency.InputTimesGradient(linear(weights))(x, 1)
        np.testing.assert_allclose(
            maps, (x * weights[:, 1].reshape(SHAPE)).sum(-1), rtol=1e-5, atol=1e-6
        )
        score = x.reshape(2, 12) @ weights[:, 1]
        np.testing.assert_allclose(tf.reduce_sum(maps, [1, 2]), score, rtol=1e-5)


@pytest.mark.diagonal
@pytest.mark.parametrize(
    ("shape", "expected"), [((5, 4), (2, 5)), ((7,), (2, 7)), ((4, 3, 2, 1), (2, 4, 3, 2))]
)
@pytest.mark.parametrize("name", ["input_gradient", "integrated_gradients", "smoothgrad", "random"])
def test_sequences_and_vectors_give_maps_of_their_positions(name, shape, expected):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    x = np.random.default_rng(3).normal(size=(2, *shape)).astype("float32")
    said = {"channels": "last"} if len(shape) == 2 else {}  # or a grey image
    assert saliency.get(name)(model, **said)(x).shape == expected


class TestIntegratedGradients:
    @pytest.mark.usefixtures("one_output_is_a_number")
    def test_a_saturated_relu_by_hand(self):
        """f(x) = 1 − relu(1 − x) at x = 2: the gradient is 0, the attribution f(2) − f(0) = 1.

        The example of Sundararajan et al., section 2.1.
        """
        inputs = keras.Input([1])
        model = keras.Model(inputs, 1.0 - keras.layers.ReLU()(1.0 - inputs))
        x = np.array([[2.0]], "float32")
        assert float(saliency.InputGradient(model)(x, 0)[0, 0]) == 0.0
        # No midpoint falls on the kink, so half of the gradients are 1 and half are 0: times 2.
        maps = saliency.IntegratedGradients(model, steps=4)(x, 0)
        np.testing.assert_allclose(maps, [[1.0]], rtol=1e-6)

    def test_the_midpoint_rule_is_exact_on_a_quadratic(self, x):
        """Σ_k 2 w (x′ + α_k d) d / N = w (x² − x′²), for one step as for many."""
        model, weights = quadratic()
        baseline = np.array([0.5, -1.0], "float32")
        expected = (weights[1] * (x**2 - baseline**2)).sum(-1)
        for steps in (1, 7):
            method = saliency.IntegratedGradients(model, baseline=baseline, steps=steps)
            np.testing.assert_allclose(method(x, 1), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.long
    def test_completeness(self):
        """Σ IG = f(x) − f(x′), and the error falls with the square of the steps."""
        with policy("float64"):
            model = network("softplus")
        x = images(2, "float64")
        rise = model(x).numpy()[:, 2] - model(np.full_like(x, 0.2)).numpy()[:, 2]
        gaps = []
        for steps in (4, 8, 16):
            method = saliency.IntegratedGradients(model, baseline=0.2, steps=steps)
            outputs = method.explain(x, 2)
            total = tf.reduce_sum(outputs["saliency"], [1, 2]).numpy()
            np.testing.assert_allclose(
                outputs["convergence_gap"], np.abs(total - rise), atol=1e-6 * np.abs(rise).max()
            )
            terms = method.terms(tf.constant(x), tf.constant([2, 2]))
            gaps.append(np.abs(tf.reduce_sum(terms, [1, 2, 3]) - rise).max())
        assert gaps[0] < 0.02 * np.abs(rise).max()
        assert 3 < gaps[0] / gaps[1] < 5 and 3 < gaps[1] / gaps[2] < 5


class TestSmooth:
    def test_the_mean_over_its_own_noise_on_a_quadratic(self, x):
        """The gradient 2 w (x + n) is linear in n, so its mean is 2 w (x + mean n)."""
        model, weights = quadratic()
        samples, seed = 6, 3
        deviation = 0.4 * np.ptp(x.reshape(2, 12), -1).reshape(2, 1, 1, 1)
        noise = np.stack(
            [
                Draws(step=i).normal(tf.zeros((1, *SHAPE)), samples=1, seed=seed)[0][0]
                for i in range(samples)
            ]
        )
        gradients = 2 * weights[0] * (x + deviation * noise[:, np.newaxis])
        options = {"samples": samples, "noise": 0.4, "seed": seed}
        signed = saliency.SmoothGrad(model, reduce="sum", **options)(x, 0)
        np.testing.assert_allclose(signed, gradients.mean(0).sum(-1), rtol=1e-4, atol=1e-5)
        # The absolute value is of the mean, not the mean of absolute values.
        maps = saliency.SmoothGrad(model, **options)(x, 0)
        np.testing.assert_allclose(maps, np.abs(gradients.mean(0)).sum(-1), rtol=1e-4, atol=1e-5)
        squared = saliency.SmoothGradSquared(model, **options)(x, 0)
        np.testing.assert_allclose(squared, (gradients**2).mean(0).sum(-1), rtol=1e-4, atol=1e-5)

    def test_no_noise_is_the_method_itself(self, x):
        model, _ = quadratic()
        plain = saliency.InputGradient(model)(x, 1)
        smooth = saliency.SmoothGrad(model, samples=2, noise=0.0)(x, 1)
        np.testing.assert_allclose(smooth, plain, rtol=1e-6)

    @pytest.mark.usefixtures("one_output_is_a_number")
    def test_the_noise_is_normal_and_of_the_image_s_range(self):
        """E and Var of 2 w (x + n) over 2000 samples, with w = 1/2: x and (0.15 · range)²."""
        inputs = keras.Input(SHAPE)
        model = keras.Model(inputs, Square(np.full((1, *SHAPE), 0.5, "float32"))(inputs))
        x = np.linspace(0, 2, 12).reshape(1, *SHAPE).astype("float32")
        options = {"samples": 2000, "reduce": "sum"}
        mean = saliency.SmoothGrad(model, **options)(x, 0)
        square = saliency.SmoothGradSquared(model, **options)(x, 0)
        # Standard errors: 0.3 √(2/2000) = 0.009 for the sum of two channels.
        np.testing.assert_allclose(mean, x.sum(-1), atol=0.04)
        variance = np.mean(square - (x**2).sum(-1)) / 2
        np.testing.assert_allclose(variance, 0.3**2, rtol=0.25)

    def test_seeds_differ_and_one_seed_repeats(self, x):
        model, _ = quadratic()
        maps = [saliency.SmoothGrad(model, samples=2, seed=s)(x, 0) for s in (0, 0, 1)]
        np.testing.assert_array_equal(maps[0], maps[1])
        assert np.abs(maps[0] - maps[2]).max() > 1e-3

    def test_the_class_is_that_of_the_clean_image(self):
        """A noisy image may be of another class; its gradient is still the clean one's."""
        inputs = keras.Input([1])
        model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(inputs))
        model.layers[-1].kernel.assign([[1.0, -3.0]])
        vectors = np.array([[1e-3]], "float32")
        method = saliency.Smooth(Steep(model), samples=8)
        np.testing.assert_allclose(method(vectors), [[1.0]])

    def test_smoothing_smooths_any_method(self):
        model, x = network("softplus"), images()
        cam = saliency.GradCAM(model)
        method = saliency.Smooth(cam, samples=2, noise=0.1)
        patterns = [Draws(step=i).normal(x[:1], samples=1, seed=0)[0] for i in range(2)]
        spread = 0.1 * np.ptp(x.reshape(3, -1), -1).reshape(3, 1, 1, 1)
        terms = [cam.terms(x + spread * p, tf.constant([0, 1, 2])) for p in patterns]
        expected = cam.assemble((terms[0] + terms[1]) / 2, tf.constant(x))
        np.testing.assert_allclose(method(x, [0, 1, 2]), expected, rtol=1e-4, atol=1e-6)
        options = {"name": "gradcam", "layer": None, "placement": "cells"}
        assert method.options()["method"] == options

    def test_refuses_what_is_no_method(self):
        with pytest.raises(ArgumentError, match=r"method: got a Functional; .*Smooth\(GradCAM"):
            saliency.Smooth(network())


def test_memory_does_not_grow_with_steps_and_samples():
    """The passes are those of one loop: a graph for fifty is as large as one for three."""

    def size(method):
        graph = tf.function(method.explain, autograph=False).get_concrete_function(
            tf.TensorSpec([None, *SHAPE]), tf.TensorSpec([None], tf.int32)
        )
        definition = graph.graph.as_graph_def()
        bodies = [f.node_def for f in definition.library.function]
        return sorted(len(body) for body in (definition.node, *bodies))

    model, _ = quadratic()
    for cls, option in ((saliency.IntegratedGradients, "steps"), (saliency.SmoothGrad, "samples")):
        assert size(cls(model, **{option: 50})) == size(cls(model, **{option: 3}))


class Steep(saliency.InputGradient):
    """Sees every image far from where it is, so that noise changes its class."""

    def terms(self, x, classes):
        return super().terms(x * -1000.0, classes)
