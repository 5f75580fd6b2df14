"""One trace of a network's input-gradient for all methods that ask for nothing else.

An export traces several methods of one network. Inside `shared_passes`, those that need the
outputs and the gradient of a class at the input alone call one function for both, also in the body
of a loop, instead of tracing the network again in each place. A class says so of itself, in
`asks_gradients_alone`; the statement is not inherited, as a subclass may ask for more. What is not
used is not computed: TensorFlow inlines functions before it runs a graph, and removes what no
output needs.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.gradients.forward_pass import EVERY_FLOAT
from tfgrad.gradients.masks import Masks
from tfgrad.gradients.probe import Probe
from tfgrad.gradients.targets import Target

_Made = Callable[[tf.Tensor, Any], Probe]


class _Functions:
    """The function of each network, by what its outputs mean and the shape of its inputs.

    Args:
        finish: Called at the end of each trace.
    """

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish
        # The networks are kept, so that their ids stay theirs.
        self._known: dict[Any, tuple[keras.Model, Any]] = {}

    def of(self, network: keras.Model, outputs: Any, x: tf.Tensor, made: _Made) -> Any:
        """The function from (x, classes) to what a `SharedProbe` knows."""
        spec = tf.TensorSpec([None, *x.shape[1:]], x.dtype)
        key = id(network), repr(outputs), tuple(spec.shape), spec.dtype
        if key not in self._known:

            def run(x: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
                probe = made(x, target)
                classes = probe.fixed(target)
                found = {
                    "logits": probe.logits,
                    "classes": classes,
                    "score": probe.score(classes),
                    "gradient": probe.input_gradient(classes),
                }
                self._finish()
                return found

            signature = [spec, tf.TensorSpec([None], tf.int32)]
            self._known[key] = (
                network,
                tf.function(run, input_signature=signature, autograph=False),
            )
        return self._known[key][1]


_active: contextvars.ContextVar[_Functions | None] = contextvars.ContextVar(
    "shared_passes", default=None
)


@contextlib.contextmanager
def shared_passes(finish: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A context in which methods share traces; they cannot be differentiated further.

    Args:
        finish: Called at the end of each trace, in its graph.
    """
    token = _active.set(_Functions(finish))
    try:
        yield
    finally:
        _active.reset(token)


def shared(method: Any, x: Any, target: Any, values: Any) -> Any:
    """A `SharedProbe`, or None where a method needs a probe of its own.

    Args:
        method: The method, whose class must say `asks_gradients_alone` itself.
        x: The inputs, as for `Method.probe`.
        target: The classes.
        values: As for `Method.probe`.
    """
    functions = _active.get()
    if functions is None or values or "asks_gradients_alone" not in vars(type(method)):
        return None
    of_class = tf.is_tensor(target) and not isinstance(target, Target)
    if not of_class or not tf.is_tensor(x) or not x.dtype.is_floating:
        return None
    if method.explained(x).sources != EVERY_FLOAT:
        return None
    network, target = method.networks.of(target), tf.cast(target, tf.int32)
    found = functions.of(network, method.outputs, x, method.own_probe)(x, target)
    return SharedProbe(network, x, target, found, lambda: method.own_probe(x, target))


class SharedProbe:
    """A probe whose outputs and gradient come from a shared function.

    Anything else that is asked of it is asked of a probe of its own.

    Args:
        network: The network.
        x: The inputs.
        target: The classes, [B] int32, −1 for the predicted one.
        found: What the function returned.
        own: Makes the probe of its own.
    """

    sources = EVERY_FLOAT

    def __init__(
        self,
        network: keras.Model,
        x: tf.Tensor,
        target: tf.Tensor,
        found: dict[str, tf.Tensor],
        own: Callable[[], Probe],
    ) -> None:
        self.network, self.x, self.point = network, x, x
        self.differentiated = [x]
        self.logits = found["logits"]
        self._target, self._found = target, found
        self._make = own
        self._own: Probe | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._probe(), name)

    def visible(self) -> list[tf.Tensor | None]:
        """Whether the values of x are not masked; None: nothing is."""
        return Masks(self.network, self.x).visible

    def fixed(self, target: Any) -> Any:
        """The classes, with the predicted one in place of −1."""
        if self._is_own(target):
            return self._found["classes"]
        return self._probe().fixed(target)

    def score(self, target: Any) -> tf.Tensor:
        """The logit of the classes, [B]."""
        if self._is_own(target):
            return self._found["score"]
        return self._probe().score(target)

    def input_gradient(self, target: Any, of: str = "logit", temperature: float = 1.0) -> Any:
        """∇x of the classes' scalar, shaped like x."""
        if self._is_own(target) and of == "logit":
            return self._found["gradient"]
        return self._probe().input_gradient(target, of, temperature)

    def _is_own(self, target: Any) -> bool:
        return target is self._target or target is self._found["classes"]

    def _probe(self) -> Probe:
        if self._own is None:
            self._own = self._make()
        return self._own
