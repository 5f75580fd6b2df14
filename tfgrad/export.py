"""Models that serve their own explanations: a SavedModel with one signature per method.

TensorFlow Serving loads `<directory>/<version>/saved_model.pb`, and clients bind to the names of
signatures, inputs and outputs, so these names are the public API of an exported model:

| signature         | inputs                             | outputs                                |
|-------------------|------------------------------------|----------------------------------------|
| `serving_default` | image [B, …] float32               | logits, probabilities [B, K] float32   |
| `input_gradient`  | image, target [B] int32            | saliency [B, H, W], gradient [B, …],   |
|                   | (−1: the predicted class)          | score [B] float32; class [B] int32     |

The batch B is free. The files hold the network's own variables and graph functions, nothing of
Keras: a process with TensorFlow alone, or TensorFlow Serving, gives the same numbers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import keras
import tensorflow as tf

from tfgrad import second_order
from tfgrad._version import __version__
from tfgrad.errors import ArgumentError, ModelError, TfgradError
from tfgrad.probe import Probe
from tfgrad.training import PenalizedModel

METADATA = os.path.join("assets.extra", "tfgrad.json")  # TensorFlow Serving never reads it
_ATTEMPTS = 1000


@dataclasses.dataclass(frozen=True)
class Served:
    """What a method needs in order to build its signature.

    Attributes:
        network: the model that maps an image to logits.
        dtype: the float type in which the network takes its input.
        image: the signature's image input, [None, …] float32.
        classes: the number of logits K.
    """

    network: keras.Model
    dtype: str
    image: tf.TensorSpec
    classes: int

    @property
    def target(self) -> tf.TensorSpec:
        """The signature's target input: a class for each image, −1 for the predicted one."""
        return tf.TensorSpec([None], tf.int32, "target")

    def probe(self, image: tf.Tensor) -> Probe:
        """The network at the images, in inference mode."""
        return Probe(self.network, tf.cast(image, self.dtype), training=False)

    def checked(self, target: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """The targets, or a failure of the request: an absent class would get a map of zeros."""
        highest = self.classes - 1
        with tf.control_dependencies(
            [
                tf.debugging.assert_equal(
                    tf.shape(target)[0],
                    tf.shape(image)[0],
                    f"target: expected one class for each image, 0 to {highest}, "
                    "or -1 for the predicted class.",
                ),
                tf.debugging.Assert(
                    tf.reduce_all((target >= -1) & (target <= highest)),
                    [
                        f"target: expected classes 0 to {highest}, or -1 for the predicted; got",
                        target,
                    ],
                ),
            ]
        ):
            return tf.identity(target)


def serving_default(served: Served) -> tf.types.experimental.GenericFunction:
    """Logits and their softmax."""

    @_signature(served.image)
    def predict(image):
        logits = tf.cast(served.network(tf.cast(image, served.dtype), training=False), tf.float32)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    return predict


def input_gradient(served: Served) -> tf.types.experimental.GenericFunction:
    """The gradient of the target's logit, and its absolute value summed over channels.

    Equation 5.7's s before its normalisation, s[h, w] = Σ_c |∂f_target/∂x[h, w, c]|. Only images
    [B, H, W, C] have channels to sum over; for any other rank the saliency keeps the input's shape.
    """

    @_signature(served.image, served.target)
    def explain(image, target):
        target = served.checked(target, image)
        probe = served.probe(image)
        gradient = tf.cast(probe.input_gradient(target), tf.float32)
        saliency = tf.abs(gradient)
        if served.image.shape.rank == 4:
            saliency = tf.reduce_sum(saliency, axis=-1)
        return {
            "saliency": saliency,
            "gradient": gradient,
            "score": tf.cast(probe.score(target), tf.float32),
            "class": probe.classes(target),
        }

    return explain


# A method is a function from `Served` to a tf.function that returns a dict of named outputs, each
# with the batch as its first axis (TensorFlow Serving's row format needs that).
METHODS: dict[str, Callable[[Served], tf.types.experimental.GenericFunction]] = {
    "input_gradient": input_gradient,
}


def save(
    model: keras.Model,
    directory: str | os.PathLike[str],
    methods: Sequence[str] = ("input_gradient",),
    classes: Sequence[str] | None = None,
) -> str:
    """Export a model as the next version under a directory.

    The version appears whole or not at all: it is written beside its place under a temporary name
    and then renamed, and a failure removes what was written. Two writers get two versions.

    Args:
        model: a built Keras model that returns logits [B, K], or a `PenalizedModel` around one.
        directory: the model's directory; created if absent. Its name is the served model's name.
        methods: the explanations to serve, each under a signature of its name; see `METHODS`.
        classes: the K classes' names, kept in the metadata.

    Returns:
        The path written, `directory/<version>`.

    Raises:
        ArgumentError: an unknown method, a wrong number of class names, or a directory that cannot
            be written.
        ModelError: the model is not built, has several inputs or outputs, ends in a softmax, or
            has a weight that is NaN or infinite.
    """
    chosen = _methods(methods)
    served = _served(model)
    names = _class_names(classes, served.classes)
    functions = {"serving_default": serving_default(served)}
    functions.update((name, METHODS[name](served)) for name in chosen)

    module = tf.Module()
    try:
        signatures = {name: f.get_concrete_function() for name, f in functions.items()}
    except TfgradError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {served.network.name!r}: it cannot be traced for {served.image.shape} images "
            f"({type(error).__name__}: {error}). Try calling it on one batch first."
        ) from error
    # Only what the functions read: seeds of dropout, metrics and optimizer state stay behind.
    read = {id(t) for f in signatures.values() for t in f.captured_inputs}
    module.variables_of_network = [
        v.value for v in served.network.variables if id(v.value.handle) in read
    ]
    metadata = {
        "name": os.path.basename(os.path.abspath(directory)),
        "classes": names,
        "input_shape": list(served.image.shape),
        "outputs": served.classes,
        "signatures": sorted(signatures),
        "tfgrad": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }

    def write(path: str) -> None:
        tf.saved_model.save(module, path, signatures=signatures)
        os.makedirs(os.path.join(path, os.path.dirname(METADATA)))
        with open(os.path.join(path, METADATA), "w", encoding="utf-8") as file:
            json.dump(metadata, file, indent=1, ensure_ascii=False)

    try:
        return _publish(os.fspath(directory), write)
    except (AssertionError, TypeError) as error:  # TensorFlow's words for state it cannot find
        raise ModelError(
            f"model {served.network.name!r}: it reads state that Keras does not track ({error}). "
            "Create it with add_weight in a layer."
        ) from error


