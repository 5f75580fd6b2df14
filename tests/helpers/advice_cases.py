"""Tiny models of which some penalties and methods ask too much."""

import keras

L = keras.layers
EMBEDDING = 4


def _stack(*layers, shape=(6, 6, 2)):
    return keras.Sequential([keras.Input(shape), *layers])


def _conv(activation="softplus", **options):
    return L.Conv2D(3, 3, activation=activation, name="conv", **options)


def smooth():
    return _stack(_conv(), L.Flatten(), L.Dense(3, name="head"))


def relu():
    return _stack(_conv("relu"), L.Flatten(), L.Dense(3, name="head"))


def layer_norm():
    norm = L.LayerNormalization(name="norm")
    return _stack(_conv(), norm, L.Flatten(), L.Dense(3, name="head"))


def batch_norm():
    norm = L.BatchNormalization(name="norm")
    return _stack(_conv(), norm, L.Flatten(), L.Dense(3, name="head"))


def softmax():
    return _stack(_conv(), L.Flatten(), L.Dense(3, activation="softmax", name="head"))


def table():
    return _stack(L.Dense(4, "softplus", name="hidden"), L.Dense(3, name="head"), shape=(5,))


def tokens():
    ids = keras.Input((7,), dtype="int32")
    h = L.Embedding(11, EMBEDDING, name="embedding")(ids)
    h = L.GlobalAveragePooling1D()(L.Dense(5, "softplus", name="hidden")(h))
    return keras.Model(ids, L.Dense(3, name="head")(h))


def two_heads():
    x = keras.Input((6, 6, 2))
    h = L.Flatten()(_conv()(x))
    return keras.Model(x, {"a": L.Dense(3)(h), "b": L.Dense(2)(h)})


def segmentation():
    return _stack(_conv(padding="same"), L.Conv2D(2, 1, name="head"))


MODELS = {
    make.__name__: make
    for make in (
        *(smooth, relu, layer_norm, batch_norm, softmax),
        *(table, tokens, two_heads, segmentation),
    )
}
