"""Which tensors a pass differentiates, among its inputs and the outputs of calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients import masks
from tfgrad.gradients.sources import Cut, Sources, packed


class Differentiated:
    """The inputs of a network, with `sources` of gradients among them.

    The output of a call that is differentiated stands at the place of the input that the call
    takes, here and in everything that is returned.

    Args:
        network: The network.
        x: Its inputs, a nest of tensors.
        sources: What is differentiated.

    Raises:
        ArgumentError: There is no such input, it is no float one, or there is no float input.
    """

    def __init__(self, network: keras.layers.Layer, x: Any, sources: Sources) -> None:
        self.network, self.x, self.sources = network, x, sources
        self._chosen = sources.chosen(network, x)

    def tensors(self, of_calls: Mapping[str, Any]) -> list[Any]:
        """What is differentiated, in the order of the inputs.

        Args:
            of_calls: {call: its output} of the calls in `sources.at`.
        """
        return self._among(self._placed(of_calls))

    def point(self, of_calls: Mapping[str, Any]) -> Any:
        """The inputs, with the outputs of calls at their places."""
        flat = self._placed(of_calls)
        return flat[-1] if self.sources.whole else tf.nest.pack_sequence_as(self.x, flat)

    def pack(self, values: list[Any]) -> Any:
        """Values for `tensors` in the inputs' structure, from which other inputs are left out."""
        return values[0] if self.sources.whole else packed(self.x, self._chosen, values)

    def shifted(self, tensors: list[tf.Tensor], moves: list[tf.Tensor]) -> Any:
        """`point` with the tensors moved."""
        moved = iter(t + v for t, v in zip(tensors, moves, strict=True))
        if self.sources.whole:
            return next(moved)
        flat = zip(tf.nest.flatten(self.x), self._chosen, strict=True)
        return tf.nest.pack_sequence_as(self.x, [next(moved) if c else t for t, c in flat])

    def apart(self, point: Any) -> tuple[Any, dict[str, tf.Tensor]]:
        """(inputs for the network, {call: its output}) of what `shifted` returns."""
        flat = tf.nest.flatten(point)
        of_calls = {at.call: flat[at.place or 0] for at in self.sources.at}
        if self.sources.whole:
            return self.x, of_calls
        places = {at.place for at in self.sources.at}
        pairs = enumerate(zip(tf.nest.flatten(self.x), flat, strict=True))
        own = [mine if place in places else given for place, (mine, given) in pairs]
        return tf.nest.pack_sequence_as(self.x, own), of_calls

    def visible(self, cut: Cut) -> list[tf.Tensor | None]:
        """For each of `tensors`, whether its values are not masked; None where nothing is.

        Raises:
            ModelError: The network masks steps that are not those of an input.
        """
        of_floats = iter(masks.Masks(self.network, self.x).visible)
        flat = tf.nest.flatten(self.x)
        found = [next(of_floats) if t.dtype.is_floating else None for t in flat]
        for at in self.sources.at:
            mask = cut.visible[at.call]
            if mask is not None:
                mask = masks.like(tf.cast(mask, tf.bool), cut.outputs[at.call])
            if at.place is None:
                found.append(mask)
            else:
                found[at.place] = mask
        return self._among(found)

    def _placed(self, of_calls: Mapping[str, Any]) -> list[Any]:
        """The flat inputs with values at the places of calls; what takes the place of all, last."""
        values = {at.place: of_calls[at.call] for at in self.sources.at}
        flat = [values.get(i, t) for i, t in enumerate(tf.nest.flatten(self.x))]
        return [*flat, values[None]] if self.sources.whole else flat

    def _among(self, flat: list[Any]) -> list[Any]:
        if self.sources.whole:
            return flat[len(self._chosen) :]
        return [t for t, chosen in zip(flat, self._chosen, strict=True) if chosen]
