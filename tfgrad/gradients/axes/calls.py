"""What every layer call of a network returns: feature maps, tokens on a grid, or neither."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import weakref
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.axes.formats import channels_last, default_axis
from tfgrad.gradients.axes.labels import Grid, Label, Labels, Origin
from tfgrad.internal import call_hooks
from tfgrad.internal.unchanged_state import unchanged_state

BATCH = 1009  # a prime that no other axis has; nothing is computed, so size costs nothing
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_NORMALISATIONS = (keras.layers.BatchNormalization, keras.layers.GroupNormalization)


@dataclasses.dataclass(frozen=True)
class Features:
    """How an output is laid on the image.

    Attributes:
        channels: The channel axis of a feature map: 1, 2 or 3; None for tokens.
        grid: The grid of tokens; None for a feature map.
        others: Whether there are tokens that are no positions, such as a class token.
    """

    channels: int | None = None
    grid: Grid | None = None
    others: bool = False

    def laid_out(self, values: tf.Tensor) -> tf.Tensor:
        """Values shaped like the output as [batch, height, width, channels]."""
        if self.grid is None or self.channels is not None:
            return channels_last(values, self.channels or 3)
        height, width, first = self.grid
        tokens = values[:, first : first + height * width]
        channels = values.shape[2] or tf.shape(values)[2]
        return tf.reshape(tokens, [tf.shape(values)[0], height, width, channels])


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
    """

    name: str
    shape: tuple[int | None, ...] | None
    batched: bool
    features: Features | None
    inside: bool
    of_layer: bool

    @property
    def has_one_position(self) -> bool:
        """Whether the output is a feature map of one position, such as a gate."""
        if self.features is None or self.features.channels is None or self.shape is None:
            return False
        sides = [size for i, size in enumerate(self.shape) if i not in (0, self.features.channels)]
        return sides == [1, 1]


@dataclasses.dataclass(frozen=True)
class NetworkAxes:
    """The axes of a network's inputs and of what its layers return.

    Attributes:
        inputs: The channel axis of each input: 1, 2 or 3; None where the network does not tell.
        calls: {call name: Call}, in the order in which the calls ended.
        grids: {number of tokens: their grid} of tokens that are positions of a feature map.
    """

    inputs: tuple[int | None, ...]
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
        self._labels = Labels(default_axis(), batch)
        self._inputs: list[Origin | None] = []
        self._calls: list[tuple[Call, Any, Grid | None]] = []
        self._names = call_hooks.CallNames()
        self._attention = 0
        self._graph: Any = None

    def start(self, inputs: tuple[tf.Tensor, ...]) -> None:
        """Label the inputs."""
        self._graph = call_hooks.current_graph()
        self._inputs = [Origin(True) if t.shape.rank == 4 else None for t in inputs]
        for tensor, origin in zip(inputs, self._inputs, strict=True):
            if origin is not None:
                self._labels.put(tensor, Label(origin))
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
        output = proceed(*args, **kwargs)
        self._labels.advance(self._graph)
        known = output if tf.is_tensor(output) else None
        grid = None
        if known is not None:
            self._inherit(known, tensors)
            grid = self._grid(known)
        of_layer = isinstance(operation, keras.layers.Layer)
        self._calls.append((Call(name, None, False, None, bool(inside), of_layer), known, grid))
        return output

    def _tell(self, layer: Any, tensor: Any) -> None:
        """Take what a layer says of the channels of its input."""
        form, axis = getattr(layer, "data_format", None), getattr(layer, "axis", None)
        if form in ("channels_first", "channels_last"):
            certain = not isinstance(layer, keras.layers.Flatten)  # often left at its default
            self._labels.tell(tensor, 1 if form == "channels_first" else 3, certain)
        elif isinstance(layer, _NORMALISATIONS) and isinstance(axis, int):
            self._labels.tell(tensor, axis, certain=False)
        elif isinstance(layer, keras.layers.Dense):
            self._labels.tell(tensor, 3, certain=False)
        elif isinstance(layer, keras.layers.EinsumDense):
            self._labels.tell(tensor, _contracted(layer.equation), certain=False)

    def _inherit(self, output: tf.Tensor, tensors: list[Any]) -> None:
        """Give a layer's output the axes of its input where they were lost inside, by shape."""
        own = self._labels.of(output)
        if own is not None and own.origin.spatial:
            return
        for tensor in tensors:
            label = self._labels.of(tensor)
            if label is None or not label.origin.spatial or output.shape.rank != 4:
                continue
            channels = label.channels(default_axis())
            sides = [i for i in (1, 2, 3) if i != channels]
            ratios = {_ratio(tensor.shape[i], output.shape[i]) for i in sides}
            if len(ratios) == 1 and None not in ratios:
                self._labels.put(output, label)
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
        inputs = tuple(None if o is None else o.channels for o in self._inputs)
        return NetworkAxes(inputs, calls, dict(self._labels.grids))

    def _described(self, call: Call, output: tf.Tensor, grid: Grid | None) -> Call:
        shape = tuple(output.shape.as_list())
        batched = bool(shape) and shape[0] in (self._batch, None)
        features = None
        if batched and output.dtype.is_floating:
            features = self._features(output, shape, grid)
        shown = (None, *shape[1:]) if batched else shape
        return dataclasses.replace(call, shape=shown, batched=batched, features=features)

    def _features(self, output: Any, shape: Any, grid: Grid | None) -> Features | None:
        if grid is not None:
            return Features(None, grid, shape[1] != grid.height * grid.width)
        label = self._labels.of(output)
        if label is None or not label.origin.spatial:
            return None
        return Features(label.channels(default_axis()))


def _contracted(equation: str) -> int:
    """The one axis of a rank-4 input that an equation contracts; 0 if there is no such axis."""
    inputs, result = equation.partition(",")[0], equation.rpartition(">")[2]
    if "." in inputs:
        return -1 if inputs[-1] not in result else 0
    gone = [axis for axis, letter in enumerate(inputs) if letter not in result]
    return gone[0] if len(gone) == 1 else 0


def _ratio(old: int | None, new: int | None) -> int | None:
    """How many times an axis became smaller; 1 if its size is unknown, None if it did not."""
    if old is None or new is None:
        return 1 if old == new else None
    return None if not new or old % new else old // new
