"""Digit flip against a linear model, whose answer NumPy knows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.removal_cases import ascending
from tfgrad import saliency
from tfgrad.errors import ArgumentError, DataError, NonFiniteError
from tfgrad.evaluation import class_flip

SHAPE = (4, 5, 2)
PIXELS = 20
CLASSES = 9


def linear(seed=0, bias=0.5, scale=1.0):
    """f = W·x + b on flattened images."""
    network = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    )
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(PIXELS * 2, CLASSES)) * scale
    network.set_weights([kernel, np.full(CLASSES, bias)])
    return network


def images(n=17, seed=1):
    x = np.random.default_rng(seed).uniform(0.1, 1, (n, *SHAPE)).astype("float32")
    return x, np.resize([8, 3, 8, 0, 8], n).astype("int64")


def batched(x, y, size=4):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def difference(network, x, source, to):
    """(w_source − w_to) ⊙ x, channels summed: [n, pixels] in float64."""
    kernel = network.get_weights()[0].astype("float64")
    direction = (kernel[:, source] - kernel[:, to]).reshape(SHAPE)
    return (direction * x.astype("float64")).sum(-1).reshape(len(x), -1)


@pytest.mark.long
@pytest.mark.diagonal
@pytest.mark.parametrize(("source", "to"), [(8, 3), (3, 0)])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 1.0])
def test_gradient_times_input_takes_the_largest_positive_products_away(fraction, source, to):
    network, (x, y) = linear(), images()
    result = class_flip(
        network, batched(x, y), saliency.InputTimesGradient(network), source, to, fraction
    )
    products = difference(network, x[y == source], source, to)
    count = int(np.floor(fraction * PIXELS + 0.5))
    largest = np.sort(products, axis=1)[:, PIXELS - count :].clip(min=0)
    falls = largest.sum(1)
    assert result.value == pytest.approx(falls.mean(), rel=1e-5, abs=1e-6)
    assert result.deviations[0] == pytest.approx(falls.std(ddof=1), rel=1e-5, abs=1e-6)
    columns = {name: numbers[0] for name, numbers in result.columns.items()}
    assert columns["standard error"] == pytest.approx(
        falls.std(ddof=1) / np.sqrt(len(falls)), rel=1e-5, abs=1e-6
    )
    assert columns["pixels removed"] == pytest.approx((largest > 0).mean(0).sum() / PIXELS)
    assert columns["maps left out"] == 0
    assert (result.examples, result.direction, result.along) == ((y == source).sum(), "higher", "")
    assert result.over == f"{(y == source).sum()} images (standard deviation)"


def replaced(x, saliency, count, fill):
    """By NumPy's sort."""
    out = x.copy().reshape(len(x), PIXELS, -1)
    for i, row in enumerate(saliency.reshape(len(x), -1)):
        for pixel in ascending(row)[::-1][:count]:
            if row[pixel] > 0:
                out[i, pixel] = fill
    return out.reshape(x.shape)


@pytest.mark.sample(3)
@pytest.mark.parametrize("fill", [0.0, 0.3, (0.1, 0.7)])
def test_any_map_and_fill_against_numpy_ties_included(fill):
    network, (x, y) = linear(), images()
    rng = np.random.default_rng(5)
    of_class = {k: rng.integers(-1, 3, (17, 4, 5)) for k in (8, 3)}
    order = {one.tobytes(): i for i, one in enumerate(x)}

    def maps(images, k):
        assert len(images) == len(k) and len(set(k.numpy())) == 1  # like the labels of a batch
        return of_class[int(k[0])][[order[one.numpy().tobytes()] for one in images]]

    result = class_flip(network, batched(x, y), maps, fill=fill, fraction=0.3)
    eights = y == 8
    after = replaced(x[eights], (of_class[8] - of_class[3])[eights], 6, fill)
    before, after = (network.predict(v, verbose=0).astype("float64") for v in (x[eights], after))
    falls = (before[:, 8] - before[:, 3]) - (after[:, 8] - after[:, 3])
    assert result.value == pytest.approx(falls.mean(), abs=1e-5)
    assert result.deviations[0] == pytest.approx(falls.std(ddof=1), abs=1e-5)
    assert result.columns["turned"] == ((after.argmax(1) == 3).mean(),)


@pytest.mark.long
def test_the_truth_beats_the_control_and_the_opposite():
    network, data = linear(), batched(*images(60))
    truth = saliency.InputTimesGradient(network)

    def opposite(x, k):
        return -truth(x, k)

    values = [class_flip(network, data, maps).value for maps in (truth, "random", opposite)]
    assert values[0] > values[1] + 0.5 > values[2] + 1


