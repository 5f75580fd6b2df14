"""Accuracy under FGSM and PGD, against classifiers whose worst perturbation is known."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.one_logit import compiled_pair, images
from tfgrad.errors import ArgumentError, DataError, NonFiniteError
from tfgrad.evaluation import adversarial_robustness, noise_robustness
from tfgrad.evaluation.network_tests.adversarial_robustness import EPSILONS, described
from tfgrad.evaluation.network_tests.attacks import Attacked, chosen

GENERATOR = np.random.default_rng(0)
W = GENERATOR.normal(size=(6, 2)).astype("float32")
BIAS = np.array([0, (W[:, 0] - W[:, 1]).sum() / 2], "float32")  # undecided at the centre
X = GENERATOR.uniform(0.3, 0.7, (200, 6)).astype("float32")
Y = (X @ W + BIAS).argmax(1)
Y[:20] = 1 - Y[:20]
SIZES = (0.0, 0.01, 0.02, 0.04, 0.06)
fgsm = functools.partial(adversarial_robustness, attack="fgsm")
pgd = functools.partial(adversarial_robustness, attack="pgd", steps=5, starts=2)


def linear(scale=1.0):
    network = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    network.set_weights([scale * W, scale * BIAS])
    return network


def batches(x=X, y=Y, size=64):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def closed_form(epsilon):
    """The share with (w_y − w_k)·x + b_y − b_k > ε ‖w_y − w_k‖₁, in float64."""
    signs = np.where(Y == 1, 1, -1)
    w, b = W.astype("float64"), BIAS.astype("float64")
    margin = signs * (X @ (w[:, 1] - w[:, 0]) + b[1] - b[0])
    return np.mean(margin > epsilon * np.abs(w[:, 1] - w[:, 0]).sum())


@pytest.fixture(scope="module")
def toy():
    """A network that is not linear, with images in 0 to 1 and its own predictions as labels."""
    keras.utils.set_random_seed(1)
    dense = functools.partial(keras.layers.Dense, kernel_initializer=keras.initializers.HeNormal(3))
    network = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), dense(16)])
    network.add(keras.layers.Activation("tanh"))
    network.add(dense(3))
    x = np.random.default_rng(2).uniform(0, 1, (60, 3, 3, 1)).astype("float32")
    return network, x, np.asarray(network(x)).argmax(-1)


@pytest.mark.parametrize("attack", [fgsm, pgd], ids=["fgsm", "pgd"])
@pytest.mark.parametrize("scale", [1.0, 1e3], ids=["soft", "certain"])
def test_a_linear_classifier_has_a_closed_form(attack, scale):
    """Also where probabilities are 0 and 1 in float32, and the cross-entropy has no gradient."""
    found = attack(linear(scale), batches(), SIZES, value_range=None)
    expected = [closed_form(epsilon) for epsilon in SIZES]
    assert found.values == pytest.approx(expected) and found.points == SIZES
    assert expected[0] > expected[2] > expected[4] > 0
    errors = [np.sqrt(p * (1 - p) / 199) for p in expected]
    assert found.deviations == pytest.approx(errors)
    assert found.columns["without gradient"] == (0.0,) * 5


def test_clipping_to_the_range_is_part_of_the_closed_form():
    """With pixels from 0.3 to 0.7 a perturbation of 0.4 is as bad as any larger one."""
    w, b = W.astype("float64"), BIAS.astype("float64")
    signs = np.where(Y == 1, 1, -1)[:, None]
    worst = np.where(signs * (w[:, 1] - w[:, 0]) > 0, 0.3, 0.7)
    margin = signs[:, 0] * ((worst * (w[:, 1] - w[:, 0])).sum(1) + b[1] - b[0])
    found = fgsm(linear(), batches(), (0.4, 5.0), value_range=(0.3, 0.7))
    assert found.values == pytest.approx([np.mean(margin > 0)] * 2)
    per_feature = fgsm(linear(), batches(), (5.0,), value_range=(np.full(6, 0.3), [0.7]))
    assert per_feature.values == found.values[1:]


@pytest.mark.long
def test_no_perturbation_leaves_the_clean_accuracy(toy):
    network, x, y = toy
    y = np.where(np.arange(60) < 15, (y + 1) % 3, y)
    clean = noise_robustness(network, batches(x, y), (0.0,)).values
    found = pgd(network, batches(x, y), (0.0, 0.2))
    assert found.values[:1] == clean == (0.75,)
    assert found.values[1] < 0.75  # no perturbation makes a wrong image right


@pytest.mark.parametrize("step_size", [None, 0.3])
def test_pgd_stays_in_the_ball_and_in_the_range(toy, step_size):
    network, x, y = toy
    bounds = (np.zeros((3, 3, 1)), np.ones((3, 3, 1)))
    first = tf.constant(0, tf.int64)
    attacked = Attacked(network, tf.constant(x), tf.constant(y), first, bounds, 0)
    attack = chosen("pgd", 4, None, step_size)
    found = [attacked.examples(attack, tf.constant(0.15), tf.constant(i)).numpy() for i in (0, 1)]
    for perturbed in found:
        assert np.abs(perturbed - x).max() <= 0.15 + 1e-6
        assert perturbed.min() >= 0 and perturbed.max() <= 1
        assert np.abs(perturbed - x).max() > 0.149
    assert not np.array_equal(*found)  # the starts differ
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    assert np.mean(loss(y, network(found[0]))) > np.mean(loss(y, network(x)))


def test_several_steps_find_at_least_what_one_step_finds(toy):
    network, x, y = toy
    sizes = (0.0, 0.02, 0.05, 0.1, 0.2)
    one = fgsm(network, batches(x, y), sizes).values
    several = pgd(network, batches(x, y), sizes, starts=4).values
    assert all(b <= a + 1e-9 for a, b in zip(one, several, strict=True)) and several < one
    assert one[0] == several[0] == 1 and one[4] > several[4] > 0


@pytest.mark.long
def test_the_seed_decides_and_the_batch_size_does_not(toy):
    network, x, y = toy

    def starts(first=0, end=60, seed=0, start=0):
        first_image = tf.constant(first, tf.int64)
        parts = tf.constant(x[first:end]), tf.constant(y[first:end])
        attacked = Attacked(network, *parts, first_image, None, seed)
        one_step = chosen("pgd", 1, None, 1e-6)
        return (
            attacked.examples(one_step, tf.constant(0.1), tf.constant(start)).numpy() - x[first:end]
        )

    whole = starts()
    parts = np.concatenate([starts(0, 7), starts(7, 60)])
    np.testing.assert_allclose(parts, whole, atol=2e-6)
    others = starts(seed=1), starts(start=1)
    assert all(np.abs(other - whole).max() > 0.1 for other in others)
    np.testing.assert_allclose(np.std(whole), 0.1 / np.sqrt(3), rtol=0.1)
    found, again = (pgd(network, batches(x, y, size), (0.0, 0.06)) for size in (64, 7))
    assert found == again


@pytest.mark.long
def test_one_logit_is_attacked_as_two():
    one, two = compiled_pair()
    data = batches(images(8), np.array([1, 0, 0, 1, 1, 0, 1, 0]), 5)
    found, expected = (pgd(f, data, (0.0, 0.1, 0.3), value_range=None) for f in (one, two))
    assert found == expected


def test_images_without_gradient_are_counted():
    network = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)]
    )
    weights = network.get_weights()
    weights[1] = np.full(3, -100.0, "float32")  # no unit is active
    network.set_weights(weights)
    found = fgsm(network, batches(), (0.0, 0.3))
    assert found.columns["without gradient"] == (1.0, 1.0) and found.values[0] == found.values[1]


def test_attacks_have_names():
    assert str(described("fgsm")) == "FGSM"
    assert str(described("pgd")) == "PGD, 10 steps of 0.25 ε, 1 random start"
    assert str(described("pgd", 7, 2, 0.01)) == "PGD, 7 steps of 0.01, 2 random starts"


def test_the_defaults():
    found = adversarial_robustness(linear(), batches(X[:8], Y[:8]))
    assert found.points == EPSILONS and EPSILONS[0] == 0
    assert (found.over, found.examples, found.seed) == ("8 images (standard error)", 8, 0)
    assert (found.direction, found.along, found.percent) == ("higher", "size ε", True)


WRONG = [
    ({"epsilons": (0.1, -1)}, r"epsilons: got \[0.1, -1\]; expected finite numbers ≥ 0"),
    ({"epsilons": ()}, r"epsilons: got \[\]; expected finite numbers ≥ 0, at least one"),
    ({"attack": "pdg"}, "attack: got 'pdg'; did you mean 'pgd'"),
    ({"attack": "fgsm", "steps": 3}, "steps: got 3 for attack='fgsm', which makes one step of ε"),
    ({"starts": 0}, "starts: got 0; expected an integer ≥ 1"),
    ({"step_size": 0.0}, "step_size: got 0.0; expected a finite number above 0"),
    ({"value_range": 1}, "value_range: got 1; expected the least and the greatest value"),
    ({"value_range": (0, 1, 2)}, r"value_range: got \(0, 1, 2\); expected the least and"),
    ({"value_range": (1, 0)}, r"value_range: got \(1, 0\); expected the least and the greatest"),
    ({"value_range": (0, [1, 1])}, r"value_range: got \[1, 1\]; expected a finite number, or"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments(options, message):
    with pytest.raises(ArgumentError, match=message):
        adversarial_robustness(linear(), batches(X[:8], Y[:8]), **options)


def test_pixels_outside_the_range_are_refused():
    message = r"batches: got pixels from 0\.[\d]+ to 1\.[34]\d*; expected value_range=\(0.0, 1.0\)"
    with pytest.raises(DataError, match=message):
        fgsm(linear(), batches(2 * X, Y))
    slightly = np.where(X > 0.65, 1 + 1e-6, X).astype("float32")  # rounding of a normalisation
    assert fgsm(linear(), batches(slightly, Y), (0.0, 0.1)).examples == 200


def test_other_inputs_are_refused():
    ids = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(5, 3)])
    ids.add(keras.layers.Flatten())
    ids.add(keras.layers.Dense(2))
    tokens = tf.data.Dataset.from_tensor_slices((np.ones((4, 4), "int32"), Y[:4])).batch(2)
    with pytest.raises(ArgumentError, match="batches: got several inputs, or integers"):
        fgsm(ids, tokens)
    network = linear()
    network.set_weights([np.full((6, 2), np.nan, "float32"), BIAS])
    with pytest.raises(NonFiniteError, match="network: the logits or gradients of image 0 are NaN"):
        fgsm(network, batches(X[:4], Y[:4]))
