"""A network's weights: drawn anew layer by layer, their biases moved, and all put back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import calls
from tfgrad.errors import ModelError

# What Keras's layers call what they add; the intercept of a batch norm, β − γμ/√(v + ε), is linear
# in β and μ together.
BIASES = ("bias", "beta", "moving_mean")


@contextlib.contextmanager
def restored(network: keras.Model) -> Iterator[Callable[[], None]]:
    """Whatever happens inside, a network's variables are afterwards as before, bit by bit.

    Yields:
        A function that puts them back at once.
    """
    before = [(variable, tf.identity(variable.value)) for variable in network.variables]

    def restore() -> None:
        for variable, value in before:
            variable.assign(value)

    try:
        yield restore
    finally:
        restore()


def layers_with_weights(network: keras.Model, x: tf.Tensor) -> dict[str, Any]:
    """{path: layer} of the layers that hold weights of their own, in the order of their last calls.

    Every kind of layer counts, but for `Normalization`, whose numbers describe data. A layer that
    several paths share appears once, one that the network does not call not at all. Layers run
    from the inside of others (the cell of an LSTM) stand where those do.

    Args:
        network: a built model.
        x: one image [1, …], to see what is called.

    Raises:
        ModelError: there is none.
    """
    with keras.StatelessScope(collect_losses=True), calls.handled(_Order()) as order:
        network(x, training=False)
    found = []
    for path, layer, around in _walked(network):
        times = [order.last[id(outer)] for outer in (layer, *around) if id(outer) in order.last]
        if times and own_weights(layer) and not isinstance(layer, keras.layers.Normalization):
            found.append((times[0], path, layer))
    if not found:
        raise ModelError(
            f"model {network.name!r}: none of the layers that it calls has weights, so there is "
            "nothing to draw anew. Pass a trained network."
        )
    return {path: layer for _, path, layer in sorted(found, key=lambda entry: entry[0])}


def own_weights(layer: Any) -> list[Any]:
    """The weights that belong to a layer itself and not to layers inside it."""
    return layer._trainable_variables + layer._non_trainable_variables


def redraw(layer: Any, path: str, seed: int) -> float:
    """Give a layer's own weights new initial values, and say how far they moved.

    A twin is built from the layer's configuration, so that its own initialisers draw, each with a
    seed of ours in the place of a fixed one. Of a layer that its configuration does not bring back
    the entries of each weight are shuffled, which keeps their distribution.

    Args:
        layer: of `layers_with_weights`.
        path: what messages call it.
        seed: of all that is drawn.

    Returns:
        ‖new − old‖ / ‖old‖ over its weights together, infinite where the old ones are all zero. It
        is 0 where there is nothing to draw, as in an untrained batch norm.

    Raises:
        ModelError: a kernel, which is a weight of two axes or more, and with it the whole layer
            came back as it was.
    """
    weights = own_weights(layer)
    old = [_numbers(w) for w in weights]
    for weight, value in zip(weights, _initial(layer, seed) or _shuffled(old, seed), strict=True):
        weight.assign(value)
    new = [_numbers(w) for w in weights]
    moved = _norm([n - o for n, o in zip(new, old, strict=True)])
    if moved == 0 and any(w.ndim > 1 for w in old):
        raise ModelError(
            f"layer {path!r} ({type(layer).__name__}): drawn anew, its weights are what they were, "
            "so it was not randomised. Its initialiser always gives these numbers, and the layer "
            "has not been trained: pass a trained network, or give it a random initialiser."
        )
    size = _norm(old)
    return moved / size if size else (np.inf if moved else 0.0)


def move_biases(network: keras.Model, step: float, seed: int) -> None:
    """Multiply every entry of every bias by 1 + step or 1 − step, as its coin says.

    β and μ of a batch norm share their coins, which scales a channel's intercept as a whole.

    Raises:
        ModelError: there is no weight called one of `BIASES`, or all are zero.
    """
    by_layer = [
        [w for w in own_weights(layer) if w.name in BIASES] for layer in network._flatten_layers()
    ]
    found = [(i, w) for i, weights in enumerate(filter(None, by_layer)) for w in weights]
    if not any(np.any(_numbers(w)) for _, w in found):
        raise ModelError(
            f"model {network.name!r}: it has no weight called {', '.join(BIASES)} that is not "
            "zero, so no bias can be moved. Train it first, or take another measurement."
        )
    for i, weight in found:
        coins = np.random.default_rng([seed, i]).choice([-1, 1], weight.shape)
        weight.assign(weight.value * (1 + step * coins))


class _Order(calls.Handler):
    """When each layer was called last."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self._count = 0

    def layer(self, layer, proceed, args, kwargs):
        self._count += 1
        self.last[id(layer)] = self._count
        return proceed(*args, **kwargs)


def _walked(network: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(path, layer, the layers around it, the nearest first) of all inside a network, each once."""
    seen: set[int] = set()

    def inside(outer: Any, path: str, around: tuple[Any, ...]) -> Iterator[Any]:
        for layer in outer._flatten_layers(include_self=False, recursive=False):
            if id(layer) not in seen:
                seen.add(id(layer))
                yield f"{path}{layer.name}", layer, around
                yield from inside(layer, f"{path}{layer.name}/", (layer, *around))

    yield network.name, network, ()
    yield from inside(network, "", ())


def _initial(layer: Any, seed: int) -> list[np.ndarray] | None:
    """The own weights of a twin; None where the layer's configuration does not make one."""
    state = random.getstate()
    random.seed(seed)  # Keras seeds initialisers without a seed from here.
    try:
        twin = type(layer).from_config(_reseeded(layer.get_config()))
        twin.build_from_config(layer.get_build_config())
        values = [_numbers(w) for w in own_weights(twin)]
    except Exception:  # A layer's own code may fail in any way where it was not made for this.
        return None
    finally:
        random.setstate(state)
    shapes = [tuple(w.shape) for w in own_weights(layer)]
    return values if [v.shape for v in values] == shapes else None


def _reseeded(config: Any) -> Any:
    """A configuration with other seeds wherever it has some."""
    if isinstance(config, dict):
        return {
            name: random.randrange(2**31) if name == "seed" else _reseeded(inner)
            for name, inner in config.items()
        }
    return [_reseeded(c) for c in config] if isinstance(config, list) else config


def _shuffled(values: list[np.ndarray], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(value.reshape(-1)).reshape(value.shape) for value in values]


def _numbers(weight: Any) -> np.ndarray:
    return np.array(weight.value)


def _norm(values: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(v.astype(np.float64))) for v in values)))
