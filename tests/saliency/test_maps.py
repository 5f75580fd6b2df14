"""Grad-CAM, guided backpropagation, the random map and tf-keras-vis against hand-made answers."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.saliency_cases import images, network, policy
from tfgrad import saliency
from tfgrad.errors import ArgumentError, ModelError, PlacementWarning
from tfgrad.saliency import term_layout

pytestmark = pytest.mark.usefixtures("one_output_is_a_number")


class TestGradCAM:
    @pytest.fixture
    def toy(self):
        """A 1×1 convolution to the maps (x, −2x), and two logits that read every position."""
        model = keras.Sequential(
            [
                keras.Input((2, 2, 1)),
                keras.layers.Conv2D(2, 1, name="maps"),
                keras.layers.Flatten(name="flat"),
                keras.layers.Dense(2, name="head"),
            ]
        )
        weights = np.array([[1, 2, 3, -4, 0, 5, 4, -1], [1, -3, 1, 1, 1, 1, 1, -3]], "float32")
        zeros = np.zeros(2)
        model.set_weights([np.array([[[[1.0, -2.0]]]]), zeros, weights.T, zeros])
        return model

    def test_by_hand(self, toy):
        """Class 0: α = ((1+3+0+4)/4, (2−4+5−1)/4) = (2, 1/2): Σ α A = 2x − x = x.

        Class 1: α = (1, (−3+1+1−3)/4) = (1, −1): x + 2x = 3x.
        """
        x = np.array([[1.0, -2.0], [3.0, 0.5]], "float32").reshape(1, 2, 2, 1)
        expected = np.maximum(x[..., 0], 0)
        method = saliency.GradCAM(toy)
        np.testing.assert_allclose(method(x, 0), expected, rtol=1e-6)
        np.testing.assert_allclose(method(x, 1), 3 * expected, rtol=1e-6)
        np.testing.assert_allclose(method.terms(tf.constant(x), tf.constant([0])), x[..., 0])

    def test_the_default_is_the_last_feature_map(self):
        """Tokens that are its positions, too; not the [B, 1, 1, C] gate, nor inside attention."""
        inputs = keras.Input((4, 4, 2))
        x = keras.layers.Conv2D(3, 3)(inputs)
        tokens = keras.layers.Reshape((4, 3))(x)
        tokens = keras.layers.MultiHeadAttention(2, 2, name="wanted")(tokens, tokens)
        gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name="gate")(x)
        joined = keras.layers.Concatenate()(
            [keras.layers.Flatten()(tokens), keras.layers.Flatten()(gate)]
        )
        model = keras.Model(inputs, keras.layers.Dense(2)(joined))
        x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
        # What attention returns depends on every pixel: its cells have no place.
        default = saliency.GradCAM(model, placement="stretch")
        named = saliency.GradCAM(model, "wanted", placement="stretch")
        np.testing.assert_array_equal(default(x, 1), named(x, 1))
        with pytest.warns(PlacementWarning, match="not known where the cells look"):
            saliency.GradCAM(model)(x, 1)

    @pytest.mark.diagonal
    @pytest.mark.parametrize(("old", "new"), [(3, 7), (7, 3), (1, 4), (5, 5)])
    @pytest.mark.parametrize("resize", term_layout.RESIZE)
    def test_resizes_as_tensorflow_does(self, old, new, resize):
        maps = np.random.default_rng(1).normal(size=(2, old, old, 1)).astype("float32")
        expected = term_layout.RESIZE[resize](tf.constant(maps), [new, new])
        resized = term_layout.at_size(tf.constant(maps[..., 0]), tf.zeros([2, new, new, 3]), resize)
        np.testing.assert_allclose(resized, expected[..., 0], atol=1e-5)
        if resize == "bilinear_half_pixel":
            np.testing.assert_allclose(expected, tf.image.resize(maps, (new, new)), atol=1e-6)

    def test_refuses_what_is_no_feature_map(self, toy):
        x = np.ones((1, 2, 2, 1), "float32")
        with pytest.raises(ArgumentError, match=r"no layer named 'map'; did you mean 'maps'\?"):
            saliency.GradCAM(toy, "map")
        with pytest.raises(ArgumentError, match=r"layer: got 'flat', .*8.*; expected feature maps"):
            saliency.GradCAM(toy, "flat")(x)
        vectors = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
        with pytest.raises(ModelError, match=r"no layer puts out feature maps"):
            saliency.GradCAM(vectors)(np.ones((1, 3), "float32"))
        flat = keras.Sequential(
            [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
        )
        with pytest.raises(ModelError, match=r"no layer puts out feature maps"):
            saliency.GradCAM(flat)(x)


class BareRelu(keras.layers.Layer):
    def call(self, x):
        return tf.nn.relu(x)


class OwnDense(keras.layers.Dense):
    def call(self, x):
        return 2.0 * super().call(x)


# Ways to write relu(Dense(x)), each a function of units, weights, name and a tensor.
def _fused(dense):
    dense.activation = keras.activations.relu
    return dense


RELUS = {
    "fused": lambda dense, x: _fused(dense)(x),
    "layer": lambda dense, x: keras.layers.ReLU()(dense(x)),
    "activation": lambda dense, x: keras.layers.Activation("relu")(dense(x)),
    "activation_layer": lambda dense, x: keras.layers.Activation(keras.layers.ReLU())(dense(x)),
    "relu6": lambda dense, x: keras.layers.ReLU(max_value=6.0)(dense(x)),
    "operation": lambda dense, x: keras.ops.relu(dense(x)),
    "function": lambda dense, x: keras.activations.relu(dense(x)),
    "nested": lambda dense, x: keras.Sequential([dense, keras.layers.ReLU()])(x),
}


class TestGuidedBackprop:
    def toy(self, relu):
        """z = relu(x), a = relu(z₀ − z₁ + 3), b = relu(z₀ + z₁), f = a − b."""
        inputs = keras.Input([2])
        first, second = keras.layers.Dense(2), keras.layers.Dense(2)
        z = relu(first, inputs)
        outputs = keras.layers.Dense(1, use_bias=False)(relu(second, z))
        model = keras.Model(inputs, outputs)
        weights = [np.eye(2), [0, 0], [[1, 1], [-1, 1]], [3, 0], [[1], [-1]]]
        model.set_weights([np.array(w, "float32") for w in weights])
        return model

    @pytest.mark.long
    @pytest.mark.sample(2)
    @pytest.mark.parametrize("way", RELUS)
    def test_by_hand(self, way):
        """At (1, 2) the gradient is (1, −1) − (1, 1) = (0, −2).

        Guided, b's −1 is stopped; what is left, (1, −1), loses its −1 at the first ReLU: (1, 0).
        """
        model, x = self.toy(RELUS[way]), np.array([[1.0, 2.0]], "float32")
        plain = saliency.InputGradient(model, reduce="sum")
        np.testing.assert_array_equal(plain(x, 0), [[0.0, -2.0]])
        guided = saliency.GuidedBackprop(model, reduce="sum")
        np.testing.assert_array_equal(guided(x, 0), [[1.0, 0.0]])
        np.testing.assert_array_equal(guided.explain(x, 0)["gradient"], [[1.0, 0.0]])
        # The model is as it was, traced anew or not.
        fresh = saliency.InputGradient(model, reduce="sum")
        np.testing.assert_array_equal(fresh(x, 0), [[0.0, -2.0]])
        # A ReLU whose input is negative hands on nothing, as ever.
        np.testing.assert_array_equal(guided(-x, 0), [[0.0, 0.0]])

    @pytest.mark.long
    def test_masks_pass_the_gate(self):
        """Where nothing is negative the guided gradient is the gradient, masked steps included."""
        inputs = keras.Input((3, 2))
        x = keras.layers.Dense(2, activation="relu")(keras.layers.Masking()(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.SimpleRNN(2)(x)))
        model.set_weights([np.abs(w) for w in model.get_weights()])
        x = np.array([[[1.0, 2.0], [0.0, 0.0], [0.5, 1.0]]], "float32")
        guided, plain = saliency.GuidedBackprop(model)(x, 0), saliency.InputGradient(model)(x, 0)
        assert plain[0, 1] == 0 < plain[0, 0]
        np.testing.assert_allclose(guided, plain, rtol=1e-6)

    @pytest.mark.parametrize("bare", [BareRelu(), OwnDense(2, activation="relu")])
    def test_a_relu_out_of_reach_is_no_wrong_map(self, bare):
        inputs = keras.Input([2])
        x = keras.layers.ReLU()(keras.layers.Dense(2)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1)(bare(x)))
        with pytest.raises(ModelError, match=r"1 of its 2 ReLU operations .*keras\.layers\.ReLU"):
            saliency.GuidedBackprop(model)(np.ones((1, 2), "float32"))

    @pytest.mark.parametrize(
        "activation", ["tanh", "leaky_relu", "hard_silu", "hard_sigmoid", keras.layers.PReLU()]
    )
    def test_a_model_without_relu(self, activation):
        model = keras.Sequential(
            [keras.Input([2]), keras.layers.Dense(2, activation=activation), keras.layers.Dense(1)]
        )
        with pytest.raises(ModelError, match=r"got no ReLU; .*'input_gradient'"):
            saliency.GuidedBackprop(model)(np.ones((1, 2), "float32"))


class TestRandom:
    @pytest.mark.long
    def test_a_function_of_seed_and_pixels(self):
        model, x = network(), images(2)
        maps = saliency.Random(model)(x)
        np.testing.assert_array_equal(saliency.Random(model)(x, 1), maps)
        np.testing.assert_array_equal(saliency.Random(model)(x[::-1]), maps[::-1])
        assert np.abs(saliency.Random(model, seed=1)(x) - maps).min() > 0
        nearly = x.copy()
        nearly[0, 0, 0, 0] = np.nextafter(x[0, 0, 0, 0], 1)
        moved = saliency.Random(model)(nearly)
        assert np.abs(moved[0] - maps[0]).min() > 0
        np.testing.assert_array_equal(moved[1], maps[1])
        # Pixels that are equal are equal, and where they stand matters.
        np.testing.assert_array_equal(saliency.Random(model)(0 * x), saliency.Random(model)(-0 * x))
        assert np.abs(saliency.Random(model)(x[:, ::-1]) - maps).min() > 0

    def test_uniform(self):
        inputs = keras.Input((64, 64, 1))
        pooled = keras.layers.GlobalAveragePooling2D()(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
        maps = saliency.Random(model)(np.zeros((1, 64, 64, 1), "float32")).numpy().ravel()
        assert maps.min() >= 0.0 and maps.max() < 1.0 and len(np.unique(maps)) > 4090
        # Standard error of the mean: 1/√(12 · 4096) = 0.0045.
        np.testing.assert_allclose(maps.mean(), 0.5, atol=0.02)
        np.testing.assert_allclose(np.histogram(maps, 4, (0, 1))[0], 1024, atol=120)
        assert abs(np.corrcoef(maps[1:], maps[:-1])[0, 1]) < 0.06


class TestKerasVis:
    def test_layercam_by_hand(self):
        """relu(Σ_c relu(∂f/∂A_c) ⊙ A_c) where the layer is as large as the image."""
        inputs = keras.Input((4, 4, 2))
        maps = keras.layers.Conv2D(3, 3, padding="same", activation="relu", name="maps")(inputs)
        outputs = keras.layers.Dense(2)(keras.layers.Flatten()(maps))
        model = keras.Model(inputs, outputs)
        x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
        both = keras.Model(inputs, [maps, outputs])
        with tf.GradientTape() as tape:
            features, logits = both(x)
            score = tf.reduce_sum(logits[:, 1])
        positive = tf.nn.relu(tape.gradient(score, features))
        expected = tf.nn.relu(tf.reduce_sum(positive * features, -1))
        np.testing.assert_allclose(saliency.LayerCAM(model)(x, 1), expected, rtol=1e-5)

    @pytest.mark.long
    def test_activation_maximization(self):
        model = network()
        shown = saliency.activation_maximization(model, [0, 2], steps=15, value_range=(-1, 2))
        assert shown.shape == (2, 6, 5, 2) and shown.dtype == tf.float32
        assert np.min(shown) >= -1 and np.max(shown) <= 2
        plain = {"input_modifiers": None, "regularizers": None}
        few = saliency.activation_maximization(model, [0, 2], steps=1, **plain)
        many = saliency.activation_maximization(model, [0, 2], steps=30, **plain)
        rise = model(many).numpy() - model(few).numpy()
        assert rise[0, 0] > 0.05 and rise[1, 2] > 0.05
        with pytest.raises(ArgumentError, match=r"classes from 0 to 3; expected -1 to 2"):
            saliency.activation_maximization(model, [0, 3])
        with pytest.raises(ArgumentError, match=r"value_range: got \(1, 1\)"):
            saliency.activation_maximization(model, [0], value_range=(1, 1))

    def test_refuses_what_the_package_fails_on(self):
        for form, words in (
            ("nested", r"holds the model 'sequential"),
            ("subclassed", "subclass"),
        ):
            with pytest.raises(ModelError, match=words):
                saliency.LayerCAM(network(form=form))
        vectors = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
        with pytest.raises(ModelError, match=r"an input of shape \(None, 3\); expected images"):
            saliency.ScoreCAM(vectors)
        with policy("mixed_bfloat16"):
            model = network()
        with pytest.raises(ModelError, match=r"computes in bfloat16; expected float32 or"):
            saliency.GradCAMPlusPlus(model)

    def test_cannot_be_exported(self):
        with pytest.raises(ModelError, match=r"'layercam', .* tf-keras-vis and cannot be traced"):
            tf.function(saliency.LayerCAM(network()).explain)(tf.constant(images()))

    def test_says_how_to_install_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tf_keras_vis.layercam", None)
        with pytest.raises(ArgumentError, match=r'pip install "tfgrad\[vis\]"'):
            saliency.LayerCAM(network())
