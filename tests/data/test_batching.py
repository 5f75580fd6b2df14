"""The stream of batches: its order, its shards and its augmentation."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgrad import data
from tfgrad.data import augmentation, batching
from tfgrad.errors import ArgumentError

# The numbers of a batch identify its examples: label i belongs to the image filled with i.
NUMBERED = data.from_arrays(
    np.broadcast_to(np.arange(23, dtype=np.uint8)[:, None, None, None], (23, 8, 8, 1)),
    np.arange(23),
)


def stream(dataset=NUMBERED, batch_size=5, **options):
    batches = data.pipeline(dataset, batch_size, **{"training": True, "epochs": 2, **options})
    return [(x.numpy(), y.numpy()) for x, y in batches]


def labels(batches):
    return [y.tolist() for _, y in batches]


def random_images(n=16, height=16, width=16, channels=3):
    images = np.random.default_rng(0).integers(0, 256, (n, height, width, channels), np.uint8)
    return data.from_arrays(images, np.arange(n))


def test_evaluation_is_one_pass_in_order():
    batches = stream(training=False, epochs=None)
    assert labels(batches) == [list(range(i, min(i + 5, 23))) for i in range(0, 23, 5)]
    x = np.concatenate([x for x, _ in batches])
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, NUMBERED.images / 255.0, rtol=1e-6)


def test_an_epoch_visits_every_example_once():
    batches = labels(stream())
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] * 2
    first, second = np.concatenate(batches[:5]).tolist(), np.concatenate(batches[5:]).tolist()
    assert sorted(first) == sorted(second) == list(range(23))
    assert len({tuple(first), tuple(second), tuple(range(23))}) == 3
    assert labels(stream(seed=1)) != batches
    assert labels(stream(batch_size=23)) == [first, second]  # The batch size changes no order.


def test_images_stay_with_their_labels():
    for x, y in stream():
        np.testing.assert_allclose(x[:, 0, 0, 0] * 255, y, rtol=1e-6)


def test_a_resumed_run_reads_what_the_uninterrupted_run_read():
    dataset = random_images(n=11)
    whole = stream(dataset, 4, epochs=4, augment=True, seed=7)
    resumed = stream(dataset, 4, start_epoch=2, epochs=2, augment=True, seed=7)
    steps = data.steps_per_epoch(dataset, 4)
    assert steps == 3
    for (x, y), (x_again, y_again) in zip(whole[2 * steps :], resumed, strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)


def test_fit_resumes_on_an_endless_stream():
    def trained(*runs):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
        model.add(keras.layers.Dense(23))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        for start, stop in runs:
            batches = data.pipeline(NUMBERED, 5, training=True, start_epoch=start, augment=True)
            assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
            steps = data.steps_per_epoch(NUMBERED, 5)
            options = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
            model.fit(batches, initial_epoch=start, epochs=stop, **options)
        return model.get_layer(index=-1).kernel.numpy()

    np.testing.assert_array_equal(trained((0, 3)), trained((0, 1), (1, 3)))


def test_the_last_batch():
    assert data.steps_per_epoch(NUMBERED, 5) == 5
    assert data.steps_per_epoch(NUMBERED, 5, drop_remainder=True) == 4
    dropped = data.pipeline(NUMBERED, 5, training=True, epochs=3, drop_remainder=True)
    assert dropped.cardinality() == 12
    assert [len(y) for _, y in dropped] == [5] * 12
    assert dropped.element_spec[0].shape == (5, 8, 8, 1)
    assert data.pipeline(NUMBERED, 5, training=False).element_spec[0].shape == (None, 8, 8, 1)
    assert data.pipeline(NUMBERED, 23, training=False).element_spec[1].shape == (23,)


def functions_of(batches):
    return batches._functions() + [f for d in batches._inputs() for f in functions_of(d)]


def test_images_are_no_constants_of_a_graph():
    dataset = random_images(n=100, height=64, width=64)  # 1.2 MB.
    batches = data.pipeline(dataset, 5, training=True, augment=True)
    graphs = [f.function.graph.as_graph_def().SerializeToString() for f in functions_of(batches)]
    assert len(graphs) == 2
    assert sum(map(len, graphs)) < 100_000
    assert dataset.tensors is dataset.tensors  # One copy for all streams.


def test_normalisation():
    dataset = random_images(n=40)
    statistics = data.channel_statistics(dataset)
    x = np.concatenate([x for x, _ in stream(dataset, 16, epochs=1, normalize=statistics)])
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1.0, rtol=1e-5)


def test_images_are_edited_as_they_are_stored():
    """Before augmentation and normalisation, with their positions, on any shard."""
    dataset = random_images(n=11)
    amounts = np.arange(11, dtype=np.uint8) * 3
    added = tf.constant(amounts[:, None, None, None])

    def edit(images, positions):
        assert images.dtype == tf.uint8
        assert positions.dtype == tf.int32
        return images // 2 + tf.gather(added, positions)

    copy = data.from_arrays(dataset.images // 2 + amounts[:, None, None, None], dataset.labels)
    statistics = data.channel_statistics(dataset)
    for options in (
        {"augment": True, "normalize": statistics, "seed": 3},
        {"training": False, "epochs": None, "shard": (1, 2)},
    ):
        edited = stream(dataset, 4, edit=edit, **options)
        for (x, y), (x_copy, y_copy) in zip(edited, stream(copy, 4, **options), strict=True):
            np.testing.assert_array_equal(x, x_copy)
            np.testing.assert_array_equal(y, y_copy)
    assert not np.array_equal(stream(dataset, 4)[0][0], stream(dataset, 4, edit=edit)[0][0])


@given(size=st.integers(0, 300), count=st.integers(1, 40))
def test_slices_partition_a_batch(size, count):
    bounds = [batching.shard_bounds(size, index, count) for index in range(count)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    sizes = [high - low for low, high in bounds]
    assert sizes == sorted(sizes, reverse=True)  # The first workers take the extra examples.
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.long
@settings(max_examples=8, deadline=None)
@given(
    n=st.integers(1, 40), batch_size=st.integers(1, 12), count=st.integers(1, 4), drop=st.booleans()
)
def test_shards_add_up_to_the_global_batch(n, batch_size, count, drop):
    batch_size = max(batch_size, count)
    if drop and n < batch_size:
        return
    dataset = random_images(n, height=8, width=8)
    options = {"epochs": 2, "augment": True, "drop_remainder": drop}
    whole = stream(dataset, batch_size, **options)
    shards = [stream(dataset, batch_size, shard=(i, count), **options) for i in range(count)]
    for (x, y), *parts in zip(whole, *shards, strict=True):
        np.testing.assert_array_equal(x, np.concatenate([part[0] for part in parts]))
        np.testing.assert_array_equal(y, np.concatenate([part[1] for part in parts]))


def test_a_worker_may_get_nothing_of_a_ragged_batch():
    ragged = stream(batch_size=22, epochs=1, shard=(1, 2))[-1]  # One example for two workers.
    assert ragged[0].shape == (0, 8, 8, 1)
    assert ragged[1].shape == (0,)


def test_tf_distribute_does_not_shard_again():
    options = data.pipeline(NUMBERED, 4, training=False).options()
    off = tf.data.experimental.AutoShardPolicy.OFF
    assert options.experimental_distribute.auto_shard_policy == off
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    distributed = strategy.distribute_datasets_from_function(
        lambda context: data.pipeline(NUMBERED, 4, training=True, epochs=1)
    )
    assert [y.numpy().tolist() for _, y in distributed] == labels(stream(batch_size=4, epochs=1))


def shifted(image, down, right):
    """Move an image and fill with black, the slow way."""
    result = np.zeros_like(image)
    height, width = image.shape[:2]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[y, x] = image[y - down, x - right]
    return result


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize(("vertical", "down"), [(0.0, 2), (0.5, 0), (0.99, -2)])
@pytest.mark.parametrize(("horizontal", "right"), [(0.0, 3), (0.5, 0), (0.99, -3)])
def test_flip_and_shift(mirrored, vertical, down, horizontal, right):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)  # Pads of 2 and 3.
    draw = np.array([[0.49 if mirrored else 0.5, vertical, horizontal]], np.float32)
    result = augmentation.flip_and_shift(tf.constant(image[None]), tf.constant(draw))[0].numpy()
    expected = shifted(image, down, right)
    np.testing.assert_array_equal(result, expected[:, ::-1] if mirrored else expected)


def test_augmentation_mirrors_half_and_shifts_everywhere():
    # A ramp from left to right tells the flip; its first value that is not black tells the shift.
    ramp = np.broadcast_to(np.arange(1, 33, dtype=np.uint8)[None, None, :, None], (400, 32, 32, 1))
    dataset = data.from_arrays(ramp, np.arange(400))
    x = np.concatenate([x for x, _ in stream(dataset, 64, epochs=1, augment=True)]) * 255
    assert x.shape == (400, 32, 32, 1)
    assert x.min() >= 0.0
    assert x.max() <= 255.0
    middle = x[:, 16, :, 0]
    rising = middle[:, 17] > middle[:, 16]
    assert 0.4 < rising.mean() < 0.6  # Standard deviation 0.025.
    offsets = {round(float(v)) for v in middle[rising][:, 16] - 17}
    assert offsets == set(range(-4, 5))
    rows = (x[:, :, 16, 0] > 0).sum(axis=1)
    assert set(rows) == {28, 29, 30, 31, 32}


def test_flips_alone_shift_nothing_and_mirror_the_same_images():
    dataset = random_images(n=40)
    flips, both = (
        np.concatenate([x for x, _ in stream(dataset, 8, epochs=1, augment=augment)])
        for augment in ("flip", True)
    )
    plain = np.concatenate([x for x, _ in stream(dataset, 8, epochs=1)])
    mirrored = np.array([not np.array_equal(a, b) for a, b in zip(flips, plain, strict=True)])
    assert 8 < mirrored.sum() < 32  # 20 ± 3.2.
    np.testing.assert_array_equal(flips[mirrored], plain[mirrored][:, :, ::-1])
    np.testing.assert_array_equal(flips[~mirrored], plain[~mirrored])
    assert not np.array_equal(both, flips)


def test_augmentation_depends_on_seed_epoch_and_example_alone():
    dataset = random_images(n=12)

    def by_example(batches):
        return {int(label): x for xs, ys in batches for x, label in zip(xs, ys, strict=True)}

    def differ(a, b):
        return sum(not np.array_equal(a[i], b[i]) for i in range(12))

    base = by_example(stream(dataset, 4, epochs=1, augment=True))
    other_batches = by_example(stream(dataset, 5, epochs=1, augment=True))
    assert differ(base, other_batches) == 0
    assert differ(base, by_example(stream(dataset, 4, epochs=1, augment=True, seed=1))) > 8
    next_epoch = stream(dataset, 4, epochs=1, augment=True, start_epoch=1)
    assert differ(base, by_example(next_epoch)) > 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0; expected an integer ≥ 1"),
        ({"batch_size": 2.0}, "batch_size: got 2.0; expected an integer"),
        ({"seed": -1}, "seed: got -1; expected an integer ≥ 0"),
        ({"seed": 2**63}, "seed: got 9223372036854775808; expected an integer below"),
        ({"epochs": 0}, "epochs: got 0; expected an integer ≥ 1"),
        ({"start_epoch": -1}, "start_epoch: got -1; expected an integer ≥ 0"),
        ({"training": False}, "epochs: got 2 with training=False.*; expected None. Drop epochs"),
        (
            {"training": False, "epochs": None, "augment": True},
            "augment: got True with training=False",
        ),
        ({"augment": "crop"}, "augment: got 'crop'; expected True, False or 'flip'"),
        (
            {"batch_size": 64, "drop_remainder": True},
            "drop_remainder: .* drops all 23 examples of 'arrays'",
        ),
        ({"shard": 2}, r"shard: got 2; expected two integers, \(index, count\)"),
        ({"shard": (2, 2)}, r"shard: got \(2, 2\); expected 0 <= index < count"),
        (
            {"shard": (0, 6)},
            r"shard: got \(0, 6\) with batch_size=5; expected at most 5.*Raise batch_size",
        ),
        ({"normalize": 0.5}, r"normalize: got 0.5; expected \(mean, std\)"),
        ({"normalize": ([0.1, 0.2], [1.0])}, "normalize: got mean=.*; expected 1 finite numbers"),
        ({"normalize": ([0.1], [np.nan])}, "normalize: got std=.*; expected 1 finite numbers"),
        ({"normalize": ([0.1], [0.0])}, "normalize: got std=.*; expected numbers above 0"),
        ({"edit": "black"}, "edit: got 'black'; expected a function"),
        (
            {"edit": lambda x, i: x[:, :4]},
            r"edit: got .*returns .*\(1, 4, 8, 1\); expected .*images, uint8 \(1, 8",
        ),
        (
            {"edit": lambda x, i: tf.cast(x, tf.float32)},
            "edit: got .*returns .*float32.*; expected .*images, uint8",
        ),
        ({"edit": lambda x, i: None}, "edit: got .*returns .*NoneType.*; expected .*images, uint8"),
    ],
)
def test_pipeline_arguments(options, message):
    with pytest.raises(ArgumentError, match=message):
        stream(**options)
