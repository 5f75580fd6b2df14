"""Tests of maps of one input: those of the network in which the other inputs are constants."""

import keras
import numpy as np
import pytest
from scipy import stats

from tfgrad import evaluation, saliency, targets
from tfgrad.errors import ArgumentError

L = keras.layers
SCORE = targets.Output("score")
RNG = np.random.default_rng(0)
FIRST = RNG.normal(size=(6, 4)).astype("float32")
HELD = RNG.normal(size=(1, 3)).astype("float32")
IDS = np.array([[3, 4, 5, 0, 0], [7, 8, 9, 1, 2], [5, 2, 0, 0, 0], [9, 9, 4, 0, 0]])


def pair(seed=0):
    """A network of two tables and two heads, and the score for one of them."""
    keras.utils.set_random_seed(seed)
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    hidden = L.Dense(8, "relu", bias_initializer="normal")(L.Concatenate()([a, b]))
    heads = {"score": L.Dense(1, bias_initializer="normal")(hidden), "class": L.Dense(2)(hidden)}
    whole = keras.Model({"a": a, "b": b}, heads)
    alone = keras.Input((4,))
    held = 0 * alone[:, :3] + HELD
    return whole, keras.Model(alone, whole({"a": alone, "b": held}))


def both(test, method, **options):
    """The test of input "a" of the whole network, and of the network of that input."""
    (whole, alone), (other, twin) = pair(), pair(1)
    x = {"a": FIRST, "b": np.repeat(HELD, 6, 0)}
    more = {"target": SCORE, "batch_size": 4, **options}
    found = TESTS[test](whole, other, x, method, inputs="a", **more)
    return found, TESTS[test](alone, twin, FIRST, method, **more)


TESTS = {
    "completeness": lambda f, g, x, m, **o: evaluation.completeness(f, x, m, **o),
    "biases": lambda f, g, x, m, **o: evaluation.bias_sensitivity(f, x, m, draws=1, **o),
    "regions": lambda f, g, x, m, **o: evaluation.weak_dependence(f, x, m, **o),
    "shift": lambda f, g, x, m, **o: evaluation.shift_agreement(f, x, m, 0.5, **o),
    "labels": evaluation.label_randomisation,
    "weights": lambda f, g, x, m, **o: evaluation.randomisation(f, x, m, **o),
}
SLOW = pytest.mark.slow


@pytest.mark.long
@pytest.mark.parametrize(
    ("test", "method"),
    [
        ("completeness", saliency.IntegratedGradients),
        ("regions", saliency.InputTimesGradient),
        pytest.param("biases", lambda f: saliency.InputTimesGradient(f, target=SCORE), marks=SLOW),
        pytest.param("shift", saliency.InputTimesGradient, marks=SLOW),
        pytest.param("labels", saliency.InputTimesGradient, marks=SLOW),
        pytest.param("weights", saliency.InputTimesGradient, marks=SLOW),
        pytest.param("completeness", saliency.InputTimesGradient, marks=SLOW),
        pytest.param("regions", saliency.InputGradient, marks=SLOW),
    ],
)
def test_numbers_are_those_of_the_network_of_one_input(test, method):
    found, expected = both(test, method)
    assert found.examples == expected.examples and list(found.columns) == list(expected.columns)
    np.testing.assert_allclose(found.values, expected.values, rtol=2e-3, atol=1e-5)
    for name, column in expected.columns.items():
        np.testing.assert_allclose(found.columns[name], column, rtol=1e-2, atol=1e-4, err_msg=name)


