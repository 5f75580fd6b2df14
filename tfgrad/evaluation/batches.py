"""How the tests of a trained model read their data, and which data they reject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError, NonFiniteError
from tfgrad.evaluation import networks
from tfgrad.evaluation.taken import Taken
from tfgrad.gradients.labels import class_indices
from tfgrad.gradients.targets import Target
from tfgrad.models import output_meaning
from tfgrad.models.output_meaning import BINARY

# (images, labels, the first one's index int64)
Placed = tuple[Any, Any, tf.Tensor]


def placed(batches: Iterable[Any], network: Any, target: Any = "label") -> Iterator[Placed]:
    """Every batch as (images, labels, index of its first image int64), in one pass.

    Empty batches are skipped. Labels that are read are int32 [batch], also where the data set has
    [batch, 1], whole floats, bools or one-hot rows.

    Args:
        batches: A data set of (images, labels). For a `Target` of inputs alone, or of tuples whose
            first part they are; in the place of the labels then comes what the target needs of each
            example.
        network: The network that the images are passed to.
        target: A validated target; only `"label"` reads labels, which are then checked.

    Raises:
        ArgumentError: `batches` is no data set, can be read only once, has no end or is empty; its
            elements are no pairs of float images and as many labels; sizes or types change from
            batch to batch; or the network does not take such images.
        DataError: A label is no class of the network.
        ModelError: The network's output is not logits [batch, classes].
    """
    _check_readable(batches)
    asks = target if isinstance(target, Target) else None
    takes = Taken(network)
    first, kind, classes, meaning = 0, None, 0, output_meaning.EXCLUSIVE
    for batch in batches:
        x, y = _pair(batch, takes) if asks is None else (_inputs(batch, takes), None)
        count = _count(x) if asks is not None else _count_of_pairs(x, y)
        if not count:
            continue
        if asks is not None:
            y = networks.rows_of(asks, first, count)
        if kind is None:
            kind = _kind((x, y))
            if asks is not None:
                networks.first_answer(network, x)
            else:
                classes, meaning = networks.classes(network, x)
        if _kind((x, y)) != kind:
            raise ArgumentError(
                f"batches: got images and labels {_shown(_kind((x, y)))} after {_shown(kind)}; "
                "expected one size and type in all batches. Resize or cast in the data set."
            )
        if isinstance(target, str) and target == "label":
            y = _labels(y, classes, meaning)
        yield x, y, tf.constant(first, tf.int64)
        first += count
    if not first:
        raise ArgumentError("batches: got an empty data set; expected (images, labels) batches.")
    networks.check_rows(target, first)


def per_image(
    function: Callable[[Any, Any, tf.Tensor], tf.Tensor], batches: Iterator[Placed]
) -> np.ndarray:
    """The results [n, …] of a function of (images, labels, index of the first image) per image.

    The function is traced once, for batches of any size, and its results are fetched after the last
    batch.
    """
    traced, parts = None, []
    for batch in batches:
        if traced is None:
            x, y, first = batch
            traced = tf.function(function, autograph=False).get_concrete_function(
                *_kind((x, y)), tf.TensorSpec([], first.dtype)
            )
        parts.append(traced(*batch))
    return np.concatenate([part.numpy() for part in parts])


def one_by_one(function: Callable[[tf.Tensor], tf.Tensor], values: Any, dtype: Any) -> tf.Tensor:
    """The results of a function of each value, stacked; memory is bounded by one call."""
    return tf.map_fn(function, values, fn_output_signature=dtype, parallel_iterations=1)


def where_finite(values: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The values [batch], replaced by NaN where a logit of the image is NaN or infinite."""
    finite = tf.reduce_all(tf.math.is_finite(logits), -1)
    return tf.where(finite, values, tf.constant(np.nan, values.dtype))


