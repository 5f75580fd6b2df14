"""Each rewritten operation against TensorFlow's own, over its attributes."""

import numpy as np
import pytest
import tensorflow as tf

from tfgrad.export.portable.elementary import ELEMENTARY, FOR_LITERT, erf
from tfgrad.export.portable.rewriting import rewritten


def _checked(function, *inputs, rules=ELEMENTARY, absent=(), tolerance=1e-6):
    """Whether a function and its rewriting agree, and which operations are left."""
    named = {f"x{i}": tf.constant(x) for i, x in enumerate(inputs)}
    specs = {name: tf.TensorSpec(x.shape, x.dtype, name) for name, x in named.items()}
    traced = tf.function(
        lambda **given: {"y": function(*given.values())}, autograph=False
    ).get_concrete_function(**specs)
    there = {operation.type for operation in traced.graph.get_operations()}
    assert set(absent) <= there, "the function does not have what is to be rewritten"
    new = rewritten(traced, specs, rules=rules)
    left = {operation.type for operation in new.graph.get_operations()}
    assert not left & set(absent)
    expected, found = traced(**named)["y"].numpy(), new(**named)["y"].numpy()
    scale = np.abs(expected).max() or 1.0
    assert np.abs(found - expected).max() <= tolerance * scale
    return left


def _gradient(function):
    """∇x of a weighted sum of a function."""

    def of(x, weights):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(function(x) * weights)
        return tape.gradient(total, x)

    return of


def _draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (tf.nn.relu, "ReluGrad"),
        (lambda x: tf.nn.relu6(3 * x), "Relu6Grad"),
        (lambda x: tf.nn.leaky_relu(x, 0.3), "LeakyReluGrad"),
        (tf.nn.elu, "EluGrad"),
        (tf.nn.selu, "SeluGrad"),
        (tf.sigmoid, "SigmoidGrad"),
        (tf.tanh, "TanhGrad"),
        (lambda x: tf.math.rsqrt(1 + x * x), "RsqrtGrad"),
        (lambda x: tf.sqrt(1 + x * x), "SqrtGrad"),
        (lambda x: tf.raw_ops.Reciprocal(x=2 + x * x), "ReciprocalGrad"),
    ],
)
def test_gradients_of_elementwise_functions(function, operation):
    x = _draw(3, 5, 4)
    _checked(_gradient(function), x, _draw(3, 5, 4, seed=1), absent=[operation])


@pytest.mark.parametrize("name", ["SoftplusGrad", "SoftsignGrad"])
def test_gradients_that_tapes_write_otherwise(name):
    operation = getattr(tf.raw_ops, name)
    inputs = _draw(3, 5), _draw(3, 5, seed=1)
    _checked(lambda g, x: operation(gradients=g, features=x), *inputs, absent=[name])


def test_at_the_kinks_the_gradient_is_tensorflow_s():
    x = np.float32([[-1, -0.0, 0.0, 6.0, 7.0, 5.0]])
    for function in (tf.nn.relu, tf.nn.relu6, tf.nn.elu, tf.nn.selu, tf.nn.leaky_relu):
        _checked(_gradient(function), x, np.ones_like(x), tolerance=0)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (tf.math.erfc, "Erfc"),
        (tf.math.expm1, "Expm1"),
        (tf.nn.softplus, "Softplus"),
        (lambda x: tf.math.multiply_no_nan(1 / x, tf.round(x)), "MulNoNan"),
        (lambda x: tf.math.divide_no_nan(x, tf.round(x)), "DivNoNan"),
        (lambda x: tf.math.xlogy(tf.nn.relu(x), tf.square(x)), "Xlogy"),
        (lambda x: tf.cast(tf.math.is_finite(x / tf.round(x)), tf.float32), "IsFinite"),
        (lambda x: tf.linalg.diag(x), "MatrixDiagV3"),
        (lambda x: tf.math.squared_difference(x, 2.0), "SquaredDifference"),
    ],
)
def test_functions(function, operation):
    _checked(function, _draw(4, 6), absent=[operation])


