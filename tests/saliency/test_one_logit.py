"""Every method on one logit f of two classes, against the network with the logits [0, f]."""

import numpy as np
import pytest

from tests.helpers.one_logit import compiled_pair, images, pair
from tests.helpers.saliency_cases import CASES
from tfgrad import errors, saliency

X = images(3)
PROBABILITIES = [("input_gradient", "loss"), ("input_gradient", "log_probability")]
ALL = [(name, next(iter(variants))) for name, variants in CASES.items()] + PROBABILITIES
# They trace as long as `fullgrad` and `smoothgrad`, whose passes they share.
SLOW = {"simple_fullgrad", "smooth_fullgrad", "full_jacobian_map", "bias_map", "smoothgrad_squared"}
MARKED = [pytest.param(*c, marks=[pytest.mark.slow] if c[0] in SLOW else []) for c in ALL]


def close(found, expected):
    scale = np.abs(np.asarray(expected)).max()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * max(scale, 1e-3))


@pytest.mark.sample(5, start=1)
@pytest.mark.parametrize(("name", "variant"), MARKED)
def test_both_classes(name, variant):
    """Class 1 is that of [0, f]; class 0 that of −f, and a probability of it that of [0, f]."""
    case = CASES[name][variant]
    one, two = compiled_pair(activation=case.activation)
    method, of_two = case.make(one), case.make(two)
    positive, negative = method(X, 1), method(X, 0)
    close(positive, of_two(X, 1))
    assert np.abs(positive).max() > 0
    if name == "scorecam" or (name, variant) in PROBABILITIES:
        close(negative, of_two(X, 0))
    else:
        _, negated = compiled_pair(activation=case.activation, negated=True)
        close(negative, case.make(negated)(X, 1))


def test_the_predicted_class_is_zero_where_the_logit_is_negative():
    one, _ = compiled_pair()
    logits = one.predict(X, verbose=0)[:, 0]
    assert (logits > 0).any() and (logits < 0).any()
    method = saliency.InputGradient(one, reduce="sum")
    explained = method.explain(X)
    assert np.array_equal(explained["class"], logits > 0)
    np.testing.assert_allclose(explained["score"], np.abs(logits), rtol=1e-6)
    close(method(X), method(X, (logits > 0).astype(int)))
    with pytest.raises(errors.ArgumentError, match="target: got class 2; the model has one logit"):
        method(X, 2)


def test_one_output_that_nothing_explains_is_named_once():
    one, _ = pair()
    method = saliency.InputGradient(one)
    with pytest.warns(errors.OutputMeaningWarning, match="outputs='binary'"):
        method(X)
    method(X)
    saliency.GradCAM(one)(X)


@pytest.mark.parametrize("outputs", ["binary", "regression"])
def test_the_argument_says_what_one_output_means(outputs):
    one, _ = pair()
    method = saliency.InputGradient(one, reduce="sum", outputs=outputs)
    logits = one.predict(X, verbose=0)[:, 0]
    expected = logits if outputs == "regression" else np.abs(logits)
    np.testing.assert_allclose(method.explain(X)["score"], expected, rtol=1e-6)
    assert f"outputs='{outputs}'" in repr(method)


def test_a_regression_has_no_probabilities():
    one, _ = pair()
    with pytest.raises(errors.ArgumentError, match="outputs: got 'regression'"):
        saliency.InputGradient(one, of="loss", outputs="regression")(X)
    with pytest.raises(errors.ArgumentError, match="outputs: got 'regression'"):
        saliency.ScoreCAM(one, outputs="regression")(X)


def test_several_outputs_of_a_regression_need_an_index():
    _, two = pair()
    two.compile("sgd", "mse")
    method = saliency.InputGradient(two)
    with pytest.raises(errors.ArgumentError, match="target: got 'predicted' on 2 outputs"):
        method(X)
    assert method(X, 1).shape == (3, 6, 5)
