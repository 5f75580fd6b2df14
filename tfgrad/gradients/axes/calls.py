"""What every layer call of a network returns: feature maps, tokens on a grid, or neither."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import weakref
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.axes.formats import InputAxes, default_axis
from tfgrad.gradients.axes.inputs import main_input
from tfgrad.gradients.axes.labels import Grid, Label, Labels, Origin
from tfgrad.internal import call_hooks
from tfgrad.internal.unchanged_state import unchanged_state

BATCH = 1009  # a prime that no other axis has; nothing is computed, so size costs nothing
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_NORMALISATIONS = (keras.layers.BatchNormalization, keras.layers.GroupNormalization)
# Layers that run step by step, and those that take sequences of features.
_STEPPING = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)
_SEQUENTIAL = (
    *_STEPPING,
    *(*_ATTENTION, keras.layers.Attention, keras.layers.AdditiveAttention, keras.layers.Masking),
    keras.layers.LayerNormalization,
)


@dataclasses.dataclass(frozen=True)
class Features:
    """How an output is laid on the image.

    Attributes:
        channels: The channel axis of a feature map; None for tokens, and for maps without channels.
        grid: The grid of tokens; None for a feature map.
        others: Whether there are tokens that are no positions, such as a class token.
        positions: The axes of a feature map that are positions.
        backwards: Those that run against the input's, as in a recurrent layer with `go_backwards`.
        joined: The first and the number of the steps of a series that are positions, where others
            are among them; None if all are.
    """

    channels: int | None = None
    grid: Grid | None = None
    others: bool = False
    positions: tuple[int, ...] = (1, 2)
    backwards: tuple[int, ...] = ()
    joined: tuple[int, int] | None = None

    def laid_out(self, values: tf.Tensor) -> tf.Tensor:
        """Values shaped like the output as [batch, *positions, channels]."""
        if self.grid is not None:
            sizes, first = self.grid.sizes, self.grid.first
            tokens = values[:, first : first + math.prod(sizes)]
            channels = values.shape[2] or tf.shape(values)[2]
            return tf.reshape(tokens, [tf.shape(values)[0], *sizes, channels])
        if self.joined is not None:
            first, count = self.joined
            values = values[:, first : first + count]
        if self.backwards:
            values = tf.reverse(values, self.backwards)
        order = [0, *self.positions, *([] if self.channels is None else [self.channels])]
        added = [axis for axis in range(values.shape.rank) if axis not in order]
        if added:  # of length 1
            values = tf.squeeze(values, added)
            order = [axis - sum(a < axis for a in added) for axis in order]
        if order != sorted(order):
            values = tf.transpose(values, order)
        return values[..., tf.newaxis] if self.channels is None else values


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer, or of a bare operation of a functional graph.

    Attributes:
        name: The call's name.
        shape: The shape of its output with None for the batch; None if it is no single tensor.
        batched: Whether the output's first axis is the batch.
        features: How the output is laid on the image; None if it is neither a feature map nor
            tokens that are positions of one.
        inside: Whether the call was made inside an attention layer.
        of_layer: Whether a layer was called, not a bare operation.
        joined: As of `Features`, of the tokens that it takes.
    """

    name: str
    shape: tuple[int | None, ...] | None
    batched: bool
    features: Features | None
    inside: bool
    of_layer: bool
    joined: tuple[int, int] | None = None

    @property
    def has_one_position(self) -> bool:
        """Whether the output is a feature map of one position, such as a gate."""
        if self.features is None or self.features.grid is not None or self.shape is None:
            return False
        return all(self.shape[axis] == 1 for axis in self.features.positions)


@dataclasses.dataclass(frozen=True)
class NetworkAxes:
    """The axes of a network's inputs and of what its layers return.

    Attributes:
        inputs: The axes of each input.
        calls: {call name: Call}, in the order in which the calls ended.
        grids: {number of tokens: their grid} of tokens that are positions of a feature map.
    """

    inputs: tuple[InputAxes, ...]
    calls: dict[str, Call]
    grids: dict[int, Grid]


_known: weakref.WeakKeyDictionary[Any, dict[Any, NetworkAxes]] = weakref.WeakKeyDictionary()


def analysed(network: keras.layers.Layer, x: Any) -> NetworkAxes:
    """The axes of a network, found by one trace that is kept as long as the network exists.

    Args:
        network: The network; no state of it changes.
        x: Its inputs or their specifications, of which only shapes and dtypes are read.
    """
    specs = tf.nest.map_structure(lambda t: tf.TensorSpec([BATCH, *t.shape[1:]], t.dtype), x)
    flat = tf.nest.flatten(specs)
    key = (default_axis(), *((tuple(s.shape), s.dtype.name) for s in flat))
    cache = _known.setdefault(network, {})
    if key not in cache:
        try:
            cache[key] = _in_thread(network, specs, BATCH)
        except Exception:  # a network of a fixed batch size; any other error shows again
            free = tf.nest.map_structure(
                lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), specs
            )
            cache[key] = _in_thread(network, free, None)
    return cache[key]


