"""The exact constructions: what stays, what moves and by how much, and what maps show of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tfgrad import loading, second_order
from tfgrad.fooling import Picture, Ripple, per_class_shift, rippled, shared_shift
from tfgrad.penalties import SaliencyFooling
from tfgrad.penalties.fooling import corner

L = keras.layers
SHAPE, CLASSES, MASK = (5, 5, 2), 3, corner(5, 5, 2)
LABELS = np.array([2, 0, 1, 1])


def network(activation="softplus"):
    net = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Conv2D(3, 3, name="conv"),
            L.Activation(activation),
            L.Flatten(),
            L.Dense(CLASSES, name="head"),
        ]
    )
    rng = np.random.default_rng(1)
    for v in net.weights:
        v.assign(rng.normal(size=v.shape, scale=0.4))
    return net


def images(n=4):
    return np.random.default_rng(2).normal(size=(n, *SHAPE)).astype(keras.config.floatx())


def gradient(function, x):
    """(values, ∇x of their sum)."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        values = function(x)
    return np.asarray(values), np.asarray(tape.gradient(values, x))


def loss(net, labels=LABELS):
    return lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(labels, net(x))


def logit(net, k):
    return lambda x: net(x)[:, k]


def softmax(net, x):
    return np.asarray(tf.nn.softmax(net(x)))


# Who pays for a large g: rounding, in units of the last place of float32 and float64.
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "float64"])


@pytest.fixture
def rounding(precision, request):
    """What may remain of a difference, after building in that precision."""
    if precision == "float64":
        request.getfixturevalue("float64")
    return {"float32": 1e-5, "float64": 1e-13}[precision]


# One function for all logits


@PRECISIONS
def test_a_shared_shift_moves_logit_gradients_alone(rounding):
    net, x = network(), images()
    fooled = shared_shift(net, Picture(MASK, scale=2.0))
    before, after = gradient(loss(net), x), gradient(loss(fooled), x)
    for kept, moved in zip(before, after, strict=True):
        np.testing.assert_allclose(moved, kept, rtol=0, atol=rounding * np.abs(kept).max())
    np.testing.assert_allclose(softmax(fooled, x), softmax(net, x), rtol=10 * rounding)
    np.testing.assert_array_equal(np.argmax(fooled(x), 1), np.argmax(net(x), 1))
    picture = 2.0 * MASK[..., None]  # the same in both channels
    for k in range(CLASSES):
        (value, slope), (shifted, sloped) = (
            gradient(logit(net, k), x),
            gradient(logit(fooled, k), x),
        )
        np.testing.assert_allclose(sloped, slope + picture, rtol=0, atol=2 * rounding)
        g = 2.0 * (x * MASK[..., None]).sum((1, 2, 3))
        np.testing.assert_allclose(shifted, value + g, rtol=0, atol=20 * rounding)


def test_any_layer_can_be_the_shift(float64):
    net, x = network(), images()
    g = keras.Sequential([L.Flatten(), L.Dense(4, "tanh"), L.Dense(1)])
    fooled = shared_shift(net, g)
    _, slope = gradient(logit(net, 1), x)
    _, of_g = gradient(g, x)
    assert np.abs(of_g).max() > 0.01
    np.testing.assert_allclose(gradient(logit(fooled, 1), x)[1], slope + of_g, atol=1e-14)
    np.testing.assert_allclose(gradient(loss(fooled), x)[1], gradient(loss(net), x)[1], atol=1e-14)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
def test_float32_pays_for_large_shifts_what_the_docstring_says(scale):
    """ε_mach abs(f + g) a logit, and ε_mach ‖∇g‖ a loss-gradient; nothing of either in float64."""
    net, x = network(), images()
    fooled = shared_shift(net, Picture(MASK, scale))
    epsilon = np.finfo("float32").eps / 2
    before, after = gradient(loss(net), x), gradient(loss(fooled), x)
    largest = np.abs(fooled(x)).max()
    assert np.abs(after[0] - before[0]).max() <= 4 * epsilon * largest
    # The probabilities are those of rounded logits, each off by the same again.
    rounded = 4 * epsilon * largest * np.abs(gradient(logit(net, 0), x)[1]).max()
    assert np.abs(after[1] - before[1]).max() <= 8 * epsilon * scale + 4 * rounded


