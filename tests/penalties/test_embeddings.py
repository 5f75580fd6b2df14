"""Penalties on the embeddings of token ids, which are those of a network of the embeddings."""

import keras
import numpy as np
import pytest

import tfgrad
from tests.helpers.transfer_cases import check_value_and_gradient, filled
from tests.helpers.variants import with_slow
from tfgrad.errors import ArgumentError, SecondOrderError
from tfgrad.penalties import (
    ActivationMatching,
    DerivativeMatching,
    Examples,
    GradientMask,
    GradientNorm,
    JacobianMatching,
    ScoreMatching,
)

L = keras.layers
IDS = np.array([[1, 2, 3, 0], [4, 5, 1, 1], [2, 2, 0, 0]])
SIZE, TOKENS = 2, 6


def tail(norm=None):
    """[batch, 4, 2] to two logits."""
    layers = [L.Dense(3, "tanh"), *([norm()] if norm else []), L.Flatten(), L.Dense(2)]
    return filled(keras.Sequential([keras.Input((4, SIZE)), *layers], name="tail"), 1)


def of_tokens(norm=None, seed=2, name="words"):
    ids = keras.Input((4,), dtype="int32")
    embedding = L.Embedding(TOKENS, SIZE, name=name)
    embedded = embedding(ids)
    filled(embedding, seed)
    return keras.Model(ids, tail(norm)(embedded))


def of_both(norm=None):
    """Token ids beside a table."""
    ids, table = keras.Input((4,), dtype="int32", name="ids"), keras.Input((3,), name="table")
    embedding = L.Embedding(TOKENS, SIZE, name="words")
    hidden = L.Flatten()(norm()(embedding(ids)) if norm else embedding(ids))
    joined = L.Dense(3, "tanh")(L.Concatenate()([hidden, table]))
    return filled(keras.Model({"ids": ids, "table": table}, L.Dense(2)(joined)), 3)


def embedded(network):
    return network.get_layer("words").embeddings.numpy()[IDS]


def given():
    rng = np.random.default_rng(0)
    return {"derivatives": rng.normal(size=(3, 4, SIZE)), "mask": rng.uniform(size=(3, 4))}


PENALTIES = {
    "found": lambda: GradientNorm(target=1),
    "named": lambda: GradientNorm(target="all", at="words"),
    "jacobian": lambda: JacobianMatching(target="predicted", at=True),
    "score": lambda: ScoreMatching(sigma=0.1, target=0, estimator="antithetic"),
    "derivatives": lambda: DerivativeMatching(target=0),
    "mask": GradientMask,
    "logits": ActivationMatching,
}


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_that_of_the_embeddings(float64, name):
    """And its gradient reaches the embedding's own weights."""
    penalty, network, teacher = PENALTIES[name](), of_tokens(), of_tokens(seed=5)
    options = {"outputs": "exclusive"}
    both = {}
    if penalty.teacher_needs() is not None:
        options["teacher"], both["teacher"] = teacher, teacher.layers[-1]
    value = penalty.per_example(network, Examples(IDS, given()), **options)
    if name in ("found", "named", "score", "derivatives", "mask"):
        plain = type(penalty).from_config({**penalty.get_config(), **plain_at(penalty)})
        x = Examples(embedded(network), given())
        expected = plain.per_example(network.layers[-1], x, outputs="exclusive")
        np.testing.assert_allclose(value, expected, rtol=1e-10)
    assert np.all(np.isfinite(value)) and np.abs(value).min() > 1e-9


def plain_at(penalty):
    return {"at": None} if "at" in penalty.get_config() else {}


@pytest.mark.parametrize("name", with_slow(["named"], ["jacobian", "score", "mask"]))
def test_weight_gradients_reach_the_embedding(float64, name):
    penalty, network = PENALTIES[name](), of_tokens()
    options = {"outputs": "exclusive"}
    if penalty.teacher_needs() is not None:
        options["teacher"] = of_tokens(seed=5)
    x = Examples(IDS, given())
    check_value_and_gradient(
        lambda: penalty.per_example(network, x, **options), network, None, name
    )


