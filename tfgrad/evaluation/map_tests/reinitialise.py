"""A network's weights: re-initialised layer by layer, biases scaled, and all restored."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.internal.keras_private import flatten_layers, own_weights
from tfgrad.internal.unchanged_state import unchanged_state

# Names of additive weights in Keras's layers; the intercept of a batch norm, β − γμ/√(v + ε), is
# linear in β and μ together.
BIASES = ("bias", "beta", "moving_mean")
# These have several axes in a norm over several axes, without being kernels.
_NO_KERNELS = (*BIASES, "gamma", "moving_variance")
# A kernel that moves by less than this share of its norm counts as unchanged.
_LEAST_MOVE = 0.1


@contextlib.contextmanager
def restored(network: keras.Model) -> Iterator[Callable[[], None]]:
    """Restore a network's variables at the end of the block, bit by bit, also after an exception.

    Yields:
        A function that restores them at once.
    """
    before = [(variable, tf.identity(variable.value)) for variable in network.variables]

    def restore() -> None:
        for variable, value in before:
            variable.assign(value)

    try:
        yield restore
    finally:
        restore()


def layers_with_weights(network: keras.Model, x: Any) -> dict[str, Any]:
    """{path: layer} of the layers whose own weights the network reads, in the order of last reads.

    Every kind of layer counts, frozen or not, called or not (`call` may take a kernel out of its
    layer to normalise it), except `Normalization`, whose numbers describe data. A layer that
    several paths share appears once, one whose weights are not read does not appear.

    Args:
        network: A built model.
        x: One image [1, …], or a nest of inputs, for the forward pass that is traced.

    Raises:
        ModelError: There is no such layer, or the network reads a float variable that no layer
            owns.
    """
    reads = _last_reads(network, x)
    found = []
    for path, layer in _walked(network):
        times = [reads[id(h)] for w in own_weights(layer) for h in _handles(w) if id(h) in reads]
        if times and not isinstance(layer, keras.layers.Normalization):
            found.append((max(times), path, layer))
    if not found:
        raise ModelError(
            f"model {network.name!r}: it reads no weights of its layers, so none can be "
            "re-initialised; expected a trained network."
        )
    return {path: layer for _, path, layer in sorted(found, key=lambda entry: entry[0])}


def reinitialise_layer(layer: Any, path: str, seed: int) -> float:
    """Give a layer's own weights new initial values, and return how far they moved.

    A second layer is built from the configuration, so that the layer's own initialisers draw, each
    with a seed derived from `seed` instead of a fixed one. If the configuration does not restore
    the layer, the entries of each weight are shuffled, which keeps their distribution; a weight of
    one entry is drawn from a normal with that entry as its standard deviation.

    Args:
        layer: A layer of `layers_with_weights`.
        path: The layer's path, as messages name it.
        seed: Seed of all random numbers.

    Returns:
        ‖new − old‖ / ‖old‖ over its weights together, infinite where the old ones are all zero. It
        is 0 where the initial values are those it has, as in an untrained batch norm.

    Raises:
        ModelError: A kernel, which is a weight of at least two axes (except those of a norm, and
            single numbers), moved by less than a tenth of its norm, as where the initialiser holds
            pretrained numbers; or a kernel is zero, and the layer did not change at all.
    """
    weights = own_weights(layer)
    old = [_numbers(w) for w in weights]
    for weight, value in zip(weights, _initial(layer, seed) or _shuffled(old, seed), strict=True):
        weight.assign(value)
    new = [_numbers(w) for w in weights]
    moves = [n - o for n, o in zip(new, old, strict=True)]
    moved, size = _norm(moves), _norm(old)
    for weight, before, move in zip(weights, old, moves, strict=True):
        least = _LEAST_MOVE * _norm([before])
        if _is_kernel(weight) and (moved == 0 or _norm([move]) < least):
            raise ModelError(
                f"layer {path!r} ({type(layer).__name__}): re-initialised, its weights are what "
                f"they were: {weight.name!r} moved by {_norm([move]):.2g}; expected {least:.2g} or "
                "more, a tenth of its norm. Give the layer a random initialiser (and, if the class "
                "is your own, get_config), or pass a network that was trained further."
            )
    return moved / size if size else (np.inf if moved else 0.0)


def _is_kernel(weight: Any) -> bool:
    axes, entries = len(weight.shape), np.prod(weight.shape)
    return axes > 1 and entries > 1 and weight.name not in _NO_KERNELS


def move_biases(network: keras.Model, step: float, seed: Sequence[int]) -> None:
    """Multiply every entry of every bias by 1 + step or 1 − step, with random signs.

    β and μ of a batch norm share their signs, which scales a channel's intercept as a whole.

    Args:
        network: The network.
        step: The relative step.
        seed: Seed of the signs.

    Raises:
        ModelError: There is no weight called one of `BIASES`, or all are zero.
    """
    by_layer = [
        [w for w in own_weights(layer) if w.name in BIASES] for layer in flatten_layers(network)
    ]
    found = [(i, w) for i, weights in enumerate(filter(None, by_layer)) for w in weights]
    if not any(np.any(_numbers(w)) for _, w in found):
        raise ModelError(
            f"model {network.name!r}: it has no weight called {', '.join(BIASES)} that is not "
            "zero; expected a bias to scale. Train the model first, or use another measurement."
        )
    for i, weight in found:
        signs = np.random.default_rng([*seed, i]).choice([-1, 1], weight.shape)
        weight.assign(weight.value * (1 + step * signs))


def _last_reads(network: Any, x: Any) -> dict[int, int]:
    """{id of a variable's handle: time of its last read}, for the reads of one forward pass.

    They are taken from a trace, which contains every read, also of frozen weights. The time is the
    index of the operation that reads, or that runs the loop or function in which one does.

    Raises:
        ModelError: A float variable among them is not the network's.
    """

    def forward(x: Any) -> Any:
        with unchanged_state():
            return network(x, training=False)

    x = tf.nest.map_structure(tf.convert_to_tensor, x)
    traced = tf.function(forward, autograph=False).get_concrete_function(x)
    times = {operation.name: i for i, operation in enumerate(traced.graph.get_operations())}
    handles = traced.captured_inputs
    inner_handles = traced.inputs[len(traced.inputs) - len(handles) :]
    reads = {}
    for handle, inner in zip(handles, inner_handles, strict=True):
        readers = [op for op in inner.consumers() if not op.type.startswith("Assign")]
        if readers:
            reads[id(handle)] = max(times[op.name] for op in readers)
    _check_owned(network, [v for v in traced.variables if id(v.handle) in reads])
    return reads


def _check_owned(network: Any, read: list[tf.Variable]) -> None:
    own = [*network.variables, *network.metrics_variables]
    known = {id(handle) for variable in own for handle in _handles(variable)}
    for variable in read:
        # Variables of other types are seeds or counts.
        if variable.dtype.is_floating and id(variable.handle) not in known:
            raise ModelError(
                f"model {network.name!r}: it reads the variable {variable.name!r}, which belongs "
                "to none of its layers; expected a weight that can be re-initialised. Create it "
                "with add_weight, or store the layer that owns it as an attribute of the model."
            )


def _handles(variable: Any) -> list[Any]:
    """The handles of a Keras variable: one, or one for each replica."""
    value = variable.value
    several = isinstance(value, tf.distribute.DistributedValues)
    return [replica.handle for replica in (value.values if several else [value])]


def _walked(network: Any) -> Iterator[tuple[str, Any]]:
    """(path, layer) of a network and of all layers inside it, each once."""
    seen: set[int] = set()

    def inside(outer: Any, path: str) -> Iterator[Any]:
        for layer in flatten_layers(outer, include_self=False, recursive=False):
            if id(layer) not in seen:
                seen.add(id(layer))
                yield f"{path}{layer.name}", layer
                yield from inside(layer, f"{path}{layer.name}/")

    yield network.name, network
    yield from inside(network, "")


def _initial(layer: Any, seed: int) -> list[np.ndarray] | None:
    """The own weights of a second layer; None if the configuration does not make one."""
    state = random.getstate()
    random.seed(seed)  # Keras derives the seeds of initialisers without one from it.
    try:
        twin = type(layer).from_config(_reseeded(layer.get_config()))
        twin.build_from_config(layer.get_build_config())
        values = [_numbers(w) for w in own_weights(twin)]
    except Exception:  # A custom layer's code may fail in any way here.
        return None
    finally:
        random.setstate(state)
    shapes = [tuple(w.shape) for w in own_weights(layer)]
    return values if [v.shape for v in values] == shapes else None


def _reseeded(config: Any) -> Any:
    """A configuration with other values for all entries called "seed"."""
    if isinstance(config, dict):
        return {
            name: random.randrange(2**31) if name == "seed" else _reseeded(inner)
            for name, inner in config.items()
        }
    return [_reseeded(c) for c in config] if isinstance(config, list) else config


def _shuffled(values: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """The same entries in another order; a single float is drawn from a normal instead."""
    rng = np.random.default_rng(seed)
    return [
        value * rng.standard_normal(value.shape)
        if value.size == 1 and keras.backend.is_float_dtype(value.dtype.name)
        else rng.permutation(value.reshape(-1)).reshape(value.shape)
        for value in values
    ]


def _numbers(weight: Any) -> np.ndarray:
    return np.array(weight.value)


def _norm(values: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(v.astype(np.float64))) for v in values)))
