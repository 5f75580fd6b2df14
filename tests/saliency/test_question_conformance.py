"""The battery of methods with other targets than classes, of several inputs and of token ids."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.question_cases import (
    TOKENS,
    WORDS,
    batch,
    by_name,
    of_form,
    several,
    tokens,
)
from tests.helpers.saliency_cases import images, network
from tests.helpers.variants import with_slow
from tfgrad import saliency, targets


def margin(outputs):
    """A scalar of three outputs that is no linear function of them."""
    return outputs[:, 0] * outputs[:, 1] - tf.square(outputs[:, 2])


def ids():
    return np.random.default_rng(2).integers(0, WORDS, (3, TOKENS)).astype("int32")


KINDS = {
    "image": (lambda *_: network(), images),
    "several": (several, lambda: batch(3, "float32")),
    "tokens": (lambda dtype, form="functional": tokens(dtype, True, form)[0], ids),
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


@pytest.mark.long
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
    raw = whole
    if name == "gradcam":  # whose map is 0 where nothing speaks for the scalar
        raw = method.terms(tf.nest.map_structure(tf.constant, x), method._resolved(asked, x))
    assert any(np.ptp(one) > 0 for one in tf.nest.flatten(raw))
    traced = method._shapes.functions()
    for i in range(3):
        close(method(example(x, i), of_example(asked, i)), example(whole, i), 1e-4)
    assert method._shapes.functions() == traced
    found = tf.function(lambda v: method.explain(v, asked))(x)
    close(found["saliency"], whole)
    assert ("class" in found) == (target == "class") and found["score"].shape == (3,)


def crossed(quick, *axes, apart=()):
    """Every combination of some lists but those `apart`, of which all but a few are slow."""
    every = [cell for cell in itertools.product(*axes) if cell not in apart]
    assert set(quick) <= set(every)
    return with_slow(quick, [cell for cell in every if cell not in quick])


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    crossed(
        [("input_times_gradient", "several", "mixed_bfloat16")],
        METHODS,
        ["several", "tokens"],
        ["float64", "mixed_float16", "mixed_bfloat16"],
    ),
)
def test_other_precisions(name, kind, dtype):
    make, inputs = KINDS[kind]
    method = functools.partial(saliency.get(name), **METHODS[name])
    expected = method(make("float32"))(inputs(), margin)
    got = method(make(dtype))(inputs(), margin)
    if dtype == "float64":
        close(got, expected, 1e-3)
    for one, other in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        assert one.dtype == tf.float32
        # `random` is a function of the bits of what is explained, which rounding changes.
        if np.ptp(other) > 0 and (name != "random" or dtype == "float64"):
            assert np.corrcoef(np.ravel(one), np.ravel(other))[0, 1] > 0.95


@pytest.mark.sample(2, start=1)
@pytest.mark.parametrize(
    ("name", "form"),
    crossed(
        [("input_times_gradient", "nested"), ("input_gradient", "branched")],
        METHODS,
        ["nested", "subclassed", "list", "branched"],
        # Noise is drawn by the place of an input, which in a list is not that of its key.
        apart=[(name, "list") for name, options in METHODS.items() if "samples" in options],
    ),
)
def test_every_form_of_a_network_has_the_same_maps(name, form):
    x, method = batch(3, "float32"), functools.partial(saliency.get(name), **METHODS[name])
    expected = method(several("float32"))(x, margin)
    got = by_name(method(several("float32", form))(of_form(x, form), margin), form)
    assert list(got) == list(expected)
    close(got, expected, 1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "form"),
    crossed([("input_gradient", "subclassed")], METHODS, ["nested", "subclassed"]),
)
def test_every_form_of_a_network_of_tokens_has_the_same_maps(name, form):
    method = functools.partial(saliency.get(name), **METHODS[name])
    expected = method(tokens("float32", True)[0])(ids(), margin)
    close(method(tokens("float32", True, form)[0])(ids(), margin), expected, 1e-4)