def check_finite(values: np.ndarray, what: str, hint: str = "") -> None:
    """Check that all numbers are finite, so that they have a mean.

    Args:
        values: Numbers [n, …], one row per image.
        what: The argument and the quantity in the plural: "network: the logits".
        hint: A further sentence of the message.

    Raises:
        NonFiniteError: Values of some image are NaN or infinite.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(-1)
    if not finite.all():
        raise NonFiniteError(
            f"{what} of image {int(finite.argmin())} are NaN or infinite, as of {(~finite).sum()} "
            f"of {len(values)} images. Look at the images first, then at the weights.{hint}"
        )


def check_end(name: str, data: Any) -> None:
    """Check that a `tf.data.Dataset` is not known to be infinite.

    Raises:
        ArgumentError: It is infinite.
    """
    endless = tf.data.INFINITE_CARDINALITY
    if isinstance(data, tf.data.Dataset) and data.cardinality() == endless:
        raise ArgumentError(
            f"{name}: got a data set without end; expected a finite one. Leave repeat() out, or "
            "take(n) batches of it."
        )


def noise_levels(sigmas: Iterable[float]) -> tuple[float, ...]:
    """Standard deviations ≥ 0 as floats.

    Raises:
        ArgumentError: There is none, or one is negative, NaN or infinite.
    """
    levels = list(sigmas)
    if not levels or not all(0 <= level < float("inf") for level in levels):
        raise ArgumentError(f"sigmas: got {levels}; expected finite numbers ≥ 0, at least one.")
    return tuple(float(level) for level in levels)


def _check_readable(batches: Any) -> None:
    hint = (
        "expected a data set of (images, labels) batches, e.g. tfgrad.data.pipeline(..., "
        "training=False)."
    )
    if not isinstance(batches, Iterable):
        raise ArgumentError(f"batches: got a {type(batches).__name__}; {hint}")
    if isinstance(batches, Iterator):
        raise ArgumentError(f"batches: got an iterator, which can be read only once; {hint}")
    check_end("batches", batches)


def _pair(batch: Any, takes: Taken) -> tuple[Any, Any]:
    """Images and labels as tensors."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        parts = f" of {len(batch)} parts" if isinstance(batch, tuple | list) else ""
        raise ArgumentError(
            f"batches: got a batch that is a {type(batch).__name__}{parts}; expected a pair "
            "(images, labels)."
        )
    try:
        x, y = tf.nest.map_structure(tf.convert_to_tensor, tuple(batch))
    except (TypeError, ValueError) as error:
        names = ", ".join(type(part).__name__ for part in batch)
        raise ArgumentError(
            f"batches: got a pair ({names}); expected float images and integer labels, as arrays "
            "or tensors."
        ) from error
    return takes.tensors(x, "batches"), y


def _inputs(batch: Any, takes: Taken) -> Any:
    """The inputs of a batch without labels, or with anything beside them, as tensors."""
    alone = not isinstance(batch, tuple)
    if isinstance(batch, list) and not takes.several:
        alone = len(batch) != 2
    x = batch if alone else batch[0]
    try:
        x = tf.nest.map_structure(tf.convert_to_tensor, x)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"batches: got a batch that is a {type(batch).__name__} of no numbers; expected inputs "
            "as arrays or tensors, or tuples (inputs, anything)."
        ) from error
    return takes.tensors(x, "batches")


def _count(x: Any) -> int:
    """The number of examples in a batch of inputs."""
    counts = {tuple(t.shape[:1]) for t in tf.nest.flatten(x)}
    if len(counts) > 1 or () in counts:
        shapes = tf.nest.map_structure(lambda t: tuple(t.shape), x)
        raise ArgumentError(
            f"batches: got inputs of shape {shapes}; expected as many examples in each."
        )
    return counts.pop()[0]


def _count_of_pairs(x: Any, y: Any) -> int:
    """The number of images in a batch with labels."""
    counts = {tuple(t.shape[:1]) for t in tf.nest.flatten((x, y))}
    if len(counts) > 1 or () in counts:
        shapes = [tf.nest.map_structure(lambda t: tuple(t.shape), part) for part in (x, y)]
        raise ArgumentError(
            f"batches: got images of shape {shapes[0]} with labels of shape {shapes[1]}; expected "
            "one label for each image."
        )
    return counts.pop()[0]


def _labels(y: Any, classes: int, meaning: str) -> tf.Tensor:
    """The labels as classes of the network, int32 [batch].

    Raises:
        ArgumentError: They have another form.
        DataError: One is no class of the network.
    """
    try:
        y = class_indices(y, classes, meaning)
    except ArgumentError as error:
        raise ArgumentError(f"batches: {str(error).removeprefix('y: ')}") from error
    low, high = int(np.min(y)), int(np.max(y))
    if low < 0 or high >= classes:
        has = "one logit of two classes" if meaning == BINARY else f"{classes} logits"
        raise DataError(
            f"batches: got labels from {low} to {high}; the network has {has}, so expected 0 to "
            f"{classes - 1}."
        )
    return y


def _kind(nest: Any) -> Any:
    """The specifications of a nest of tensors, with any batch size."""
    return tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), nest)


def _shown(kind: Any) -> Any:
    return tf.nest.map_structure(lambda spec: f"{spec.dtype.name} {tuple(spec.shape)}", kind)