@pytest.mark.parametrize("name", ["Sum", "Mean", "Prod", "Max", "Min"])
def test_reductions_over_no_axis(name):
    operation = getattr(tf.raw_ops, name)
    axes = np.zeros(0, "int32")
    _checked(lambda x: operation(input=x, axis=axes), _draw(2, 3), absent=[name], tolerance=0)


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize("axes", [[0, 2, -2, 5], 3, [0, 2]])
def test_reductions_of_many_axes_leave_out_those_of_length_1(axes, keep_dims):
    x = _draw(1, 3, 1, 4, 1, 2, 1, 5)[..., None]
    named = {"x": tf.TensorSpec(x.shape, tf.float32, "x")}
    traced = tf.function(lambda x: {"y": tf.reduce_sum(x, axes, keepdims=keep_dims)})
    traced = traced.get_concrete_function(**named)
    new = rewritten(traced, named)
    sums = [o for o in new.graph.get_operations() if o.type == "Sum"]
    assert all(o.inputs[0].shape.rank == 4 for o in sums)
    expected, found = traced(x=tf.constant(x))["y"], new(x=tf.constant(x))["y"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gradients_of_einsum_sum_over_axes_alone():
    """Both matrices have the batch, so that TensorFlow sums over no axis, and keeps none."""
    x, y = _draw(1, 4, 2, 3), _draw(1, 4, 2, 3, seed=1)
    product = _gradient(lambda x: tf.einsum("btnh,bsnh->bnts", x, y))
    _checked(product, x, _draw(1, 2, 4, 4, seed=2), absent=["Sum"])


def test_erf_of_all_sizes():
    from scipy import special

    x = np.concatenate([np.linspace(-9, 9, 20001), [0.0, 1e-8, -1e-8, 80.0, -80.0]])
    x = x.astype("float32")
    found = erf(tf.constant(x)).numpy()
    assert np.abs(found - special.erf(x.astype("float64"))).max() < 3e-7
    assert found[-2] == 1 and found[-1] == -1


@pytest.mark.parametrize("name", ["Erf", "Erfc"])
def test_erf_is_left_to_runtimes_that_have_it(name):
    function = tf.math.erf if name == "Erf" else tf.math.erfc
    left = _checked(function, _draw(4, 6), tolerance=3e-7)
    assert "Erf" in left
    left = _checked(
        function, _draw(4, 6), rules=ELEMENTARY | FOR_LITERT, absent=[name], tolerance=1e-6
    )
    assert not left & {"Erf", "Erfc"}


WINDOWS = [
    (2, 2, "VALID"),
    (2, 2, "SAME"),
    (3, 2, "SAME"),
    (3, 2, "VALID"),
    (3, 1, "SAME"),
    (2, 3, "VALID"),
    (1, 2, "SAME"),
    (5, 3, "SAME"),
]


@pytest.mark.sample(3)
@pytest.mark.parametrize("lengths", [(7, 8), (6, 5)])
@pytest.mark.parametrize(("size", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_gradients_of_pooling(kind, size, stride, padding, lengths):
    pool = tf.nn.max_pool2d if kind == "max" else tf.nn.avg_pool2d
    x = _draw(2, *lengths, 3)

    def pooled(x):
        return pool(x, size, stride, padding)

    operation = "MaxPoolGrad" if kind == "max" else "AvgPoolGrad"
    weights = _draw(*pooled(x).shape, seed=1)
    _checked(_gradient(pooled), x, weights, absent=[operation])


@pytest.mark.long
@pytest.mark.parametrize(("size", "stride", "padding"), WINDOWS)
def test_ties_of_maxima_go_to_the_first_entry(size, stride, padding):
    x = np.random.default_rng(0).integers(0, 2, (2, 7, 6, 3)).astype("float32")

    def pooled(x):
        return tf.nn.max_pool2d(x, size, stride, padding)

    weights = _draw(*pooled(x).shape, seed=1)
    _checked(_gradient(pooled), x, weights, absent=["MaxPoolGrad"])


def test_windows_of_unequal_sides():
    def pooled(x):
        return tf.nn.max_pool2d(x, (3, 2), (1, 2), "SAME")

    x = _draw(1, 6, 7, 2)
    _checked(_gradient(pooled), x, _draw(*pooled(x).shape), absent=["MaxPoolGrad"])


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling_of_volumes(kind):
    pool = tf.nn.max_pool3d if kind == "max" else tf.nn.avg_pool3d

    def pooled(x):
        return pool(x, 3, 2, "SAME")

    x = _draw(1, 5, 6, 7, 2)
    operation = "MaxPool3D" if kind == "max" else "AvgPool3D"
    _checked(_gradient(pooled), x, _draw(*pooled(x).shape), absent=[f"{operation}Grad"])
    _checked(pooled, x, rules=ELEMENTARY | FOR_LITERT, absent=[operation])


def test_operations_whose_arguments_have_other_names():
    def selected(x):
        return tf.raw_ops.Select(condition=x > 0, x=x, y=2 * x)

    _checked(selected, _draw(3, 4))
    _checked(lambda x: tf.concat(tf.split(x, 2, 1), 0), _draw(3, 4))
    _checked(lambda x: tf.expand_dims(tf.reduce_mean(x, 1), 0), _draw(3, 4))


CONVOLUTIONS = [  # kernel, stride, dilation, padding
    (3, 1, 1, "SAME"),
    (3, 1, 1, "VALID"),
    (3, 2, 1, "SAME"),
    (3, 2, 1, "VALID"),
    (1, 2, 1, "VALID"),
    (1, 2, 1, "SAME"),
    (2, 3, 1, "VALID"),
    (3, 1, 2, "SAME"),
    (3, 1, 3, "VALID"),
    (5, 2, 1, "SAME"),
]


def _spread(kernel, dilation):
    """The kernel with zeros between its entries, which needs no dilation."""
    size = (kernel.shape[0] - 1) * dilation + 1
    found = np.zeros((size, size, *kernel.shape[2:]), "float32")
    found[::dilation, ::dilation] = kernel
    return found


def _rewritten_convolution(kernel, x, weights, stride, dilation, padding):
    """(y, ∇x) of a convolution, rewritten; and which operations are left.

    TensorFlow itself has no gradient of dilated ones, nor of ones in groups, on a CPU.
    """

    def both(x, weights):
        attributes = {
            "strides": [1, stride, stride, 1],
            "padding": padding,
            "dilations": [1, dilation, dilation, 1],
        }
        return {
            "y": tf.raw_ops.Conv2D(input=x, filter=kernel, **attributes),
            "back": tf.raw_ops.Conv2DBackpropInput(
                input_sizes=x.shape, filter=kernel, out_backprop=weights, **attributes
            ),
        }

    specs = {"x": tf.TensorSpec(x.shape), "weights": tf.TensorSpec(weights.shape)}
    traced = tf.function(both, autograph=False).get_concrete_function(**specs)
    new = rewritten(traced, specs)
    found = new(x=tf.constant(x), weights=tf.constant(weights))
    return found["y"], found["back"], {operation.type for operation in new.graph.get_operations()}


def _close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.sample(3)
@pytest.mark.parametrize("lengths", [(8, 9), (9, 7)])
@pytest.mark.parametrize(("size", "stride", "dilation", "padding"), CONVOLUTIONS)
def test_gradients_of_convolutions(size, stride, dilation, padding, lengths):
    kernel, x = _draw(size, size, 4, 6), _draw(2, *lengths, 4)

    def plain(x):
        return tf.nn.conv2d(x, _spread(kernel, dilation), stride, padding)

    weights = _draw(*plain(x).shape, seed=1)
    y, back, left = _rewritten_convolution(kernel, x, weights, stride, dilation, padding)
    _close(y, plain(x))
    _close(back, _gradient(plain)(tf.constant(x), weights))
    assert ("Conv2DBackpropInput" in left) == (dilation == 1)


@pytest.mark.sample(4)
@pytest.mark.parametrize("channels", [(1, 4), (2, 6), (1, 8)])
@pytest.mark.parametrize(("size", "stride", "dilation", "padding"), CONVOLUTIONS)
def test_convolutions_in_groups(size, stride, dilation, padding, channels):
    # Four channels, in four or two groups.
    own, outputs = channels
    groups = 4 // own
    kernel, x = _draw(size, size, own, outputs), _draw(2, 8, 9, 4)

    def by_hand(x):
        pairs = zip(tf.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
        return tf.concat(
            [tf.nn.conv2d(part, _spread(k, dilation), stride, padding) for part, k in pairs], -1
        )

    weights = _draw(*by_hand(x).shape, seed=1)
    y, back, _ = _rewritten_convolution(kernel, x, weights, stride, dilation, padding)
    _close(y, by_hand(x))
    _close(back, _gradient(by_hand)(tf.constant(x), weights))


@pytest.mark.sample(3)
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize(("size", "stride", "dilation", "padding"), CONVOLUTIONS)
def test_gradients_of_depthwise_convolutions(size, stride, dilation, padding, multiplier):
    kernel = _draw(size, size, 3, multiplier)

    def function(x):
        return tf.raw_ops.DepthwiseConv2dNative(
            input=x,
            filter=kernel,
            strides=[1, stride, stride, 1],
            padding=padding,
            dilations=[1, 1, 1, 1],
        )

    x = _draw(2, 8, 9, 3)
    weights = _draw(*function(x).shape, seed=1)
    _checked(
        _gradient(function),
        x,
        weights,
        absent=["DepthwiseConv2dNativeBackpropInput"],
        tolerance=2e-6,
    )


@pytest.mark.parametrize(
    "slicing",
    [
        lambda x: x[:, 1],
        lambda x: x[:, ::2],
        lambda x: x[:, 1::3, ..., -1],
        lambda x: x[..., ::-1],
        lambda x: x[:, -1:0:-2],
        lambda x: x[:, tf.newaxis, 2:4],
        lambda x: x[0],
        lambda x: x[..., 1:][:, :3],
    ],
)
def test_gradients_of_slices(slicing):
    x = _draw(2, 7, 3, 4)
    absent = ["StridedSliceGrad"]
    _checked(_gradient(slicing), x, _draw(*slicing(x).shape, seed=1), absent=absent, tolerance=0)


def test_normalisation_by_fixed_statistics():
    scale, offset, mean, variance = (np.abs(_draw(4, seed=i)) for i in range(4))

    def normalised(x):
        return tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=mean, variance=variance, is_training=False
        )[0]

    x = _draw(2, 3, 3, 4)
    _checked(normalised, x, absent=["FusedBatchNormV3"])
    absent = ["FusedBatchNormGradV3"]
    _checked(_gradient(normalised), x, _draw(2, 3, 3, 4, seed=1), absent=absent)


@pytest.mark.sample(3)
@pytest.mark.parametrize("size", [(9, 4), (5, 12)])
@pytest.mark.parametrize("corners", ["align_corners", "half_pixel_centers", None])
@pytest.mark.parametrize("kind", ["ResizeBilinear", "ResizeBicubic", "ResizeNearestNeighbor"])
def test_gradients_of_resizing(kind, corners, size):
    options = {} if corners is None else {corners: True}

    def resized(x):
        return getattr(tf.raw_ops, kind)(images=x, size=size, **options)

    absent = ["ResizeBicubicGrad" if kind == "ResizeBicubic" else f"{kind}Grad"]
    x, weights = _draw(2, 6, 7, 3), _draw(2, *size, 3, seed=1)
    _checked(_gradient(resized), x, weights, absent=absent)
    if kind == "ResizeBicubic":
        _checked(resized, x, absent=[kind])


@pytest.mark.parametrize("mode", ["REFLECT", "SYMMETRIC"])
def test_gradients_of_mirror_padding(mode):
    def padded(x):
        return tf.pad(x, [[0, 0], [2, 1], [0, 3], [0, 0]], mode)

    x = _draw(2, 5, 6, 3)
    _checked(_gradient(padded), x, _draw(*padded(x).shape, seed=1), absent=["MirrorPadGrad"])


def test_repetition_along_axes_of_length_1():
    left = _checked(lambda x: tf.tile(x, [1, 3, 2]), _draw(2, 1, 1), absent=["Tile"])
    assert "BroadcastTo" in left
    assert "Tile" in _checked(lambda x: tf.tile(x, [1, 3, 1]), _draw(2, 2, 1))
