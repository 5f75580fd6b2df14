"""Puts one saliency method on one trained network to a test: what Chapter 3's cells run."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad import evaluation, saliency

from ...common.progress import Progress
from ...common.trained_networks import Learned, accuracy, normalised
from ..papers.faithfulness import BRIGHTNESS, CENTRE, LOGIT, Coarsened, Explained
from ..schema import Permuted, Subject
from . import networks
from .trained_networks import compile_model

if TYPE_CHECKING:
    from .examinations import Bench, Found

CHANGE = "change of the top probability"
_MAPS_BATCH = 125


def perturbation(
    bench: "Bench",
    learned: Learned,
    seed: int,
    by: Explained,
    fractions,
    fill: float,
    score: str = CHANGE,
) -> "Found":
    """What is left of the output without the least salient pixels."""
    measured = evaluation.pixel_perturbation(
        learned.network,
        bench.batches(learned),
        _of_predicted(learned, by),
        fractions,
        fill=fill,
        score=score,
        seed=seed,
    )
    shown = {"change": CHANGE, "logit": LOGIT, "accuracy": "accuracy"}
    columns = {score: measured.values, **measured.columns}
    found: dict[str, Any] = {
        f"{key}_{fraction:g}": columns[title][i]
        for key, title in shown.items()
        for i, fraction in enumerate(measured.points)
    }
    return found | {"perturbation": measured.to_json()}, {}


def flip(
    bench: "Bench",
    learned: Learned,
    seed: int,
    by: Explained,
    source: int,
    to: int,
    fraction: float,
    fill: float,
) -> "Found":
    """Δ log-odds of one class against another; signs are what it tests."""
    measured = evaluation.class_flip(
        learned.network,
        bench.batches(learned),
        _maps(learned, by),
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
    bench: "Bench",
    learned: Learned,
    seed: int,
    by: Explained,
    fractions,
    blank: bool = False,
) -> "Found":
    """The accuracy of networks retrained without the most salient pixels (ROAR).

    Of `blank` images, black but for the removed pixels, which are white: what masks alone tell.
    """
    network: Subject = bench.experiment.subject
    train, test = (
        bench.load(network.dataset, network.image_size, split)
        for split in (network.train_split, network.test_split)
    )
    normalize, schedule = learned.statistics(train), network.training
    assert schedule is not None

    def build() -> tfgrad.PenalizedModel:
        model = networks.build(network, train.image_shape, len(train.classes))
        compile_model(model, schedule, len(train), jit_compile=bench.options.jit_compile)
        return model

    name, function = _slug(by), _maps(learned, by)
    square, trainings = _square(by), _trainings(by)
    maps: Any = function
    if not isinstance(function, str):
        maps = tuple(
            evaluation.saved_maps(
                function,
                images,
                os.path.join(bench.work_dir, "maps", f"{name}-{split}"),
                normalize=normalize,
                batch_size=_MAPS_BATCH,
                name=None if isinstance(function, saliency.Method) else by.method,
                progress=_said(f"maps, {name}, {split}"),
            )
            for split, images in (("train", train), ("test", test))
        )
        if by.magnitude:
            maps = tuple(np.abs(np.asarray(part)) for part in maps)
        if square > 1:
            maps = tuple(_coarser(np.asarray(part), square).numpy() for part in maps)
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
        progress=_said(f"trainings, {trainings}, seed {seed}"),
    ).values()
    found: dict[str, Any] = {
        f"retrained_{fraction:g}": value
        for fraction, value in zip(measured.points, measured.values, strict=True)
    }
    return found | {"retraining": measured.to_json()}, {}


def labels(bench: "Bench", learned: Learned, seed: int, by: Explained) -> "Found":
    """How alike maps are to those of the reference, which learned permuted labels.

    Its weights, the order of its images and its permutation are of the cell's seed, and none of the
    explained network's seed, from whose first weights it would otherwise begin.
    """
    reference = bench.experiment.reference
    assert isinstance(reference, Permuted)
    seed += reference.seed
    other = bench.network(dataclasses.replace(reference, seed=seed, permutation=seed))

    def method(network: Any) -> Any:
        function = _function(network, by)
        return _judged(function, by) if _square(by) > 1 else function

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
    bench: "Bench",
    learned: Learned,
    seed: int,
    by: Explained,
    count: int,
) -> "Found":
    """Maps of a few test images, to be looked at."""
    images, labels = bench.one_of_each(count)
    found = np.asarray(_function(learned.network, by)(images))
    if by.magnitude:
        found = np.abs(found)
    return {}, {"images": images, "labels": labels, "maps": found}


def _maps(learned: Learned, by: Explained) -> Any:
    """A function of (images, class), or the word for the control where that is left as it is."""
    if by.method == saliency.Random.name and _square(by) == 1:
        return by.method
    return _function(learned.network, by)


def _function(network: Any, by: Explained) -> Any:
    """A function of (images, class) around a network."""
    if by.method == BRIGHTNESS:
        return lambda x, y=None: tf.reduce_mean(x, -1)
    if by.method == CENTRE:
        return _nearness
    return saliency.get(by.method)(network, **by.options)


def _nearness(x: Any, y: Any = None) -> Any:
    """1 in the middle of every image, 0 in its corners: [b, H, W, C] → [b, H, W]."""
    down, across = (tf.linspace(-1.0, 1.0, size) ** 2 for size in x.shape[1:3])
    one = 1 - (down[:, tf.newaxis] + across) / 2
    return tf.tile(one[tf.newaxis], [tf.shape(x)[0], 1, 1])


def _of_predicted(learned: Learned, by: Explained) -> Any:
    """Maps of the predicted class, whatever the label."""
    function = _maps(learned, by)
    if isinstance(function, str):
        return function
    judged = _judged(function, by)
    return lambda x, y: judged(x)


def _judged(function: Any, by: Explained) -> Any:
    """Maps as tests of pixels take them: their sizes, averaged over a row's squares."""
    square = _square(by)

    def maps(x: Any, y: Any = None) -> Any:
        found = tf.abs(function(x, y)) if by.magnitude else function(x, y)
        return _coarser(found, square) if square > 1 else found

    return maps


def _coarser(maps: Any, side: int) -> Any:
    """Maps [batch, H, W] averaged over squares, and interpolated between their centres."""
    pooled = tf.nn.avg_pool2d(maps[..., tf.newaxis], side, side, "SAME")
    return tf.image.resize(pooled, maps.shape[1:])[..., 0]


def _said(what: str) -> Any:
    """Prints how far something long is; what an earlier process has done takes no time."""
    line: list[Progress] = []

    def say(done: int, total: int) -> None:
        if not line:
            line.append(Progress(total, done, what))
        line[0].done(done)

    return say


def _square(by: Explained) -> int:
    return by.square if isinstance(by, Coarsened) else 1


def _slug(by: Explained) -> str:
    return "-".join([by.method, *(f"{name}_{value}" for name, value in by.options.items())])


def _trainings(by: Explained) -> str:
    """The name of a row's trainings; rows that coarsen the same maps share these, not those."""
    return _slug(by) + (f"-squares_{_square(by)}" if _square(by) > 1 else "")
