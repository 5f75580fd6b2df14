"""Remove and retrain (ROAR): what a new network can still learn without the salient pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import data
from tfgrad.data.dataset import Dataset
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.digests import dataset_digest
from tfgrad.evaluation.map_tests.method_maps import MethodMaps
from tfgrad.evaluation.map_tests.pixel_removal import IMAGE_MEAN, checked_fractions
from tfgrad.evaluation.map_tests.retrainer import EditedDataset, Retrainer, TrainingSettings
from tfgrad.evaluation.map_tests.retraining_run import RetrainingRun, RunKey
from tfgrad.evaluation.measurement import HIGHER, LOWER, Measurement, counted, spread
from tfgrad.internal.arguments import integer, one_of
from tfgrad.internal.files import make_directory

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
    training and test image are replaced, and a new network is trained and tested on the modified
    images. If a map finds the pixels that distinguish classes, the accuracy falls fast. The
    modified images are streamed, not stored. One compiled network serves all runs: before each, it
    gets the weights, random seeds and optimizer state of a newly built one.

    The network also learns what the masks reveal about the class: the same maps on images of zeros,
    with `fill=1.0`, show how much that is.

    Finished runs are kept in the directory and not repeated; runs of other images, maps, layers,
    initial weights or options are rejected. The code of a loss, a schedule or a callback is not
    compared: use another directory after changing it. Keras's global random seed is set; layers
    that use `tf.random` without a seed of their own do not restart with each run.

    Args:
        build: Returns the compiled network, images [batch, H, W, C] to logits [batch, classes], for
            Keras's global random seed: any `keras.Model`; on several replicas use a
            `tfgrad.PenalizedModel`, which handles ragged batches.
        train: The images, series or volumes to train on.
        test: Those to test on.
        maps: {method: (training maps, test maps)}, each an array [n, H, W] (of series [n, time],
            of volumes [n, D, H, W]), `MapShards` or `"random"`, the control.
        directory: The directory that keeps a record of every run.
        fractions: Shares of the pixels to replace, in [0, 1]; 0 is always measured, once per seed
            for all methods.
        seeds: Seeds of the weights and of the order of training images.
        epochs: Number of epochs per run.
        batch_size: Number of images per global batch.
        remove: `"most"` or `"least"` salient first (the latter is known as KAR).
        fill: The replacement of a pixel: `"mean"`, the mean colour of the training set (Hooker et
            al.); `"image_mean"`, that of the image; or a number, or one per channel, in [0, 1], of
            floating-point series and volumes any.
        augment: Augmentation in training; see `tfgrad.data.pipeline`.
        normalize: True for the statistics of the unmodified training set; or (mean, std), or None.
        strategy: The strategy to train under; None means one device.
        progress: Called with (runs done, runs) at the start and after every run.
        callbacks: Further callbacks of `fit`.

    Returns:
        For each method the accuracy at 0 and at each fraction, mean and standard deviation over the
        seeds. The direction is that of a good map. "maps left out" counts the training and test
        images whose map is NaN or infinite, which are left out of such runs; "constant maps" those
        whose map ranks nothing; "failed runs" the runs whose loss or logits did not stay finite,
        which are left out of the mean: NaN if all failed.

    Warns:
        UserWarning: Images were left out.

    Raises:
        ArgumentError: An option is out of range; maps have another shape or number than the images;
            `build` returns no compiled and built model, or one for other images or classes.
        DataError: No map of a data set is finite, or all are constant.
        ModelError: The model does not return one tensor of logits.
        ResumeError: The directory holds runs of other settings; the message names them.

    Source: thesis §3.5.2, Fig. 3.2b; Hooker et al., *A benchmark for interpretability methods in
    deep neural networks*, NeurIPS 2019. On masks: Rong et al., *A consistent and efficient
    evaluation strategy for attribution methods*, ICML 2022.
    """
    points = (0.0, *dict.fromkeys(f for f in checked_fractions(fractions) if f))
    seeds = _checked_seeds(seeds)
    one_of("remove", remove, ("least", "most"))
    _check_sets(train, test)
    colour = _colour(fill, train)
    methods = {name: MethodMaps(name, given, train, test) for name, given in _checked(maps).items()}
    statistics = data.channel_statistics(train) if normalize is True else normalize
    training = TrainingSettings(
        integer("epochs", epochs), integer("batch_size", batch_size), augment, statistics or None
    )
    strategy = strategy or tf.distribute.get_strategy()
    retrainer = Retrainer(build, train, training, strategy, callbacks)
    settings = {
        "train": dataset_digest(train),
        "test": dataset_digest(test),
        **retrainer.settings(),
    }
    removal = {"remove": remove, "fill": np.ravel(fill).tolist()}
    runs = [RetrainingRun(None, 0.0, seed, settings) for seed in seeds] + [
        RetrainingRun(name, fraction, seed, {**settings, **removal, "maps": found.digests})
        for name, found in methods.items()
        for seed in seeds
        for fraction in points[1:]
    ]
    kept = make_directory(directory)
    records = {run.key: record for run in runs if (record := run.read(kept)) is not None}
    report = progress or (lambda done, total: None)
    report(len(records), len(runs))
    for run in [run for run in runs if run.key not in records]:
        edited = EditedDataset(train), EditedDataset(test)
        if run.method is not None:
            edited = methods[run.method].without(run.fraction, remove, colour)
        records[run.key] = run.write(kept, retrainer.run(run.seed, *edited))
        report(len(records), len(runs))
    return {
        name: _measured(name, found, records, points, seeds, remove)
        for name, found in methods.items()
    }