def _signature(*specs: tf.TensorSpec) -> Callable[[Callable[..., dict[str, Any]]], Any]:
    return tf.function(input_signature=specs, autograph=False)


def _methods(methods: Sequence[str]) -> list[str]:
    known = f"known methods: {', '.join(map(repr, sorted(METHODS)))}"
    if isinstance(methods, str):
        raise ArgumentError(f"methods: got the string {methods!r}, expected a list; {known}.")
    for name in (chosen := list(dict.fromkeys(methods))):
        if name not in METHODS:
            raise ArgumentError(f"methods: got {name!r}; {known}.")
    return chosen


def _class_names(classes: Sequence[str] | None, expected: int) -> list[str] | None:
    if classes is None:
        return None
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ArgumentError(f"classes: got {classes!r}, expected {expected} names.")
    if len(classes) != expected:
        raise ArgumentError(
            f"classes: got {len(classes)} names for {expected} logits. Name every output in order."
        )
    return list(classes)


def _served(model: keras.Model) -> Served:
    network = model.network if isinstance(model, PenalizedModel) else model
    if not isinstance(network, keras.Model):
        raise ArgumentError(f"model: got a {type(model).__name__}, expected a keras.Model.")
    who = f"model {network.name!r}"
    if not network.built:
        raise ModelError(f"{who}: it is not built. Call it on a batch before exporting.")
    for variable in network.weights:
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            raise ModelError(
                f"{who}: the weight {variable.path} holds NaN or infinite values. Its training "
                "diverged: export an earlier checkpoint, or train with a lower learning rate."
            )
    shape = _input_shape(network, who)
    dtype = _input_dtype(network, who)
    softmax = second_order.inspect(
        network, tf.TensorSpec(shape, dtype), training=False
    ).probabilities
    if softmax is not None:
        raise ModelError(
            f"{who}: its layer {softmax!r} returns probabilities, expected logits. Remove the "
            "softmax (activation=None) and train with from_logits=True; the export adds the "
            "probabilities itself."
        )
    outputs = tf.nest.flatten(network(keras.KerasTensor(shape, dtype=dtype), training=False))
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or outputs[0].shape[-1] is None:
        raise ModelError(
            f"{who}: it returns {[tuple(o.shape) for o in outputs]}, expected one tensor of logits "
            "[batch, classes]."
        )
    if outputs[0].shape[-1] == 1:
        raise ModelError(
            f"{who}: it returns one logit, whose softmax is 1 for every image. Give the network "
            "two logits, one per class."
        )
    return Served(network, dtype, tf.TensorSpec(shape, tf.float32, "image"), outputs[0].shape[-1])


