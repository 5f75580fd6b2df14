"""Weights that are meant for pixels in 0 to 1, and networks that take others."""

import warnings

import keras
import pytest

import tfgrad
from tfgrad.errors import ImageRangeWarning
from tfgrad.penalties import (
    BiasGradientNorm,
    GradientMask,
    GradientNorm,
    JacobianMatching,
    ScoreMatching,
)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(scale=1 / 255):
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Rescaling(scale)(inputs)
    x = keras.layers.Conv2D(2, 3, activation="softplus", name="conv")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)), name="own")


@pytest.mark.parametrize(
    "penalty", [GradientNorm(0.5), GradientMask(0.5), ScoreMatching(0.5)], ids=lambda p: p.name
)
def test_a_weight_without_effect_is_told(penalty):
    model = tfgrad.PenalizedModel(network(), [penalty])
    expected = rf"weight: got 0.5 for '{penalty.name}' and network 'own'; .* 65,025 times smaller"
    with pytest.warns(ImageRangeWarning, match=expected + ".*try 32512.5") as told:
        model.compile("sgd", LOSS)
    assert [one.filename for one in told] == [__file__]


@pytest.mark.parametrize(
    ("scale", "penalty"),
    [
        (1 / 255, GradientNorm(32512.5)),
        (1 / 255, GradientNorm(0.0)),
        (1 / 255, GradientNorm(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5))),
        (1 / 255, BiasGradientNorm(0.5, layers=["conv"])),
        (1.0, GradientNorm(0.5)),
        (2.0, GradientNorm(0.5)),
    ],
)
def test_others_are_not(scale, penalty):
    model = tfgrad.PenalizedModel(network(scale), [penalty])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImageRangeWarning)
        model.compile("sgd", LOSS)


def test_a_teacher_s_gradients_are_as_small():
    model = tfgrad.PenalizedModel(network(), [JacobianMatching(0.5)], teacher=network())
    with pytest.warns(ImageRangeWarning, match="weight: got 0.5 for 'jacobian_matching'"):
        model.compile("sgd", LOSS)


def test_a_saved_model_is_loaded_without_a_word(tmp_path):
    model = tfgrad.PenalizedModel(network(), [GradientNorm(0.5)])
    with pytest.warns(ImageRangeWarning):
        model.compile("sgd", LOSS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")  # warnings are errors
    assert loaded.penalties[0].weight == 0.5


def test_a_weight_of_that_scale_is_that_of_pixels_in_0_to_1():
    """λ Σ (∂f/∂x)² at x = 255 u is λ/255² Σ (∂f/∂u)²."""
    wide, images = network(), keras.random.uniform((2, 6, 6, 1), seed=1)
    narrow = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Rescaling(255.0), wide])
    labels = keras.ops.convert_to_tensor([0, 2])
    on_wide = GradientNorm().per_example(wide, 255 * images, labels)
    on_narrow = GradientNorm().per_example(narrow, images, labels)
    assert on_narrow.numpy() == pytest.approx(65025 * on_wide.numpy(), rel=1e-5)
