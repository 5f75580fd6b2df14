"""Models that serve their own explanations: a SavedModel with one signature per method.

TensorFlow Serving loads `<directory>/<version>/saved_model.pb`, and clients bind to the names of
signatures, inputs and outputs, so these names are the public API of an exported model:

| signature         | inputs                              | outputs                               |
|-------------------|-------------------------------------|---------------------------------------|
| `serving_default` | image [B, …] float32                | logits, probabilities [B, K] float32  |
| each method's     | image; target [B] int32             | saliency [B, H, W], score [B] float32;|
| name              | (−1: the predicted class)           | class [B] int32; the method's extras  |
| `encoded`         | image_bytes [B] string (JPEG, PNG), | all of `serving_default`'s; saliency, |
|                   | target                              | score, class of the first method      |

The batch B is free. `encoded` is there where the model takes images of one size with 1 or 3
channels; each image is checked before it is decoded (`tfgrad.images`) and resized to the model's.

The files hold the network's own variables and graph functions, nothing of Keras: a process with
TensorFlow alone, or TensorFlow Serving, gives the same numbers. Beside them lie, where Serving
does not look, tfgrad.json with what the model is, and, where it does, one warm-up request for each
signature.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import keras
import tensorflow as tf

from tfgrad import saliency
from tfgrad._version import __version__
from tfgrad.errors import ArgumentError, ModelError, TfgradError
from tfgrad.export import signatures as signature_functions
from tfgrad.export import warmup_requests
from tfgrad.export.signatures import Served
from tfgrad.gradients.model_checks import check_logits
from tfgrad.training.penalized_model import PenalizedModel

METADATA = os.path.join("assets.extra", "tfgrad.json")  # TensorFlow Serving never reads it
_ATTEMPTS = 1000


def save(
    model: keras.Model,
    directory: str | os.PathLike[str],
    methods: Sequence[str | saliency.Method] | None = None,
    classes: Sequence[str] | None = None,
    *,
    preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
    image_range: tuple[float, float] | None = None,
    warmup: bool = True,
) -> str:
    """Export a model as the next version under a directory.

    The version appears whole or not at all: it is written beside its place under a temporary name
    and then renamed, and a failure removes what was written. Two writers get two versions.

    Args:
        model: a built Keras model that returns logits [B, K], or a `PenalizedModel` around one.
        directory: the model's directory; created if absent. Its name is the served model's name.
        methods: the explanations to serve, each under a signature of its name: names of
            `tfgrad.saliency.METHODS`, or methods built on this model, with options of their own.
            None: `"fullgrad"`, which needs images, and `"input_gradient"`.
        classes: the K classes' names, kept in the metadata.
        preprocess: a Keras layer or a function in TensorFlow operations that runs inside the graph
            on float32 images [B, …] and returns the network's input in the same shape, for example
            `keras.applications.resnet.preprocess_input`. Explanations are of what it returns.
        image_range: the values of black and white in the images that `preprocess` (or the network)
            takes; the signature `encoded` scales decoded pixels to it. None means (0, 1), and must
            be said otherwise where there is a `preprocess`.
        warmup: whether to run one request of batch 1 for each signature and write it for
            TensorFlow Serving to run when it loads the version.

    Returns:
        The path written, `directory/<version>`.

    Raises:
        ArgumentError: an unknown method, a method of another model, a wrong number of class names,
            a `preprocess` that cannot be traced or changes the shape, a range that is none, or a
            directory that cannot be written.
        ModelError: the model is not built, has several inputs or outputs, ends in a softmax, or
            has a weight that is NaN or infinite; or a method cannot be exported.
    """
    if methods is not None:
        _check_methods(methods)
    served = dataclasses.replace(_served(model), image_range=_range(image_range or (0.0, 1.0)))
    if methods is None:
        is_image = served.image.shape.rank == 4
        methods = ("fullgrad", "input_gradient") if is_image else ("input_gradient",)
    names = _class_names(classes, served.classes)
    variables = [v.value for v in served.network.variables]
    if preprocess is not None:
        function, more = signature_functions.traced_preprocess(preprocess, served.image)
        if image_range is None and served.no_encoded() is None:
            raise ArgumentError(
                "image_range: not given with preprocess=; say which values of black and white it "
                "takes: (0, 255) for those of keras.applications, (0, 1) for pixels in [0, 1]."
            )
        served, variables = dataclasses.replace(served, preprocess=function), variables + more
    chosen = _methods(methods, served.network)
    who = f"model {served.network.name!r}"

    try:
        signatures = signature_functions.build(served, chosen)
    except TfgradError:
        raise
    except Exception as error:
        raise ModelError(
            f"{who}: it cannot be traced for {served.image.shape} images "
            f"({type(error).__name__}: {error}). Try calling it on one batch first."
        ) from error
    for name, function in signatures.items():
        if operation := signature_functions.python_in(function):
            raise ModelError(
                f"{who}: its signature {name!r} calls Python ({operation}), which no server has. "
                "Write tf.py_function and tf.numpy_function as TensorFlow operations."
            )
    left_out = {"encoded": served.no_encoded()}
    requests: warmup_requests.Requests = {}
    if warmup:
        try:
            requests = warmup_requests.requests(signatures)
        except tf.errors.OpError as error:
            if None not in served.image.shape[1:]:
                raise ModelError(
                    f"{who}: it fails on an image of zeros ({error.message}). TensorFlow Serving "
                    "would not load it; try calling it on one, or export with warmup=False."
                ) from error
            left_out["warmup"] = "no size of image that was tried gets through the model"
    # Only what the functions read: seeds of dropout, metrics and optimizer state stay behind.
    read = {id(t) for f in signatures.values() for t in f.captured_inputs}
    module = tf.Module()
    module.variables_of_network = [v for v in variables if id(v.handle) in read]
    metadata = {
        "name": os.path.basename(os.path.abspath(directory)),
        "classes": names,
        "input_shape": list(served.image.shape),
        "image_range": list(served.image_range),
        "preprocess": None if preprocess is None else signature_functions.name_of(preprocess),
        "outputs": served.classes,
        "signatures": sorted(signatures),
        "methods": {method.name: method.options() for method in chosen},
        "left_out": {name: why for name, why in left_out.items() if why},
        "tfgrad": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }
    text = json.dumps(metadata, indent=1, ensure_ascii=False, default=repr)

    def write(path: str) -> None:
        tf.saved_model.save(module, path, signatures=signatures)
        os.makedirs(os.path.join(path, os.path.dirname(METADATA)))
        with open(os.path.join(path, METADATA), "w", encoding="utf-8") as file:
            file.write(text)
        if requests:
            warmup_requests.write(path, metadata["name"], requests)

    try:
        return _publish(os.fspath(directory), write)
    except (AssertionError, TypeError) as error:  # TensorFlow's words for state it cannot find
        raise ModelError(
            f"{who}: it reads state that Keras does not track ({error}). "
            "Create it with add_weight in a layer."
        ) from error


def _check_methods(methods: Sequence[str | saliency.Method]) -> None:
    known = f"known methods: {', '.join(map(repr, saliency.METHODS))}"
    if isinstance(methods, str | saliency.Method):
        kind = "string" if isinstance(methods, str) else "method"
        raise ArgumentError(f"methods: got the {kind} {methods!r}, expected a list; {known}.")
    for method in methods:
        if not isinstance(method, saliency.Method) and (
            not isinstance(method, str) or method not in saliency.METHODS
        ):
            raise ArgumentError(f"methods: got {method!r}; {known}.")


def _methods(
    methods: Sequence[str | saliency.Method], network: keras.Model
) -> list[saliency.Method]:
    """One method per name, in order; a name given twice counts once."""
    chosen: dict[str, saliency.Method] = {}
    for method in dict.fromkeys(methods):
        built = saliency.METHODS[method](network) if isinstance(method, str) else method
        if built.network is not network:
            raise ArgumentError(
                f"methods: got {method!r}, which was built on another model than the exported "
                f"{network.name!r}. Build it on the model that is exported."
            )
        if built.name in chosen:
            raise ArgumentError(
                f"methods: got {built.name!r} twice, and a signature has one name. Export the "
                "second to another directory."
            )
        chosen[built.name] = built
    return list(chosen.values())


def _range(image_range: tuple[float, float]) -> tuple[float, float]:
    pair = tuple(image_range) if isinstance(image_range, Sequence) else ()
    if (
        len(pair) != 2
        or not all(isinstance(v, numbers.Real) and math.isfinite(v) for v in pair)
        or pair[0] >= pair[1]
    ):
        raise ArgumentError(
            f"image_range: got {image_range!r}; expected the values of black and white, such as "
            "(0, 1), (0, 255) or (-1, 1)."
        )
    return float(pair[0]), float(pair[1])


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
    check_logits(network, tf.TensorSpec(shape, dtype))
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
