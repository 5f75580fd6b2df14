"""Pixel perturbation of one of several inputs, and of tokens."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.removal_cases import ascending
from tfgrad import saliency, targets
from tfgrad.errors import ArgumentError, NonFiniteError
from tfgrad.evaluation import class_flip, pixel_perturbation

L = keras.layers
IDS = np.array([[3, 4, 5, 6, 0, 0], [7, 8, 9, 1, 2, 3], [5, 2, 0, 0, 0, 0], [9, 9, 4, 0, 0, 0]])
FRACTIONS = (0.0, 0.5, 1.0)
PRICE = targets.Output("price")


def advert(kind=dict):
    """A network of an image, a table and token ids, with the same layers for a dict and a list."""
    keras.utils.set_random_seed(0)
    shapes = {"image": (5, 5, 1), "table": (4,), "ids": (6,)}
    given = {
        key: keras.Input(shape, name=key, dtype="int32" if key == "ids" else None)
        for key, shape in shapes.items()
    }
    parts = [
        L.Flatten()(L.Conv2D(2, 3, activation="gelu")(given["image"])),
        given["table"],
        L.Flatten()(L.Embedding(10, 3)(given["ids"])),
    ]
    joined = L.Dense(6, activation="gelu")(L.Concatenate()(parts))
    heads = {"price": L.Dense(1)(joined), "class": L.Dense(3, bias_initializer="normal")(joined)}
    return keras.Model(given if kind is dict else list(given.values()), heads)


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(4, 5, 5, 1)).astype("float32"),
        "table": rng.normal(size=(4, 4)).astype("float32"),
        "ids": IDS,
    }


SLOW = pytest.mark.slow


@pytest.mark.long
@pytest.mark.parametrize(
    ("key", "fill"),
    [
        ("image", "image_mean"),
        pytest.param("table", 0.5, marks=SLOW),
        pytest.param("ids", 2, marks=SLOW),
    ],
)
def test_one_input_is_perturbed_and_the_others_are_held(key, fill):
    network, x = advert(), batch()
    data = tf.data.Dataset.from_tensor_slices(x).batch(3)
    every = saliency.InputTimesGradient(network, target=PRICE)
    found = pixel_perturbation(network, data, every, FRACTIONS, fill=fill, inputs=key)
    maps = every(x)[key].numpy()
    order = np.stack([ascending(abs(one).ravel()) for one in maps])
    before = network(x)["price"].numpy()[:, 0]
    for value, share in zip(found.values, FRACTIONS, strict=True):
        own = x[key].reshape(4, -1).copy()
        filling = own.mean(1) if fill == "image_mean" else np.full(4, fill)
        for i in range(4):
            own[i, order[i, : int(share * own.shape[1] + 0.5)]] = filling[i]
        there = {**x, key: own.reshape(x[key].shape)}
        change = abs(network(there)["price"].numpy()[:, 0] - before).mean()
        assert value == pytest.approx(change, rel=1e-4, abs=1e-6)
    assert found.name.endswith(f"{'tokens' if key == 'ids' else 'pixels'} of input {key!r}")
    if key == "image":
        return
    alone = saliency.InputTimesGradient(network, target=PRICE, inputs=key)
    for given, more in (
        (alone, {}),
        ({key: maps}, {"target": PRICE}),
        (every(x), {"target": PRICE, "inputs": key}),
        (lambda x, target: every(x, target)[key], {"target": PRICE, "inputs": [key]}),
    ):
        again = pixel_perturbation(network, data, given, FRACTIONS, fill=fill, **more)
        np.testing.assert_allclose(again.values, found.values, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [0, 1, 2])
def test_inputs_in_a_list(inputs):
    networks = advert(), advert(list)
    networks[1].set_weights(networks[0].get_weights())
    x, key = batch(), [*batch()][inputs]
    fill = 2 if key == "ids" else 0.0
    found = []
    for network, data, where in (
        (networks[0], x, key),
        (networks[1], [*x.values()], inputs),
        (networks[1], ([*x.values()], "labels"), inputs),
    ):
        chosen = saliency.InputTimesGradient(network, target=PRICE, inputs=where)
        found += [
            pixel_perturbation(network, [data], chosen, FRACTIONS, fill=fill),
            pixel_perturbation(
                network, [data], "random", FRACTIONS, fill=fill, target=PRICE, inputs=where
            ),
        ]
    for one in found[2:4], found[4:]:
        for a, b in zip(found[:2], one, strict=True):
            np.testing.assert_allclose(a.values, b.values, rtol=1e-5)


@pytest.mark.slow
def test_classes_of_several_inputs_are_those_of_the_network_with_the_others_fixed():
    heads, x, y = advert(), batch(), np.array([0, 1, 2, 0])
    whole = keras.Model(heads.input, heads.output["class"])
    table = keras.Input((4,))
    held = {key: keras.ops.convert_to_tensor(value[:1]) for key, value in batch().items()}
    alone = keras.Model(table, whole({**held, "table": table}))
    one = {key: np.repeat(value[:1], 4, 0) for key, value in x.items()} | {"table": x["table"]}
    rows = [{key: value[i : i + 1] for key, value in one.items()} for i in range(4)]
    for test, more in (
        (pixel_perturbation, {"fractions": FRACTIONS}),
        (class_flip, {"source": 0, "to": 1, "fraction": 0.6}),
    ):
        expected = test(
            alone,
            [(x["table"][i : i + 1], y[i : i + 1]) for i in range(4)],
            saliency.InputTimesGradient(alone),
            **more,
        )
        found = test(
            whole,
            [(row, y[i : i + 1]) for i, row in enumerate(rows)],
            saliency.InputTimesGradient(whole),
            inputs="table",
            **more,
        )
        np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-6)
        for name, column in expected.columns.items():
            np.testing.assert_allclose(found.columns[name], column, rtol=1e-4, atol=1e-6)


def sums(mask_zero=True):
    """Σ of the visible tokens' values, in float64, and the value of each token."""
    values = np.random.default_rng(0).normal(size=(10, 1))
    ids = keras.Input((6,), dtype="int32")
    embedding = L.Embedding(10, 1, mask_zero=mask_zero, dtype="float64")
    embedded = embedding(ids)
    if mask_zero:
        pooled = L.GlobalAveragePooling1D(dtype="float64")(embedded)
        count = keras.ops.sum(keras.ops.cast(ids != 0, "float64"), 1, keepdims=True)
        network = keras.Model(ids, pooled * count)
    else:
        network = keras.Model(ids, keras.ops.sum(embedded, 1))
    embedding.set_weights([values])
    return network, values[:, 0]