def _measured(
    name: str,
    maps: MethodMaps,
    records: Mapping[RunKey, Mapping[str, Any]],
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
        over=counted(len(seeds), "seed"),
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


def _checked(maps: Any) -> Mapping[str, Any]:
    named = isinstance(maps, Mapping) and all(isinstance(name, str) and name for name in maps)
    if not named or not maps:
        raise ArgumentError(
            f"maps: got {list(maps) if isinstance(maps, Mapping) else type(maps).__name__}; "
            "expected {method: (training maps, test maps)}, one or more."
        )
    return maps


def _checked_seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ArgumentError(f"seeds: got {seeds!r}; expected integers ≥ 0, e.g. (0, 1, 2).")
    found = tuple(dict.fromkeys(integer("seeds", seed, lowest=0) for seed in seeds))
    if not found:
        raise ArgumentError("seeds: got none; expected integers ≥ 0, e.g. (0, 1, 2).")
    return found


def _check_sets(train: Any, test: Any) -> None:
    for name, dataset in (("train", train), ("test", test)):
        if not isinstance(dataset, Dataset):
            raise ArgumentError(
                f"{name}: got a {type(dataset).__name__}; expected a tfgrad.data.Dataset."
            )
    if (train.image_shape, len(train.classes)) != (test.image_shape, len(test.classes)):
        raise ArgumentError(
            f"test: got images {test.image_shape} of {len(test.classes)} classes; expected "
            f"{train.image_shape} of {len(train.classes)}, as in the training set. Pass two splits "
            "of one data set."
        )


def _colour(fill: Any, train: Dataset) -> np.ndarray | None:
    """The replacement of a pixel in [0, 1], float32 [1 or C]; None for the mean of each image."""
    if isinstance(fill, str):
        one_of("fill", fill, (MEAN, IMAGE_MEAN))
        return data.channel_statistics(train)[0] if fill == MEAN else None
    value, channels = np.atleast_1d(np.asarray(fill)), train.image_shape[-1]
    numbers = value.dtype.kind in "fiu" and bool(np.isfinite(value).all())
    if numbers and (train.positions == 2 or train.images.dtype == np.uint8):
        numbers = bool(((value >= 0) & (value <= 1)).all())
    if not numbers or value.shape not in ((1,), (channels,)):
        raise ArgumentError(
            f"fill: got {fill!r}; expected {MEAN!r}, {IMAGE_MEAN!r}, a number in [0, 1], or one "
            f"for each of the {channels} channels."
        )
    return value.astype(np.float32)