@pytest.mark.long
def test_what_maps_show():
    """InputGradient: of logits the picture, of losses what it showed before."""
    net, x = network(), images()
    fooled = shared_shift(net, Picture(MASK, scale=1e3))
    classes = LABELS.astype("int32")

    def share(model, **options):
        maps = np.asarray(tfgrad.saliency.InputGradient(model, **options)(x, classes))
        return maps, (maps * MASK).sum((1, 2)) / maps.sum((1, 2))

    assert share(net)[1].max() < 0.5
    assert share(fooled)[1].min() > 0.99
    for options in ({"of": "loss"}, {"of": "loss", "temperature": 1e3}):
        (before, _), (after, _) = share(net, **options), share(fooled, **options)
        # Of the logit-gradient 1e3 float32 leaves 1e-4, and the temperature divides it with all.
        atol = 2e-4 / options.get("temperature", 1.0) + 1e-3 * before.max()
        np.testing.assert_allclose(after, before, rtol=0, atol=atol)


# A function of its own for each logit


def waves(frequency=40.0):
    return Picture(MASK, scale=[0.0, frequency, -frequency])


@pytest.mark.long
@PRECISIONS
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 3.0])
def test_losses_move_by_no_more_than_the_bound(rounding, epsilon):
    net, x = network(), images(40)
    fooled = per_class_shift(net, waves(), epsilon)
    p, moved = softmax(net, x), np.asarray(fooled(x) - net(x))
    spread = np.abs(moved[:, :, None] - moved[:, None]).max()
    assert 0.5 * epsilon < spread <= epsilon + 10 * rounding
    for k in range(CLASSES):
        labels = np.full(len(x), k)
        change = gradient(loss(fooled, labels), x)[0] - gradient(loss(net, labels), x)[0]
        g = epsilon / 2 * np.sin(np.asarray(waves()(x)))
        exact = np.log((p * np.exp(g - g[:, k : k + 1])).sum(1))
        np.testing.assert_allclose(change, exact, rtol=0, atol=10 * rounding)
        bound = np.log(p[:, k] + (1 - p[:, k]) * np.exp(epsilon))
        assert (np.abs(change) <= bound + 10 * rounding).all()
        assert (bound <= epsilon).all()


def test_the_bound_is_reached(float64):
    """Both waves at their crests, on the side where the other class has all the probability."""
    net = keras.Sequential([keras.Input((1, 1, 1)), L.Flatten(), L.Dense(2)])
    net.set_weights([np.zeros((1, 2)), np.array([0.0, 30.0])])
    fooled = per_class_shift(net, Picture(1.0, scale=[-1.0, 1.0]), 0.2)
    x = np.full((1, 1, 1, 1), np.pi / 2)
    change = gradient(loss(fooled, [0]), x)[0] - gradient(loss(net, [0]), x)[0]
    np.testing.assert_allclose(change, [0.2], rtol=1e-9)


def test_the_gradient_of_a_loss_moves_by_the_stated_sums(float64):
    net, x, epsilon = network(), images(), 0.1
    fooled = per_class_shift(net, waves(), epsilon)
    p, q = softmax(net, x), softmax(fooled, x)
    f = np.stack([gradient(logit(net, k), x)[1] for k in range(CLASSES)], 1)
    g = np.stack([gradient(logit(fooled, k), x)[1] for k in range(CLASSES)], 1) - f
    own = g[np.arange(4), LABELS][:, None]
    expected = np.einsum("bk,bkhwc->bhwc", q, g - own) + np.einsum("bk,bkhwc->bhwc", q - p, f)
    change = gradient(loss(fooled), x)[1] - gradient(loss(net), x)[1]
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_gradients_move_without_bound_while_losses_stay(float64):
    """ε fixed, frequency up: the change of the loss-gradient grows in proportion, in the mask."""
    net, x, sizes = network(), images(40), []
    labels = np.arange(40) % CLASSES
    for frequency in (1e2, 1e4):
        fooled = per_class_shift(net, waves(frequency), 0.01)
        values, slopes = gradient(loss(fooled, labels), x)
        before, sloped = gradient(loss(net, labels), x)
        assert np.abs(values - before).max() <= 0.01
        sizes.append(np.abs(slopes - sloped).mean((0, 3)))
    assert 50 < sizes[1][MASK > 0].mean() / sizes[0][MASK > 0].mean() < 200
    assert sizes[1][MASK == 0].max() < 0.02 * sizes[1][MASK > 0].min()


