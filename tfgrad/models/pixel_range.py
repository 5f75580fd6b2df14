"""The range of pixels that a network takes, as its first operations tell."""

from __future__ import annotations

import concurrent.futures
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ImageRangeWarning, ModelError
from tfgrad.internal import keras_private
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models.preprocessors import preprocessed

Range = tuple[float, float]

# The ranges that images are stored or scaled in; what a network rescales them to is one of the
# last. A pair of both that its first operations map onto one another is recognised exactly.
_TAKEN = ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))
_INSIDE = (*_TAKEN, (-0.5, 0.5), (-128.0, 127.0))
_TOLERANCE = 0.02  # of a range's width: 1/256 counts as 1/255

# Operations that move, cut, pad, resize or shift and scale single values of one tensor.
_SCALING = {"Mul", "AddV2", "Add", "AddN", "Sub", "RealDiv", "Div", "DivNoNan", "BiasAdd", "Neg"}
_SCALING |= {"Maximum", "Minimum", "ClipByValue"}
_MOVING = {
    *("Identity", "IdentityN", "Cast", "StopGradient", "PreventGradient", "CheckNumerics"),
    *("Reshape", "Transpose", "ExpandDims", "Squeeze", "EnsureShape", "BroadcastTo", "Tile"),
    *("Slice", "StridedSlice", "GatherV2", "ReverseV2", "Split", "SplitV", "Unpack"),
    *("Pad", "PadV2", "MirrorPad", "ConcatV2", "Pack", "SpaceToDepth", "SpaceToBatchND"),
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"),
    *("ScaleAndTranslate", "CropAndResize", "AvgPool"),
}
# Operations that do not read values, or read them only to check or mask.
_ASIDE = {
    *("Shape", "ShapeN", "Rank", "Size", "ZerosLike", "OnesLike", "IsFinite", "IsNan", "IsInf"),
    *("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "Assert"),
}
_WITH_KERNEL = (
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)
_MERGING = {"ConcatV2", "Pack", "AddN", "IdentityN"}
_SIDE = 32
# The width of a range from which on what is meant for pixels in 0 to 1 is too small.
_WIDE = 10.0
# Below it, mean and standard deviation may be those of 4-bit images (0 to 16).
_LARGE = 16


def image_range(
    network: keras.Model, preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None
) -> Range | None:
    """The values of black and white in the images that a network takes, if it tells them.

    Everything that a network computes before its first layer with weights (a convolution, a dense
    layer, …) is followed, whichever layers or bare operations compute it: shifts and scales such as
    `Rescaling` and `Normalization`, also behind layers that crop, resize, pad or augment, in nested
    and subclassed models. With x ↦ a·x + b their composition,

    - (0, 255), (0, 1) or (−1, 1) is found if a·x + b maps it to one of these (or to ±0.5);
    - else a normalisation is recognised by its mean −b/a and standard deviation 1/abs(a): a mean
      above 1.5 belongs to (0, 255), one inside of (0, 1) with at most the deviation that numbers in
      [0, 1] can have belongs to (0, 1), one inside of (−1, 1) that is negative in a channel belongs
      to (−1, 1).

    Args:
        network: A built Keras model of one image input.
        preprocess: Function or layer that runs before the network, with images of the same shape;
            None: the network's own `preprocessor`, if it has one as the tasks of KerasHub do.

    Returns:
        (black, white), or None where nothing tells: no scaling in the network, as in the
        ResNet, VGG, Inception, Xception and DenseNet of `keras.applications`, whose
        `preprocess_input` is outside; or one that fits no range, or several.

    Raises:
        ModelError: The network is not built.

    Example:

    ```python
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    tfgrad.models.image_range(keras.Model(inputs, outputs))  # (0.0, 255.0)
    ```
    """
    if not network.built:
        raise ModelError(
            f"network {network.name!r}: got one that is not built; expected a built one. Call it "
            "on a batch first."
        )
    specs = _input(network)
    flat = keras.tree.flatten(specs)
    if len(flat) != 1 or flat[0].shape.rank != 4:
        return None
    if preprocess is None and flat[0].dtype == tf.uint8:
        return 0.0, 255.0
    if not flat[0].dtype.is_floating:
        return None
    # A thread of its own: the caller may be inside a tf.function, a tape or a strategy.
    first = preprocess or (lambda x: preprocessed(network, x)[0])
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_found, network, first, specs).result()


