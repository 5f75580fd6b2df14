"""Token ids of every type, strings, and models that do not tell which type they take."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers.question_cases import TOKENS, Subclassed, randomised, tokens
from tests.helpers.variants import with_slow
from tfgrad import saliency
from tfgrad.errors import ArgumentError, LogitsWarning, ModelError

IDS = np.array([[1, 5, 2, 7, 3, 8], [4, 4, 6, 2, 1, 3]], "int32")


def test_a_subclassed_model_takes_ids_of_every_type():
    """Keras does not tell that it takes integers, nor which."""
    model, tail, table = tokens(form="subclassed")
    method = saliency.InputTimesGradient(model)
    expected = saliency.InputTimesGradient(tail)(table[IDS], 1)
    for dtype in ("int32", "int64"):
        np.testing.assert_allclose(method(IDS.astype(dtype), 1), expected, rtol=1e-5, atol=1e-7)


class OneHot(keras.Model):
    """A softmax of an embedding and of operations that take integers alone."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(9, 3)
        self.head = keras.layers.Dense(2)

    def call(self, x, training=False):
        hot = tf.one_hot(x["ids"], 9, axis=-1)
        words = tf.reduce_sum(self.embed(x["ids"]), 1) + tf.reduce_sum(hot[..., :3], 1)
        return tf.nn.softmax(self.head(tf.concat([words, x["table"]], -1)))


@pytest.mark.long
def test_the_softmax_of_a_model_whose_ids_must_be_integers_is_left_out():
    model = OneHot()
    x = {"ids": IDS, "table": np.ones((2, 2), "float32")}
    model(x)
    randomised(model)
    with pytest.warns(LogitsWarning):
        method = saliency.InputGradient(model, reduce="sum")
    weights = model.head.kernel.numpy()[:, 1]
    maps = method(x, 1)
    np.testing.assert_allclose(maps["ids"], np.full(IDS.shape, weights[:3].sum()), rtol=1e-5)
    np.testing.assert_allclose(maps["table"], np.tile(weights[3:], (2, 1)), rtol=1e-5)
    # Its call runs in a graph of its own, where an eager tape cannot follow it.
    with pytest.raises(ModelError, match=r"at='embedding.*inside a graph of its own"):
        tfgrad.full_gradients(model, x, 1, at=model.embed.name)
    full = tf.function(
        lambda v: tfgrad.full_gradients(model, v, 1, at=model.embed.name).total(), autograph=False
    )
    np.testing.assert_allclose(full(x), tfgrad.models.logits(model)(x)[:, 1], rtol=1e-5)


@pytest.mark.long
def test_ids_that_an_embedding_lacks():
    model, _, _ = tokens("float32")
    message = r"x: got ids from 1 to 9 for layer 'embed'; expected 0 to 8, the 9 rows"
    ids = np.where(IDS == 8, 9, IDS)
    with pytest.raises(ArgumentError, match=message):
        saliency.InputGradient(model)(ids)
    with pytest.raises(ArgumentError, match=message):
        tfgrad.full_gradients(model, ids)
    with pytest.raises(ArgumentError, match=r"got ids from 20 to 20 for layer 'embed'"):
        saliency.IntegratedGradients(model, baseline=20, steps=1)(IDS)
    nested = Subclassed(keras.Sequential([model]), IDS)
    with pytest.raises(ArgumentError, match=message):
        tfgrad.full_gradients(nested, ids)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "options"),
    with_slow(
        [("integrated_gradients", {"steps": 2})], [("fullgrad", {}), ("smoothgrad", {"samples": 2})]
    ),
)
def test_words_are_explained_at_the_embedding_of_their_numbers(name, options):
    model, _, _ = tokens()
    words = keras.layers.TextVectorization(
        output_sequence_length=TOKENS, vocabulary=["a", "b", "c", "d"]
    )
    text = keras.Input((), dtype="string")
    of_text = keras.Model(text, model(words(text)))
    x = np.array(["a b c d a a", "c b"])
    numbers = np.asarray(words(x))
    got = saliency.get(name)(of_text, **options)(x, 1)
    expected = saliency.get(name)(model, **options)(numbers, 1)
    assert got.shape == (2, TOKENS)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError, match=r"baseline: got 1.0, which takes strings; expected 0"):
        saliency.IntegratedGradients(of_text, baseline=1)(x, 1)
    with pytest.raises(ArgumentError, match=r"x: got int64 values; expected strings"):
        saliency.InputGradient(of_text)(numbers[:, 0])
