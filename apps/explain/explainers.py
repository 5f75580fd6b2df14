"""A model with its saliency methods, whether it is a live network or a SavedModel."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad import loading, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import model_checks
from tfgrad.models import output_meaning
from tfgrad.saliency import FullGrad

from ..common import invocation, pixel_range
from ..common.progress import Counter

FULLGRAD = FullGrad.name


@dataclasses.dataclass(frozen=True)
class Explainer:
    """A model with its saliency methods.

    Attributes:
        name: Where it came from.
        shape: Shape of its images, (height, width, channels), None where a size is free.
        outputs: Number of its classes, if known: its logits, or two for one logit.
        classes: Names of its classes, if known.
        image_range: Values of black and white.
        methods: {method: its options}.
        answer: Function of (x [B, H, W, C], classes int32 [B], −1 for the predicted) that returns
            {method: map} and the completeness error of full-gradients, if there is one.
        logits: Function from x to logits [B, K].
        network: The live network; None for a served model.
        meaning: What the logits mean, see `tfgrad.models.output_meaning`.
    """

    name: str
    shape: tuple[Any, ...]
    outputs: int | None
    classes: Sequence[str] | None
    image_range: tuple[float, float]
    methods: dict[str, Any]
    answer: Callable[[tf.Tensor, tf.Tensor], tuple[dict[str, Any], Any]]
    logits: Callable[[tf.Tensor], tf.Tensor]
    network: keras.Model | None = None
    meaning: str = output_meaning.EXCLUSIVE

    def class_name(self, index: int) -> str:
        """The name of a class, or its number as text."""
        return self.classes[index] if self.classes else str(index)


def live(
    name: str,
    network: keras.Model,
    names: Sequence[str],
    classes: Sequence[str] | None = None,
    image_range: tuple[float, float] = (0.0, 1.0),
) -> Explainer:
    """The explainer of a network in this process.

    Args:
        name: Where the network came from.
        network: Network that returns logits.
        names: Names of methods.
        classes: Names of the classes, if known.
        image_range: Values of black and white.
    """
    methods = {m: saliency.get(m)(network) for m in dict.fromkeys(names)}
    one = next(iter(methods.values()), None) or FullGrad(network)
    shape = model_checks.input_shape(one.network)
    if shape is None or len(shape) != 4:
        raise ModelError(
            f"{name}: got a network that takes {shape}; expected images [batch, height, width, "
            "channels]."
        )

    traced: set[tuple[int, ...]] = set()

    @functools.cache
    def compiled(function: Callable[..., Any], size: tuple[int, ...]) -> Any:
        """Traced once for images of a size, whatever the batch."""
        return tf.function(function, autograph=False).get_concrete_function(
            tf.TensorSpec((None, *size), tf.float32), tf.TensorSpec([None], tf.int32)
        )

    def answer(x: tf.Tensor, target: tf.Tensor) -> tuple[dict[str, Any], Any]:
        maps: dict[str, Any] = {}
        error = None
        for m, method in shown(methods, x):
            if m == FULLGRAD:  # map and error in one pass
                explained = compiled(method.explain, tuple(x.shape[1:]))(x, target)
                maps[m], error = explained["saliency"], explained["completeness_error"]
            else:
                maps[m] = method(x, target)
        return maps, error

    def shown(methods: Mapping[str, Any], x: tf.Tensor) -> Iterator[tuple[str, Any]]:
        """The methods; with images of a new size, which trace each, how many are ready."""
        size = tuple(x.shape[1:])
        if size in traced:
            yield from methods.items()
            return
        traced.add(size)
        counter = Counter("methods ready:", len(methods))
        for ready, item in enumerate(methods.items(), start=1):
            yield item
            counter.done(ready)

    def predict(x: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        return tf.cast(network(tf.cast(x, one.dtype), training=False), tf.float32)

    count = network.output_shape[-1] if getattr(network, "outputs", None) else None
    meaning = output_meaning.meaning(network, count=count)
    return Explainer(
        name,
        shape[1:],
        output_meaning.class_count(meaning, count),
        classes,
        image_range,
        {m: method.options() for m, method in methods.items()},
        answer,
        lambda x: compiled(predict, tuple(x.shape[1:]))(x, tf.fill(x.shape[:1], -1)),
        network,
        meaning,
    )


def served(
    path: str, names: Sequence[str] | None, image_range: tuple[float, float] | None = None
) -> Explainer:
    """The explainer of a SavedModel of `tfgrad.export`, whose methods are its signatures.

    Args:
        path: Directory of the SavedModel.
        names: Names of methods; None: all.
        image_range: Values of black and white; None: those that its metadata tell.
    """
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
                f"--methods: got {name!r}; expected some of {', '.join(signatures) or 'none'}, the "
                f"explanations of {model.path}; try {invocation.line('export')} "
                f"--methods={name}."
            )
    if not chosen:
        raise ArgumentError(
            f"--served: got {model.path}, which has no explanations; expected a model exported "
            "with --methods."
        )
    shape = tuple(signatures[chosen[0]].structured_input_signature[1]["image"].shape)
    if len(shape) != 4:
        raise ModelError(
            f"--served: got {path}, which takes {shape}; expected images [batch, height, width, "
            "channels]."
        )
    options = model.metadata.get("methods", {})
    told = model.metadata.get("image_range", (0.0, 1.0))
    image_range = image_range or (told and tuple(told))
    if image_range is None:
        raise pixel_range.missing(path)

    def answer(x: tf.Tensor, target: tf.Tensor) -> tuple[dict[str, Any], Any]:
        answers = {name: signatures[name](image=x, target=target) for name in chosen}
        error = answers.get(FULLGRAD, {}).get("completeness_error")
        return {name: a["saliency"] for name, a in answers.items()}, error

    count = model.signatures["serving_default"].structured_outputs["logits"].shape[-1]
    meaning = model.metadata.get("meaning", output_meaning.EXCLUSIVE)
    return Explainer(
        path,
        shape[1:],
        output_meaning.class_count(meaning, count),
        model.metadata.get("classes"),
        image_range,
        {name: options.get(name, {}) for name in chosen},
        answer,
        lambda x: model.signatures["serving_default"](image=x)["logits"],
        meaning=meaning,
    )