@pytest.mark.parametrize("remove", [pytest.param("least", marks=SLOW), "most"])
def test_masked_steps_are_neither_removed_nor_counted(remove):
    network, values = sums()
    worth = values[IDS] - values[2]
    maps = np.where(IDS == 0, 100 if remove == "most" else -100, worth)
    found = pixel_perturbation(
        *(network, [IDS[:3], IDS[3:]], maps, FRACTIONS),
        remove=remove,
        fill=2,
        score="change of the score",
        target=targets.Output(),
    )
    expected = []
    for share in FRACTIONS:
        rows = [np.sort(row[ids != 0]) for row, ids in zip(worth, IDS, strict=True)]
        rows = [row if remove == "least" else row[::-1] for row in rows]
        gone = [row[: int(share * len(row) + 0.5)].sum() for row in rows]
        expected.append(-np.mean(gone))
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.along == "fraction of tokens"
    by_method = pixel_perturbation(
        *(network, [IDS], saliency.InputTimesGradient(network, target=targets.Output())),
        FRACTIONS,
        fill=2,
        remove=remove,
        score="change of the score",
    )
    assert by_method.values[2] == pytest.approx(expected[2], abs=1e-12)


def test_every_step_counts_where_nothing_is_masked():
    network, values = sums(mask_zero=False)
    maps = values[IDS]
    found = pixel_perturbation(
        *(network, [IDS], maps, (0.5,)),
        fill=0,
        score="change of the score",
        target=targets.Output(),
    )
    expected = (3 * values[0] - np.sort(maps, 1)[:, :3].sum(1)).mean()
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_a_map_of_one_value_at_all_visible_tokens_ranks_nothing():
    network, _ = sums()
    maps = np.where(IDS == 0, 0.0, 1.0)
    maps[1, 0] = 2
    found = pixel_perturbation(network, [IDS], maps, (0.5,), fill=2, target=targets.Output())
    assert found.columns["constant maps"] == (3.0,)