def _input_shape(network: keras.Model, who: str) -> tuple[int | None, ...]:
    """[None, …]: the one input's shape with a free batch, for functional and subclassed models."""
    shape = getattr(network, "input_shape", None)
    if shape is None:
        shape = (network.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | None) for n in shape):
        raise ModelError(
            f"{who}: its inputs have the shapes {shape}, expected one image tensor. Wrap it in a "
            "functional keras.Model with a single keras.Input."
        )
    return (None, *shape[1:])


def _input_dtype(network: keras.Model, who: str) -> str:
    """What the network is fed: float32 also where it computes in half precision."""
    inputs = getattr(network, "inputs", None)
    dtype = inputs[0].dtype if inputs else network.variable_dtype
    if not tf.as_dtype(dtype).is_floating:
        raise ModelError(
            f"{who}: its input is {dtype}, and only float images have a gradient. "
            "Use keras.Input without dtype and cast inside."
        )
    return dtype


def _publish(directory: str, write: Callable[[str], None]) -> str:
    """Write into a temporary folder and rename it to the next free integer, or leave nothing."""
    absent = _absent(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        number = _highest(directory) + 1
        # Not a number, so that TensorFlow Serving, which may be watching, does not load it.
        name = f".tmp-{number}-{os.getpid()}-{threading.get_ident()}"
        temporary = os.path.join(directory, name)
        os.mkdir(temporary)
    except OSError as error:
        _remove(absent)
        raise ArgumentError(
            f"directory: {directory!r} cannot be written ({error.strerror}). Choose a directory "
            "in which you may create folders."
        ) from error
    try:
        write(temporary)
        return _rename(temporary, directory, number)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove(absent)
        if isinstance(error, OSError | tf.errors.OpError):
            raise ArgumentError(
                f"directory: writing to {directory!r} failed ({error}). Check the free space and "
                "the permissions; nothing was left behind."
            ) from error
        raise


def _rename(temporary: str, directory: str, number: int) -> str:
    for candidate in range(number, number + _ATTEMPTS):
        path = os.path.join(directory, str(candidate))
        try:
            os.rename(temporary, path)
            return path
        except OSError:
            if not os.path.lexists(path):
                raise
    raise OSError(f"no free version number from {number} on")


def _highest(directory: str) -> int:
    return max((int(n) for n in os.listdir(directory) if n.isascii() and n.isdigit()), default=0)


def _absent(directory: str) -> list[str]:
    """The directory and those of its parents that do not exist yet, innermost first."""
    absent = []
    path = os.path.abspath(directory)
    while not os.path.lexists(path):
        absent.append(path)
        path = os.path.dirname(path)
    return absent


def _remove(directories: list[str]) -> None:
    for path in directories:
        with suppress(OSError):  # somebody else has put something there
            os.rmdir(path)
