"""The input that a test looks at, among several, and the axes of its maps.

A test ranks, replaces or moves the values of one input and holds the others: values of several
inputs have no common scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import axes, embeddings
from tfgrad.gradients.needs import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.gradients.sources import keys_of
from tfgrad.internal.unchanged_state import unchanged_state


@dataclasses.dataclass(frozen=True)
class Part:
    """One input of a network.

    Attributes:
        key: Its key or position; None for the only one.
        place: Its position in `tf.nest.flatten` of the inputs.
        of_ids: Whether it holds integers, such as token ids.
    """

    key: Any
    place: int
    of_ids: bool

    def of(self, x: Any) -> tf.Tensor:
        """The input, among all."""
        return x if self.key is None else x[self.key]

    def replaced(self, x: Any, value: tf.Tensor) -> Any:
        """All inputs, with another value for this one."""
        if self.key is None:
            return value
        if isinstance(x, Mapping):
            return {key: value if key == self.key else one for key, one in x.items()}
        found = [value if place == self.key else one for place, one in enumerate(x)]
        return found if isinstance(x, list) else tuple(found)

    def of_maps(self, found: Any, x: Any, method: Any = None) -> Any:
        """The map of this input, among those that a method returned.

        Args:
            found: Maps in the structure of the explained inputs, or the map of this input alone.
            x: The inputs.
            method: The method, whose `inputs` tell the order of a list.

        Raises:
            ArgumentError: This input has no map.
        """
        if not isinstance(found, Mapping | list | tuple) or self.key is None:
            return found
        keys: Sequence[Any] = [*found] if isinstance(found, Mapping) else keys_of(x)
        if not isinstance(found, Mapping) and len(found) < len(keys):
            named = getattr(method, "inputs", None)
            named = [named] if isinstance(named, int) else named
            keys = sorted(named) if named is not None else [self.key]
        if self.key not in keys or len(found) != len(keys):
            raise ArgumentError(
                f"maps: got {len(found)} of the inputs {list(keys)}; expected one of input "
                f"{self.key!r}; try another inputs=, or a method that explains this input."
            )
        return found[self.key] if isinstance(found, Mapping) else found[keys.index(self.key)]

    def axes(self, network: Any, x: Any, maps: Any = None) -> axes.InputAxes:
        """The positions and channels of this input; see `input_axes`."""
        own = self.of(x)
        if self.of_ids:
            return axes.InputAxes(own.shape.rank, None)
        if self.key is None:
            return input_axes(network, own, maps)
        _check_positions(own)
        rank = own.shape.rank
        if rank == 2:
            return axes.InputAxes(rank, None)
        found = axes.InputAxes(rank, axes.default_axis(rank), rank != 3)
        if isinstance(network, keras.layers.Layer):
            found = axes.analysed(network, x).inputs[self.place]
        return _told(found, maps)

    def visible(self, network: Any, x: Any) -> tf.Tensor | None:
        """Whether each position of token ids is not masked, bool like them; None: all are."""
        if not self.of_ids or not isinstance(network, keras.Model):
            return None
        try:
            sources = embeddings.sources(network, x, inputs=self.key, find=True)
        except ModelError:  # no embedding, so no mask of one
            return None
        if not any(at.place == self.place for at in sources.at):
            return None
        with unchanged_state():
            probe = Probe(network, x, needs=Needs(logits=False), sources=sources)
        (steps,) = probe.visible()
        return None if steps is None else tf.reshape(steps, tf.shape(self.of(x)))


def part_of(x: Any, maps: Any, inputs: Any = None) -> Part:
    """The input that a test looks at.

    Args:
        x: The inputs, a nest of tensors.
        maps: The method, or maps: what covers a single input tells which.
        inputs: The key or position that the user chose, or None.

    Raises:
        ArgumentError: There is no such input; or there are several, and nothing tells which.
    """
    keys = keys_of(x)
    if not keys:
        if inputs is not None:
            raise ArgumentError(f"inputs: got {inputs!r}; the network takes one tensor; try None.")
        _check_positions(x)
        return Part(None, 0, not x.dtype.is_floating)
    chosen = inputs
    if chosen is None:
        own = maps if isinstance(maps, Mapping) else getattr(maps, "inputs", None)
        known = keys if own is None else [own] if isinstance(own, str | int) else [*own]
        if len(known) != 1:
            raise ArgumentError(
                f"inputs: got None, and maps of the inputs {known}; expected one of them, as this "
                f"test looks at one input at a time and holds the others; try inputs={known[0]!r}."
            )
        chosen = known[0]
    chosen = chosen[0] if isinstance(chosen, list | tuple) and len(chosen) == 1 else chosen
    if isinstance(chosen, list | tuple) or chosen not in keys:
        raise ArgumentError(f"inputs: got {chosen!r}; expected one of {keys}.")
    if not tf.is_tensor(x[chosen]):
        raise ArgumentError(f"inputs: got {chosen!r}, which holds several; expected one tensor.")
    _check_positions(x[chosen])
    order = sorted(keys) if isinstance(x, Mapping) else keys
    owners = [key for key in order for _ in tf.nest.flatten(x[key])]
    return Part(chosen, owners.index(chosen), not x[chosen].dtype.is_floating)


def input_axes(network: Any, x: Any, maps: Any = None) -> axes.InputAxes:
    """The positions and channels of what a network takes; see `axes.of_input`.

    Args:
        network: The network, or a function.
        x: Inputs [batch, …], one tensor.
        maps: Maps of these inputs. Where the network does not tell the axes of three, maps in the
            shape of the inputs do: there are no channels.

    Raises:
        ArgumentError: x is no single tensor with positions.
    """
    _check_positions(x)
    rank = x.shape.rank
    if isinstance(network, keras.layers.Layer):
        found = axes.of_input(network, x)
    else:
        found = axes.InputAxes(rank, axes.default_axis(rank) if rank > 2 else None, rank != 3)
    return _told(found, maps)


def _told(found: axes.InputAxes, maps: Any) -> axes.InputAxes:
    """The axes, where maps in the shape of the inputs tell that there are no channels."""
    if not found.certain and maps is not None and maps.shape.rank == found.rank:
        return axes.InputAxes(found.rank, None, False)
    return found


def _check_positions(x: Any) -> None:
    if not tf.is_tensor(x) or (x.shape.rank or 0) < 2:
        raise ArgumentError(
            f"batches: got images of shape {getattr(x, 'shape', type(x).__name__)}; expected one "
            "tensor, images [batch, H, W, C], series [batch, time, C], volumes [batch, D, H, W, C] "
            "or tables [batch, features]."
        )
