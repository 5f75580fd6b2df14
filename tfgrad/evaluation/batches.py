"""How the tests of a trained model read their data, and which data they reject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, DataError, NonFiniteError, TfgradError
from tfgrad.gradients import axes, model_checks, output_heads
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
        batches: A data set of (images, labels).
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
    first, kind, classes, meaning = 0, None, 0, output_meaning.EXCLUSIVE
    for batch in batches:
        x, y = _pair(batch)
        count = _count(x, y)
        if not count:
            continue
        if kind is None:
            kind = _kind((x, y))
            classes, meaning = _classes(network, x)
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


def class_count(network: Any, x: Any, argument: str = "batches", whose: str = "network") -> int:
    """The number of classes of a network, found by a call on the first image.

    Two for one logit of two classes; for a regression the number of outputs.

    Args:
        network: A model from images to logits.
        x: Images [batch, …], or a nest of inputs.
        argument: The argument that messages name for the images.
        whose: The noun that messages use for the network.

    Raises:
        ArgumentError: The network does not take such images.
        ModelError: Its output is not logits [batch, classes].

    Warns:
        OutputMeaningWarning: There is one output, and nothing says what it means.
    """
    return _classes(network, x, argument, whose)[0]


def _classes(
    network: Any, x: Any, argument: str = "batches", whose: str = "network"
) -> tuple[int, str]:
    """`class_count`, and what the outputs mean, from one call."""
    count = _outputs(network, x, argument, whose)
    output_meaning.warn_if_assumed(network, count=count)
    meaning = output_meaning.meaning(network, count=count)
    return (2 if meaning == BINARY else count), meaning


def _outputs(network: Any, x: Any, argument: str, whose: str) -> int:
    """The number of outputs of a network; see `class_count`."""
    model_checks.check_preprocessed(whose, network)
    try:
        answer = network(tf.nest.map_structure(lambda t: t[:1], x), training=False)
    except TfgradError:
        raise
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        if not _differ(x, getattr(network, "inputs", None)):
            raise  # an error of the network's own code
        got = tf.nest.map_structure(lambda t: (None, *t.shape[1:]), x)
        expected = network.input_shape
        raise ArgumentError(
            f"{argument}: got shape {got}; the {whose} takes {expected}. Resize the images, or "
            f"pass a {whose} trained on this shape."
        ) from error
    return output_heads.logits(network, answer, None).shape[-1]


def _differ(x: Any, declared: Any) -> bool:
    """Whether inputs have other shapes than those that a network declares, if it declares any."""
    flat = tf.nest.flatten(x)
    if not declared or len(flat) != len(declared):
        return bool(declared)
    shapes = [(tf.TensorShape(t.shape), d.shape) for t, d in zip(flat, declared, strict=True)]
    return any(not got.is_compatible_with(expected) for got, expected in shapes)


def input_axes(network: Any, x: Any, maps: Any = None) -> axes.InputAxes:
    """The positions and channels of what a network takes; see `axes.of_input`.

    Args:
        network: The network, or a function.
        x: Inputs [batch, …], one tensor.
        maps: Maps of these inputs. Where the network does not tell the axes of three, maps in the
            shape of the inputs do: there are no channels.

    Raises:
        ArgumentError: x is no single tensor with positions.
    """
    if not tf.is_tensor(x) or (x.shape.rank or 0) < 2:
        raise ArgumentError(
            f"batches: got images of shape {getattr(x, 'shape', type(x).__name__)}; expected one "
            "tensor, images [batch, H, W, C], series [batch, time, C], volumes [batch, D, H, W, C] "
            "or tables [batch, features]."
        )
    rank = x.shape.rank
    if isinstance(network, keras.layers.Layer):
        found = axes.of_input(network, x)
    else:
        found = axes.InputAxes(rank, axes.default_axis(rank) if rank > 2 else None, rank != 3)
    if not found.certain and maps is not None and maps.shape.rank == rank:
        return axes.InputAxes(rank, None, False)
    return found


def where_finite(values: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The values [batch], replaced by NaN where a logit of the image is NaN or infinite."""
    finite = tf.reduce_all(tf.math.is_finite(logits), -1)
    return tf.where(finite, values, tf.constant(np.nan, values.dtype))


def check_finite(values: np.ndarray, what: str) -> None:
    """Check that all numbers are finite, so that they have a mean.

    Args:
        values: Numbers [n, …], one row per image.
        what: The argument and the quantity in the plural: "network: the logits".

    Raises:
        NonFiniteError: Values of some image are NaN or infinite.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(-1)
    if not finite.all():
        raise NonFiniteError(
            f"{what} of image {int(finite.argmin())} are NaN or infinite, as of {(~finite).sum()} "
            f"of {len(values)} images. Look at the images first, then at the weights."
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


def _pair(batch: Any) -> tuple[Any, Any]:
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
    if not any(t.dtype.is_floating for t in tf.nest.flatten(x)):
        raise ArgumentError(
            "batches: got integer images; expected float ones as the network takes them, e.g. "
            "tf.cast(x, tf.float32) / 255."
        )
    return x, y


def _count(x: Any, y: Any) -> int:
    """The number of images in a batch."""
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


def check_of_classes(argument: str, maps: Any) -> None:
    """Refuse a method that explains something else than the class whose logit a test measures.

    A test asks for the map of a class, which takes the place of the method's own target.

    Raises:
        ArgumentError: The method was built with a `tfgrad.targets.Target`.
    """
    target = getattr(maps, "target", None)
    if isinstance(target, Target):
        raise ArgumentError(
            f"{argument}: got a method built with target={target!r}; expected one of classes, as "
            "this test measures the logit of a class; try the method without target=."
        )