def _in_thread(network: keras.layers.Layer, specs: Any, batch: int | None) -> NetworkAxes:
    # The caller's graphs, tapes and handlers are local to its thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_traced, network, specs, batch).result()


def _traced(network: keras.layers.Layer, specs: Any, batch: int | None) -> NetworkAxes:
    observer = _Observer(batch)

    def run(*flat: tf.Tensor) -> Any:
        observer.start(flat)
        inputs = tf.nest.pack_sequence_as(specs, flat)
        with call_hooks.handled(observer), unchanged_state():
            return network(inputs, training=False)

    flat = tf.nest.flatten(specs)
    tf.function(run, autograph=False).get_concrete_function(*flat)
    return observer.result()


class _Observer(call_hooks.Handler):
    """Labels the graph while it is traced, and notes what every layer call returns."""

    def __init__(self, batch: int | None) -> None:
        self._batch = batch
        self._labels = Labels(batch)
        self._inputs: list[Origin] = []
        self._main = 0
        self._calls: list[tuple[Call, Any, Grid | None]] = []
        self._names = call_hooks.CallNames()
        self._attention = 0
        self._graph: Any = None

    def start(self, inputs: tuple[tf.Tensor, ...]) -> None:
        """Label the inputs."""
        self._graph = call_hooks.current_graph()
        self._inputs = [Origin(True, rank=t.shape.rank or 0) for t in inputs]
        for origin, tensor in zip(self._inputs, inputs, strict=True):
            if origin.rank == 3 and tensor.shape[2] == 1:  # one channel, or an image without width
                origin.tell(2, certain=False)
        self._main = main_input(inputs)
        for tensor, origin in zip(inputs, self._inputs, strict=True):
            if origin.rank > 1:
                self._labels.put(tensor, Label.of(origin))
        self._labels.advance(self._graph)

    def layer(self, layer: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        attention = isinstance(layer, _ATTENTION)
        self._attention += attention
        try:
            return self._called(layer, proceed, args, kwargs, self._attention - attention)
        finally:
            self._attention -= attention

    def operation(self, operation: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(operation, keras.layers.Layer):
            return proceed(*args, **kwargs)
        return self._called(operation, proceed, args, kwargs, self._attention)

    def _called(self, operation: Any, proceed: Any, args: Any, kwargs: Any, inside: int) -> Any:
        if call_hooks.is_symbolic(args, kwargs):
            return proceed(*args, **kwargs)
        name = self._names.next(operation.name)
        if call_hooks.current_graph() is not self._graph:
            return proceed(*args, **kwargs)
        self._labels.advance(self._graph)
        tensors = [t for t in tf.nest.flatten((args, kwargs)) if tf.is_tensor(t)]
        if tensors:
            self._tell(operation, tensors[0])
        taken = self._labels.of(tensors[0]) if tensors else None
        joined = None if taken is None else taken.joined
        output = proceed(*args, **kwargs)
        self._labels.advance(self._graph)
        known = output if tf.is_tensor(output) else None
        grid = None
        if known is not None:
            self._inherit(operation, known, tensors)
            grid = self._grid(known)
        of_layer = isinstance(operation, keras.layers.Layer)
        call = Call(name, None, False, None, bool(inside), of_layer, joined)
        self._calls.append((call, known, grid))
        return output

    def _tell(self, layer: Any, tensor: Any) -> None:
        """Take what a layer says of the channels of its input."""
        form, axis = getattr(layer, "data_format", None), getattr(layer, "axis", None)
        rank = tensor.shape.rank or 0
        if rank < 3 or (rank == 3 and isinstance(layer, keras.layers.Flatten)):
            return
        if form in ("channels_first", "channels_last"):
            certain = not isinstance(layer, keras.layers.Flatten)  # often left at its default
            self._labels.tell(tensor, 1 if form == "channels_first" else rank - 1, certain)
        elif isinstance(layer, _NORMALISATIONS) and isinstance(axis, int):
            self._labels.tell(tensor, axis, certain=False)
        elif isinstance(layer, keras.layers.Dense) or (
            rank == 3 and isinstance(layer, _SEQUENTIAL)
        ):
            self._labels.tell(tensor, rank - 1, certain=False)
        elif isinstance(layer, keras.layers.EinsumDense):
            self._labels.tell(tensor, _contracted(layer.equation, rank), certain=False)

    def _inherit(self, layer: Any, output: tf.Tensor, tensors: list[Any]) -> None:
        """Give a layer's output the axes of its input where they were lost inside, by shape."""
        own = self._labels.of(output)
        if own is not None and own.origin.spatial:
            return
        rank = output.shape.rank or 0
        for tensor in tensors:
            label = self._labels.of(tensor)
            if label is None or not label.origin.spatial or rank < 3:
                continue
            if isinstance(layer, _STEPPING) and len(label.axes) in (rank, rank + 1, rank + 2):
                self._labels.put(output, _after_steps(layer, label, rank, tensor.shape[1]))
                return
            if rank != len(label.axes):
                continue
            channels = label.channels()
            sides = [i for i in range(1, rank) if i != channels]
            ratios = {_ratio(tensor.shape[i], output.shape[i]) for i in sides}
            (ratio, *others) = ratios
            if ratio is not None and not others and (rank != 4 or ratio > 0):
                self._labels.put(output, label if ratio == 1 else label._replace(joined=None))
                return

    def _grid(self, output: tf.Tensor) -> Grid | None:
        if output.shape.rank != 3:
            return None
        return self._labels.grids.get(output.shape[1])

    def result(self) -> NetworkAxes:
        """The axes, once the whole network is traced."""
        calls = {}
        for call, output, grid in self._calls:
            calls[call.name] = call if output is None else self._described(call, output, grid)
        inputs = tuple(map(_axes_of, self._inputs))
        return NetworkAxes(inputs, calls, dict(self._labels.grids))

    def _described(self, call: Call, output: tf.Tensor, grid: Grid | None) -> Call:
        known = output.shape.rank is not None  # not what some loops return in a graph
        shape = tuple(output.shape.as_list()) if known else ()
        batched = bool(shape) and shape[0] in (self._batch, None)
        features = None
        if batched and output.dtype.is_floating:
            features = self._features(output, shape, grid)
        shown = (None, *shape[1:]) if batched else shape
        return dataclasses.replace(call, shape=shown, batched=batched, features=features)

    def _features(self, output: Any, shape: Any, grid: Grid | None) -> Features | None:
        if grid is not None:
            return Features(None, grid, shape[1] != math.prod(grid.sizes))
        label = self._labels.of(output)
        if label is None or not label.origin.spatial:
            return None
        channels, known = label.channels(), set(label.positions())
        wanted = len(_axes_of(self._inputs[self._main]).positions)
        for axis, known_as in enumerate(label.axes):
            # An added axis is one of positions where it is needed, or became longer.
            if known_as is None and axis != channels and (len(known) < wanted or shape[axis] != 1):
                known.add(axis)
        # Images have feature maps of two axes; series and volumes may have others than their own.
        if not known or (wanted == 2 and len(known) != 2):
            return None
        return Features(
            channels,
            others=label.joined is not None,
            positions=tuple(sorted(known)),
            backwards=tuple(axis for axis in label.backwards() if axis in known),
            joined=label.joined,
        )


def _axes_of(origin: Origin) -> InputAxes:
    """The axes of an input, by default where nothing told them."""
    if origin.channels is not None:
        return InputAxes(origin.rank, origin.channels or None)
    channels = default_axis(origin.rank) if origin.rank > 2 else None
    return InputAxes(origin.rank, channels, certain=origin.rank != 3)


def _after_steps(layer: Any, label: Label, rank: int, steps: int | None) -> Label:
    """The label of a layer that runs step by step, with one of the input's axes less or none."""
    label = label._replace(is_lost=True)
    if rank == len(label.axes):
        is_turned = isinstance(layer, keras.layers.RNN) and layer.go_backwards
        return label.reversed_along(1, steps) if is_turned else label
    label = label._replace(joined=None)
    kept = label.axes[:2] if isinstance(layer, keras.layers.TimeDistributed) else label.axes[:1]
    return label._replace(axes=(*kept, *label.axes[len(kept) - rank :]))


def _contracted(equation: str, rank: int) -> int:
    """The one axis of an input that an equation contracts; 0 if there is no such axis."""
    inputs, result = equation.partition(",")[0], equation.rpartition(">")[2]
    if "." in inputs:
        return rank - 1 if inputs[-1] not in result else 0
    gone = [axis for axis, letter in enumerate(inputs) if letter not in result]
    return gone[0] if len(gone) == 1 else 0


def _ratio(old: int | None, new: int | None) -> int | None:
    """How many times an axis became smaller (> 0) or larger (< 0); 1 if its size is unknown."""
    if old is None or new is None:
        return 1 if old == new else None
    if new and not old % new:
        return old // new
    return -(new // old) if old and not new % old else None