def test_a_class_flip_of_tokens():
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int32")
    hidden = L.GlobalAveragePooling1D()(L.Embedding(10, 3, mask_zero=True)(ids))
    network = keras.Model(ids, hidden)  # the logit of class k is the mean of the k-th values
    maps = np.asarray(network.layers[1].embeddings)
    found = class_flip(
        *(network, [(IDS, np.zeros(4, int))], lambda x, classes: maps[x][..., classes[0]], 0, 1),
        fraction=0.5,
        fill=2,
        outputs="exclusive",
    )
    expected, shares = [], []
    for row in IDS:
        seen = row[row != 0]
        difference = maps[seen, 0] - maps[seen, 1]
        order = [k for k in np.argsort(-difference, kind="stable") if difference[k] > 0]
        gone = order[: int(len(seen) / 2 + 0.5)]
        after = seen.copy()
        after[gone] = 2
        expected.append((difference - (maps[after, 0] - maps[after, 1])).mean())
        shares.append(len(gone) / len(seen))
    assert found.value == pytest.approx(np.mean(expected), abs=1e-5)
    assert found.columns["pixels removed"][0] == pytest.approx(np.mean(shares), abs=1e-6)


@pytest.mark.long
def test_what_several_inputs_and_tokens_do_not_take():
    network, x = advert(), batch()
    every = saliency.InputTimesGradient(network, target=PRICE)
    table = saliency.InputTimesGradient(network, target=PRICE, inputs="table")
    for maps, arguments, words in (
        (every, {}, r"inputs: got None, and maps of the inputs \['image', .*; try inputs='image'"),
        (every, {"inputs": "sound"}, r"inputs: got 'sound'; expected one of \['image'"),
        (every, {"inputs": ["image", "ids"]}, r"inputs: got \['image', 'ids'\]; expected one of"),
        (every, {"inputs": "ids"}, "fill: got 'image_mean' for token ids; expected the id ≥ 0"),
        (every, {"inputs": "ids", "fill": -1}, "fill: got -1 for token ids"),
        (table, {"inputs": "image"}, r"maps: got 1 of the inputs \['table'\]; expected one of"),
        (np.zeros((4, 4)), {"inputs": "image", "target": PRICE}, r"maps: got shape \(4, 4\) for"),
    ):
        with pytest.raises(ArgumentError, match=words):
            pixel_perturbation(network, [x], maps, (0.5,), **arguments)
    del x["ids"]
    with pytest.raises(ArgumentError, match="batches: got no input 'ids'; expected the inputs"):
        pixel_perturbation(network, [x], table, (0.5,))
    single, _ = sums()
    with pytest.raises(ArgumentError, match="inputs: got 'ids'; the network takes one tensor"):
        pixel_perturbation(single, [IDS], "random", (0.5,), target=PRICE, inputs="ids", fill=0)
    with pytest.raises(NonFiniteError, match="may leave it without any token"):
        pixel_perturbation(single, [IDS], "random", (1.0,), target=targets.Output(), fill=0)