def test_low_probabilities_are_fooled_most(float64):
    """Both sums carry 1 − p̃ of the class; a temperature of 1e3 takes that protection away."""
    net, x = network(), images(60)
    fooled = per_class_shift(net, waves(), 0.01)
    p, change = softmax(net, x), np.zeros((60, CLASSES))
    for k in range(CLASSES):
        labels = np.full(60, k)
        moved = gradient(loss(fooled, labels), x)[1] - gradient(loss(net, labels), x)[1]
        change[:, k] = np.abs(moved).sum((1, 2, 3))
    assert change[p < 0.1].mean() > 5 * change[p > 0.95].mean()


def test_phases_that_are_alike_move_no_loss(float64):
    net, x = network(), images()
    fooled = per_class_shift(net, Picture(MASK, scale=[40.0] * CLASSES), 0.5)
    assert np.abs(np.asarray(fooled(x) - net(x))).max() > 0.1
    for before, after in zip(gradient(loss(net), x), gradient(loss(fooled), x), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)


# A ripple on a loss


@PRECISIONS
@pytest.mark.parametrize("frequency", [1.0, 30.0, 1000.0])
def test_a_rippled_loss(rounding, frequency):
    net, x, epsilon = network(), images(), 0.01
    plain = loss(net)
    before = gradient(plain, x)
    after = gradient(lambda t: rippled(plain(t), t, epsilon, frequency), x)
    assert np.abs(after[0] - before[0]).max() <= epsilon * (1 + rounding) + rounding
    distance = np.abs(after[1] - before[1]).sum((1, 2, 3))
    bound = frequency * epsilon * x[0].size
    assert (distance <= bound * (1 + 10 * rounding)).all()
    expected = bound * np.abs(np.cos(frequency * x.astype("float64").sum((1, 2, 3))))
    # In float64 the phase is rounded, to frequency · abs(1ᵀx) units.
    slack = bound * max(rounding, 1e-14 * frequency)
    np.testing.assert_allclose(distance, expected, rtol=0, atol=slack + 10 * rounding)
    assert distance.max() > 0.3 * bound


def test_a_fast_ripple_on_float32_images():
    """The stated equality at a phase of about 1e7, of which float32 knows no more than 1."""
    x, epsilon, frequency = tf.random.stateless_uniform([8, 32, 32, 3], [1, 2]), 0.01, 1e4

    def plain(t):
        return tf.reduce_mean(t**2, (1, 2, 3))

    before, after = (
        gradient(f, x) for f in (plain, lambda t: rippled(plain(t), t, epsilon, frequency))
    )
    phase, size = frequency * np.sum(x.numpy(), (1, 2, 3), dtype="float64"), 32 * 32 * 3
    np.testing.assert_allclose(
        after[0] - before[0], epsilon * np.sin(phase), atol=1e-5 * epsilon + 1e-7
    )
    bound = frequency * epsilon * size
    distance = np.abs(after[1] - before[1]).sum((1, 2, 3), dtype="float64")
    np.testing.assert_allclose(distance, bound * np.abs(np.cos(phase)), rtol=0, atol=1e-5 * bound)


# Fooled networks in use


BUILDERS = {
    "shared": lambda net: shared_shift(net, Picture(MASK, 3.0)),
    "per_class": lambda net: per_class_shift(net, waves(), 0.3),
}


@pytest.mark.parametrize("construction", BUILDERS)
def test_saved_and_loaded(construction, tmp_path):
    fooled, x = BUILDERS[construction](network()), images()
    fooled.save(tmp_path / "fooled.keras")
    again = loading.load(tmp_path / "fooled.keras")
    np.testing.assert_array_equal(again(x), fooled(x))
    own = [layer for layer in fooled.layers if isinstance(layer, Picture | Ripple)]
    assert own
    for layer in own:
        assert again.get_layer(layer.name).get_config() == layer.get_config()


