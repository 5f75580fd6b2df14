"""Softsign, and the simulated quantisation of quantisation-aware training."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgrad.internal.derivatives.registry import Gradient, linear, options

_RAW = tf.raw_ops


def _of_softsign_grad(op: Any, v: tf.Tensor) -> list[Any]:
    """Of u/(1 + abs(x))²."""
    u, x = op.inputs
    wide = 1 + tf.abs(x)
    return [v / wide**2, -2 * v * u * tf.sign(x) / wide**3]


def _of_fake_quant_args(op: Any, upstream: tf.Tensor) -> list[Any]:
    """Upstream where x lies between the bounds, else 0: a diagonal matrix times it."""
    x, more = op.inputs[0], options(op, "min", "max", "num_bits", "narrow_range")

    def within(u: tf.Tensor) -> tf.Tensor:
        return _RAW.FakeQuantWithMinMaxArgsGradient(gradients=u, inputs=x, **more)

    return [linear(within, within, upstream)]


def _of_fake_quant_vars(op: Any, upstream: tf.Tensor) -> list[Any]:
    return _of_bounds(op, upstream, _RAW.FakeQuantWithMinMaxVarsGradient)


def _of_fake_quant_channels(op: Any, upstream: tf.Tensor) -> list[Any]:
    return _of_bounds(op, upstream, _RAW.FakeQuantWithMinMaxVarsPerChannelGradient)


def _of_bounds(op: Any, upstream: tf.Tensor, gradient: Any) -> list[Any]:
    x, low, high = op.inputs
    more = {"inputs": x, "min": low, "max": high, **options(op, "num_bits", "narrow_range")}

    def within(u: tf.Tensor) -> tf.Tensor:
        return gradient(gradients=u, **more)[0]

    return [linear(within, within, upstream), *gradient(gradients=upstream, **more)[1:]]


# Graphs traced outside the context contain these; an eager tape does not keep their inputs.


def _of_fake_quant_args_grad(op: Any, v: tf.Tensor) -> list[Any]:
    if op.inputs is None:
        return [None, None]
    more = options(op, "min", "max", "num_bits", "narrow_range")
    return [_RAW.FakeQuantWithMinMaxArgsGradient(gradients=v, inputs=op.inputs[1], **more), None]


def _of_fake_quant_vars_grad(op: Any, v: tf.Tensor, *bounds: Any) -> list[Any]:
    return _of_bounds_grad(op, v, _RAW.FakeQuantWithMinMaxVarsGradient)


def _of_fake_quant_channels_grad(op: Any, v: tf.Tensor, *bounds: Any) -> list[Any]:
    return _of_bounds_grad(op, v, _RAW.FakeQuantWithMinMaxVarsPerChannelGradient)


def _of_bounds_grad(op: Any, v: tf.Tensor, gradient: Any) -> list[Any]:
    if op.inputs is None:
        return [None] * 4
    _, x, low, high = op.inputs
    more = {"inputs": x, "min": low, "max": high, **options(op, "num_bits", "narrow_range")}
    return [gradient(gradients=v, **more)[0], None, None, None]


GRADIENTS: dict[str, Gradient] = {
    "SoftsignGrad": _of_softsign_grad,
    "FakeQuantWithMinMaxArgs": _of_fake_quant_args,
    "FakeQuantWithMinMaxVars": _of_fake_quant_vars,
    "FakeQuantWithMinMaxVarsPerChannel": _of_fake_quant_channels,
    "FakeQuantWithMinMaxArgsGradient": _of_fake_quant_args_grad,
    "FakeQuantWithMinMaxVarsGradient": _of_fake_quant_vars_grad,
    "FakeQuantWithMinMaxVarsPerChannelGradient": _of_fake_quant_channels_grad,
}
