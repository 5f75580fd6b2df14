"""What is explained of a network's inputs, with the axes of each."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import axes, embeddings
from tfgrad.gradients.axes.inputs import main_input
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.gradients.sources import Cut, Sources, keys_of, packed
from tfgrad.internal import call_hooks
from tfgrad.internal.unchanged_state import unchanged_state

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Explained:
    """What is explained of inputs of one shape.

    Attributes:
        sources: What is differentiated.
        specs: The inputs, a nest of `tf.TensorSpec`.
        chosen: Which of the flat inputs are explained; empty where one call stands for all.
        tensors: Shape and dtype of what is explained, in order: inputs, or embeddings of them.
        layouts: The axes of each.
        kept: Which of them have maps. The others are differentiated because a decomposition is
            complete only with the terms of all inputs.
        keys: The key or position of the input that each belongs to; None of a single input.
        main: The index, among these, of the one that feature maps are laid on: the first one of
            rank 4, or else the first of the highest rank.
        network: A network of the main one alone, for the analysis of its axes.
    """

    sources: Sources
    specs: Any
    chosen: tuple[bool, ...]
    tensors: tuple[tf.TensorSpec, ...]
    layouts: tuple[axes.InputAxes, ...]
    kept: tuple[bool, ...]
    keys: tuple[Any, ...]
    main: int
    network: keras.layers.Layer

    @property
    def spec(self) -> tf.TensorSpec:
        """Shape and dtype of the main one."""
        return self.tensors[self.main]

    @property
    def of_ids(self) -> tuple[int, ...]:
        """The indices of those that are made of integers: embeddings of token ids."""
        calls = {at.place for at in self.sources.at}
        flat = tf.nest.flatten(self.specs)
        places = [place for place, chosen in enumerate(self.chosen) if chosen]
        pairs = enumerate(places)
        return tuple(i for i, p in pairs if p in calls and not flat[p].dtype.is_floating)

    def packed(self, values: Sequence[Any]) -> Any:
        """Values for what is explained in the inputs' structure, from which others are left out."""
        if self.sources.whole:
            return values[0]
        return packed(self.specs, self.chosen, values)

    def packed_main(self, value: Any) -> Any:
        """A value for the main one, in the inputs' structure."""
        return self._packed_some([self.main], [value])

    def packed_kept(self, values: Sequence[Any]) -> Any:
        """Values of which those that have maps are packed, in the inputs' structure."""
        indices = [index for index, kept in enumerate(self.kept) if kept]
        return self._packed_some(indices, [values[index] for index in indices])

    def _packed_some(self, indices: Sequence[int], values: Sequence[Any]) -> Any:
        if self.sources.whole:
            return values[0]
        places = [place for place, chosen in enumerate(self.chosen) if chosen]
        some = {places[index] for index in indices}
        return packed(self.specs, [place in some for place in range(len(self.chosen))], values)

    def apart(self, x: Any, values: Sequence[tf.Tensor]) -> tuple[Any, dict[str, tf.Tensor]]:
        """(inputs, {call: its output}) with other values for what is explained.

        Args:
            x: The inputs.
            values: Values for each of `tensors`.
        """
        if self.sources.whole:
            return x, {self.sources.at[0].call: values[0]}
        calls = {at.place: at.call for at in self.sources.at}
        flat, of_calls, rest = [], {}, iter(values)
        for place, (tensor, chosen) in enumerate(zip(tf.nest.flatten(x), self.chosen, strict=True)):
            value = next(rest) if chosen else tensor
            if place in calls:
                of_calls[calls[place]] = value
                value = tensor
            flat.append(value)
        return tf.nest.pack_sequence_as(x, flat), of_calls


