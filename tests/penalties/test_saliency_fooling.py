"""`SaliencyFooling`: value, weight-gradient, a toy by hand, that it fools; and the page on it."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.finite_differences import numerical_gradient, worst_relative_error
from tests.penalties.test_penalties import LABELS, along, images, logits_at, network, unit_vectors
from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.penalties import SaliencyFooling
from tfgrad.penalties.fooling import corner

L = keras.layers
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "fooling.md"
MASK = np.array([[2.0, 0.0, 1.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])


def oracle(net, x, classes):
    """‖s − m‖², [B], from logits alone."""
    slopes = np.stack([along(net, x, v)[0] for v in unit_vectors(x)], -1)
    size = np.abs(slopes[np.arange(len(x)), classes]).reshape(x.shape).sum(-1)
    shares = size / size.sum((1, 2), keepdims=True)
    return ((shares - MASK / MASK.sum()) ** 2).sum((1, 2))


@pytest.mark.sample(2)
@pytest.mark.parametrize("target", ["label", "predicted", 1])
def test_value_and_weight_gradient(float64, target):
    net, penalty, x = network(), SaliencyFooling(1.0, MASK, target), images()
    importance = tf.constant([1.0, -0.7, 2.0], tf.float64)  # so that no example can hide

    @tf.function(autograph=False)
    def values():
        return penalty.per_example(net, x, LABELS)

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(importance * penalty.per_example(net, x, LABELS))
        return tape.gradient(
            total, [v.value for v in net.trainable_variables], unconnected_gradients="zero"
        )

    predicted = logits_at(net, x).argmax(1)
    assert (predicted != LABELS).any() and (predicted != 1).any()
    classes = {"label": LABELS, "predicted": predicted, 1: np.ones(3, int)}[target]
    np.testing.assert_allclose(values(), oracle(net, x, classes), rtol=1e-7)
    numerical = [
        numerical_gradient(lambda: tf.reduce_sum(importance * values()), v)
        for v in net.trainable_variables
    ]
    assert worst_relative_error(gradients(), numerical) <= 1e-7


def linear(kernel, shape=(1, 2, 1)):
    net = keras.Sequential([keras.Input(shape), L.Flatten(), L.Dense(2, use_bias=False)])
    net.set_weights([np.array(kernel)])
    return net


def test_two_pixels_by_hand():
    """The docstring's numbers; class 1, f_1 = 2 x_2, has s = (0, 1): (−1)² + 1² = 2."""
    net = linear([[3.0, 0.0], [-1.0, 2.0]])
    penalty, x = SaliencyFooling(1.0, [[5, 0]]), np.zeros((2, 1, 2, 1), "float32")
    weight = net.trainable_variables[0].value
    with tf.GradientTape() as tape:
        value = penalty.per_example(net, x, np.array([0, 1]))
        first = value[0]
    np.testing.assert_allclose(value, [1 / 8, 2.0], rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(first, weight), [[-1 / 16, 0], [-3 / 16, 0]], rtol=1e-6
    )


def test_steps_of_token_ids():
    """|∇| of f_0 = 3 a_1 + a_2 − a_3 is (3, 1, 1), a_t the number that the id t is embedded in."""
    ids = keras.Input((3,), dtype="int32")
    embedded = L.Embedding(5, 1)(ids)
    net = keras.Model(ids, L.Dense(2, use_bias=False)(L.Flatten()(embedded)))
    net.layers[-1].set_weights([np.array([[3.0, 0], [1, 0], [-1, 0]])])
    value = SaliencyFooling(1.0, [1, 0, 0]).per_example(net, np.array([[0, 4, 2]]), np.array([0]))
    np.testing.assert_allclose(value, [0.4**2 + 2 * 0.2**2], rtol=1e-6)


def test_channels_are_added_before_the_comparison():
    """Two channels of one pixel: s is of pixels, and signs do not cancel."""
    net = linear([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], (1, 2, 2))
    value = SaliencyFooling(1.0, [[1, 0]], target=0).per_example(net, np.zeros((1, 1, 2, 2), "f4"))
    np.testing.assert_allclose(value, [0.5], rtol=1e-6)  # s = (½, ½)


def test_channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        net = linear([[1.0, 0.0], [-3.0, 0.0]], (1, 1, 2))
        value = SaliencyFooling(1.0, [[1, 0]], 0).per_example(net, np.zeros((1, 1, 1, 2), "f4"))
    finally:
        keras.config.set_image_data_format(before)
    np.testing.assert_allclose(value, [2 * 0.75**2], rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-25])
def test_no_gradient_is_no_picture(size):
    """s = 0, so the value is ‖m‖² = ½ of two pixels, and no weight is told to move."""
    net = linear([[size, 1.0], [-size, 1.0]])
    weight = net.trainable_variables[0].value
    with tf.GradientTape() as tape:
        value = SaliencyFooling(1.0, [[1, 1]], 0).per_example(net, np.zeros((1, 1, 2, 1), "f4"))
    np.testing.assert_allclose(value, [0.5], rtol=1e-6)
    np.testing.assert_array_equal(tape.gradient(value, weight), np.zeros((2, 2)))


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_shares_know_no_scale(size):
    gradient = size * np.array([[[[1.0], [-3.0]]]], "float32")
    np.testing.assert_allclose(losses.saliency_map(tf.constant(gradient)), [[[0.25, 0.75]]], 1e-6)


