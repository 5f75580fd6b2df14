"""Leaves out the last activation of a call that is written in Python.

A subclassed model has no graph of layers to end earlier. `LogitsOf` runs its `call`, and either
replaces the call of the last layer by one of a copy without activation, or takes the argument of a
softmax or sigmoid that is written as an operation in `call` itself. Which of both is found once, by
calls on noise, and checked there: the activation of the new output must be the old output.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad.internal import keras_private
from tfgrad.internal.call_hooks import Args, Handler, Kwargs, Proceed, checkpoint, handled
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models.last_activation import kinds

# (index among the layers inside, number of the layer's call)
Head = tuple[int, int]
_REMOVABLE = (kinds.SOFTMAX, kinds.SIGMOID, kinds.LOG_SIGMOID)
_PROBABILITIES = {"Softmax": kinds.SOFTMAX, "Sigmoid": kinds.SIGMOID}


@keras.saving.register_keras_serializable("tfgrad")
class LogitsOf(keras.Model):
    """A model or layer without its last activation, on the same layers and weights.

    `tfgrad.models.logits` builds it where there is no graph of layers.

    Args:
        inner: A built model or layer.
        heads: (index among the layers inside, number of the layer's call) of every call whose
            activation is left out.
        bare: Indices of the outputs whose last operation, a softmax or sigmoid, is left out.
        **kwargs: Arguments of every Keras model.
    """

    def __init__(
        self,
        inner: keras.layers.Layer,
        heads: Sequence[Sequence[int]] = (),
        bare: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": inner.dtype_policy, "name": inner.name, **kwargs})
        self.inner = inner
        parameters = inspect.signature(inner.call).parameters
        self._takes = tuple(name for name in ("training", "mask") if name in parameters)
        self.leave_out(tuple((i, n) for i, n in heads), tuple(bare))

    def build(self, input_shape: Any = None) -> None:
        """Nothing: the model inside is built."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """The outputs of the model inside, without its last activation."""
        given = {"training": training, "mask": mask}
        undo = checkpoint()
        with handled(_Replaced(self._left_out, self.inner)):
            # Not `inner(…)`: what surrounds that call may replace its output by a copy.
            outputs = self.inner.call(inputs, **{name: given[name] for name in self._takes})
        flat = keras.tree.flatten(outputs)
        flat = [argument(y) if i in self._left_out.bare else y for i, y in enumerate(flat)]
        if any(z is None for z in flat) and tf.executing_eagerly():
            undo()
            return self._graph_call(inputs, training, mask)
        return keras.tree.pack_sequence_as(outputs, flat)

    @property
    def left_out(self) -> tuple[tuple[Head, ...], tuple[int, ...]]:
        """The arguments `heads` and `bare`."""
        return self._left_out.heads, self._left_out.bare

    def leave_out(self, heads: tuple[Head, ...], bare: tuple[int, ...]) -> None:
        """Set `left_out`."""
        self._left_out = _LeftOut(heads, bare)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        heads, bare = self.left_out
        return {
            "name": self.name,
            "inner": keras.saving.serialize_keras_object(self.inner),
            "heads": [list(head) for head in heads],
            "bare": list(bare),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LogitsOf:
        """The model of a config."""
        inner = keras.saving.deserialize_keras_object(config["inner"], custom_objects)
        return cls(**{**config, "inner": inner})

    def _graph_call(self, inputs: Any, training: bool | None, mask: Any) -> Any:
        """A call in a graph, where the operation before an output can be found."""
        flat = keras.tree.flatten((inputs, mask))

        def run(*flat: tf.Tensor) -> Any:
            x, m = keras.tree.pack_sequence_as((inputs, mask), flat)
            return self.call(x, training, m)

        return tf.function(run).get_concrete_function(*flat)(*flat)


class _LeftOut:
    """What a `LogitsOf` leaves out. No container that Keras or TensorFlow would track and save."""

    def __init__(self, heads: tuple[Head, ...], bare: tuple[int, ...]) -> None:
        self.heads, self.bare = heads, bare
        self._copies: dict[int, tuple[Any, Any]] = {}

    def copy(self, layer: keras.layers.Layer) -> Any:
        """The layer's copy without activation, made anew where its variables are others."""
        key = (tuple(map(id, layer.variables)), layer.dtype_policy.name)
        if self._copies.get(id(layer), (None,))[0] != key:
            self._copies[id(layer)] = key, without_activation(layer)
        return self._copies[id(layer)][1]


class _Replaced(Handler):
    """Replaces the calls of heads, in one call of the model inside."""

    def __init__(self, left_out: _LeftOut, inner: keras.layers.Layer) -> None:
        layers = keras_private.flatten_layers(inner) if left_out.heads else []
        self._heads = {(id(layers[i]), number) for i, number in left_out.heads}
        self._copy = left_out.copy
        self._seen: collections.Counter[int] = collections.Counter()

    def layer(self, layer: keras.layers.Layer, proceed: Proceed, args: Args, kwargs: Kwargs) -> Any:
        number = self._seen[id(layer)]
        self._seen[id(layer)] += 1
        if (id(layer), number) not in self._heads:
            return proceed(*args, **kwargs)
        return self._copy(layer)(*args, **kwargs)


class _Calls(Handler):
    """Records the calls of layers, in the order in which they end."""

    def __init__(self) -> None:
        self.calls: list[tuple[keras.layers.Layer, int, int]] = []
        self._seen: collections.Counter[int] = collections.Counter()

    def layer(self, layer: keras.layers.Layer, proceed: Proceed, args: Args, kwargs: Kwargs) -> Any:
        number = self._seen[id(layer)]
        self._seen[id(layer)] += 1
        output = proceed(*args, **kwargs)
        rank = len(getattr(output, "shape", ()))
        self.calls.append((layer, number, rank))
        return output


def activation_of(layer: keras.layers.Layer, rank: int) -> str | None:
    """The removable activation that a layer consists of or ends with, for outputs of a rank."""
    kind = kinds.of_layer(layer, rank)
    if kind is None and vars(layer).get("activation") is not None:
        kind = kinds.of_function(layer.activation, rank)
    return kind if kind in _REMOVABLE else None


def without_activation(layer: keras.layers.Layer) -> Any:
    """A layer on the same weights that ends before its activation."""
    if kinds.of_layer(layer, 2) is None and "activation" in vars(layer):
        # A regulariser of activities was one of probabilities.
        regulariser = {"activity_regularizer": None} if layer.activity_regularizer else {}
        return keras_private.sharing_copy(layer, activation=keras.activations.linear, **regulariser)
    return keras.layers.Activation("linear", dtype=layer.dtype_policy, name=layer.name)


def argument(y: Any) -> Any:
    """The argument of the softmax or sigmoid that returned a tensor; None if none did."""
    z = getattr(y, "_keras_logits", None)  # Keras stores it for its losses
    if z is not None or (tf.is_tensor(y) and not hasattr(y, "graph")):
        return z
    later = []
    while y.op.type in ("Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "EnsureShape"):
        later.append(y.op)
        y = y.op.inputs[0]
    if y.op.type not in _PROBABILITIES:
        return None
    z = y.op.inputs[0]
    for op in reversed(later):
        if op.type == "Cast":
            z = tf.cast(z, op.get_attr("DstT"))
        elif op.type == "Reshape":
            z = tf.reshape(z, op.inputs[1])
        elif op.type == "Squeeze":
            z = tf.squeeze(z, op.get_attr("squeeze_dims") or None)
        elif op.type == "ExpandDims":
            z = tf.expand_dims(z, op.inputs[1])
    return z


@dataclasses.dataclass(frozen=True)
class Found:
    """A model or layer that ends before its last activation.

    Attributes:
        model: The new model.
        kinds: The activation that each output loses, or None, in the order of `keras.tree.flatten`.
        sizes: The last axis of each output.
        structure: The nest of outputs.
        layer: Name of a layer that applied one.
    """

    model: LogitsOf
    kinds: tuple[str | None, ...]
    sizes: tuple[int, ...]
    structure: Any
    layer: str


def found(inner: keras.layers.Layer, specs: Any, input_shape: Any) -> Found | None:
    """A model or layer without its last activation, or None if its outputs end with none.

    Args:
        inner: A built model or layer that takes one nest of tensors.
        specs: The nest of shapes and dtypes that it takes.
        input_shape: The shape that the new model is built with.
    """
    model = LogitsOf(inner)
    model.build(input_shape)
    layers = {id(layer): i for i, layer in enumerate(keras_private.flatten_layers(inner))}
    with tf.init_scope(), unchanged_state():
        x = keras.tree.map_structure(lambda s: kinds.noise(s.shape, s.dtype), specs)
        recorder = _Calls()
        with handled(recorder):
            structure = model(x, training=False)
        outputs = keras.tree.flatten(structure)
        lost: list[str | None] = [None] * len(outputs)
        names = []
        for layer, number, rank in recorder.calls[::-1][: 4 * len(outputs) + 4]:
            kind = activation_of(layer, rank) if id(layer) in layers else None
            if kind is None:
                continue
            before = model.left_out
            model.leave_out((*before[0], (layers[id(layer)], number)), ())
            changed = _changed(outputs, keras.tree.flatten(model(x, training=False)), lost, kind)
            if not changed:
                model.leave_out(*before)
                continue
            names.append(layer.name)
            for i in changed:
                lost[i] = kind
        left = [i for i, kind in enumerate(lost) if kind is None]
        bare = _bare(model, x, outputs, left) if left else {}
        for i, kind in bare.items():
            lost[i] = kind
            names.append(f"{inner.name}/{kind}")
        model.leave_out(model.left_out[0], tuple(bare))
    sizes = tuple(y.shape[-1] if y.shape.rank else 1 for y in outputs)
    return Found(model, tuple(lost), sizes, structure, names[0]) if names else None


def _changed(old: list[Any], new: list[Any], lost: list[str | None], kind: str) -> list[int]:
    """Indices of outputs that an activation less changes; none if one is not its argument."""
    changed = []
    for i, (y, z) in enumerate(zip(old, new, strict=True)):
        if lost[i] is None and not bool(tf.reduce_all(y == tf.cast(z, y.dtype))):
            if not kinds.close(kinds.applied(kind, z), y):
                return []
            changed.append(i)
    return changed


def _bare(model: LogitsOf, x: Any, outputs: list[Any], left: list[int]) -> dict[int, str]:
    """{index: kind} of outputs whose last operation is a softmax or sigmoid in `call` itself."""

    flat_x = keras.tree.flatten(x)

    def arguments(*flat: tf.Tensor) -> dict[str, Any]:
        y = model.call(keras.tree.pack_sequence_as(x, flat), training=False)
        found = {str(i): argument(keras.tree.flatten(y)[i]) for i in left}
        return {i: z for i, z in found.items() if z is not None}

    kinds_of = {}
    traced = tf.function(arguments).get_concrete_function(*flat_x)
    for i, z in traced(*flat_x).items():
        y = outputs[int(i)]
        kind = next(
            (k for k in _PROBABILITIES.values() if kinds.close(kinds.applied(k, z), y)), None
        )
        if kind is not None:
            kinds_of[int(i)] = kind
    return kinds_of
