"""Layers of a network given correct second derivatives, in place."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras

from tfgrad import layers
from tfgrad.errors import ArgumentError
from tfgrad.internal import keras_private
from tfgrad.internal.function_copies import forget_traces
from tfgrad.internal.wrapper import Wrapper
from tfgrad.second_order import findings, guard, safe_calls, tracing
from tfgrad.second_order.operations import MENDED_BY, WRONG_UNDER_XLA
from tfgrad.second_order.report import Change, Report

_L = keras.layers
# Layers of Keras, and subclasses of them, that are known to need an exchange without a trace: a
# frozen batch normalisation, which is right as long as it is frozen, among them.
_KNOWN = {
    "tf.nn.moments": (_L.LayerNormalization, _L.GroupNormalization, _L.BatchNormalization),
    "tf.image.resize": (_L.Resizing, _L.UpSampling2D),
    "tf.nn.max_pool3d": (_L.MaxPooling3D,),
}
_POOLING = (_L.MaxPooling1D, _L.MaxPooling2D, _L.MaxPooling3D)
_OWN = (
    *(layers.LayerNormalization, layers.GroupNormalization, layers.BatchNormalization),
    *(layers.Resizing, layers.UpSampling2D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
)
# Classes of `keras.ops` in a functional graph, by the function that they call.
_OPERATIONS = {
    "tf.nn.moments": ("Moments", "LayerNorm"),
    "tf.image.resize": ("Resize",),
    "tf.nn.softsign": ("Softsign",),
    "tf.nn.max_pool": ("MaxPool",),
    "tf.nn.max_pool3d": ("MaxPool",),
}
_ROUNDS = 8  # A function without a first derivative hides what comes before it.


def make_safe(model: keras.layers.Layer, inputs: Any = None, *, xla: bool = False) -> Report:
    """Give a network correct second derivatives, in place and with the same weights.

    For models that others wrote. Every layer of the network for which there is a way is changed, at
    any depth: layer, group and batch normalisation, resizing and upsampling, with subclasses of
    them; max-pooling of volumes; layers, models and bare operations whose own code calls
    `tf.nn.moments`, `tf.image.resize`, `tf.nn.softsign`, `tf.nn.lrn` or `tf.nn.max_pool3d`, through
    `keras.ops` or by themselves; cuDNN cells. Inside the calls of these layers, the functions are
    exchanged for equal ones with correct derivatives of every order; the layers' code, options and
    variables stay. Outputs, moving statistics and first derivatives are the same: to the bit for
    moments, to float32 rounding for the others; where entries of a volume are equal, TensorFlow's
    first derivative is wrong. Files are the same, too: a saved network loads without tfgrad, as the
    classes that it was made of, and `make_safe` is called again. A saved `PenalizedModel` does so
    when it loads.

    The network is traced to find the layers, as by `inspect`, and once more to see what is left.
    Compiled training steps are made anew when `fit` is called next. A second call changes nothing.

    Args:
        model: A Keras model or layer, built or not; of a `PenalizedModel`, its network is changed.
        inputs: As for `inspect`. With None, a network that does not define its inputs is changed as
            far as its layers are known, and the rest before its first penalised step.
        xla: Whether max-pooling of series and images is changed, too, for a step that XLA
            compiles (`jit_compile=True`). Without XLA, Keras's is correct and faster.

    Returns:
        What was changed, and the faults that are left, which need another layer.

    Raises:
        ArgumentError: `model` is no Keras layer, or `inputs` no nest of tensors.
        ModelError: No output of the network is floating.

    Example:

    ```python
    backbone = keras_hub.models.ViTBackbone(...)
    print(tfgrad.second_order.make_safe(backbone))
    ```
    """
    network = model.network if isinstance(model, Wrapper) else model
    if not isinstance(network, keras.layers.Layer):
        raise ArgumentError(f"model: got {model!r}; expected a Keras model or layer.")
    specs = guard.last_inputs.get(network) if inputs is None else None
    if specs is None:
        try:
            specs = guard.specs_of(network, inputs)
        except ArgumentError:
            if inputs is not None:
                raise
            changes = tuple(_changed_of_known(network, xla))
            guard.unfinished[network] = functools.partial(_mended, xla=xla)
            _forget_steps(model, network, changes)
            return Report(network.name, changes, (), checked=False)
    guard.unfinished.pop(network, None)
    report = _mended(network, specs, xla)
    _forget_steps(model, network, report.changed)
    return report


def made_safe(network: keras.layers.Layer) -> dict[str, bool] | None:
    """The options that `make_safe` changed a network with; None if it did not."""
    operations = [*_operations(network), *keras_private.flatten_layers(network)]
    if network in guard.unfinished:
        return dict(guard.unfinished[network].keywords)  # type: ignore[attr-defined]
    if not any(safe_calls.is_safe(operation) for operation in operations):
        return None
    return {"xla": any(safe_calls.is_safe(operation, xla=True) for operation in operations)}


def _mended(network: keras.layers.Layer, specs: Any, xla: bool) -> Report:
    """`make_safe` of a network whose inputs are known."""
    tracing.build(network, specs)
    changes = {id(change.operation): change for change in _changed_of_known(network, xla)}
    for attempt in range(_ROUNDS):
        try:
            todo = list(_unmended(network, specs, xla))
        except TypeError:  # TensorFlow's gradient of some functions fails in float64
            todo = [] if attempt else list(_suspects(network))
            if not todo:
                raise
        if not todo:
            break
        for operation, path, by in todo:
            if by == "use_cudnn=False":
                operation.use_cudnn = False
            else:
                safe_calls.make(operation, by == "tf.nn.max_pool" or xla)
            earlier = changes[id(operation)].functions if id(operation) in changes else ()
            changes[id(operation)] = Change(path, operation, tuple(dict.fromkeys((*earlier, by))))
    report = _report(network, specs, xla, tuple(changes.values()))
    # Also without a change here: known layers are changed before the inputs are.
    for function in tuple(guard.functions_of.get(network, ())):
        forget_traces(function)
    return report


def _report(
    network: keras.layers.Layer, specs: Any, xla: bool, changes: tuple[Change, ...]
) -> Report:
    remaining: dict[findings.Finding, None] = {}
    in_vain = set()
    for fault in _faults(network, specs):
        if xla or not fault.only_under_xla:
            remaining[fault.finding] = None
            in_vain.add((id(fault.holder()), MENDED_BY.get(fault.finding.operation)))
    mended = []
    for change in changes:
        own = tuple(by for by in change.functions if (id(change.operation), by) not in in_vain)
        if own:
            mended.append(dataclasses.replace(change, functions=own))
    return Report(network.name, tuple(mended), tuple(remaining))


def _changed_of_known(network: keras.layers.Layer, xla: bool) -> Iterator[Change]:
    """Changes the layers of Keras that are known to need it, and subclasses of them."""
    for layer in keras_private.flatten_layers(network):
        for by, kinds in _KNOWN.items():
            if isinstance(layer, kinds) and not _is_right(layer) and not safe_calls.is_safe(layer):
                safe_calls.make(layer)
                yield Change(_path(layer), layer, (by,))
        by_xla = xla and isinstance(layer, _POOLING) and not isinstance(layer, _OWN)
        if by_xla and not safe_calls.is_safe(layer, xla=True):
            safe_calls.make(layer, xla=True)
            yield Change(_path(layer), layer, ("tf.nn.max_pool",))


def _is_right(layer: keras.layers.Layer) -> bool:
    """Whether a layer of a known class calls no function that would be exchanged."""
    return (
        isinstance(layer, _OWN)
        or getattr(layer, "rms_scaling", False)
        or getattr(layer, "synchronized", False)
        or (isinstance(layer, _L.UpSampling2D) and layer.interpolation == "nearest")
    )


def _unmended(network: keras.layers.Layer, specs: Any, xla: bool) -> Iterator[tuple[Any, str, str]]:
    """(layer or operation, its path, how it is changed) of the faults that can be mended."""
    for fault in _faults(network, specs):
        operation, holder = fault.finding.operation, fault.holder()
        by = MENDED_BY.get(operation)
        if by == "use_cudnn=False":  # an option of the layer, not a function that its call finds
            holder = fault.owner()
        if by is None or holder is None or (fault.only_under_xla and not xla):
            continue
        pooling = xla or operation in WRONG_UNDER_XLA
        targets = [(o, path) for o, path in _targets(holder, by) if not _is_changed(o, by, pooling)]
        if not targets:
            findings.not_mended.setdefault(holder, set()).add(operation)
        yield from ((target, path, by) for target, path in targets)


def _suspects(network: keras.layers.Layer) -> Iterator[tuple[Any, str, str]]:
    """Every operation whose own code may call a function that is exchanged."""
    for operation in _operations(network):
        for by, kinds in _OPERATIONS.items():
            if operation.__class__.__name__ in kinds:
                yield operation, operation.name, by
    for layer in keras_private.flatten_layers(network):
        graph = keras_private.is_graph_of_layers(layer)
        if not graph and not keras_private.is_of_keras(layer) and not safe_calls.is_safe(layer):
            yield layer, _path(layer), "tf.image.resize"


def _faults(network: keras.layers.Layer, specs: Any) -> Iterator[findings.Fault]:
    for training in (True, False):
        try:
            yield from guard.judged(network, specs, training)[1]
        except ValueError as error:
            if not guard.is_recomputing(error):
                raise
            yield from guard.rematerialised(network)


def _targets(owner: Any, by: str) -> Iterator[tuple[Any, str]]:
    """What is changed for a fault: its layer; of a functional model, the bare operations in it."""
    if not keras_private.is_graph_of_layers(owner):
        yield owner, _path(owner)
        return
    for operation in _operations(owner, recursive=False):
        own = keras_private.is_own_operation(operation)
        if not own or operation.__class__.__name__ in _OPERATIONS.get(by, ()):
            yield operation, f"{_path(owner)}/{operation.name}"


def _is_changed(operation: Any, by: str, pooling: bool) -> bool:
    if by == "use_cudnn=False":
        return getattr(operation, "use_cudnn", False) is False
    return safe_calls.is_safe(operation, pooling)


def _operations(network: keras.layers.Layer, recursive: bool = True) -> Iterator[keras.Operation]:
    """The bare operations in the functional graphs of a network."""
    for layer in keras_private.flatten_layers(network) if recursive else [network]:
        for operation in getattr(layer, "operations", ()):
            if not isinstance(operation, keras.layers.Layer):
                yield operation


def _path(layer: keras.layers.Layer) -> str:
    return getattr(layer, "path", None) or layer.name


def _forget_steps(
    model: keras.layers.Layer, network: keras.layers.Layer, changes: tuple[Change, ...]
) -> None:
    """Let `fit`, `evaluate` and `predict` of the models make their functions anew."""
    if changes:
        for one in (model, *keras_private.flatten_layers(network)):
            if isinstance(one, keras.Model):
                one.train_function = one.test_function = one.predict_function = None