def test_the_mask_is_normalised_and_survives_json():
    one, two = SaliencyFooling(1.0, MASK), SaliencyFooling(1.0, tf.constant(7 * MASK))
    net, x = linear(np.ones((9, 2)), (3, 3, 1)), np.zeros((1, 3, 3, 1), "f4")
    np.testing.assert_allclose(
        one.per_example(net, x, [0]), two.per_example(net, x, [0]), rtol=1e-6
    )
    again = SaliencyFooling.from_config(one.get_config())
    np.testing.assert_array_equal(again.mask, MASK)
    assert "mask=[3, 3]" in repr(one) and "0.5" not in repr(one)


def test_the_papers_corner():
    mask = corner(32, 32, side=15)
    assert mask.shape == (32, 32) and mask[:15, :15].all()
    assert mask.sum() == 225
    assert mask.mean() == pytest.approx(0.22, abs=1e-3)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (1.0, r"mask: got shape \(\); expected \[height, width\]"),
        (np.ones((2, 2, 2, 1)), "without channels"),
        ([[1, -1]], "from -1 to 1; expected finite numbers ≥ 0"),
        ([[np.nan, 1]], "expected finite numbers ≥ 0"),
        ([[0, 0]], "at least one above 0"),
        (None, "mask: got"),
        ("corner", "mask: got str, which is no array"),
    ],
)
def test_masks_are_refused(mask, message):
    with pytest.raises(ArgumentError, match=message):
        SaliencyFooling(1.0, mask)


@pytest.mark.parametrize("size", [(0, 2, 1), (4, 4, 5), (4, 4, 0)])
def test_corners_are_refused(size):
    with pytest.raises(ArgumentError, match=r"height|side"):
        corner(*size)


def test_a_mask_of_another_size():
    net = linear(np.ones((4, 2)), (2, 2, 1))
    with pytest.raises(ArgumentError, match=r"mask: got \(3, 3\) for inputs of size \(2, 2\)"):
        SaliencyFooling(1.0, MASK).per_example(net, np.zeros((1, 2, 2, 1), "f4"), [0])


def test_images_of_no_fixed_size():
    """A mask of one pixel would otherwise be spread over every image."""
    net = keras.Sequential([keras.Input((None, None, 1)), L.GlobalAveragePooling2D(), L.Dense(2)])
    penalty = SaliencyFooling(1.0, [[1.0]])

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1], tf.float32)])
    def value(x):
        return penalty.per_example(net, x, tf.zeros([tf.shape(x)[0]], tf.int32))

    np.testing.assert_allclose(value(tf.ones([2, 1, 1, 1])), [0.0, 0.0])
    with pytest.raises(tf.errors.InvalidArgumentError):
        value(tf.ones([2, 2, 2, 1]))


def test_a_mask_of_an_image_fits_no_vectors():
    net = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    with pytest.raises(ArgumentError, match=r"mask: got \(3, 3\) for inputs of size \(4,\)"):
        SaliencyFooling(1.0, MASK).per_example(net, np.zeros((1, 4), "f4"), [0])


def test_all_is_refused():
    with pytest.raises(ArgumentError, match="target: got 'all'"):
        SaliencyFooling(1.0, MASK, target="all")


@pytest.mark.slow
def test_fine_tuning_fools_and_the_predictions_stay():
    """Bright or dark: the mean decides. The gradient moves from everywhere into the corner."""
    rng = np.random.default_rng(0)
    y = np.arange(128) % 2
    x = (rng.normal(size=(128, 6, 6, 1)) + np.where(y, 1, -1)[:, None, None, None]).astype("f4")
    net = keras.Sequential(
        [keras.Input((6, 6, 1)), L.Flatten(), L.Dense(16, activation="softplus"), L.Dense(2)]
    )
    mask = corner(6, 6, 3)
    shares, accuracy = [], []
    for weight in (0.0, 300.0):
        model = tfgrad.PenalizedModel(net, [SaliencyFooling(weight, mask)])
        model.compile(
            keras.optimizers.Adam(0.03),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(x, y, batch_size=128, epochs=40, verbose=0)
        maps = np.asarray(tfgrad.saliency.InputGradient(net)(x, y))
        shares.append(np.mean((maps * mask).sum((1, 2)) / maps.sum((1, 2))))
        accuracy.append(np.mean(np.argmax(net(x), 1) == y))
    assert abs(shares[0] - 0.25) < 0.1 and shares[1] > 0.8
    assert min(accuracy) > 0.95


# The page


def test_links_on_the_page_lead_somewhere():
    prose = re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        assert target.startswith("http") or (PAGE.parent / target).exists(), target
