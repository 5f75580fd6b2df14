"""What a method knows of inputs of each shape, with its compiled functions."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfgrad.saliency.explained import Explained

# Functions of targets that are kept for each shape; a function made anew for every call must not
# fill the memory with graphs.
_KEPT = 16


@dataclasses.dataclass
class Known:
    """What is known of inputs of one shape.

    Attributes:
        returns_logits: Whether the network was checked to return logits for them.
        outputs: The shape of the network's output; None until it is asked for.
        axes_told: Whether a warning told that the network does not tell its axes.
        explained: What is explained of them, if they are several or token ids.
        functions: {key of a target: the compiled method}, the one used last at the end.
    """

    returns_logits: bool = False
    outputs: tf.TensorShape | None = None
    axes_told: bool = False
    explained: Explained | None = None
    functions: collections.OrderedDict[Hashable, Any] = dataclasses.field(
        default_factory=collections.OrderedDict
    )


class Shapes:
    """{shapes of inputs: `Known`}, whatever the batch.

    Attributes:
        lock: To be held where a record is read and changed.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Known] = {}
        self.lock = threading.RLock()

    def of(self, x: Any) -> Known:
        """The record of inputs like x, a nest of tensors or specifications."""
        return self._known.setdefault(_form(x), Known())

    def functions(self) -> dict[Hashable, Any]:
        """The compiled functions by shapes and target."""
        return {
            (shapes, key): function
            for shapes, known in self._known.items()
            for key, function in known.functions.items()
        }

    def function(
        self, x: Any, key: Hashable, values: dict[str, tf.Tensor], run: Callable[..., Any]
    ) -> Callable[[Any, dict[str, tf.Tensor]], Any]:
        """The compiled function of inputs like x; any batch size uses the same trace.

        Args:
            x: The inputs.
            key: What a target has in common with those that use the same function.
            values: What comes with each example of the target.
            run: A function of (inputs, values) in TensorFlow operations.
        """
        names = sorted(values)
        # The shapes of the values, as a mask of another size needs another graph.
        full = (key, *((name, tuple(values[name].shape[1:])) for name in names))
        with self.lock:
            functions = self.of(x).functions
            if full not in functions:
                functions[full] = _traced(x, {name: values[name] for name in names}, run)
                while len(functions) > _KEPT:
                    functions.popitem(last=False)
            functions.move_to_end(full)
            compiled = functions[full]

        def call(x: Any, values: dict[str, tf.Tensor]) -> Any:
            return compiled(*tf.nest.flatten(x), *(values[name] for name in names))

        return call


def _form(x: Any) -> Hashable:
    """What two nests have in common that one compiled function takes: structure, shapes, types."""
    if isinstance(x, Mapping):
        return "dict", tuple((key, _form(x[key])) for key in sorted(x))
    if isinstance(x, list | tuple):
        return type(x).__name__, tuple(map(_form, x))
    # A float input is cast before the function is called, integers to what the network declares.
    kind = "float" if x.dtype.is_floating else x.dtype.name
    return (None, *x.shape[1:]), kind


def _traced(x: Any, values: dict[str, tf.Tensor], run: Callable[..., Any]) -> Any:
    count = len(tf.nest.flatten(x))

    def flat(*tensors: tf.Tensor) -> Any:
        inputs = tf.nest.pack_sequence_as(x, tensors[:count])
        return run(inputs, dict(zip(values, tensors[count:], strict=True)))

    def spec(tensor: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)

    every: Sequence[tf.Tensor] = [*tf.nest.flatten(x), *values.values()]
    return tf.function(flat, autograph=False).get_concrete_function(*map(spec, every))
