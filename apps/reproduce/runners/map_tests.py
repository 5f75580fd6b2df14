"""Tests of one saliency method on one trained network, for one cell each."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tfgrad
from tfgrad import data, evaluation, saliency

from ...common.progress import Progress
from ...common.trained_networks import Learned, accuracy, normalised
from ..schema import LOGIT, Explained, Permuted
from . import network_training
from .bench import Bench, Found
from .saliency_maps import (
    coarser,
    compared_maps,
    map_function,
    maps_name,
    maps_of_predicted,
    maps_or_control,
    square,
    trainings_name,
)

CHANGE = "change of the top probability"  # A score of `tfgrad.evaluation.pixel_perturbation`.
_MAPS_BATCH = 125


def perturbation(
    bench: Bench,
    learned: Learned,
    seed: int,
    by: Explained,
    fractions: Sequence[float],
    fill: float,
    score: str = CHANGE,
) -> Found:
    """Change of the output when the least salient pixels are removed.

    The standard errors, `error_FRACTION`, are those of the test's score.
    """
    measured = evaluation.pixel_perturbation(
        learned.network,
        bench.batches(learned),
        maps_of_predicted(learned, by),
        fractions,
        fill=fill,
        score=score,
        seed=seed,
    )
    shown = {"change": CHANGE, "logit": LOGIT, "accuracy": "accuracy", "error": "error"}
    columns = {score: measured.values, "error": measured.deviations, **measured.columns}
    found: dict[str, Any] = {
        f"{key}_{fraction:g}": columns[title][i]
        for key, title in shown.items()
        for i, fraction in enumerate(measured.points)
    }
    return found | {"perturbation": measured.to_json()}, {}


def flip(
    bench: Bench,
    learned: Learned,
    seed: int,
    by: Explained,
    source: int,
    to: int,
    fraction: float,
    fill: float,
) -> Found:
    """Δ log-odds of one class against another, a test of the signs of attributions."""
    measured = evaluation.class_flip(
        learned.network,
        bench.batches(learned),
        maps_or_control(learned, by),
        source,
        to,
        fraction,
        fill=fill,
        seed=seed,
    )
    columns = {name: values[0] for name, values in measured.columns.items()}
    return {
        "flip": measured.value,
        "flip_error": columns["standard error"],
        "turned": columns["turned"],
        "removed": columns["pixels removed"],
        "class_flip": measured.to_json(),
    }, {}


def retraining(
    bench: Bench,
    learned: Learned,
    seed: int,
    by: Explained,
    fractions: Sequence[float],
    blank: bool = False,
) -> Found:
    """The accuracy of networks retrained without the most salient pixels (ROAR).

    With `blank`, images are black and removed pixels white, which shows how much masks alone tell.
    """
    network = bench.experiment.subject
    train, test = (
        bench.load(network.dataset, network.image_size, split)
        for split in (network.train_split, network.test_split)
    )
    normalize, schedule = learned.statistics(train), network.training
    assert schedule is not None

    def build() -> tfgrad.PenalizedModel:
        model = network_training.build(network, train.image_shape, len(train.classes))
        network_training.compile_model(
            model, schedule, len(train), jit_compile=bench.options.jit_compile
        )
        return model

    trainings, maps = trainings_name(by), _saved_maps(bench, learned, by, train, test)
    if blank:
        train, test = (
            dataclasses.replace(images, images=np.zeros_like(images.images))
            for images in (train, test)
        )
    (measured,) = evaluation.remove_and_retrain(
        build,
        train,
        test,
        {trainings: maps},
        os.path.join(bench.work_dir, "retrained"),
        fractions=fractions,
        seeds=(seed,),
        epochs=schedule.epochs,
        batch_size=schedule.batch_size,
        augment=schedule.augment,
        normalize=normalize,
        fill=1.0 if blank else "mean",
        progress=_printed(f"trainings, {trainings}, seed {seed}"),
    ).values()
    found: dict[str, Any] = {
        f"retrained_{fraction:g}": value
        for fraction, value in zip(measured.points, measured.values, strict=True)
    }
    return found | {"retraining": measured.to_json()}, {}


def _saved_maps(
    bench: Bench, learned: Learned, by: Explained, train: data.Dataset, test: data.Dataset
) -> Any:
    """Maps of both splits, kept in WORK_DIR/maps; or the name of the random control."""
    function, name = maps_or_control(learned, by), maps_name(by)
    if isinstance(function, str):
        return function
    maps = []
    for split, images in (("train", train), ("test", test)):
        found = evaluation.saved_maps(
            function,
            images,
            os.path.join(bench.work_dir, "maps", f"{name}-{split}"),
            normalize=learned.statistics(train),
            batch_size=_MAPS_BATCH,
            name=None if isinstance(function, saliency.Method) else by.method,
            progress=_printed(f"maps, {name}, {split}"),
        )
        if by.magnitude:
            found = np.abs(np.asarray(found))
        if square(by) > 1:
            found = coarser(np.asarray(found), square(by)).numpy()
        maps.append(found)
    return tuple(maps)


def labels(bench: Bench, learned: Learned, seed: int, by: Explained) -> Found:
    """Similarity of the maps to those of the reference, which learned permuted labels.

    The seed of the reference's weights, image order and permutation depends on the cell, and is not
    the explained network's, with which both networks would have the same initial weights.
    """
    reference = bench.experiment.reference
    assert isinstance(reference, Permuted)
    seed += reference.seed
    other = bench.network(dataclasses.replace(reference, seed=seed, permutation=seed))

    def method(network: Any) -> Any:
        function = map_function(network, by)
        return compared_maps(function, by) if square(by) > 1 else function

    measured = evaluation.label_randomisation(
        learned.network,
        other.network,
        normalised(bench.examples(), learned.statistics(bench.test)),
        method,
    )
    train = bench.load(reference.dataset, reference.image_size, reference.train_split)
    permuted = evaluation.permuted_labels(train, seed)
    by_heart = accuracy(
        other.network, normalised(permuted, other.statistics(permuted)), permuted.labels
    )
    columns = {name: values[0] for name, values in measured.columns.items()}
    return {
        "alike": measured.value,
        "alike_signed": columns["signed rank correlation"],
        "alike_sizes": columns["rank correlation of sizes"],
        "alike_structure": columns["structural similarity"],
        "alike_apart": columns["rank correlation of other images"],
        "by_heart": by_heart,
        "labels": measured.to_json(),
    }, {}


def maps(
    bench: Bench,
    learned: Learned,
    seed: int,
    by: Explained,
    count: int,
) -> Found:
    """Maps of a few test images, for a picture."""
    images, labels = bench.one_of_each(count)
    found = np.asarray(map_function(learned.network, by)(images))
    if by.magnitude:
        found = np.abs(found)
    return {}, {"images": images, "labels": labels, "maps": found}


def _printed(what: str) -> Callable[[int, int], None]:
    """A function of (done, total) that prints the progress of something long.

    The first call counts what an earlier process has done, which does not affect the time left.
    """
    line: list[Progress] = []

    def report(done: int, total: int) -> None:
        if not line:
            line.append(Progress(total, done, what))
        line[0].done(done)

    return report
