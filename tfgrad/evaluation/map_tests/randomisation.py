"""Do maps forget when the network does? Layers drawn anew, and networks of permuted labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfgrad import data
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.evaluation.map_tests.explained_model import Subject, built
from tfgrad.evaluation.map_tests.map_similarity import (
    finite,
    remembered,
    structural_similarity,
    varies,
)
from tfgrad.evaluation.map_tests.reinitialise import layers_with_weights, redraw, restored
from tfgrad.evaluation.measurement import LOWER, Measurement, counted, over_draws
from tfgrad.internal.arguments import integer, one_of

CASCADING, INDEPENDENT = "cascading", "independent"
SCORE = "rank correlation, absolute"
# Devices may add up in another order from call to call; a stale map is another map.
_ROUNDING = 1e-3


def randomisation(
    model,
    images,
    method,
    *,
    order=CASCADING,
    target=None,
    seed=0,
    draws=1,
    batch_size=64,
) -> Measurement:
    """How alike maps stay while the layers are drawn anew, from the output back to the input.

    A map that tells of the network must change with it. The class of each image is the one of the
    network as it came, and one map function, built once, is asked at every stage.

    Each layer whose weights the network reads counts, in the order of those reads: nested, frozen
    and batch norms included, and layers that are not called because `call` takes a weight out of
    them; only `Normalization` stays. Its own initialisers draw, from its configuration, seeded
    here; of a layer that its configuration does not bring back (a class without `get_config`), the
    entries of each weight are shuffled, and a single one is drawn from a normal of its size.
    The weights change in the model itself: nobody else should use it meanwhile. Afterwards, also
    after an exception, they are as before bit by bit.

    The standard error is over images and draws. That of a single draw does not hold how much one
    draw differs from the next, which may well be more: take several where methods are compared.

    Args:
        model: a built Keras model from images to logits, or a `PenalizedModel` of one.
        images: float [n, H, W, C], as the model takes them.
        method: a function from a model to a function of (images, classes) that returns maps
            [b, H, W], such as `tfgrad.saliency.get("fullgrad")`. Raw values are compared: a sign
            counts.
        order: `"cascading"`, all layers from the output down to this one are random; or
            `"independent"`, only this one is.
        target: the class that is explained: None for the predicted one, an int, or ints [n].
        seed: of what is drawn.
        draws: how many draws are averaged, image by image.
        batch_size: how many images are looked at together.

    Returns:
        Along the layers, whose names are the `labels`, the size abs(ρ) of Spearman's rank
        correlation with the maps of the network as it came, averaged over draws and images, and its
        standard error; point 0 is that network itself, asked twice, for reference. A map of the
        opposite sign remembers all, 1; one that became constant nothing, 0; chance is a little
        above 0. Columns: "signed rank correlation", of ρ; "rank correlation of sizes", ρ of
        absolute values; "structural similarity", of absolute maps in [0, 1] (11×11 window, or the
        map's smaller side if that is less); "rank correlation of other images", the score between
        each map and that, of the network as it came, of the image half of them away and its class,
        NaN of a single image: how much of the score may be the place in any image, such as its
        border; "weights changed", ‖new − old‖ / ‖old‖ of this layer, mean over draws, 0 where its
        initial values are those it has (an untrained batch norm); and counts over all draws: "maps
        unchanged", exactly equal although the logits are not, and "maps left out", NaN or infinite,
        or constant in the network as it came. A mean of none is NaN.

    Raises:
        ArgumentError: an argument is out of range, or the method does not make maps of the images.
        DataError: an image or all maps of the network as it came say nothing.
        ModelError: a kernel came back from its initialiser moved by less than a tenth of its norm,
            as where that holds pretrained numbers; the network reads a variable that no layer owns;
            maps of one network differ from call to call; or the map function does not follow the
            weights: at the end one built afresh makes other maps.
        NonFiniteError: a logit of the network as it came is NaN or infinite.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps" (2018), sections 3.1 and 3.2; thesis
    §3.3.
    """
    one_of("order", order, (CASCADING, INDEPENDENT))
    draws, seed = integer("draws", draws), integer("seed", seed, lowest=0)
    subject = Subject(model, images, target, batch_size)
    layers = layers_with_weights(subject.network, subject.batches[0][:1])
    function = built(method, subject.network)
    before = subject.maps(function)
    _check_telling(before)
    _check_alike(before, subject.maps(function), "maps of one network differ from call to call")
    found = _Stages(subject, before)
    found.add(before, subject.logits, 0.0)
    with restored(subject.network) as restore:
        for draw in range(draws):
            restore()
            stages = enumerate(reversed(layers.items()))
            for number, (path, layer) in stages:
                if order == INDEPENDENT:
                    restore()
                changed = redraw(layer, path, _seed(seed, draw, number))
                found.add(subject.maps(function), subject.forward(), changed)
        fresh = subject.maps(built(method, subject.network))
        _check_alike(fresh, found.last, "a map function built before the weights changed is stale")
    return Measurement(
        name=f"{order} randomisation",
        score=SCORE,
        direction=LOWER,
        along="randomised layer",
        points=tuple(float(number) for number in range(len(layers) + 1)),
        labels=("none", *reversed(layers)),
        reference=1,
        seed=seed,
        over=_over_images(subject, draws) + ", 1 draw of the weights" * (draws == 1),
        examples=len(subject),
        **found.numbers(len(layers)),
    )


def label_randomisation(model, other, images, method, *, target=None, batch_size=64) -> Measurement:
    """How alike the maps of a network are to those of one trained on permuted labels.

    A map that explains a decision must differ where the decisions were learned from nothing:
    train `other` on `permuted_labels(dataset, seed)` until it has learned them by heart, from other
    first weights, or what the two have in common is these.

    Args:
        model: see `randomisation`.
        other: a network of the same input and classes.
        images: float [n, H, W, C], as both take them.
        method: see `randomisation`.
        target: the class that both explain; None for the one that `model` predicts.
        batch_size: how many images are looked at together.

    Returns:
        The size of Spearman's rank correlation, averaged over images, and its standard error, which
        does not hold how much one `other` differs from the next. Columns as of `randomisation`,
        without "weights changed".

    Raises:
        ArgumentError: see `randomisation`; or the two are the same network, or do not have the
            same classes.
        DataError: an image or all maps of `model` say nothing.
        ModelError: one of the two returns no logits.
        NonFiniteError: a logit is NaN or infinite.

    Source: Adebayo et al. (2018), section 3.3; thesis §3.3.
    """
    subject = Subject(model, images, target, batch_size)
    twin = Subject(other, images, None, batch_size)
    kinds = subject.logits.shape[-1], twin.logits.shape[-1]
    if kinds[0] != kinds[1]:
        raise ArgumentError(
            f"other: got a network of {kinds[1]} classes for a model of {kinds[0]}; expected the "
            "same classes, trained on permuted labels."
        )
    if np.array_equal(subject.logits, twin.logits):
        raise ArgumentError(
            "other: got a network with the logits of the model on all images; expected one trained "
            "on permuted labels, tfgrad.evaluation.permuted_labels(dataset, seed)."
        )
    twin.classes = subject.classes
    before = subject.maps(built(method, subject.network))
    _check_telling(before)
    found = _Stages(subject, before)
    found.add(twin.maps(built(method, twin.network)), twin.logits)
    numbers = found.numbers(0)
    del numbers["columns"]["weights changed"]
    return Measurement(
        name="label randomisation",
        score=SCORE,
        direction=LOWER,
        over=_over_images(subject),
        examples=len(subject),
        **numbers,
    )


def permuted_labels(dataset: data.Dataset, seed: int) -> data.Dataset:
    """The same images with their labels permuted: each class keeps its size, and means nothing.

    Raises:
        ArgumentError: the seed is no whole number from 0 up.
        DataError: all images have one label, which no permutation changes.
    """
    order = np.random.default_rng(integer("seed", seed, lowest=0)).permutation(len(dataset))
    if len(np.unique(dataset.labels)) == 1:
        raise DataError(
            f"dataset: all {len(dataset)} images of {dataset.name!r} have one label, which no "
            "permutation changes; pass images of several classes."
        )
    return dataclasses.replace(dataset, labels=dataset.labels[order])


class _Stages:
    """What each stage of each draw says, image by image."""

    def __init__(self, subject: Subject, before: np.ndarray) -> None:
        self.subject, self.before = subject, before
        self.last = before
        self._rows: list[np.ndarray] = []  # [columns, n] each
        self._changed: list[float] = []

    def add(self, maps: np.ndarray, logits: np.ndarray, changed: float = 0.0) -> None:
        """One more stage: its maps, its logits, and how far the layer's weights moved."""
        same = (maps == self.before).all((1, 2))
        moved = (logits != self.subject.logits).any(-1)
        signed = remembered(self.before, maps)
        self._rows.append(
            np.stack(
                [
                    np.abs(signed),
                    signed,
                    remembered(np.abs(self.before), np.abs(maps)),
                    structural_similarity(self.before, maps),
                    self._of_others(maps),
                    same & moved,
                    ~(varies(self.before) & finite(maps)),
                ]
            )
        )
        self._changed.append(changed)
        self.last = maps

    def numbers(self, stages: int) -> dict[str, Any]:
        """Values, deviations and columns of a `Measurement` over the first stage and `stages`."""
        points = list(self._points(stages))
        means = np.array([[over_draws(row)[0] for row in rows[:5]] for rows, _ in points]).T
        counts = np.array([[row.sum() for row in rows[5:]] for rows, _ in points]).T
        columns = {
            "signed rank correlation": means[1],
            "rank correlation of sizes": means[2],
            "structural similarity": means[3],
            "rank correlation of other images": means[4],
            "weights changed": [changed for _, changed in points],
            "maps unchanged": counts[0],
            "maps left out": counts[1],
        }
        return {
            "values": tuple(means[0].tolist()),
            "deviations": tuple(over_draws(rows[0])[1] for rows, _ in points),
            "columns": {name: tuple(map(float, column)) for name, column in columns.items()},
        }

    def _of_others(self, maps: np.ndarray) -> np.ndarray:
        if len(maps) == 1:
            return np.full(1, np.nan)
        # Far away, as neighbours in sorted data are of one class.
        return np.abs(remembered(np.roll(self.before, len(maps) // 2, 0), maps))

    def _points(self, stages: int) -> Iterator[tuple[Any, float]]:
        """The rows of each point, [columns][draws, n], and the mean change of weights."""
        first, later = [0], (range(s, len(self._rows), stages) for s in range(1, stages + 1))
        for chosen in (first, *later):
            rows = np.stack([self._rows[i] for i in chosen], 1)
            yield rows, float(np.mean([self._changed[i] for i in chosen]))


def _over_images(subject: Subject, draws: int = 1) -> str:
    several = f" and {draws} draws of the weights" if draws > 1 else ""
    return f"{counted(len(subject), 'image')}{several} (standard error)"


def _seed(seed: int, draw: int, number: int) -> int:
    """One for every layer of every draw."""
    return int(np.random.SeedSequence([seed, draw, number]).generate_state(1)[0])


def _check_telling(maps: np.ndarray) -> None:
    if not varies(maps).any():
        raise DataError(
            f"method: the maps of all {len(maps)} images are constant, NaN or infinite, so nothing "
            "can be compared with them. Look at the network's weights, or take another method."
        )


def _check_alike(maps: np.ndarray, again: np.ndarray, what: str) -> None:
    size = np.nanmax(np.abs(maps), initial=0, where=np.isfinite(maps))
    if not np.allclose(maps, again, rtol=_ROUNDING, atol=_ROUNDING * size, equal_nan=True):
        raise ModelError(
            f"method: {what}, so what the test would say is not of the network; expected a "
            "function that reads the weights at every call (no stale trace), with a fixed seed."
        )
