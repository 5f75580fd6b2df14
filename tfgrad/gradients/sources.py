"""What a network is differentiated with respect to: its inputs, or the outputs of layers.

By default every float input. `inputs` chooses some of several; the others are held. `at` names
layers whose outputs take the place of the inputs: an embedding, for a network of token ids, whose
integers have no gradient. Everything before such a call is then a constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients.model_checks import after_integer_inputs
from tfgrad.internal import call_hooks
from tfgrad.internal.keras_private import mask_of, with_mask_of, without_call_information


class At(NamedTuple):
    """A call whose output is differentiated.

    Attributes:
        call: Its name: the layer's, name:1 for a further call of it.
        place: The position, in `tf.nest.flatten` of the inputs, of the one that it takes; None for
            a call that depends on several, which is then the only source.
    """

    call: str
    place: int | None


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a network is differentiated with respect to.

    Attributes:
        inputs: Keys (of a dict) or positions (of a list) of inputs; None: every float one.
        at: Calls whose outputs take the places of inputs.
        constant: Whether what comes before such a call is a constant, for gradients that are taken
            here. Training must reach the weights of an embedding.
    """

    inputs: tuple[Any, ...] | None = None
    at: tuple[At, ...] = ()
    constant: bool = True

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers in `at`."""
        return tuple(dict.fromkeys(call_hooks.layer_of(at.call) for at in self.at))

    @property
    def whole(self) -> bool:
        """Whether the output of one call takes the place of all inputs."""
        return any(at.place is None for at in self.at)

    def chosen(self, network: keras.layers.Layer, x: Any) -> list[bool]:
        """Which tensors of the inputs are differentiated, in the order of `tf.nest.flatten`.

        Raises:
            ArgumentError: There is no such input, it is no float one, or there is no float input.
        """
        places = {at.place for at in self.at}
        floats = [t.dtype.is_floating for t in tf.nest.flatten(x)]
        if None in places:
            return [False] * len(floats)
        if self.inputs is not None:
            floats = self._of_inputs(network, x, places)
        flags = [f or place in places for place, f in enumerate(floats)]
        if not any(flags):
            raise _no_floats(network, x)
        return flags

    def _of_inputs(
        self, network: keras.layers.Layer, x: Any, places: Collection[int | None]
    ) -> list[bool]:
        keys = keys_of(x)
        for name in self.inputs or ():
            if name not in keys:
                raise ArgumentError(
                    f"inputs: got {name!r}; expected some of {keys}, the inputs of network "
                    f"{network.name!r}."
                )
        flags: list[bool] = []
        for key in sorted(keys) if isinstance(x, Mapping) else keys:
            for t in tf.nest.flatten(x[key]):
                wanted = key in (self.inputs or ())
                if wanted and not t.dtype.is_floating and len(flags) not in places:
                    raise ArgumentError(
                        f"inputs: got {key!r}, which is {t.dtype.name} and has no gradient; "
                        "expected a float input; try at='NAME', the layer that turns it into "
                        "floats."
                    )
                flags.append(wanted and t.dtype.is_floating)
        return flags


def keys_of(x: Any) -> list[Any]:
    """The keys or positions of a nest's inputs; none of a single one."""
    if isinstance(x, Mapping):
        return [*x]
    return list(range(len(x))) if isinstance(x, list | tuple) else []


def packed(x: Any, chosen: Sequence[bool], values: Sequence[Any]) -> Any:
    """A nest like x with the values in place of the chosen tensors, and without any other."""
    if all(chosen):
        return tf.nest.pack_sequence_as(x, list(values))
    return _among(x, iter(chosen), iter(values))


def _among(x: Any, chosen: Iterator[bool], values: Iterator[Any]) -> Any:
    if isinstance(x, Mapping):
        parts = {key: _among(x[key], chosen, values) for key in sorted(x)}
        return {key: parts[key] for key in x if parts[key] is not None} or None
    if isinstance(x, list | tuple):
        found = [part for part in (_among(t, chosen, values) for t in x) if part is not None]
        return (found if isinstance(x, list) else tuple(found)) or None
    return next(values) if next(chosen) else None


