"""Maps of token ids, which are explained at their embedding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.question_cases import TOKENS, WORDS, randomised, tokens
from tests.helpers.variants import with_slow
from tfgrad import saliency
from tfgrad.errors import ArgumentError, ModelError

IDS = np.array([[1, 5, 2, 7, 3, 8], [4, 4, 6, 2, 1, 3]], "int32")

# Every way from terms to a map; and integrated gradients have their own test.
METHODS = with_slow(
    [
        ("input_times_gradient", {}),
        ("fullgrad", {}),
    ],
    [
        ("input_gradient", {}),
        ("smoothgrad", {"samples": 2}),
        ("fullgrad", {"part": "signed", "rescale": None, "placement": "stretch"}),
        ("simple_fullgrad", {}),
        ("smooth_fullgrad", {"samples": 2}),
        ("full_jacobian_map", {}),
        ("bias_map", {}),
        ("layer_map", {"call": "conv"}),
        ("gradcam", {}),
        ("smoothgrad_squared", {"samples": 2}),
    ],
)


@pytest.mark.long
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_maps_of_ids_are_those_of_their_embeddings(name, options):
    """Of the same network without its embedding, on what the embedding returns."""
    model, tail, table = tokens()
    got = saliency.get(name)(model, **options)(IDS, 1)
    assert got.shape == (2, TOKENS)
    expected = saliency.get(name)(tail, **options)(table[IDS], 1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_integrated_gradients_start_from_a_token():
    model, tail, table = tokens()
    method = saliency.IntegratedGradients(model, baseline=3, steps=8)
    found = tf.function(method.explain)(IDS, 1)
    same = saliency.IntegratedGradients(tail, baseline=table[3], steps=8)
    np.testing.assert_allclose(found["saliency"], same(table[IDS], 1), rtol=1e-4, atol=1e-6)
    rise = model(IDS).numpy()[:, 1] - model(np.full_like(IDS, 3)).numpy()[:, 1]
    gap = np.abs(found["saliency"].numpy().sum(1) - rise)
    np.testing.assert_allclose(found["convergence_gap"], gap, atol=1e-5)
    of_steps = saliency.IntegratedGradients(model, baseline=[3] * TOKENS, steps=8)
    np.testing.assert_array_equal(of_steps(IDS, 1), found["saliency"])
    assert found["saliency"][1, 5] == 0  # the token of the baseline


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "options"),
    with_slow(
        [("input_gradient", {}), ("gradcam", {})],
        [("fullgrad", {}), ("smoothgrad", {"samples": 2}), ("random", {})],
    ),
)
def test_masked_steps_get_zero(name, options):
    model, _, _ = tokens(mask_zero=True)
    ids = IDS.copy()
    ids[0, 4:] = 0
    method = saliency.get(name)(model, **options)
    of_classes = [method(ids, k).numpy() for k in range(3)]
    for maps in of_classes:
        np.testing.assert_array_equal(maps[0, 4:], 0)
    # Grad-CAM of one class may be 0 everywhere; not that of every class.
    size = np.abs(of_classes).max(0)
    assert size[0, :4].max() > 0 and size[1].max() > 0


@pytest.mark.long
def test_masked_steps_stay_on_the_path():
    model, _, _ = tokens(mask_zero=True)
    ids = IDS.copy()
    ids[0, 4:] = 0
    found = tf.function(saliency.IntegratedGradients(model, baseline=2, steps=100).explain)(ids, 0)
    assert np.max(found["convergence_gap"]) < 1e-3
    # Only visible steps are exchanged for the baseline's token.
    rise = model(ids).numpy()[0, 0] - model(np.where(ids == 0, 0, 2)).numpy()[0, 0]
    np.testing.assert_allclose(found["saliency"][0].numpy().sum(), rise, atol=1e-3)


def test_another_layer_may_take_the_place_of_the_ids():
    model, tail, table = tokens()
    at_norm = saliency.InputTimesGradient(model, at="norm")
    part = keras.Model(tail.input, tail.get_layer("norm").output)
    values = part(table[IDS])
    rest = keras.Model(tail.get_layer("norm").output, tail.output)
    expected = saliency.InputTimesGradient(rest)(values, 1)
    np.testing.assert_allclose(at_norm(IDS, 1), expected, rtol=1e-5, atol=1e-7)
    assert at_norm.stated()["at"] == "norm"


def test_floats_that_are_ids_are_explained_at_the_named_embedding():
    ids = keras.Input((TOKENS,))  # float32, as Keras's default is
    y = keras.layers.Embedding(WORDS, 2, name="embed")(ids)
    model = randomised(keras.Model(ids, keras.layers.Dense(2)(keras.layers.Flatten()(y))))
    with pytest.raises(ArgumentError, match=r"x: got int32 images; expected float ones"):
        saliency.InputGradient(model)(IDS)
    maps = saliency.InputTimesGradient(model, at="embed")(IDS, 1)
    bias = model.layers[-1].bias.numpy()[1]
    np.testing.assert_allclose(maps.numpy().sum(1) + bias, model(IDS)[:, 1], rtol=1e-5)


def test_what_has_no_embedding_is_refused():
    ids = keras.Input((TOKENS,), dtype="int32")
    scaled = keras.ops.cast(ids, "float32")
    model = keras.Model(ids, keras.layers.Dense(2)(scaled))
    with pytest.raises(ModelError, match=r"got integer inputs alone.*try at='NAME'"):
        saliency.InputGradient(model)(IDS)
    words, _, _ = tokens("float32")
    for at, expected in (("nothing", "nothing"), ("flat", None)):
        method = saliency.InputGradient(words, at=at)
        if expected is None:  # any layer of one output of floats
            assert method(IDS).shape == (2,)
            continue
        with pytest.raises(ArgumentError, match=r"at: .*'nothing'"):
            method(IDS)
    with pytest.raises(
        ArgumentError, match=r"x: got float32 values; expected int32, such as token"
    ):
        saliency.InputGradient(words)(IDS.astype("float32"))
    with pytest.raises(ArgumentError, match=r"baseline: got 0\.5; expected a token id"):
        saliency.IntegratedGradients(words, 0.5, 1)(IDS)
