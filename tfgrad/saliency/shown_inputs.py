"""Which inputs the maps of an explanation belong to, and how these are laid out to be drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.figures.explained_inputs import ExplainedInput, explained_input
from tfgrad.gradients import input_structure
from tfgrad.gradients.axes import InputAxes

_INPUT = "input"


@dataclasses.dataclass(frozen=True)
class Shown:
    """The input that a map belongs to.

    Attributes:
        name: What it is called.
        place: Its place among the flat inputs; None if the map is that of a layer's output.
        layout: Its axes; None where its values are ids or not explained themselves.
        tokens: The texts of ids.
    """

    name: str
    place: int | None
    layout: InputAxes | None
    tokens: Sequence[Sequence[Any]] | None = None

    def some(self, which: slice) -> Shown:
        """The same of some examples."""
        tokens = None if self.tokens is None else self.tokens[which]
        return dataclasses.replace(self, tokens=tokens)

    def explained(self, inputs: Sequence[np.ndarray], maps: np.ndarray) -> ExplainedInput:
        """The input with its map, channels last."""
        values = None if self.place is None else inputs[self.place]
        if values is not None and self.layout is not None and self.layout.channels is not None:
            values = np.moveaxis(values, self.layout.channels, -1)
        return explained_input(self.name, values, maps, self.tokens)


def shown_inputs(method: Any, x: Any, maps: int, tokens: Any) -> tuple[Shown, ...]:
    """The input of each map.

    Args:
        method: The method.
        x: The inputs.
        maps: The number of maps.
        tokens: See `Method.explain`.

    Raises:
        ArgumentError: Tokens are not those of an input of ids, or not one list for each example.
    """
    found = method.explained(x)
    texts = _Texts(tokens, tf.nest.flatten(x)[0].shape[0])
    if found.sources.whole:
        # One call stands for all inputs; ids [B, T] have maps of their own shape.
        alone = not tf.nest.is_nested(x)
        of_ids = alone and not x.dtype.is_floating
        shown = [Shown(_INPUT, 0 if alone else None, None, texts.of(None) if of_ids else None)]
    else:
        names = [name.replace("'", "") for name in input_structure.names(x)]
        names = [f"{_INPUT} {name}" if name.isdigit() else name or _INPUT for name in names]
        calls = {at.place for at in found.sources.at}
        places = [place for place, chosen in enumerate(found.chosen) if chosen]
        layouts = found.layouts or method.layouts(x)
        kept = [i for i, one in enumerate(found.kept) if one]
        shown = []
        for i in kept if len(kept) == maps else [found.main]:
            place, embedded = places[i], places[i] in calls
            of_ids = i in found.of_ids
            shown.append(
                Shown(
                    names[place],
                    place,
                    None if embedded else layouts[i],
                    texts.of(found.keys[i]) if of_ids else None,
                )
            )
    texts.check_all_taken()
    return tuple(shown)


class _Texts:
    """The argument `tokens`, by input."""

    def __init__(self, given: Any, batch: int) -> None:
        self._by_key = dict(given) if isinstance(given, Mapping) else {None: given}
        if given is None:
            self._by_key = {}
        for key, rows in self._by_key.items():
            if isinstance(rows, str | bytes) or len(rows) != batch:
                raise ArgumentError(
                    f"tokens: got {rows!r:.60}{'' if key is None else f' for input {key!r}'}; "
                    f"expected a list of texts for each of {batch} examples."
                )
        self._left = set(self._by_key)

    def of(self, key: Any) -> Sequence[Sequence[Any]] | None:
        """The texts of an input; those that were given without a key are of the first one."""
        key = key if key in self._by_key else None
        if key not in self._left:
            return None
        self._left.discard(key)
        return list(self._by_key[key])

    def check_all_taken(self) -> None:
        """Raise if there are texts of no input."""
        if self._left:
            keys = sorted(map(repr, self._left - {None})) or "texts"
            raise ArgumentError(
                f"tokens: got {keys} for a model in which they belong to no explained input of "
                "token ids; expected None, or the keys of such inputs."
            )
