"""Noise belongs to an example, a step and a seed, and to nothing else."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgrad.internal.stateless_noise import Draws

EXAMPLES, SHAPE = 9, (3, 2, 1)


def noise(examples=EXAMPLES, samples=1, seed=0, stream=0, step=0, offset=0, shape=SHAPE):
    like = tf.zeros([examples, *shape])
    return np.stack(Draws(step, offset).normal(like, samples, seed, stream), axis=1)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, EXAMPLES), max_size=4),
    samples=st.integers(1, 3),
    shape=st.sampled_from([(1,), (3,), (4,), (3, 2, 1)]),
    start=st.sampled_from([0, 5, 2**31 - 3, 2**40]),
    step=st.sampled_from([0, 1, 2**33]),
)
def test_a_batch_cut_anywhere_has_the_noise_of_the_whole(cuts, samples, shape, start, step):
    whole = noise(EXAMPLES, samples, 3, 0, step, start, shape)
    edges = [0, *sorted(cuts), EXAMPLES]
    parts = [
        noise(b - a, samples, 3, 0, step, start + a, shape) for a, b in itertools.pairwise(edges)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    "other", [{"step": 1}, {"seed": 1}, {"stream": 1}, {"offset": EXAMPLES}, {"seed": -1}]
)
def test_anything_else_gives_other_noise(other):
    first, second = noise(), noise(**other)
    assert not np.intersect1d(first, second).size


def test_examples_and_samples_have_noise_of_their_own():
    drawn = noise(samples=4)
    assert drawn.shape == (EXAMPLES, 4, *SHAPE)
    assert np.unique(drawn).size == drawn.size


def test_the_sample_axis_is_a_list_of_batches_shaped_and_typed_like_the_input():
    like = tf.zeros([2, *SHAPE], tf.float64)
    drawn = Draws().normal(like, 3, seed=0)
    assert [(d.shape, d.dtype) for d in drawn] == [(like.shape, tf.float64)] * 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_dtype_only_rounds(dtype):
    drawn = Draws().normal(tf.zeros([4, 5], dtype), 1, seed=0)[0]
    np.testing.assert_array_equal(drawn, tf.cast(Draws().normal(tf.zeros([4, 5]), 1, 0)[0], dtype))


def test_moments():
    # 2·10⁵ normals: standard errors 1/√n of the mean, √2/√n of the variance, √6/√n of the
    # third and √96/√n of the fourth moment. Five of each.
    values = noise(2000, 10, seed=5, shape=(10,)).astype("float64")
    n = values.size
    for power, expected, deviation in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = abs(np.mean(values**power) - expected)
        assert error < 5 * np.sqrt(deviation / n), power
    # Independent over examples, samples and entries: n / 10 products, variance 1.
    for axis in (0, 1, 2):
        neighbours = np.mean(values * np.roll(values, 1, axis))
        assert abs(neighbours) < 5 / np.sqrt(n), axis


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_noise_is_eager_noise(jit_compile):
    """XLA's own normals are not TensorFlow's; a step and an offset known in the graph only."""

    @tf.function(jit_compile=jit_compile)
    def compiled(step, offset, like):
        return tf.stack(Draws(step, offset).normal(like, 2, seed=1), 1)

    got = compiled(tf.constant(3, tf.int64), tf.constant(4), tf.zeros([EXAMPLES, *SHAPE]))
    np.testing.assert_allclose(got, noise(samples=2, seed=1, step=3, offset=4), rtol=1e-6)


def test_a_batch_of_unknown_size():
    traced = tf.function(
        lambda like: tf.stack(Draws().normal(like, 2, seed=0), 1),
        input_signature=[tf.TensorSpec([None, *SHAPE])],
    )
    np.testing.assert_array_equal(traced(tf.zeros([EXAMPLES, *SHAPE])), noise(samples=2))


def test_an_empty_batch_has_no_noise():
    assert noise(examples=0, samples=2).shape == (0, 2, *SHAPE)


def test_uniform_numbers():
    like = tf.zeros([4000, 3])
    found = Draws(2, 5).uniform(like, seed=1).numpy()
    assert found.shape == (4000, 3) and -1 <= found.min() < -0.999 and 0.999 < found.max() <= 1
    # The standard errors of mean and square of 12,000 numbers are 0.0053 and 0.0027.
    assert abs(found.mean()) < 0.02 and np.mean(found**2) == pytest.approx(1 / 3, abs=0.011)
    parts = [Draws(2, 5 + a).uniform(like[a:b], seed=1) for a, b in ((0, 7), (7, 4000))]
    np.testing.assert_array_equal(np.concatenate(parts), found)
    assert not np.array_equal(found, Draws(2, 5).uniform(like, seed=2))