def wide_range(network: Any) -> Range | None:
    """`image_range` of a network whose pixels lie far apart, such as 0 to 255.

    Args:
        network: A Keras model, or any function of images.

    Returns:
        (black, white), ten times as far apart as 0 and 1 or more; else None, and where nothing
        tells.
    """
    found = image_range(network) if getattr(network, "built", False) else None
    return None if found is None or found[1] - found[0] < _WIDE else found


def warn_of_scale(
    network: keras.Model, argument: str, low: float, high: float, stacklevel: int = 3
) -> None:
    """Warn if images in a range that was given, or assumed, have another scale than a network's.

    Args:
        network: Network of images.
        argument: Name of the argument, for the message.
        low: Its lowest value.
        high: Its highest value.
        stacklevel: Of the warning, as in `warnings.warn`.

    Warns:
        ImageRangeWarning: The network tells a range that is ten times as wide, or narrow.
    """
    found = image_range(network)
    if found is None or 0.1 < (high - low) / (found[1] - found[0]) < 10:
        return
    warnings.warn(
        f"{argument}: got {low:g} to {high:g} for network {network.name!r}, whose first operations "
        f"take pixels in {found}; expected values of that scale. Try {argument}={found}, with a "
        "start and step sizes of that scale.",
        ImageRangeWarning,
        stacklevel=stacklevel,
    )


def _input(network: keras.Model) -> Any:
    """The network's input, as (a structure of) specs."""
    if getattr(network, "inputs", None):
        inputs = list(network.inputs)
        structure = network.input if keras_private.takes_a_dict(network) else inputs
        if structure is inputs and len(inputs) == 1:
            structure = inputs[0]
        return keras.tree.map_structure(
            lambda i: tf.TensorSpec((None, *i.shape[1:]), i.dtype), structure
        )
    shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | None) for n in shape):
        return []
    return tf.TensorSpec((None, *shape[1:]), network.variable_dtype)


def _found(network: keras.Model, preprocess: Callable[..., Any], specs: Any) -> Range | None:
    dtype = keras.tree.flatten(specs)[0].dtype
    read = _beginning(network)

    def run(x: tf.Tensor) -> Any:
        x = tf.cast(preprocess(x), dtype)
        return read(keras.tree.pack_sequence_as(specs, [x]), training=False)

    shape = keras.tree.flatten(specs)[0].shape
    with unchanged_state():
        traced = tf.function(run, autograph=False).get_concrete_function(
            tf.TensorSpec(shape, tf.float32)
        )
        ends = _ends(traced.graph)
    if not ends:  # no operation reads pixels but to move or scale them: no classifier
        return None
    ranges = {_interpreted(line) for line in _lines(traced, ends, shape)}
    return ranges.pop() if len(ranges) == 1 else None


def _beginning(network: keras.Model) -> keras.Model:
    """The part of a network that reads pixels, up to the first layers with a kernel.

    A functional model is cut behind them; of any other model it is the whole.
    """
    if not keras_private.is_graph_of_layers(network) or isinstance(network, keras.Sequential):
        return network
    reached = {id(tensor) for tensor in network.inputs}
    ends: list[Any] = []
    for operation in network.operations:
        stops = type(operation) in _WITH_KERNEL
        for taken, returned in keras_private.symbolic_calls(operation):
            if not reached.isdisjoint(map(id, taken)):
                if stops:
                    ends += returned
                else:
                    reached.update(map(id, returned))
    ends += [t for t in network.outputs if id(t) in reached]
    return keras.Model(network.input, ends, name=network.name)


def _ends(graph: tf.Graph) -> list[tf.Tensor]:
    """The last tensors that contain single values of the input, moved, shifted or scaled."""
    pixels, dependent = {graph.inputs[0].ref()}, {graph.inputs[0].ref()}
    ends: dict[Any, tf.Tensor] = {}
    for operation in graph.get_operations():
        data = [t for t in operation.inputs if t.ref() in dependent]
        if not data or operation.type in _ASIDE:
            continue
        plain = all(t.ref() in pixels for t in data)
        first = operation.inputs[0].ref() in dependent
        if operation.type in _MERGING:
            passes = plain
        elif operation.type in _SCALING:
            by_itself = operation.type not in ("RealDiv", "Div", "DivNoNan") or first
            passes = plain and len(data) == 1 and by_itself
        else:
            passes = plain and len(data) == 1 and operation.type in _MOVING
        dependent.update(t.ref() for t in operation.outputs)
        if passes:
            pixels.update(t.ref() for t in operation.outputs)
        else:
            ends.update((t.ref(), t) for t in data if t.ref() in pixels)
    return list(ends.values())


