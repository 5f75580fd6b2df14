"""What maps promise, measured on a user's model and images (thesis §3.2 and §3.4.1).

| measurement        | promise                                             | kept by              |
|--------------------|-----------------------------------------------------|----------------------|
| `completeness`     | a map adds up to the score, or to its rise          | integrated gradients |
| `bias_sensitivity` | a map moves with the biases that move the score     | FullGrad             |
| `weak_dependence`  | a map stays within a linear region                  | the input-gradient   |
| `shift_agreement`  | one function of shifted images has one map          | the input-gradient   |

No map keeps both the first and the third on every piecewise linear network (Prop. 4 and 7), so
these are properties to know, not faults to count.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import decomposition
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.evaluation.map_tests.explained_model import Subject, built, summary
from tfgrad.evaluation.map_tests.map_similarity import rank_correlation, relative_change
from tfgrad.evaluation.map_tests.reinitialise import move_biases, restored
from tfgrad.evaluation.measurement import HIGHER, LOWER, Measurement
from tfgrad.gradients import model_checks
from tfgrad.internal.arguments import integer, number
from tfgrad.internal.stateless_noise import Draws
from tfgrad.saliency import Smooth

# The rounding of an input-gradient, relative to its norm.
_SAME_REGION = 1e-6
_HALVINGS = 10


def completeness(
    model, images, method, *, target=None, baseline=None, batch_size=64
) -> Measurement:
    """How far a map is from adding up to the score, or to its rise over a baseline's.

        abs(Σ S − r) / (abs(Σ S) + abs(r)),   r = f_y(x) or f_y(x) − f_y(x′),

    in [0, 1]: 0 for a complete map, a third for one that adds up to half or twice of r, 1 for one
    that adds up to nothing or to the opposite. Input × gradient and the full-gradient decomposition
    complete f (the former without biases alone), integrated gradients the rise over their baseline.

    Args:
        model: a built Keras model from images to logits, or a `PenalizedModel` of one.
        images: float [n, H, W, C], as the model takes them.
        method: a function from a model to a function of (images, classes) that returns maps
            [b, H, W], such as `tfgrad.saliency.get("integrated_gradients")`.
        target: the class y: None for the predicted one, an int, or ints [n].
        baseline: x′, a number or an array that broadcasts to one image; None takes the method's own
            attribute of that name, or that of the method that `tfgrad.saliency.Smooth` averages,
            and without one compares with f_y(x).
        batch_size: how many images are looked at together.

    Returns:
        The mean over images and its standard error. Columns: "of the score", the median of
        abs(Σ S − r) / abs(r); "full-gradients", the median of that of `tfgrad.full_gradients` with
        r = f_y(x), which is rounding, and NaN where the model cannot be decomposed; "maps left
        out", how many are NaN or infinite.

    Raises:
        ArgumentError: an argument does not fit the model or the images.
        DataError: an image holds NaN or infinite pixels, or no map is finite.
        ModelError: the model returns no logits.
        NonFiniteError: a logit is NaN or infinite.

    Source: thesis Definitions 2 and 4; Sundararajan, Taly and Yan (2017), section 3.
    """
    subject = Subject(model, images, target, batch_size)
    function = built(method, subject.network)
    rise = subject.of_class(subject.logits)
    baseline = _own_baseline(function) if baseline is None else baseline
    if baseline is not None:
        rise -= subject.of_class(subject.forward(_baselines(baseline, subject.batches)))
    with np.errstate(invalid="ignore"):
        total = subject.maps(function).astype(np.float64).sum((1, 2))
        miss, size = np.abs(total - rise), np.abs(total) + np.abs(rise)
    return _single(
        "completeness",
        "relative error of the sum",
        LOWER,
        np.where(np.isfinite(size), miss / np.where(size > 0, size, 1), np.nan),
        {
            "of the score": _known(np.median, miss / np.where(rise == 0, np.nan, np.abs(rise))),
            "full-gradients": _known(np.median, _decomposed(subject)),
        },
    )


def bias_sensitivity(
    model, images, method, step=1e-2, *, target=None, seed=0, draws=5, batch_size=64
) -> Measurement:
    """How much a map moves with the biases alone, each of which is scaled by 1 + step or 1 − step.

        ‖S′ − S‖ / (step ‖S‖),

    over the images whose logit moves. The input-gradient of a ReLU network has exactly 0; a
    full-gradient map moves with every bias that has a place in the image (thesis §3.4.1, Example
    2), and not with that of a logit. Both hold within a linear region: the step is halved up to ten
    times per image until the gradient of the logit is what it was. An image for which that is not
    enough is left out; on a smooth network, where that is all, the smallest step counts. A toss
    decides each sign: a common factor is lost on maps whose layers are rescaled, FullGrad's too.
    How far a map moves depends on the tosses, by more than on the image, so that several draws of
    them are averaged.

    Moved are the weights called `bias`, `beta` and `moving_mean` of all layers: the biases of
    dense, convolutional and recurrent layers, and of norms β and the running mean, with one toss a
    channel, which scales the intercept β − γμ/√(v + ε) as a whole. Intercepts of activations, and
    biases that a layer of one's own calls otherwise, stay. They change in the model itself, and are
    as before afterwards, bit by bit.

    Args:
        model: see `completeness`.
        images: see `completeness`.
        method: see `completeness`.
        step: above 0, the largest.
        target: see `completeness`.
        seed: of the tosses.
        draws: how many draws of all tosses are averaged, image by image.
        batch_size: see `completeness`.

    Returns:
        The mean over images and its standard error over images and draws. Columns: "median" of the
        images; and counts over all draws: "regions left", "logits unmoved" and "maps left out", how
        many images left their linear region at every step (all: see above), are not reached by the
        biases, or have a map that is zero, NaN or infinite.

    Raises:
        ArgumentError: an argument does not fit the model or the images.
        DataError: no image counts.
        ModelError: the model has no such weight, or they are all zero.
        NonFiniteError: a logit is NaN or infinite.
    """
    step, seed = number("step", step), integer("seed", seed, lowest=0)
    subject = Subject(model, images, target, batch_size)
    tosses = [[seed, draw] for draw in range(integer("draws", draws))]
    found = [_by_biases(subject, method, step, toss) for toss in tosses]
    change, logits_change, left = (np.stack(rows) for rows in zip(*found, strict=True))
    moved = logits_change != 0
    if not moved.any():
        raise DataError(
            f"images: biases scaled by 1 ± {step:g} move the logit of none of {len(subject)}; take "
            "a larger step, or another class."
        )
    counted = moved & (~left | left[moved].all())
    values = np.where(counted, change, np.nan)
    return _single(
        "bias sensitivity",
        "relative change of the map",
        HIGHER,
        values,
        {
            "median": _known(np.median, values),
            "regions left": np.sum(left),
            "logits unmoved": np.sum(~moved),
        },
        missing=np.sum(counted & np.isnan(values)),
        seed=seed,
        drawn="signs",
    )


def weak_dependence(
    model, images, method, step=1e-3, *, target=None, seed=0, batch_size=64
) -> Measurement:
    """How much a map moves with an image that stays within its linear region.

        ‖S(x′) − S(x)‖ / ‖S(x)‖ ÷ ‖x′ − x‖ / ‖x‖,

    0 for a map that depends weakly on inputs, as the input-gradient of a piecewise linear network
    does; about 1 for input × gradient. x′ − x is Gaussian noise of `step` times the norm of x,
    halved up to ten times per image until the gradient of the logit at x′ is that at x. An image
    for which that is not enough is left out: a smooth network has no linear regions.

    Args:
        model: see `completeness`.
        images: see `completeness`.
        method: see `completeness`.
        step: above 0, the largest move relative to the norm of an image. Changes of maps below
            about 1e-7 ÷ step are rounding of float32.
        target: see `completeness`.
        seed: of the noise.
        batch_size: see `completeness`.

    Returns:
        The mean over images and its standard error. Columns: "move", the mean of ‖x′ − x‖ / ‖x‖;
        "regions left" and "maps left out", how many images do not count because they left their
        region, or their map is zero, NaN or infinite.

    Raises:
        ArgumentError: an argument does not fit the model or the images.
        DataError: no image counts.
        ModelError: the model returns no logits.
        NonFiniteError: a logit is NaN or infinite.

    Source: thesis Definitions 1 and 3, Prop. 4.
    """
    step, seed = number("step", step), integer("seed", seed, lowest=0)
    subject = Subject(model, images, target, batch_size)
    moves = subject.each(subject.compiled(_moves(subject, step, seed)))
    stayed = np.isfinite(moves).reshape(len(moves), -1).all(1)
    if not stayed.any():
        raise DataError(
            f"images: none of {len(moves)} stays within a linear region when it moves by "
            f"{step / 2**_HALVINGS:.1e} of its norm. The network is not piecewise linear, as with "
            "softplus or GELU, or step is too large."
        )
    moves[~stayed] = 0
    there, start = [], 0
    for x in subject.batches:
        there.append(x + moves[start : start + x.shape[0]])
        start += x.shape[0]
    function = built(method, subject.network)
    change = relative_change(subject.maps(function), subject.maps(function, there))
    lengths = relative_change(np.concatenate(subject.batches), np.concatenate(there))
    values = change / np.where(lengths > 0, lengths, np.nan)
    return _single(
        "weak dependence",
        "relative change of the map per relative move",
        LOWER,
        values,
        {"move": _known(np.mean, lengths[stayed]), "regions left": np.sum(~stayed)},
        missing=np.sum(stayed & np.isnan(values)),
        seed=seed,
    )


def shift_agreement(
    model, images, method, shift: Any = None, *, target=None, batch_size=64
) -> Measurement:
    """Whether one function has one map in shifted units of its images.

    S(x; f) is compared with S(x + c; f(· − c)). The input-gradient agrees up to rounding, input ×
    gradient does not, methods with a baseline do if it is shifted too.

    Args:
        model: see `completeness`.
        images: see `completeness`.
        method: see `completeness`; it is also built around a model whose first layer is a
            `keras.layers.Rescaling` with offset −c.
        shift: c, a finite number or an array that broadcasts to one image, not all zero; None takes
            the range of the images, from their smallest value to their largest.
        target: see `completeness`.
        batch_size: see `completeness`.

    Returns:
        Spearman's rank correlation of the two maps, its mean over images and standard error.
        Columns: "relative difference", the mean of ‖S′ − S‖ / ‖S‖; "maps left out", how many are
        constant, NaN or infinite.

    Raises:
        ArgumentError: an argument does not fit the model or the images.
        DataError: no map says anything.
        ModelError: the model returns no logits.
        NonFiniteError: a logit is NaN or infinite.

    Source: Kindermans et al., "The (Un)reliability of Saliency Methods" (2017), section 2.
    """
    subject = Subject(model, images, target, batch_size)
    if shift is None:
        shift = np.ptp(np.concatenate(subject.batches)).item()
    offset = _image_like("shift", shift, subject.batches[0])
    if not offset.any():
        raise ArgumentError(
            "shift: got zero, or images of one value; expected a number or an array that moves "
            "images."
        )
    maps = subject.maps(built(method, subject.network))
    shifted = [x + tf.constant(offset, x.dtype) for x in subject.batches]
    twin = built(method, _shifted(subject.network, offset))
    moved = subject.maps(twin, shifted)
    change = relative_change(maps, moved)
    return _single(
        "shift agreement",
        "rank correlation",
        HIGHER,
        rank_correlation(maps, moved),
        {"relative difference": _known(np.mean, change)},
    )


def _single(
    name: str,
    score: str,
    direction: str,
    values: np.ndarray,
    columns: dict[str, Any],
    missing: Any = None,
    seed: int = 0,
    drawn: str = "",
) -> Measurement:
    """One number of the images' values; see `summary`."""
    columns["maps left out"] = np.isnan(values).sum() if missing is None else missing
    return Measurement(
        name=name,
        score=score,
        direction=direction,
        columns={title: (float(value),) for title, value in columns.items()},
        seed=seed,
        **summary(values, drawn),
    )


