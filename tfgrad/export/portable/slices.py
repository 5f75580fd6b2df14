"""The gradient of a strided slice: the values in their places, and zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.export.portable.windows import dilated


def gradient(operation: tf.Operation, tensors: list[tf.Tensor], values: list[Any]) -> Any:
    """Zeros of the sliced tensor's shape, with the gradient where the slice was."""
    if not all(isinstance(value, np.ndarray) for value in values[:4]):
        return None
    shape = [int(n) for n in values[0]]
    taken = _taken(operation, shape, *(value.tolist() for value in values[1:4]))
    found = tf.reshape(tensors[4], [len(r) for r in taken])
    turned = [axis for axis, r in enumerate(taken) if r.step < 0 and len(r) > 1]
    for axis in turned:
        found = tf.reverse(found, [axis])
    steps = [abs(r.step) if len(r) > 1 else 1 for r in taken]
    pads = []
    for r, step, length, axis in zip(taken, steps, shape, range(len(shape)), strict=True):
        found = dilated(found, {axis: step})
        first = min(r[0], r[-1]) if len(r) else 0
        pads.append([first, length - first - found.shape[axis]])
    for axis, (_, behind) in enumerate(pads):
        if behind < 0:  # zeros behind the last entry
            size = list(found.shape)
            size[axis] += behind
            found = tf.slice(found, [0] * len(size), size)
            pads[axis][1] = 0
    return tf.pad(found, pads) if any(map(any, pads)) else found


def _taken(
    operation: tf.Operation, shape: list[int], begin: list[int], end: list[int], steps: list[int]
) -> list[range]:
    """The entries that the slice takes, for each axis."""
    masks = {
        name: operation.get_attr(f"{name}_mask")
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }

    def has(name: str, i: int) -> bool:
        return bool(masks[name] >> i & 1)

    count = len(begin)
    taking = sum(not has("new_axis", i) and not has("ellipsis", i) for i in range(count))
    found: list[range] = []
    for i in range(count):
        if has("ellipsis", i):
            left = len(shape) - taking
            found += [range(n) for n in shape[len(found) : len(found) + left]]
        elif not has("new_axis", i):
            length = shape[len(found)]
            if has("shrink_axis", i):
                at = begin[i] % length
                found.append(range(at, at + 1))
                continue
            ends = [
                None if has(name, i) else values[i]
                for name, values in (("begin", begin), ("end", end))
            ]
            found.append(range(*slice(ends[0], ends[1], steps[i]).indices(length)))
    return found + [range(n) for n in shape[len(found) :]]