class _Line(NamedTuple):
    """a·x + b, for every element of a tensor that depends on pixels.

    Attributes:
        a: Factors.
        b: Offsets.
        learned: Whether a batch normalisation, whose scale and offset are trained, may be in it.
    """

    a: np.ndarray
    b: np.ndarray
    learned: bool


def _lines(traced: Any, ends: list[tf.Tensor], shape: tf.TensorShape) -> list[_Line]:
    """What each of these tensors is, by its values for images of zeros and of ones."""
    graph_def = _part(traced.graph, ends)
    present = {node.name for node in graph_def.node}
    held = zip(traced.graph.inputs[1:], traced.captured_inputs, strict=True)
    captured = {inside.name: value for inside, value in held if inside.op.name in present}
    image = traced.graph.inputs[0].name

    def at(x: tf.Tensor) -> Any:
        return tf.graph_util.import_graph_def(
            graph_def,
            input_map={image: x, **{k: tf.convert_to_tensor(v) for k, v in captured.items()}},
            return_elements=[t.name for t in ends],
            name="",
        )

    sides = [1, *(_SIDE if n is None else n for n in shape[1:])]
    lines, learned = [], any(node.op == "Rsqrt" for node in graph_def.node)
    compute = tf.function(at, autograph=False).get_concrete_function(tf.TensorSpec(sides))
    for zero, one in zip(compute(tf.zeros(sides)), compute(tf.ones(sides)), strict=True):
        b, a_b = (np.ravel(np.asarray(t, np.float64)) for t in (zero, one))
        read = np.isfinite(b) & np.isfinite(a_b) & (a_b != b)  # padding does not depend on pixels
        lines.append(_Line(a_b[read] - b[read], b[read], learned))
    return lines


def _part(graph: tf.Graph, ends: list[tf.Tensor]) -> tf.compat.v1.GraphDef:
    """The operations that these tensors are computed by, without the checks beside them."""
    names, waiting = set(), [t.op for t in ends]
    while waiting:
        operation = waiting.pop()
        if operation.name not in names:
            names.add(operation.name)
            waiting += [t.op for t in operation.inputs]
    graph_def = graph.as_graph_def()
    kept = [node for node in graph_def.node if node.name in names]
    for node in kept:
        data = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(data)
    return tf.compat.v1.GraphDef(node=kept, versions=graph_def.versions, library=graph_def.library)


def _interpreted(line: _Line) -> Range | None:
    """The range of the images that a·x + b is made for; None if it does not tell."""
    a, b, learned = line
    if not len(a) or bool(np.all(np.abs(a - 1) + np.abs(b) < 1e-6)):
        return None
    for low, high in _TAKEN:
        ends = np.sort([a * low + b, a * high + b], 0)
        for inside in _INSIDE:
            if inside == (low, high):
                continue
            wide = inside[1] - inside[0]
            if bool(np.all(np.abs(ends - np.array(inside)[:, None]) <= _TOLERANCE * wide)):
                return low, high
    mean, deviation = -b / a, 1 / np.abs(a)
    large = (mean >= _LARGE) | (deviation >= _LARGE)
    if _all(mean > 1.5, mean < 255, deviation < 256, large) or _all(
        mean >= 0, deviation >= 100, deviation <= 300
    ):
        return 0.0, 255.0
    if learned:
        return None
    # Numbers in [0, 1] of mean m deviate by at most sqrt(m (1 − m)).
    if _all(mean > 0, mean < 1, deviation**2 <= 1.05 * mean * (1 - mean)):
        return 0.0, 1.0
    varied = bool(np.any(mean < 0)) and _all(deviation**2 <= 1.05 * (1 - mean**2))
    if varied and _all(np.abs(mean) < 1):
        return -1.0, 1.0
    return None


def _all(*conditions: Any) -> bool:
    return all(bool(np.all(condition)) for condition in conditions)
