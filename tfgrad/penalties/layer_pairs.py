"""Pairs of student and teacher layers: checking them, and proposing pairs of equal map size."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import axes, layer_biases
from tfgrad.gradients.intercepts import call_structure, closed_forms
from tfgrad.internal import call_hooks
from tfgrad.internal.arguments import integer, one_of
from tfgrad.internal.unchanged_state import unchanged_state

KINDS = ("attention", "bias")

Pairs = tuple[tuple[str, str], ...]
Size = tuple[int, ...]


def checked_pairs(value: Any) -> Pairs:
    """((student, teacher), …) from a list of names or pairs.

    Raises:
        ArgumentError: It is none, or is empty.
    """
    entries = [value] if isinstance(value, str) else value
    advice = (
        "expected a list of layer names, or of (student, teacher) pairs; "
        "tfgrad.penalties.matching_layers(network, teacher) proposes some."
    )
    if not isinstance(entries, list | tuple) or not entries:
        raise ArgumentError(f"layers: got {value!r}; {advice}")
    pairs = []
    for entry in entries:
        pair = (entry, entry) if isinstance(entry, str) else entry
        two = isinstance(pair, list | tuple) and len(pair) == 2
        if not two or not all(isinstance(name, str) for name in pair):
            raise ArgumentError(f"layers: got {entry!r} among them; {advice}")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def config_of(pairs: Pairs) -> list[list[str]]:
    """Layer pairs as JSON can hold them."""
    return [list(pair) for pair in pairs]


def names_of(pairs: Pairs, which: int) -> tuple[str, ...]:
    """Names of the layers that calls of the student (0) or the teacher (1) belong to."""
    return tuple(dict.fromkeys(call_hooks.layer_of(pair[which]) for pair in pairs))


def matching_layers(
    network: keras.Model,
    teacher: keras.Model,
    kind: str = "attention",
    count: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    verbose: bool = True,
) -> list[tuple[str, str]]:
    """Propose (student, teacher) layer pairs of equal map size, large maps first.

    For each size that both networks have, it takes the last call in each: the end of a stage, after
    its activation and before the layer that reduces the map (§2.6.3), or for `kind="bias"` its last
    convolution with a bias.

    Args:
        network: The student, a Keras model of images [batch, height, width, channels], series
            [batch, time, channels] or volumes [batch, depth, height, width, channels].
        teacher: The teacher, a Keras model of the same inputs.
        kind: `"attention"`, for `AttentionMatching` and `AttentionJacobianMatching`, or `"bias"`,
            for `BiasGradientMatching`.
        count: Largest number of pairs, the largest maps first; None for all.
        input_shape: (height, width, channels), or the shape of a series or a volume, for models
            without one fixed input shape.
        verbose: Whether to print the pairs.

    Returns:
        A list of (student, teacher) call names.

    Raises:
        ArgumentError: The two networks have no map size in common.
    """
    one_of("kind", kind, KINDS)
    if count is not None:
        integer("count", count)
    found = [_last_of_each_size(model, kind, input_shape) for model in (network, teacher)]
    sizes = sorted(set(found[0]) & set(found[1]), key=math.prod, reverse=True)
    if not sizes:
        raise ArgumentError(
            f"network, teacher: got {network.name!r} with maps of {_listed(found[0])} and "
            f"{teacher.name!r} with maps of {_listed(found[1])}; expected a size that both have. "
            "Attention and bias maps may differ in size: name pairs yourself, "
            "layers=[(student, teacher), ...]."
        )
    sizes = sizes[:count]
    pairs = [(found[0][size], found[1][size]) for size in sizes]
    if verbose:
        for size, (student, taught) in zip(sizes, pairs, strict=True):
            print(f"{_text(size)}: {network.name}/{student} learns from {teacher.name}/{taught}")
    return pairs


def _last_of_each_size(
    model: keras.Model, kind: str, input_shape: tuple[int, ...] | None
) -> dict[Size, str]:
    """{size of the map: call name}, of maps with more than one position."""
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) > 1:
        raise ArgumentError(
            f"network, teacher: got {model.name!r} with {len(inputs)} inputs; expected one; name "
            "pairs yourself, layers=[(student, teacher), ...]."
        )
    x = tf.zeros([1, *_input_shape(model, input_shape)], keras.config.floatx())
    if not model.built:
        model(x, training=False)
    convolutions = [
        layer.name
        for layer in call_hooks.flatten(model)
        if kind == "bias" and closed_forms.rule(layer) == "affine"
    ]
    with (
        unchanged_state(),
        call_hooks.handled(_Maps(axes.Layouts(model, x))) as maps,
        layer_biases.recorded_biases(convolutions) as biased,
    ):
        model(x, training=False)
    last = {}
    for call, size in maps.sizes.items():
        if kind == "attention" or (call in biased and _has_bias(biased[call])):
            last[size] = call
    return last


def _input_shape(model: keras.Model, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if shape is None:
        known = getattr(model, "input_shape", None)
        shape = known[1:] if isinstance(known, tuple) else None
    if shape is None or None in tuple(shape):
        raise ArgumentError(
            f"input_shape: got {shape} of {model.name!r}; expected one fixed shape. Pass "
            "input_shape=(height, width, channels)."
        )
    return tuple(shape)


def _has_bias(biased: layer_biases.Biased) -> bool:
    try:
        biased.bias()
    except ArgumentError:
        return False
    return True


def _listed(sizes: dict[Size, str]) -> str:
    return ", ".join(map(_text, sizes)) or "no size"


def _text(size: Size) -> str:
    return "x".join(map(str, size))


class _Maps(call_hooks.Handler):
    """Records the sizes of the maps that a model's layers return, {call name: size}."""

    def __init__(self, layouts: axes.Layouts) -> None:
        self._layouts = layouts
        self.sizes: dict[str, Size] = {}
        self._names = call_hooks.CallNames()
        self._learned = False  # Layers before the first weights only prepare the image.

    def layer(self, layer: keras.layers.Layer, proceed: Any, args: Any, kwargs: Any) -> Any:
        output = proceed(*args, **kwargs)
        if call_hooks.is_symbolic(args, kwargs):
            return output
        name = self._names.next(layer.name)
        if call_structure.has_layers_inside(layer):
            return output
        self._learned = self._learned or closed_forms.rule(layer) == "affine"
        if not self._learned:
            return output
        if tf.is_tensor(output) and output.shape.rank == len(self._layouts.input.positions) + 2:
            found = self._layouts.map_of(name, output)
            size = () if found is None else tuple(found.shape[1:-1])
            if math.prod(size) > 1:
                self.sizes[name] = size
        return output
