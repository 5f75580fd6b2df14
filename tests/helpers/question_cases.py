"""Small networks with several inputs, token ids and several outputs, to be explained."""

import keras
import numpy as np

from tests.helpers.saliency_cases import policy

TOKENS, WORDS, WIDTH = 6, 9, 3


def randomised(model, seed=3):
    """The model with random weights, the same ones at every call."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(rng.normal(size=variable.shape, scale=0.5))
    return model


def several(dtype="float64", form="functional", outputs=3):
    """A network of {"image": [6, 5, 2], "table": [4], "ids": int [6]}; other forms: `of_form`."""
    layers = keras.layers
    with policy(dtype):
        image = keras.Input((6, 5, 2), name="image")
        table = keras.Input((4,), name="table")
        ids = keras.Input((TOKENS,), dtype="int32", name="ids")
        seen = layers.Conv2D(3, 3, activation="softplus", name="conv")(image)
        words = layers.Embedding(WORDS, WIDTH, name="embed")(ids)
        words = layers.Conv1D(2, 3, activation="softplus", name="mix")(words)
        parts = [layers.Flatten()(seen), layers.Dense(3, "tanh")(table), layers.Flatten()(words)]
        joined = layers.Dense(5, activation="softplus")(layers.Concatenate()(parts))
        head = layers.Dense(outputs, dtype=None if dtype == "float64" else "float32")(joined)
        inputs = {"image": image, "table": table, "ids": ids}
        if form in ("list", "branched"):
            inputs = of_form(inputs, form)
        if form == "subclassed":  # Keras sorts the keys that it gives to a `call`
            inputs = dict(sorted(inputs.items()))
        model = randomised(keras.Model(inputs, head))
        if form == "nested":
            again = {k: keras.Input(v.shape[1:], dtype=v.dtype, name=k) for k, v in inputs.items()}
            return keras.Model(again, model(again))
        return Subclassed(model, batch(1)) if form == "subclassed" else model


def of_form(x, form):
    """Inputs of `several` in the structure that a form of the network takes."""
    if form == "list":
        return [x["image"], x["table"], x["ids"]]
    if form == "branched":
        return {"seen": {"image": x["image"], "table": x["table"]}, "ids": x["ids"]}
    return x


def by_name(maps, form):
    """The maps of a form as those of a dict of inputs; the first ones, if there are fewer."""
    if form == "list":
        return dict(zip(("image", "table", "ids"), maps, strict=False))
    return (
        maps["seen"] | {k: v for k, v in maps.items() if k == "ids"} if form == "branched" else maps
    )


class Subclassed(keras.Model):
    """A model that calls another one."""

    def __init__(self, inner, example):
        super().__init__()
        self.inner = inner
        self(example)

    def call(self, x, training=False):
        return self.inner(x, training=training)


def batch(n=3, dtype="float64"):
    """Inputs of `several`, whose ids are not 0."""
    rng = np.random.default_rng(5)
    return {
        "image": rng.normal(size=(n, 6, 5, 2)).astype(dtype),
        "table": rng.normal(size=(n, 4)).astype(dtype),
        "ids": rng.integers(1, WORDS, (n, TOKENS)).astype("int32"),
    }


def after_embedding(x, mask=None):
    """Logits from embeddings [B, T, C], in layers that are the same at every call of one policy."""
    layers = keras.layers
    y = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    y = layers.LayerNormalization(name="norm")(y + x)
    y = layers.Conv1D(4, 3, strides=2, activation="softplus", name="conv")(y)
    return layers.Dense(3, name="head")(layers.Flatten(name="flat")(y))


def tokens(dtype="float64", mask_zero=False, form="functional"):
    """(a network of token ids [6], the same network of their embeddings, the table of these)."""
    keras.utils.set_random_seed(4)
    with policy(dtype):
        ids = keras.Input((TOKENS,), dtype="int32")
        embedding = keras.layers.Embedding(WORDS, WIDTH, mask_zero=mask_zero, name="embed")
        model = randomised(keras.Model(ids, after_embedding(embedding(ids))))
        floats = keras.Input((TOKENS, WIDTH))
        tail = keras.Model(floats, after_embedding(floats))
        tail.set_weights(model.get_weights()[1:])
        if form == "nested":
            again = keras.Input((TOKENS,), dtype="int32")
            model = keras.Model(again, model(again))
        if form == "subclassed":
            model = Subclassed(model, np.ones((1, TOKENS), "int32"))
    return model, tail, np.asarray(embedding.embeddings)


def heads(dtype="float64"):
    """A network of images [6, 5, 2] with a price [1], and a rating of two numbers in (0, 1)."""
    with policy(dtype):
        image = keras.Input((6, 5, 2))
        y = keras.layers.Conv2D(3, 3, activation="softplus", name="conv")(image)
        y = keras.layers.Flatten()(y)
        rating = keras.layers.Dense(2, activation="sigmoid")(y)
        return randomised(keras.Model(image, {"price": keras.layers.Dense(1)(y), "rating": rating}))
