"""Remove and retrain (ROAR): what a new network still learns once salient pixels are gone."""

from __future__ import annotations

import dataclasses
import functools
import os
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import data
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.digests import array_digest, dataset_digest, plain
from tfgrad.evaluation.map_tests.pixel_removal import (
    IMAGE_MEAN,
    RANDOM,
    check_varying,
    checked_fractions,
    constant_rows,
    finite_rows,
    left_out,
    pixels_in,
    ranked,
)
from tfgrad.evaluation.map_tests.retrainer import Retrained, Schedule, Split
from tfgrad.evaluation.measurement import HIGHER, LOWER, Measurement, spread
from tfgrad.evaluation.records import check_same, read_record
from tfgrad.internal.arguments import integer, one_of
from tfgrad.internal.files import make_directory, write_json
from tfgrad.internal.stateless_noise import Draws

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
MEAN = "mean"

Statistics = tuple[Any, Any]


def remove_and_retrain(
    build: Callable[[], keras.Model],
    train: Dataset,
    test: Dataset,
    maps: Mapping[str, Any],
    directory: str | os.PathLike[str],
    *,
    fractions: Iterable[float] = FRACTIONS,
    seeds: Sequence[int] = (0,),
    epochs: int,
    batch_size: int,
    remove: str = "most",
    fill: Any = MEAN,
    augment: bool | str = False,
    normalize: bool | Statistics | None = True,
    strategy: tf.distribute.Strategy | None = None,
    progress: Callable[[int, int], Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, Measurement]:
    """The test accuracy of networks trained without the pixels that maps rank highest.

    For each method, fraction and seed, the most salient round(fraction · H·W) pixels of every
    training and test image are replaced, a new network is trained on what is left, and tested on
    what is left. Where a map finds the pixels that tell classes apart, the accuracy falls fast. The
    modified images are streamed, not stored. One compiled network serves all runs: it gets the
    weights, random seeds and optimizer state of one that is built anew for each.

    What the masks tell of the class is learned, too: the same maps on images of zeros, with
    `fill=1.0`, show how much that is.

    Finished runs are kept in the directory and not repeated; runs of other images, maps, layers,
    first weights or options are refused. What a loss, a schedule or a callback does inside is not
    seen: take another directory where it changes. Keras's global random seed is set; layers that
    draw by `tf.random` without a seed of their own do not start anew with each run.

    Args:
        build: makes the compiled network, images [batch, H, W, C] to logits [batch, classes], from
            Keras's global random seed: any `keras.Model`; on several replicas take a
            `tfgrad.PenalizedModel`, which handles ragged batches.
        train: the images to train on.
        test: the images to test on.
        maps: {method: (training maps, test maps)}, each an array [n, H, W], `MapShards` or the word
            `"random"`, the control.
        directory: where a record of every run is kept.
        fractions: parts of the image to replace, in [0, 1]; none (0) is measured in any case, once
            per seed for all methods.
        seeds: of weights and of the order of training images.
        epochs: per run.
        batch_size: images per global batch.
        remove: `"most"` or `"least"` salient first (the latter is known as KAR).
        fill: what replaces a pixel: `"mean"`, the mean colour of the training set (Hooker et al.);
            `"image_mean"`, that of the image; or a number, or one per channel, in [0, 1].
        augment: as for `tfgrad.data.pipeline`, in training.
        normalize: True takes the unmodified training set's statistics; or (mean, std), or None.
        strategy: what to train under; None means one device.
        progress: is told (runs done, runs) at the start and after every run.
        callbacks: further callbacks of `fit`.

    Returns:
        For each method the accuracy at 0 and at each fraction, mean and standard deviation over the
        seeds. The direction is that of a good map. "maps left out" counts the training and test
        images whose map is NaN or infinite, and which such runs do without; "constant maps" those
        whose map ranks nothing; "failed runs" the runs whose loss or logits did not stay finite,
        and which no mean counts: NaN where all failed.

    Warns:
        UserWarning: images were left out.

    Raises:
        ArgumentError: an option is out of range; maps have another shape or number than the images;
            `build` returns no compiled and built model, or one for other images or classes.
        DataError: no map of a data set is finite, or all are constant.
        ModelError: the model does not return one tensor of logits.
        ResumeError: the directory holds runs of other settings; it says which.

    Source: thesis §3.5.2, Fig. 3.2b; Hooker et al., *A benchmark for interpretability methods in
    deep neural networks*, NeurIPS 2019. Of masks: Rong et al., *A consistent and efficient
    evaluation strategy for attribution methods*, ICML 2022.
    """
    points = (0.0, *dict.fromkeys(f for f in checked_fractions(fractions) if f))
    seeds = _checked_seeds(seeds)
    one_of("remove", remove, ("least", "most"))
    _check_sets(train, test)
    colour = _colour(fill, train)
    methods = {name: _Maps(name, given, train, test) for name, given in _checked(maps).items()}
    statistics = data.channel_statistics(train) if normalize is True else normalize
    schedule = Schedule(
        integer("epochs", epochs), integer("batch_size", batch_size), augment, statistics or None
    )
    strategy = strategy or tf.distribute.get_strategy()
    network = Retrained(build, train, schedule, strategy, callbacks)
    settings = {
        "train": dataset_digest(train),
        "test": dataset_digest(test),
        **network.settings(),
    }
    removal = {"remove": remove, "fill": np.ravel(fill).tolist()}
    runs = [_Run(None, 0.0, seed, settings) for seed in seeds] + [
        _Run(name, fraction, seed, {**settings, **removal, "maps": found.digests})
        for name, found in methods.items()
        for seed in seeds
        for fraction in points[1:]
    ]
    kept = make_directory(directory)
    records = {run.key: record for run in runs if (record := run.read(kept)) is not None}
    report = progress or (lambda done, total: None)
    report(len(records), len(runs))
    for run in [run for run in runs if run.key not in records]:
        splits = Split(train), Split(test)
        if run.method is not None:
            splits = methods[run.method].without(run.fraction, remove, colour)
        records[run.key] = run.write(kept, network.run(run.seed, *splits))
        report(len(records), len(runs))
    return {
        name: _measured(name, found, records, points, seeds, remove)
        for name, found in methods.items()
    }


@dataclasses.dataclass(frozen=True)
class _Run:
    """One training, without a fraction of the pixels that a method ranks, and its record."""

    method: str | None
    fraction: float
    seed: int
    settings: Mapping[str, Any]

    @property
    def key(self) -> tuple[str | None, float, int]:
        return self.method, self.fraction, self.seed

    def read(self, directory: str) -> dict[str, Any] | None:
        path = self._path(directory)
        record = read_record(path)
        if record is not None:
            check_same(path, record.get("settings", {}), self._described())
        return record

    def write(self, directory: str, found: Mapping[str, Any]) -> dict[str, Any]:
        record = {**found, "settings": plain(self._described())}
        write_json(self._path(directory), record)
        return record

    def _path(self, directory: str) -> str:
        # Quoted, so that no two methods share a file and none leaves the directory.
        method = "all" if self.method is None else f"of-{urllib.parse.quote(self.method, safe='')}"
        return os.path.join(directory, f"{method}-{self.fraction!r}-seed{self.seed}.json")

    def _described(self) -> dict[str, Any]:
        own = {"method": self.method, "fraction": self.fraction, "seed": self.seed}
        return {**self.settings, **own}


class _Maps:
    """A method's maps of both data sets, which of them are finite, and their ranks once asked for.

    Args:
        name: of the method.
        given: a pair of maps.
        train: what the first are of.
        test: what the second are of.
    """

    def __init__(self, name: str, given: Any, train: Dataset, test: Dataset) -> None:
        pair = (RANDOM, RANDOM) if isinstance(given, str) and given == RANDOM else given
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ArgumentError(
                f"maps: got a {type(given).__name__} for {name!r}; expected a pair, (training "
                f"maps, test maps), or {RANDOM!r}."
            )
        whose = [f"maps: {name!r}, {which} images" for which in ("training", "test")]
        self._datasets = train, test
        self._maps = [
            _checked_maps(who, maps, dataset, seed)
            for seed, (who, maps, dataset) in enumerate(
                zip(whose, pair, (train, test), strict=True)
            )
        ]
        self._finite = [finite_rows(maps) for maps in self._maps]
        counts = [left_out(*one) for one in zip(self._finite, whose, strict=True)]
        self.left_out = sum(counts)
        self.constant = 0
        for who, maps, finite in zip(whose, self._maps, self._finite, strict=True):
            if isinstance(maps, _Noise):
                continue
            constant = int((constant_rows(maps) & finite).sum())
            check_varying(constant, int(finite.sum()), who)
            self.constant += constant
        self.tested = len(test) - counts[1]
        self.digests = [_digest(maps) for maps in self._maps]

    def without(self, fraction: float, remove: str, colour: Any) -> tuple[Split, Split]:
        """Both data sets without images whose maps rank nothing, and without pixels."""
        train, test = (
            Split(dataset, _removal(ranks, fraction, remove, colour))
            for dataset, ranks in self._ranked
        )
        return train, test

    @functools.cached_property
    def _ranked(self) -> list[tuple[Dataset, tf.Tensor]]:
        parts = zip(self._datasets, self._maps, self._finite, strict=True)
        # Eager tensors on the CPU, which streams pass on by reference.
        with tf.device("CPU:0"):
            return [
                (_only(dataset, finite), tf.convert_to_tensor(ranked(maps)[finite]))
                for dataset, maps, finite in parts
            ]


class _Noise:
    """The control: maps [n, H, W] of noise, each a function of (seed, the image's position)."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.shape, self.seed = shape, seed

    def __getitem__(self, rows: slice) -> tf.Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        like = tf.zeros([stop - start, *self.shape[1:]])
        return Draws(0, start).normal(like, 1, self.seed)[0]


def _removal(ranks: tf.Tensor, fraction: float, remove: str, colour: Any) -> Any:
    """What replaces pixels in a stream of `data.pipeline`; see `remove_and_retrain`."""
    pixels = int(np.prod(ranks.shape[1:]))
    count = int(pixels_in(tf.constant(fraction, tf.float64), pixels))

    def edit(images: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        rank = tf.cast(tf.gather(ranks, positions), tf.int32)
        gone = rank < count if remove == "least" else rank >= pixels - count
        if colour is None:
            value = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2], keepdims=True)
        else:
            value = tf.constant(colour) * (255.0 if images.dtype == tf.uint8 else 1.0)
        value = tf.round(value) if images.dtype == tf.uint8 else value
        return tf.where(gone[..., tf.newaxis], tf.cast(value, images.dtype), images)

    return edit


def _measured(
    name: str,
    maps: _Maps,
    records: Mapping[Any, Mapping[str, Any]],
    points: tuple[float, ...],
    seeds: tuple[int, ...],
    remove: str,
) -> Measurement:
    found = [
        [records[name if point else None, point, seed]["accuracy"] for seed in seeds]
        for point in points
    ]
    good = [[value for value in values if value is not None] for values in found]
    return Measurement(
        name=f"accuracy after removing the {remove} salient pixels and retraining",
        score="accuracy",
        direction=LOWER if remove == "most" else HIGHER,
        values=tuple(float(np.mean(values)) if values else np.nan for values in good),
        deviations=tuple(float(spread(v)) if v else 0.0 for v in good),
        over=f"{len(seeds)} seed" + "s" * (len(seeds) > 1),
        along="fraction of pixels",
        points=points,
        columns={
            "maps left out": tuple(float(maps.left_out) if point else 0.0 for point in points),
            "constant maps": tuple(float(maps.constant) if point else 0.0 for point in points),
            "failed runs": tuple(float(len(seeds) - len(values)) for values in good),
        },
        examples=maps.tested,
        seed=seeds[0],
        percent=True,
    )


def _only(dataset: Dataset, rows: np.ndarray) -> Dataset:
    if rows.all():
        return dataset
    return dataclasses.replace(dataset, images=dataset.images[rows], labels=dataset.labels[rows])


def _digest(maps: Any) -> str:
    return f"{RANDOM} {maps.seed}" if isinstance(maps, _Noise) else array_digest(maps)


def _checked(maps: Any) -> Mapping[str, Any]:
    named = isinstance(maps, Mapping) and all(isinstance(name, str) and name for name in maps)
    if not named or not maps:
        raise ArgumentError(
            f"maps: got {list(maps) if isinstance(maps, Mapping) else type(maps).__name__}; "
            "expected {method: (training maps, test maps)}, one or more."
        )
    return maps


def _checked_maps(whose: str, maps: Any, dataset: Dataset, seed: int) -> Any:
    """Maps [n, H, W] that can be sliced."""
    expected = (len(dataset), *dataset.image_shape[:2])
    if isinstance(maps, str) and maps == RANDOM:
        return _Noise(expected, seed)
    found = maps if hasattr(maps, "shape") else np.asarray(maps)
    shape, kind = tuple(found.shape), np.dtype(getattr(found.dtype, "as_numpy_dtype", found.dtype))
    if shape != expected or kind.kind not in "fiu":
        raise ArgumentError(
            f"{whose}: got {kind} {shape}; expected numbers {expected}, a map for every image, or "
            f"{RANDOM!r}. Sum a gradient over its channels first."
        )
    return found


def _checked_seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ArgumentError(f"seeds: got {seeds!r}; expected whole numbers, e.g. (0, 1, 2).")
    found = tuple(dict.fromkeys(integer("seeds", seed, lowest=0) for seed in seeds))
    if not found:
        raise ArgumentError("seeds: got none; expected whole numbers, e.g. (0, 1, 2).")
    return found


def _check_sets(train: Any, test: Any) -> None:
    for name, dataset in (("train", train), ("test", test)):
        if not isinstance(dataset, Dataset):
            raise ArgumentError(
                f"{name}: got a {type(dataset).__name__}; expected a tfgrad.data.Dataset."
            )
    if (train.image_shape, len(train.classes)) != (test.image_shape, len(test.classes)):
        raise ArgumentError(
            f"test: got images {test.image_shape} of {len(test.classes)} classes; training images "
            f"are {train.image_shape} of {len(train.classes)}. Expected two splits of one set."
        )


def _colour(fill: Any, train: Dataset) -> np.ndarray | None:
    """What replaces a pixel, in [0, 1], float32 [1 or C]; None for the mean of the image."""
    if isinstance(fill, str):
        one_of("fill", fill, (MEAN, IMAGE_MEAN))
        return data.channel_statistics(train)[0] if fill == MEAN else None
    value, channels = np.atleast_1d(np.asarray(fill)), train.image_shape[-1]
    numbers = value.dtype.kind in "fiu" and bool(((value >= 0) & (value <= 1)).all())
    if not numbers or value.shape not in ((1,), (channels,)):
        raise ArgumentError(
            f"fill: got {fill!r}; expected {MEAN!r}, {IMAGE_MEAN!r}, a number in [0, 1], or one "
            f"for each of the {channels} channels."
        )
    return value.astype(np.float32)