def explained(
    network: keras.Model,
    x: Any,
    inputs: Any = None,
    at: Any = None,
    channels: Any = None,
    every: bool = False,
) -> Explained:
    """What is explained of inputs, several or token ids.

    Args:
        network: A network.
        x: A nest of tensors or specifications, of which only shapes and dtypes are read.
        inputs, at, channels: See `MethodOptions`.
        every: Whether inputs that are held are differentiated, too.

    Raises:
        ArgumentError: There is no such input or layer.
        ModelError: No embedding is found of integers.
    """
    specs = tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), x)
    keys = keys_of(specs)
    if inputs is not None and not keys:
        raise ArgumentError(
            f"inputs: got {inputs!r}; model {network.name!r} takes one tensor; expected None."
        )
    sources = embeddings.sources(network, specs, inputs=inputs, at=at, find=True)
    wanted = tuple(sources.chosen(network, specs))
    if every and inputs is not None and not sources.whole:
        sources = embeddings.sources(network, specs, at=at, find=True)
    flat = tf.nest.flatten(specs)
    chosen = tuple(sources.chosen(network, specs))
    own: list[Any] = [None]
    if not sources.whole:
        order = sorted(keys) if isinstance(specs, Mapping) else keys
        owners = [key for key in order for _ in tf.nest.flatten(specs[key])] if keys else [None]
        own = [key for key, one in zip(owners, chosen, strict=True) if one]
    found = _outputs(network, specs, sources) if sources.at else {}
    calls = {at.place: found[at.call] for at in sources.at}
    tensors = (
        [calls[None]]
        if sources.whole
        else [calls.get(place, spec) for place, spec in enumerate(flat) if chosen[place]]
    )
    places: list[Any] = [None] if sources.whole else [p for p, one in enumerate(chosen) if one]
    layouts = [
        _layout(network, specs, spec, key, None if place in calls else place, channels)
        for spec, key, place in zip(tensors, own, places, strict=True)
    ]
    kept = [True] if sources.whole else [wanted[place] for place in places]
    indices = [index for index, one in enumerate(kept) if one]
    main = indices[main_input([tensors[index] for index in indices])]
    call = next((at.call for at in sources.at if at.place == places[main]), None)
    alone = Alone(network, specs, places[main], call)
    return Explained(
        sources,
        specs,
        chosen,
        tuple(tensors),
        tuple(layouts),
        tuple(kept),
        tuple(own),
        main,
        alone,
    )


def said(channels: str, rank: int) -> axes.InputAxes:
    """The axes that the option `channels` states.

    Raises:
        ArgumentError: An input of two axes has no channels.
    """
    axis = {"last": rank - 1, "first": 1, "none": None}[channels]
    if rank == 2 and axis is not None:
        raise ArgumentError(
            f"channels: got {channels!r} for inputs of two axes, [batch, positions]; "
            "expected 'none' or None."
        )
    return axes.InputAxes(rank, axis)


def _layout(
    network: keras.Model, specs: Any, spec: tf.TensorSpec, key: Any, place: Any, channels: Any
) -> axes.InputAxes:
    """The axes of one of several inputs, or of a call's output (`place` None)."""
    rank = spec.shape.rank
    given = channels.get(key) if isinstance(channels, Mapping) else channels
    if given is not None and (rank > 2 or isinstance(channels, Mapping)):
        return said(given, rank)
    if place is None:
        return axes.InputAxes(rank, axes.default_axis(rank))
    if rank <= 2:
        return axes.InputAxes(rank, None)
    return axes.analysed(network, specs).inputs[place]


def _outputs(network: keras.Model, specs: Any, sources: Sources) -> dict[str, tf.TensorSpec]:
    """Shape and dtype of the outputs of the calls that are differentiated."""
    made: dict[str, tf.Tensor] = {}

    def run(x: Any) -> Any:
        with unchanged_state():
            probe = Probe(network, x, needs=Needs(logits=False), sources=sources)
        point = probe.point if sources.whole else tf.nest.flatten(probe.point)
        for at in sources.at:
            made[at.call] = point if at.place is None else point[at.place]
        return probe.outputs

    def trace() -> None:
        tf.function(run, autograph=False).get_concrete_function(specs)

    # The caller's graphs, tapes and handlers are local to its thread.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(trace).result()
    return {
        call: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
        for call, tensor in made.items()
    }


class Alone(keras.layers.Layer):
    """A network as a function of one of its inputs, or of the output of one call.

    The other inputs are zero. It is traced to find which axes are which, and computes no map.

    Args:
        network: The network.
        specs: Its inputs, a nest of `tf.TensorSpec`.
        place: The flat position of the input; None for a call that depends on several.
        call: The call whose output stands in the place of the input; None for the input itself.
    """

    def __init__(self, network: keras.Model, specs: Any, place: int | None, call: Any) -> None:
        super().__init__(name=network.name, dtype=network.dtype_policy, autocast=False)
        self.network = network
        # In a function, as Keras would wrap a dict that is an attribute.
        self._specs = lambda: specs
        self._place, self._replaced = place, call

    def call(self, x: tf.Tensor, training: bool = False) -> Any:
        """The network's outputs."""
        flat = [
            x if self._replaced is None and place == self._place else self._zeros(x, spec)
            for place, spec in enumerate(tf.nest.flatten(self._specs()))
        ]
        inputs = tf.nest.pack_sequence_as(self._specs(), flat)
        if self._replaced is None:
            return self.network(inputs, training=training)
        cut = Cut([self._replaced], lambda tensors: None, {self._replaced: x})
        with call_hooks.handled(cut):
            return self.network(inputs, training=training)

    @staticmethod
    def _zeros(x: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
        shape = [x.shape[0] or tf.shape(x)[0], *spec.shape[1:]]
        lengths = [n if n is not None else tf.shape(x)[1] for n in shape]
        return tf.zeros(lengths, spec.dtype)