class Cut(call_hooks.Handler):
    """Makes the outputs of calls the point at which a network is differentiated.

    Args:
        calls: Names of the calls.
        watch: A function that is called with each output, a copy that depends on nothing.
        values: {call: what takes the place of its output}; None keeps the outputs.
        constant: Whether the outputs are cut off from what comes before.

    Attributes:
        outputs: {call: output}, in call order.
        visible: For each output, its Keras mask; None without one.
    """

    def __init__(
        self,
        calls: Sequence[str],
        watch: Callable[[Any], None],
        values: Mapping[str, tf.Tensor] | None = None,
        constant: bool = True,
    ) -> None:
        self.calls, self._watch, self._values = frozenset(calls), watch, values
        self._copy = tf.stop_gradient if constant else tf.identity
        self._layers = {call_hooks.layer_of(call) for call in calls}
        self.outputs: dict[str, tf.Tensor] = {}
        self.visible: dict[str, tf.Tensor | None] = {}
        self._names = call_hooks.CallNames()

    def layer(self, layer: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        """Cut the output of a call off from what comes before it."""
        try:
            output = proceed(*args, **kwargs)
        except tf.errors.InvalidArgumentError as error:
            raise _no_such_ids(layer, args, kwargs) or error from error
        if layer.name not in self._layers or call_hooks.is_symbolic(args, kwargs):
            return output
        name = self._names.next(layer.name)
        if name not in self.calls:
            return output
        if not tf.is_tensor(output) or not output.dtype.is_floating:
            raise ArgumentError(
                f"at: got {layer.name!r} ({type(layer).__name__}), whose output is "
                f"{output.dtype.name if tf.is_tensor(output) else 'a nest'}; expected a layer with "
                "one output of floats, such as an embedding."
            )
        cut = self._copy(output)
        if self._values is not None:
            cut = tf.ensure_shape(tf.cast(self._values[name], cut.dtype), cut.shape)
        self._watch([cut])
        self.outputs[name], self.visible[name] = cut, mask_of(output)
        return with_mask_of(cut, output)

    def checkpoint(self) -> Callable[[], None]:
        """A function that drops what has been recorded since."""
        names = self._names.checkpoint()
        outputs, visible = dict(self.outputs), dict(self.visible)

        def restore() -> None:
            names()
            call_hooks.restore_dict(self.outputs, outputs)
            call_hooks.restore_dict(self.visible, visible)

        return restore

    def check(self, network: keras.layers.Layer) -> None:
        """Raise if a call was not made.

        Raises:
            ModelError: It was not.
        """
        for name in sorted(self.calls - set(self.outputs)):
            raise ModelError(
                f"network {network.name!r}: got at={name!r}, a layer that is not called for these "
                "inputs; expected one that is."
            )
        graph = call_hooks.current_graph()
        for name, output in self.outputs.items():
            if getattr(output, "graph", None) not in (None, graph):
                raise ModelError(
                    f"network {network.name!r}: got at={name!r}, a layer that is called inside a "
                    "graph of its own (a tf.function, a loop, or a model whose last softmax is "
                    "left out of its call), where its output cannot be differentiated; expected "
                    "one that is called outside; try calling this inside a tf.function."
                )


def _no_such_ids(layer: Any, args: Any, kwargs: Any) -> Exception | None:
    """The error of an embedding that has no rows of the ids which an eager call gives it."""
    ids = [t for t in tf.nest.flatten((args, kwargs)) if tf.is_tensor(t)][:1]
    if not isinstance(layer, keras.layers.Embedding) or not ids or not tf.executing_eagerly():
        return None
    low, high = int(tf.reduce_min(ids[0])), int(tf.reduce_max(ids[0]))
    if low >= 0 and high < layer.input_dim:
        return None
    return without_call_information(
        ArgumentError(
            f"x: got ids from {low} to {high} for layer {layer.name!r}; expected 0 to "
            f"{layer.input_dim - 1}, the {layer.input_dim} rows of this embedding."
        )
    )


def _no_floats(network: keras.layers.Layer, x: Any) -> ArgumentError:
    kinds = sorted({t.dtype.name for t in tf.nest.flatten(x)})
    expected = [i.dtype for i in keras.tree.flatten(getattr(network, "inputs", None) or [])]
    cast = not expected or any(tf.as_dtype(dtype).is_floating for dtype in expected)
    advice = "tf.cast(x, tf.float32) / 255" if cast else after_integer_inputs(network)
    return ArgumentError(
        f"x: got {', '.join(kinds)}; expected float inputs for an input-gradient; try {advice}."
    )
