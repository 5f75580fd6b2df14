"""The battery of methods with other targets than classes, of several inputs and of token ids."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.question_cases import TOKENS, WORDS, batch, several, tokens
from tests.helpers.saliency_cases import images, network
from tests.helpers.variants import with_slow
from tfgrad import saliency, targets


def margin(outputs):
    """A scalar of three outputs that is no linear function of them."""
    return outputs[:, 0] * outputs[:, 1] - tf.square(outputs[:, 2])


def ids():
    return np.random.default_rng(2).integers(0, WORDS, (3, TOKENS)).astype("int32")


KINDS = {
    "image": (lambda dtype: network(), images),
    "several": (several, lambda: batch(3, "float32")),
    "tokens": (lambda dtype: tokens(dtype, mask_zero=True)[0], ids),
}
TARGETS = {
    "class": np.array([2, 0, 1], "int32"),
    "contrast": targets.Contrast([2, 0, 1], None),
    "scalar": targets.Scalar(margin),
}
METHODS = {
    "input_gradient": {},
    "input_times_gradient": {},
    "integrated_gradients": {"steps": 2},
    "smoothgrad": {"samples": 2},
    "smoothgrad_squared": {"samples": 2},
    "fullgrad": {},
    "simple_fullgrad": {},
    "smooth_fullgrad": {"samples": 2},
    "full_jacobian_map": {},
    "bias_map": {},
    "layer_map": {},
    "gradcam": {},
    "random": {},
}
QUICK = [
    ("input_gradient", "tokens", "contrast"),
    ("integrated_gradients", "several", "scalar"),
    ("fullgrad", "image", "scalar"),
]
EVERY = [(name, kind, target) for name in METHODS for kind in KINDS for target in TARGETS]


def example(x, i):
    return tf.nest.map_structure(lambda t: t[i : i + 1], x)


def close(got, expected, relative=2e-5):
    for one, other in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=relative * scale)


def of_example(target, i):
    if not isinstance(target, targets.Target):
        return target[i]
    if not target.values:
        return target
    return targets.Contrast([int(target.a[i])], None)


@pytest.mark.parametrize(
    ("name", "kind", "target"), with_slow(QUICK, [cell for cell in EVERY if cell not in QUICK])
)
def test_a_batch_is_its_examples_also_where_the_user_traces(name, kind, target):
    make, inputs = KINDS[kind]
    model, x, asked = make("float32"), inputs(), TARGETS[target]
    method = saliency.get(name)(model, **METHODS[name])
    whole = method(x, asked)
    for one in tf.nest.flatten(whole):
        assert one.dtype == tf.float32 and one.shape[0] == 3 and np.isfinite(one).all()
    assert any(np.ptp(one) > 0 for one in tf.nest.flatten(whole))
    traced = method._shapes.functions()
    for i in range(3):
        close(method(example(x, i), of_example(asked, i)), example(whole, i), 1e-4)
    assert method._shapes.functions() == traced
    found = tf.function(lambda v: method.explain(v, asked))(x)
    close(found["saliency"], whole)
    assert ("class" in found) == (target == "class") and found["score"].shape == (3,)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    with_slow(
        [("several", "mixed_bfloat16")],
        [("several", "float64"), ("several", "mixed_float16"), ("tokens", "float64")],
    ),
)
def test_other_precisions(kind, dtype):
    make, inputs = KINDS[kind]
    expected = saliency.InputTimesGradient(make("float32"))(inputs(), margin)
    got = saliency.InputTimesGradient(make(dtype))(inputs(), margin)
    for one, other in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        assert one.dtype == tf.float32
        lowest = 0.95 if dtype.startswith("mixed") else 0.999999
        assert np.corrcoef(np.ravel(one), np.ravel(other))[0, 1] > lowest


@pytest.mark.parametrize("form", with_slow(["nested"], ["subclassed", "list"]))
def test_functional_nested_and_subclassed_agree(form):
    x = batch(3, "float32")
    whole = saliency.InputTimesGradient(several("float32"))(x, margin)
    given = [x["image"], x["table"], x["ids"]] if form == "list" else x
    got = saliency.InputTimesGradient(several("float32", form))(given, margin)
    for i, key in enumerate(x):
        close(got[i if form == "list" else key], whole[key])