def _known(reduce: Any, values: np.ndarray) -> float:
    """Mean or median of the finite numbers, NaN of none."""
    known = values[np.isfinite(values)]
    return float(reduce(known)) if len(known) else float("nan")


def _image_like(name: str, value: Any, x: tf.Tensor) -> np.ndarray:
    """A finite number or array, broadcast to one image."""
    array = np.asarray(value)
    try:
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ValueError
        return np.broadcast_to(array.astype(np.float64), x.shape[1:])
    except ValueError as error:
        raise ArgumentError(
            f"{name}: got {value!r}; expected a finite number, or an array of such that broadcasts "
            f"to one image {tuple(x.shape[1:])}."
        ) from error


def _by_biases(
    subject: Subject, method: Any, step: float, seed: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image: the map's change by the step, the logit's change, whether its region changed.

    At the first step, from the largest down, that leaves the input-gradient as it was.
    """
    function = built(method, subject.network)
    gradient = subject.compiled(lambda x, classes, first: subject.gradient(x, classes))
    maps, slopes = subject.maps(function), subject.each(gradient)
    score = subject.of_class(subject.logits)
    found = np.zeros((2, len(subject)))
    pending = np.ones(len(subject), bool)
    with restored(subject.network) as restore:
        for k in range(_HALVINGS + 1):
            restore()
            move_biases(subject.network, step / 2**k, seed)
            stays = pending & ~(relative_change(slopes, subject.each(gradient)) > _SAME_REGION)
            now = pending if k == _HALVINGS else stays
            if now.any():
                change = relative_change(maps, subject.maps(function)) / (step / 2**k)
                moved = subject.of_class(subject.forward()) - score
                found[:, now] = np.stack([change, moved])[:, now]
            pending = pending & ~stays
            if not pending.any():
                break
    return found[0], found[1], pending


def _own_baseline(function: Any) -> Any:
    """The x′ of a method of integration, smoothed or not; None of others."""
    while isinstance(function, Smooth):
        function = function.method
    return getattr(function, "baseline", None)


def _baselines(value: Any, batches: list[tf.Tensor]) -> list[tf.Tensor]:
    image = _image_like("baseline", value, batches[0])
    return [tf.broadcast_to(tf.constant(image, x.dtype), x.shape) for x in batches]


def _decomposed(subject: Subject) -> np.ndarray:
    """The completeness error of the full-gradients, [n]; NaN where there are none."""

    def error(x: tf.Tensor, classes: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        probe = subject.probe(x, decomposition.NEEDS)
        return decomposition.of_probe(probe, classes).completeness_error()

    try:
        return subject.each(subject.compiled(error))
    except (ModelError, tf.errors.InvalidArgumentError):
        return np.full(len(subject), np.nan)


def _moves(subject: Subject, step: float, seed: int) -> Any:
    """A function that returns x′ − x [b, H, W, C], NaN for images that left their region."""

    def of(x: tf.Tensor, classes: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        here = subject.gradient(x, classes)
        noise = Draws(0, first).normal(x, 1, seed)[0]
        noise *= step * _norm(x) / _norm(noise)
        limit = tf.cast(_SAME_REGION, x.dtype) * _norm(here)

        def stays(scale: tf.Tensor) -> tf.Tensor:
            there = subject.gradient(x + scale * noise, classes)
            return _norm(there - here) <= limit

        def halve(k: tf.Tensor, scale: tf.Tensor, inside: tf.Tensor) -> Any:
            scale = tf.where(inside, scale, scale / 2)
            return k + 1, scale, stays(scale)

        whole_step = tf.ones_like(limit)
        _, scale, inside = tf.while_loop(
            lambda k, _, inside: (k < _HALVINGS) & ~tf.reduce_all(inside),
            halve,
            (tf.constant(0), whole_step, stays(whole_step)),
            parallel_iterations=1,
        )
        return tf.where(inside, scale * noise, tf.constant(np.nan, x.dtype))

    return of


def _norm(values: tf.Tensor) -> tf.Tensor:
    """Of each image, [b, 1, 1, 1]."""
    return tf.sqrt(tf.reduce_sum(tf.square(values), [1, 2, 3], keepdims=True))


def _shifted(network: keras.Model, offset: np.ndarray) -> keras.Model:
    """f(x − c) as a model."""
    dtype = model_checks.input_dtype(network)
    x = keras.Input(offset.shape, dtype=dtype)
    offset = offset.ravel()[0] if np.ptp(offset) == 0 else offset
    return keras.Model(x, network(keras.layers.Rescaling(1.0, -offset, dtype=dtype)(x)))