def test_random_is_a_function_of_the_seed_and_not_of_the_batches():
    network, (x, y) = linear(), images()

    def of(seed, size):
        return class_flip(network, batched(x, y, size), "random", seed=seed)

    one, other = of(3, 4), of(3, 17)
    assert one.value == pytest.approx(other.value, rel=1e-6)
    assert of(4, 4).value != one.value
    assert one.columns["pixels removed"][0] == pytest.approx(0.2)


def test_an_image_without_a_map_is_left_out_and_reported():
    network, (x, y) = linear(), images()
    truth = saliency.InputTimesGradient(network)
    eights = np.flatnonzero(y == 8)

    def maps(images, k):
        bad = tf.reduce_all(images == x[eights[2]], [1, 2, 3])
        return tf.where(bad[:, None, None], np.inf if k[0] == 3 else 1.0, truth(images, k))

    with pytest.warns(UserWarning, match=r"maps of class 8: that of image 2 .* as 1 of 10 do; "):
        result = class_flip(network, batched(x, y), maps)
    rest = np.delete(np.arange(len(x)), eights[2])
    expected = class_flip(network, batched(x[rest], y[rest]), truth)
    assert result.value == pytest.approx(expected.value, rel=1e-6)
    assert result.deviations[0] == pytest.approx(expected.deviations[0], rel=1e-5)
    assert (result.columns["maps left out"], result.examples) == ((1.0,), 9)
    with pytest.raises(DataError, match="maps of class 8: all 10 hold NaN or infinite values"):
        class_flip(network, batched(x, y), lambda x, k: tf.fill(x.shape[:3], np.nan))


def test_maps_that_do_not_tell_classes_apart_are_counted():
    network, data = linear(), batched(*images())
    result = class_flip(network, data, lambda x, classes: x[..., 0])
    assert (result.value, result.columns["constant maps"]) == (0, (result.examples,))
    known = class_flip(network, data, saliency.InputTimesGradient(network))
    assert known.columns["constant maps"] == (0.0,)


def test_the_network_is_traced_once_whatever_the_batches():
    network, shapes = linear(), []
    call = network.call
    network.call = lambda x, **kwargs: (shapes.append(x.shape[0]), call(x, **kwargs))[1]
    class_flip(network, batched(*images(41)), "random")
    # One image to know the classes, twice; a look for a softmax; x and x′ of any number of images.
    assert shapes == [1, 1, None, None, None]


def test_what_is_refused():
    network, (x, y) = linear(), images()
    data = batched(x, y)
    refused = [
        (
            {"source": 7},
            DataError,
            r"no image of class 7, the source; .* labels are \[0, 3, 8\]",
        ),
        ({"source": 12}, ArgumentError, r"source: got class 12; the network has 9 .* 0 to 8"),
        ({"to": 9}, ArgumentError, r"to: got class 9; the network has 9 logits"),
        ({"to": 8}, ArgumentError, r"to: got 8, which is also the source; expected another class"),
        ({"source": -1}, ArgumentError, r"source: got -1; expected an integer ≥ 0"),
        ({"fraction": 1.1}, ArgumentError, r"fraction: got 1\.1; expected a share of pixels"),
        ({"fraction": float("nan")}, ArgumentError, r"fraction: got nan; expected a finite number"),
        ({"fill": "black"}, ArgumentError, r"fill: got 'black'"),
        ({"maps": "fullgrad"}, ArgumentError, r"maps: got 'fullgrad'; expected a function of \(im"),
        ({"maps": np.ones((17, 4, 5))}, ArgumentError, r"maps: got a ndarray; expected a function"),
        ({"maps": lambda x, k: x}, ArgumentError, r"maps: got shape \(2, 4, 5, 2\) for images"),
    ]
    for more, error, message in refused:
        with pytest.raises(error, match=message):
            class_flip(network, data, **{"maps": "random", **more})
    with pytest.raises(NonFiniteError, match="network: the logits of image 0 are NaN"):
        class_flip(linear(bias=np.nan), data, "random")


def test_unsigned_maps_are_subtracted_as_numbers():
    network, data = linear(), batched(*images())

    def maps(dtype):
        def of(x, k):
            found = np.random.default_rng(int(k[0])).integers(0, 9, (len(x), *SHAPE[:2]))
            return found.astype(dtype)

        return class_flip(network, data, of).value

    assert maps("uint8") == maps("float64")