@SLOW
def test_the_maps_of_all_inputs_add_up():
    whole, _ = pair()
    x = {"a": FIRST, "b": FIRST[:, :3]}
    start = {"a": 0.3, "b": [0.0, 1.0, -1.0]}

    def measured(method, **options):
        return evaluation.completeness(whole, x, method, target=SCORE, **options).value

    def to_start(model):
        return saliency.IntegratedGradients(model, baseline=start, steps=400, target=SCORE)

    assert (
        measured(to_start) < 0.01 < measured(saliency.IntegratedGradients, inputs="b", baseline=0.5)
    )
    plain = saliency.IntegratedGradients(whole, baseline=start, steps=400, target=SCORE)
    sums = sum(m.numpy().sum(1) for m in plain(x).values())
    there = {"a": np.full_like(FIRST, 0.3), "b": np.tile(np.float32([0, 1, -1]), (6, 1))}
    rise = (whole(x)["score"] - whole(there)["score"]).numpy()[:, 0]
    expected = (abs(sums - rise) / (abs(sums) + abs(rise))).mean()
    for method, baseline in ((to_start, None), (lambda model: plain, start)):
        assert measured(method, baseline=baseline) == pytest.approx(expected, rel=0.02, abs=2e-6)


def reader(seed=0):
    """The sum of a function of each visible token, by which padding counts for nothing."""
    keras.utils.set_random_seed(seed)
    ids = keras.Input((5,), dtype="int32")
    embedded = L.Embedding(10, 3, mask_zero=True)(ids)
    hidden = L.Dense(6, "gelu", bias_initializer="normal")(embedded)
    pooled = L.GlobalAveragePooling1D()(hidden)
    return keras.Model(ids, L.Dense(2, bias_initializer="normal")(pooled))


def test_masked_steps_do_not_count_in_correlations():
    # Maps of two networks, by which padding would be alike.
    def method(model):
        values = model.layers[1].embeddings.numpy()[:, 0]
        return lambda ids, classes: np.where(ids == 0, 100.0, values[ids])

    network, other = reader(), reader(1)
    found, kept = (
        evaluation.label_randomisation(network, other, ids, method, target=1, outputs="exclusive")
        for ids in (IDS[:2], IDS)
    )
    maps = [method(f)(IDS, 1) for f in (network, other)]
    rows = [stats.spearmanr(*(m[i][IDS[i] != 0] for m in maps)).statistic for i in range(4)]
    assert found.columns["signed rank correlation"][0] == pytest.approx(np.mean(rows[:2]))
    assert kept.columns["signed rank correlation"][0] == pytest.approx(np.mean(rows))


@SLOW
def test_token_ids_complete_at_their_embedding_and_keep_their_biases():
    network = reader()
    full = evaluation.completeness(
        *(network, IDS, lambda m: saliency.IntegratedGradients(m, baseline=2, steps=200)),
        target=targets.Contrast(0, 1),
        outputs="exclusive",
    )
    assert full.value < 1e-3 and full.columns["full-gradients"][0] < 1e-5
    sensitive = evaluation.bias_sensitivity(
        network, IDS, saliency.InputTimesGradient, draws=1, target=1, outputs="exclusive"
    )
    assert sensitive.value > 0 and sensitive.examples == 4


def test_what_token_ids_cannot_do():
    network = reader()
    for test, words in (
        (evaluation.weak_dependence, "images: got token ids, which cannot move within a linear"),
        (evaluation.shift_agreement, "images: got token ids, which have no units to shift"),
    ):
        with pytest.raises(ArgumentError, match=words):
            test(network, IDS, saliency.InputTimesGradient, outputs="exclusive")


@pytest.mark.long
def test_nothing_tells_which_input_is_meant():
    whole, _ = pair()
    x = {"a": FIRST, "b": FIRST[:, :3]}
    for test in (evaluation.weak_dependence, evaluation.bias_sensitivity):
        with pytest.raises(ArgumentError, match=r"inputs: got None, and maps of .*\['a', 'b'\]"):
            test(whole, x, saliency.InputGradient, target=SCORE)
    with pytest.raises(ArgumentError, match="images: input 'b': got 5 examples; expected 6"):
        evaluation.completeness(
            whole, {**x, "b": FIRST[:5, :3]}, saliency.InputGradient, target=SCORE
        )