def test_at_decides_what_is_differentiated_beside_a_table(float64):
    network = of_both()
    x = {"ids": IDS, "table": np.random.default_rng(1).normal(size=(3, 3))}
    table, whole, named = (
        GradientNorm(target=0, at=at).per_example(network, x, outputs="exclusive").numpy()
        for at in (None, True, ["words"])
    )
    np.testing.assert_allclose(whole, named, rtol=1e-12)
    assert (whole > table).all() and (table > 0).all()


def test_the_loss_trains_the_embedding_as_before():
    """A penalty of weight 0 changes no step."""
    after = []
    for penalized in (False, True):
        network = of_tokens()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = tfgrad.PenalizedModel(network, GradientNorm(0.0)) if penalized else network
        model.compile(keras.optimizers.SGD(0.5), loss)
        model.fit(IDS, np.array([0, 1, 1]), epochs=2, shuffle=False, verbose=0)
        after.append(network.get_layer("words").embeddings.numpy())
    np.testing.assert_allclose(after[1], after[0], rtol=1e-5, atol=1e-6)


def test_second_derivatives_behind_an_embedding_are_checked():
    with pytest.raises(SecondOrderError, match=r"layer 'layer_norm.*stops the gradient"):
        tfgrad.PenalizedModel(of_tokens(L.LayerNormalization), GradientNorm())
    tfgrad.PenalizedModel(of_tokens(tfgrad.layers.LayerNormalization), GradientNorm())
    mixed = of_both(L.LayerNormalization)
    tfgrad.PenalizedModel(mixed, GradientNorm())  # the table alone
    with pytest.raises(SecondOrderError, match="stops the gradient"):
        tfgrad.PenalizedModel(mixed, GradientNorm(at=True))
    network = of_tokens(L.LayerNormalization)
    assert tfgrad.second_order.make_safe(network).changed
    tfgrad.PenalizedModel(network, GradientNorm(at="words"))


def test_penalties_of_one_model_share_what_is_differentiated():
    network = of_both()
    alike = [GradientNorm(at=True), DerivativeMatching(at=True)]
    teacher = of_both()
    tfgrad.PenalizedModel(network, [*alike, ActivationMatching()], teacher=teacher)
    with pytest.raises(ArgumentError, match="at: got True and None for penalties of one model"):
        tfgrad.PenalizedModel(network, [alike[0], ScoreMatching()])
    with pytest.raises(ArgumentError, match="at: got 3; expected the name of a layer"):
        GradientNorm(at=3)
    with pytest.raises(ArgumentError, match=r"at: got 'wordz'; network .* did you mean 'words'"):
        GradientNorm(at="wordz", target=0).per_example(network, {"ids": IDS, "table": IDS[:, :3]})


def test_a_name_that_the_teacher_does_not_have():
    teacher, options = of_tokens(seed=5, name="tokens"), {"outputs": "exclusive"}
    with pytest.raises(ArgumentError, match=r"at: got 'words', .*no layer of the teacher.*at=True"):
        JacobianMatching(target=0, at="words").per_example(
            of_tokens(), IDS, teacher=teacher, **options
        )
    found = JacobianMatching(target=0, at=True)
    alike = of_tokens(seed=5), of_tokens(seed=5, name="words")
    expected = found.per_example(alike[0], IDS, teacher=alike[1], **options)
    np.testing.assert_array_equal(
        found.per_example(alike[0], IDS, teacher=teacher, **options), expected
    )


def test_embeddings_of_another_size_are_no_teacher():
    class Wide(L.Layer):
        def call(self, x):
            return x[..., :SIZE]

    ids = keras.Input((4,), dtype="int32")
    wide = keras.Model(ids, tail()(Wide()(L.Embedding(TOKENS, 3)(ids))))
    with pytest.raises(ArgumentError, match=r"shapes \[\(4, 3\)\]; expected \[\(4, 2\)\], those"):
        JacobianMatching(target=0).per_example(of_tokens(), IDS, teacher=wide, outputs="exclusive")


def test_ids_that_come_as_floats_are_ids():
    """As in Keras, which casts them."""
    ids, labels = np.array([[1, 2, 3], [4, 0, 2]]), np.array([0, 1])
    found = []
    for dtype in ("int32", "float32"):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,), dtype="int32")
        h = keras.layers.Embedding(5, 4)(inputs)
        network = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(h)))
        model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientNorm(0.5)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        found.append(model.train_on_batch(ids.astype(dtype), labels))
    assert found[0] == found[1]
