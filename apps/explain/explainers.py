"""A model with its saliency methods, whether live or served, as apps.explain asks it."""

import dataclasses
import difflib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import loading, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.saliency import FullGrad

from ..common import architectures

FULLGRAD = FullGrad.name


@dataclasses.dataclass(frozen=True)
class Explainer:
    """A model and what is asked of it, here or as it was exported.

    Attributes:
        name: where it came from.
        shape: of its images, (height, width, channels), None where a size is free.
        outputs: the number of its logits K, if it tells.
        classes: their names, if they are known.
        image_range: the values of black and white.
        methods: names of methods to their options.
        answer: (x [B, H, W, C], classes int32 [B], −1 the predicted) to {method: map} and the
            full-gradients' completeness error, if there is one.
        logits: x to [B, K].
        network: the live network; None of a served one.
    """

    name: str
    shape: tuple[int | None, ...]
    outputs: int | None
    classes: Sequence[str] | None
    image_range: tuple[float, float]
    methods: dict[str, Any]
    answer: Callable[[tf.Tensor, tf.Tensor], tuple[dict[str, Any], Any]]
    logits: Callable[[tf.Tensor], tf.Tensor]
    network: keras.Model | None = None

    def class_name(self, index):
        """The name of a class, or its number as text."""
        return self.classes[index] if self.classes else str(index)


def live(
    name: str,
    network: keras.Model,
    names: Sequence[str],
    classes: Sequence[str] | None = None,
    image_range: tuple[float, float] = (0.0, 1.0),
) -> Explainer:
    """A network in this process, and methods by their names."""
    methods = {m: saliency.get(m)(network) for m in dict.fromkeys(names)}
    one = next(iter(methods.values()), None) or FullGrad(network)
    shape = one.input_shape
    if shape is None or len(shape) != 4:
        raise ModelError(
            f"{name}: the network takes {shape}; expected images [batch, height, width, channels]."
        )

    @functools.cache
    def compiled(function, size):
        """Traced once for images of a size, whatever the batch."""
        return tf.function(function, autograph=False).get_concrete_function(
            tf.TensorSpec((None, *size), tf.float32), tf.TensorSpec([None], tf.int32)
        )

    def answer(x, target):
        maps, error = {}, None
        for m, method in methods.items():
            if m == FULLGRAD:  # its map and error in one pass
                explained = compiled(method.explain, tuple(x.shape[1:]))(x, target)
                maps[m], error = explained["saliency"], explained["completeness_error"]
            else:
                maps[m] = method(x, target)
        return maps, error

    def predict(x, classes):
        return tf.cast(network(tf.cast(x, one.dtype), training=False), tf.float32)

    return Explainer(
        name,
        shape[1:],
        network.output_shape[-1] if getattr(network, "outputs", None) else None,
        classes,
        image_range,
        {m: method.options() for m, method in methods.items()},
        answer,
        lambda x: compiled(predict, tuple(x.shape[1:]))(x, tf.fill(x.shape[:1], -1)),
        network,
    )


def served(path: str, names: Sequence[str] | None) -> Explainer:
    """A SavedModel of `tfgrad.export`, whose methods are its signatures; None takes them all."""
    model = loading.load_served(path)
    signatures = {}
    for name, function in model.signatures.items():
        inputs = function.structured_input_signature[1]
        if set(inputs) == {"image", "target"} and "saliency" in function.structured_outputs:
            signatures[name] = function
    chosen = list(dict.fromkeys(signatures if names is None else names))
    for name in chosen:
        if name not in signatures:
            raise ArgumentError(
                f"--methods: {model.path} serves no {name!r}; it has "
                f"{', '.join(signatures) or 'no explanation'}. Export it with "
                f"python -m apps.export --methods={name}."
            )
    if not chosen:
        raise ArgumentError(f"--served: {model.path} has no explanations. Export it with some.")
    shape = tuple(signatures[chosen[0]].structured_input_signature[1]["image"].shape)
    if len(shape) != 4:
        raise ModelError(
            f"{path}: it takes {shape}; expected images [batch, height, width, channels]."
        )
    options = model.metadata.get("methods", {})

    def answer(x, target):
        answers = {name: signatures[name](image=x, target=target) for name in chosen}
        error = answers.get(FULLGRAD, {}).get("completeness_error")
        return {name: a["saliency"] for name, a in answers.items()}, error

    return Explainer(
        path,
        shape[1:],
        model.signatures["serving_default"].structured_outputs["logits"].shape[-1],
        model.metadata.get("classes"),
        tuple(model.metadata.get("image_range", (0.0, 1.0))),
        {name: options.get(name, {}) for name in chosen},
        answer,
        lambda x: model.signatures["serving_default"](image=x)["logits"],
    )


def application(name: str, size: tuple[int, int] | None, weights: str | None) -> keras.Model:
    """An architecture of keras.applications that takes pixels 0 to 255 and returns logits.

    Args:
        name: of the builder.
        size: (height, width) of its images; None takes the builder's own.
        weights: a file of them; None draws random ones.
    """
    if name not in architectures.APPLICATIONS:
        close = difflib.get_close_matches(name, architectures.APPLICATIONS, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "one such as VGG16."
        raise ArgumentError(f"--application: keras.applications has no {name!r}; {hint}")
    builder = getattr(keras.applications, name)
    keras.utils.set_random_seed(0)
    try:
        network = builder(
            weights=None,
            classifier_activation=None,
            input_shape=None if size is None else (*size, 3),
        )
    except ValueError as error:
        raise ArgumentError(f"--image_size: {name} refuses {size} ({error}).") from error
    if weights is None:
        architectures.randomised(network)
    else:
        _load_weights(network, weights)
    pixels = keras.Input(network.input_shape[1:], name="pixels")
    function = sys.modules[builder.__module__].preprocess_input
    return keras.Model(pixels, network(Preprocess(function, name="preprocess")(pixels)), name=name)


def _load_weights(network, path):
    advice = "give a file of weights of this architecture with 1000 classes"
    if not os.path.isfile(path) or not path.endswith((".h5", ".keras")):
        found = "no such kind of file" if os.path.isfile(path) else "no such file"
        raise ModelError(f"--weights: {path!r}: {found}, expected .weights.h5, .h5 or .keras.")
    try:
        if path.endswith(".keras"):
            network.set_weights(loading.load(path, compile=False).get_weights())
        else:
            network.load_weights(path)
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"--weights: {path!r} does not fit ({reason}); {advice}.") from error
    if not all(np.isfinite(w).all() for w in network.get_weights()):
        raise ModelError(f"--weights: {path!r} holds NaN or infinite values; {advice}.")


class Preprocess(keras.layers.Layer):
    """The preprocessing of a module of keras.applications, on pixels 0 to 255."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        """What the module's networks were trained on."""
        return self.function(x)
