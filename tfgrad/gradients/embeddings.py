"""The calls that turn integer inputs into floats, found in a trace of the network.

Token ids have no gradient; their embeddings do. Found is, for each integer input, the call of a
`keras.layers.Embedding` (or a subclass) that takes it; without one, the first call of a layer that
makes floats of it alone.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.needs import Needs
from tfgrad.gradients.sources import At, Sources, keys_of
from tfgrad.internal import call_hooks
from tfgrad.internal.unchanged_state import unchanged_state


@dataclasses.dataclass(frozen=True)
class _Made:
    """A call that returned floats.

    Attributes:
        call: Its name.
        is_embedding: Whether its layer is a `keras.layers.Embedding`.
        places: The inputs that it depends on.
        of_integers: Whether it takes integers.
        keeps_shape: Whether its result has the axes of what it takes, before any further ones.
    """

    call: str
    is_embedding: bool
    places: frozenset[int]
    of_integers: bool
    keeps_shape: bool


_known: weakref.WeakKeyDictionary[Any, dict[Any, list[_Made]]] = weakref.WeakKeyDictionary()


def sources(
    network: keras.layers.Layer, x: Any, inputs: Any = None, at: Any = None, find: bool = False
) -> Sources:
    """What is differentiated, from what the user asked for.

    Args:
        network: A Keras model.
        x: A nest of tensors or `tf.TensorSpec`.
        inputs: Keys or positions of inputs, one of them, or None for all.
        at: Names of layers whose outputs are differentiated, or one name; None: the embeddings of
            integer inputs, if all are integers or `find` is given.
        find: Whether embeddings are looked for beside float inputs.

    Raises:
        ArgumentError: There is no such layer or input; or a layer in `at` takes several inputs
            beside others that are differentiated.
        ModelError: No embedding of an integer input is found.
    """
    chosen = None if inputs is None else _listed(inputs)
    flat = tf.nest.flatten(x)
    if at is not None:
        names = [str(name) for name in _listed(at)]
        call_hooks.check_names(network, names, "at")
        return Sources(chosen, tuple(_named(network, x, names, chosen)))
    integers = [place for place, t in enumerate(flat) if not t.dtype.is_floating]
    if not integers or (len(integers) < len(flat) and not find and chosen is None):
        return Sources(chosen)
    declared = keras.tree.flatten(getattr(network, "inputs", None) or [])
    floats = any(tf.as_dtype(t.dtype).is_floating for t in declared)  # what comes is to be cast
    wanted = [place for place in integers if chosen is None or _key(x, place) in chosen]
    only = len(flat) == 1 and not floats
    found = [_embedding(network, x, place, only) for place in wanted]
    if not any(found) and len(integers) == len(flat) and not floats:
        raise ModelError(
            f"model {network.name!r}: got integer inputs alone, and no layer that turns one of "
            "them into floats was found; expected an embedding; try at='NAME', the name of a layer "
            "whose output is to be differentiated."
        )
    return Sources(chosen, tuple(one for one in found if one is not None))


@tf.autograph.experimental.do_not_convert
def needed(network: keras.layers.Layer, x: Any, needs: Needs) -> Sources:
    """What is differentiated for what was asked of a probe that is trained, see `Needs.at`.

    The other arguments and the errors are those of `sources`.
    """
    x = tf.nest.map_structure(tf.convert_to_tensor, x)
    names = needs.at if isinstance(needs.at, tuple) else None
    found = sources(network, x, at=names, find=needs.at is True)
    return dataclasses.replace(found, constant=False) if found.at else found


def _listed(given: Any) -> tuple[Any, ...]:
    return (given,) if isinstance(given, str | int) else tuple(given)


def _key(x: Any, place: int) -> Any:
    """The key of the input to which a flat place belongs."""
    keys = sorted(keys_of(x)) if isinstance(x, dict) else keys_of(x)
    owners = [key for key in keys for _ in tf.nest.flatten(x[key])]
    return owners[place] if owners else None


def _named(
    network: keras.layers.Layer, x: Any, names: list[str], inputs: tuple[Any, ...] | None
) -> Iterable[At]:
    """The calls of named layers."""
    made = [one for one in _calls(network, x) if call_hooks.layer_of(one.call) in names]
    missing = [n for n in names if n not in {call_hooks.layer_of(one.call) for one in made}]
    if missing:
        raise ArgumentError(
            f"at: got {missing[0]!r}; expected a layer of network {network.name!r} that is called "
            "with its inputs and returns one tensor of floats, such as an embedding."
        )
    places = [min(one.places) if len(one.places) == 1 else None for one in made]
    if None in places and len(made) == 1 and inputs is None:
        return [At(made[0].call, None)]
    if None in places or len(set(places)) < len(places):
        raise ArgumentError(
            f"at: got {names}, calls {[one.call for one in made]} of which one depends on several "
            "inputs, or several on the same; expected one layer for each input, or a single one."
        )
    return [At(one.call, place) for one, place in zip(made, places, strict=True)]


def _embedding(network: keras.layers.Layer, x: Any, place: int, only: bool) -> At | None:
    """The call that turns one integer input into floats; None if there is none.

    Args:
        network: The network.
        x: Its inputs.
        place: The flat place of the input.
        only: Whether it is the only input, which Keras may cast before the first call.
    """
    alone = [one for one in _calls(network, x) if one.places == {place}]
    embeddings = [one for one in alone if one.is_embedding and one.of_integers]
    if len(embeddings) > 1:
        raise ModelError(
            f"model {network.name!r}: got {len(embeddings)} embeddings of one input, "
            f"{[one.call for one in embeddings]}; expected one; try at='NAME', one of these or a "
            "layer that joins them."
        )
    others = [one for one in alone if one.of_integers or (only and one is alone[0])]
    chosen = embeddings or [one for one in others if one.of_integers or one.keeps_shape][:1]
    return At(chosen[0].call, place) if chosen else None


def _calls(network: keras.layers.Layer, x: Any) -> list[_Made]:
    """Every call that returns one tensor of floats, in call order; kept for each network."""
    specs = tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), x)
    key = tuple((tuple(s.shape), s.dtype.name) for s in tf.nest.flatten(specs))
    kept = _known.setdefault(network, {})
    if key not in kept:
        # The caller's graphs, tapes and handlers are local to its thread.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            kept[key] = thread.submit(_traced, network, specs).result()
    return kept[key]


def _traced(network: keras.layers.Layer, specs: Any) -> list[_Made]:
    found: list[_Made] = []

    def run(inputs: Any) -> Any:
        flat = tf.nest.flatten(inputs)
        recorder = _Recorder(network, {t.op.name: i for i, t in enumerate(flat)}, found.append)
        with call_hooks.handled(recorder), unchanged_state():
            return network(inputs, training=False)

    tf.function(run, autograph=False).get_concrete_function(specs)
    return found


class _Recorder(call_hooks.Handler):
    def __init__(self, network: Any, places: dict[str, int], add: Callable[[_Made], None]) -> None:
        self._network, self._places, self._add = network, places, add
        self._names = call_hooks.CallNames()
        self._graph = call_hooks.current_graph()

    def layer(self, layer: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        output = proceed(*args, **kwargs)
        if call_hooks.is_symbolic(args, kwargs):
            return output
        name = self._names.next(layer.name)
        if layer is self._network or not tf.is_tensor(output) or not output.dtype.is_floating:
            return output
        if call_hooks.is_elsewhere(self._graph, args, kwargs):
            return output
        tensors = [t for t in tf.nest.flatten((args, kwargs)) if tf.is_tensor(t)]
        places = _inputs_of(tensors, self._places)
        integers = bool(tensors) and not tensors[0].dtype.is_floating
        kind = isinstance(layer, keras.layers.Embedding)
        keeps = bool(tensors) and _begins_with(output.shape, tensors[0].shape)
        self._add(_Made(name, kind, places, integers, keeps))
        return output


def _begins_with(shape: tf.TensorShape, start: tf.TensorShape) -> bool:
    known = shape.rank is not None and start.rank is not None and shape.rank >= start.rank
    return known and shape[: start.rank].is_compatible_with(start)


def _inputs_of(tensors: Iterable[tf.Tensor], places: dict[str, int]) -> frozenset[int]:
    """The inputs whose values tensors depend on; their shapes do not count."""
    found, rest, seen = set(), [t.op for t in tensors], set()
    while rest:
        operation = rest.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if operation.name in places:
            found.add(places[operation.name])
        elif operation.type not in ("Shape", "ZerosLike", "OnesLike"):
            rest += [t.op for t in operation.inputs]
    return frozenset(found)
