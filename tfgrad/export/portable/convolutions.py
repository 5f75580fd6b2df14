"""Convolutions in groups, and gradients of convolutions, in plain ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.export.portable.windows import Axis, axis_of, dilated


def grouped(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    """A convolution whose filter sees a group of the channels; None for one that sees all."""
    x, kernel = tensors
    if _layout(operation) is None or x.shape[-1] == kernel.shape[2]:
        return None
    groups = x.shape[-1] // kernel.shape[2]
    strides, padding, dilations = _attributes(operation)
    if kernel.shape[2] == 1 and len(set(strides[1:3])) == 1:
        multiplier = kernel.shape[3] // groups
        shape = [*kernel.shape[:2], groups, multiplier]
        return tf.raw_ops.DepthwiseConv2dNative(
            input=x,
            filter=_spread(_reshaped(values[1], kernel, shape), dilations),
            strides=strides,
            padding=padding,
        )
    parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    found = [
        tf.raw_ops.Conv2D(
            input=part, filter=own, strides=strides, padding=padding, dilations=dilations
        )
        for part, own in parts
    ]
    return tf.concat(found, -1)


def input_gradient(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    """The gradient of a convolution's input, where it is in groups or dilated."""
    sizes, kernel, gradient = values[0], tensors[1], tensors[2]
    if not isinstance(sizes, np.ndarray) or _layout(operation) is None:
        return None
    shape = [int(n) for n in sizes]
    strides, _, dilations = _attributes(operation)
    groups = shape[-1] // kernel.shape[2]
    # Entries behind the last window get no gradient: some runtimes take them for negative padding.
    reached = [
        (gradient.shape[at] - 1) * strides[at] + (kernel.shape[at - 1] - 1) * dilations[at] + 1
        for at in (1, 2)
    ]
    behind = [max(length - last, 0) for length, last in zip(shape[1:3], reached, strict=True)]
    if any(behind):
        shape = [shape[0], *map(min, shape[1:3], reached), shape[3]]
    elif groups == 1 and set(dilations) == {1}:
        return None
    if kernel.shape[2] == 1 and groups > 1:
        multiplier = kernel.shape[3] // groups
        depthwise = _reshaped(values[1], kernel, [*kernel.shape[:2], groups, multiplier])
        found = _of_depthwise(operation, shape, depthwise, gradient)
    else:
        kernels, parts = [values[1]], [gradient]
        if groups > 1:
            kernels, parts = tf.split(kernel, groups, -1), tf.split(gradient, groups, -1)
        each = [
            _of_one_group(operation, [*shape[:3], shape[-1] // groups], own, part)
            for own, part in zip(kernels, parts, strict=True)
        ]
        found = tf.concat(each, -1) if groups > 1 else each[0]
    return tf.pad(found, [[0, 0], *[[0, n] for n in behind], [0, 0]]) if any(behind) else found


def _of_one_group(
    operation: tf.Operation, shape: list[int], kernel: Any, gradient: tf.Tensor
) -> tf.Tensor:
    strides, padding, dilations = _attributes(operation)
    if set(dilations) == {1}:
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=shape,
            filter=kernel,
            out_backprop=gradient,
            strides=strides,
            padding=padding,
        )
    flipped = _flipped(kernel)
    transpose = np.transpose if isinstance(flipped, np.ndarray) else tf.transpose
    return tf.raw_ops.Conv2D(
        input=_windows_of(operation, shape, kernel, gradient),
        filter=transpose(flipped, [0, 1, 3, 2]),
        strides=[1, 1, 1, 1],
        padding="VALID",
        dilations=dilations,
    )


def depthwise_input_gradient(
    operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]
) -> Any:
    """The gradient of a depthwise convolution's input, as a depthwise convolution."""
    if not isinstance(values[0], np.ndarray) or _layout(operation) is None:
        return None
    kernel = values[1] if isinstance(values[1], np.ndarray) else tensors[1]
    return _of_depthwise(operation, [int(n) for n in values[0]], kernel, tensors[2])


def _of_depthwise(
    operation: tf.Operation, shape: list[int], kernel: Any, gradient: tf.Tensor
) -> tf.Tensor:
    height, width, channels, multiplier = kernel.shape
    _, _, dilations = _attributes(operation)
    flipped = _flipped(kernel)
    flipped = _reshaped(flipped, flipped, [height, width, channels * multiplier, 1])
    found = tf.raw_ops.DepthwiseConv2dNative(
        input=_windows_of(operation, shape, kernel, gradient),
        filter=_spread(flipped, dilations),
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    if multiplier == 1:
        return found
    parts = tf.reshape(found, [-1, shape[1] * shape[2], channels, multiplier])
    return tf.reshape(tf.reduce_sum(parts, -1), [-1, *shape[1:]])


def _windows_of(
    operation: tf.Operation, shape: list[int], kernel: Any, gradient: tf.Tensor
) -> tf.Tensor:
    """The gradient laid out so that a convolution without padding returns that of the input."""
    strides, padding, dilations = _attributes(operation)
    gradient = dilated(gradient, {1: strides[1], 2: strides[2]})
    pads = [[0, 0]]
    for at in (1, 2):
        size = (kernel.shape[at - 1] - 1) * dilations[at] + 1
        outputs = gradient.shape[at] // strides[at]
        axis: Axis = axis_of(shape[at], outputs, size, strides[at], padding)
        before = size - 1 - axis.before
        pads.append([before, shape[at] + size - 1 - before - gradient.shape[at]])
    pads.append([0, 0])
    for at, (before, after) in enumerate(pads):
        if min(before, after) < 0:
            begin, length = [0] * 4, list(gradient.shape)
            begin[at] = max(-before, 0)
            length[at] -= max(-before, 0) + max(-after, 0)
            gradient = tf.slice(gradient, begin, length)
            pads[at] = [max(before, 0), max(after, 0)]
    return tf.pad(gradient, pads)


def _flipped(kernel: Any) -> Any:
    """The kernel with its rows and its columns reversed."""
    if isinstance(kernel, np.ndarray):
        return np.flip(kernel, (0, 1)).copy()
    return tf.reverse(tf.reverse(kernel, [0]), [1])  # some runtimes reverse one axis at a time


def _spread(kernel: Any, dilations: list[int]) -> Any:
    """The kernel with zeros between its entries, for runtimes without dilated depthwise kernels."""
    if set(dilations) == {1}:
        return kernel
    sizes = [(kernel.shape[at - 1] - 1) * dilations[at] + 1 for at in (1, 2)]
    if isinstance(kernel, np.ndarray):
        found = np.zeros((*sizes, *kernel.shape[2:]), kernel.dtype)
        found[:: dilations[1], :: dilations[2]] = kernel
        return found
    wide = dilated(kernel, {0: dilations[1], 1: dilations[2]})
    return wide[: sizes[0], : sizes[1]]


def _reshaped(value: Any, tensor: tf.Tensor, shape: list[int]) -> Any:
    """A kernel in another shape; at once where its values are known."""
    if isinstance(value, np.ndarray):
        return value.reshape(shape)
    return tf.reshape(tensor, shape)


def _layout(operation: tf.Operation) -> str | None:
    """The layout, with channels last, of an operation without padding of its own."""
    if operation.get_attr("padding") == b"EXPLICIT":
        return None
    layout = operation.get_attr("data_format").decode()
    return layout if layout == "NHWC" else None


def _attributes(operation: tf.Operation) -> tuple[list[int], str, list[int]]:
    return (
        list(operation.get_attr("strides")),
        operation.get_attr("padding").decode(),
        list(operation.get_attr("dilations")),
    )