@pytest.mark.long
@pytest.mark.parametrize("construction", BUILDERS)
@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_full_gradients_add_up(construction, activation):
    fooled, x = BUILDERS[construction](network(activation)), images()
    full = tfgrad.full_gradients(fooled, x)
    assert bool(full.adds_up())
    np.testing.assert_allclose(full.score, np.max(fooled(x), 1), rtol=1e-6)


@pytest.mark.sample(2)
@pytest.mark.parametrize("construction", BUILDERS)
def test_it_can_be_trained_with_penalties(construction):
    """The guard has nothing against it, and only the network's own weights move."""
    net = network()
    fooled = BUILDERS[construction](net)
    assert not second_order.check(fooled).findings
    assert len(fooled.trainable_weights) == len(net.trainable_weights)
    model = tfgrad.PenalizedModel(fooled, [tfgrad.penalties.GradientNorm(0.01)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = net.get_weights()
    model.fit(images(), LABELS, verbose=0)
    assert any((a != b).any() for a, b in zip(before, net.get_weights(), strict=True))


def test_fine_tuning_undoes_nothing_it_needs_not():
    """Eq. 5.7's value of a network that shows nothing but the mask is next to 0."""
    fooled = shared_shift(network(), Picture(MASK, 1e4))
    value = SaliencyFooling(1.0, MASK).per_example(fooled, images(), LABELS)
    assert float(tf.reduce_max(value)) < 1e-6


def test_half_precision_networks_are_shifted_in_float32():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = network()
        fooled = shared_shift(net, Picture(MASK, 1e4))
    finally:
        keras.config.set_dtype_policy(policy)
    x = images()
    assert fooled(x).dtype == "float32"
    expected = np.asarray(net(x), "float32") + 1e4 * (x * MASK[..., None]).sum((1, 2, 3))[:, None]
    np.testing.assert_allclose(fooled(x), expected, rtol=1e-5)


def test_networks_on_integer_images_are_shifted():
    """They have no input-gradient, and their logits move by g all the same."""
    inputs = keras.Input(SHAPE, dtype="uint8")
    net = keras.Model(inputs, network()(L.Rescaling(1 / 255)(inputs)))
    fooled = shared_shift(net, Picture(MASK, 0.01))
    x = np.random.default_rng(3).integers(0, 256, (4, *SHAPE)).astype("uint8")
    g = 0.01 * (x * MASK[..., None]).sum((1, 2, 3))[:, None]
    expected = net.predict(x, verbose=0) + g
    np.testing.assert_allclose(fooled.predict(x, verbose=0), expected, rtol=1e-5)


# Layers on their own


@pytest.mark.parametrize(
    ("pattern", "scale", "expected"),
    [
        (1.0, 3.0, [3 * (1 + 2 + 3 + 4)]),
        ([[0, 1]], 1.0, [3 + 4]),
        ([[[1, 0], [0, -1]]], [1.0, 2.0], [1 - 4, 2 * (1 - 4)]),
    ],
)
def test_pictures_by_hand(pattern, scale, expected):
    """One row of two pixels with two channels: (1, 2) and (3, 4)."""
    picture = Picture(pattern, scale)
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]], "float32")
    np.testing.assert_allclose(picture(x), [expected])
    assert picture.compute_output_shape(x.shape) == picture(x).shape
    again = Picture.from_config(picture.get_config())
    np.testing.assert_array_equal(again(x), picture(x))


def test_channels_first_pictures():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        value = Picture([[0, 1]])(np.array([[[[1.0, 2.0]], [[3.0, 4.0]]]], "float32"))
    finally:
        keras.config.set_image_data_format(before)
    np.testing.assert_allclose(value, [[2 + 4]])


def test_ripples_by_hand():
    np.testing.assert_allclose(
        Ripple(0.5)(np.array([[0.0, np.pi / 2, -np.pi / 2]], "f4")), [[0, 0.5, -0.5]], atol=1e-7
    )
    assert Ripple.from_config(Ripple(0.5).get_config()).amplitude == 0.5
