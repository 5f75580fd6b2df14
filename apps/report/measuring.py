"""The sections of a report: what is measured of a network, and how."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tfgrad
from tfgrad import data, evaluation, figures, saliency
from tfgrad.errors import TfgradError
from tfgrad.evaluation import Measurement
from tfgrad.evaluation.measurement import standard_error
from tfgrad.figures.result_pages import HtmlTable
from tfgrad.gradients import class_scores
from tfgrad.internal.keras_private import flatten_layers
from tfgrad.models import output_meaning

from ..common import robustness, tested_networks, work_directory
from ..common.tested_networks import TestedNetwork
from ..common.training_record import TrainingRecord
from .sections import Block, Picture, Section, facts, from_markdown

FLAGS = flags.FLAGS

TESTS = ("pixels", "pixels_most", "randomisation")
_SCORE = "change of the top probability"
_CLASSES = 20  # up to which each has a line


class Measured:
    """A network, the images, and the predictions that several sections read.

    Args:
        tested: The network.
        images: The images to test on.
        record: What is recorded of its training.
    """

    def __init__(self, tested: TestedNetwork, images: data.Dataset, record: TrainingRecord) -> None:
        self.tested, self.images, self.record = tested, images, record
        self.few = tested_networks.first(images, FLAGS.images)
        logits = tested.network.predict(
            data.pipeline(images, FLAGS.batch_size, training=False, normalize=tested.statistics),
            verbose=0,
        )
        meaning = output_meaning.meaning(tested.network, count=logits.shape[-1])
        self.predicted = class_scores.predicted(tf.constant(logits), meaning).numpy()
        self.probabilities = class_scores.probabilities(tf.constant(logits), meaning).numpy()
        self.right = self.predicted == images.labels

    def all_images(self) -> str:
        """All images, in words."""
        return f"{len(self.images):,} images of {self.images.name!r}, split {self.images.split}"

    def some_images(self) -> str:
        """The first images, in words."""
        return f"the first {len(self.few)} images of {self.images.name!r}"

    def inputs(self, chosen: np.ndarray) -> np.ndarray:
        """Some images, as the network takes them."""
        picked = self.images.images[chosen], self.images.labels[chosen]
        some = tested_networks.with_examples(self.images, *picked)
        stream = data.pipeline(some, len(chosen), training=False, normalize=self.tested.statistics)
        return next(iter(stream))[0].numpy()


def sections(measured: Measured) -> Iterator[Section]:
    """All sections, each as soon as it is measured."""
    kinds: Sequence[tuple[str, Callable[[Measured], Section]]] = (
        ("network", _network),
        ("accuracy", _accuracy),
        ("noise", _noise),
        ("adversarial", _adversarial),
        ("decomposition", _decomposition),
        ("maps", _maps),
        ("faithfulness", _faithfulness),
        ("density", _density),
    )
    for i, (name, make) in enumerate(kinds):
        print(f"{i + 1} of {len(kinds)}: {name}", flush=True)
        yield make(measured)


def _network(measured: Measured) -> Section:
    network, record = measured.tested.network, measured.record
    leaves = [
        layer
        for layer in flatten_layers(network)
        if not isinstance(layer, keras.Model | keras.layers.InputLayer)
    ]
    kinds = collections.Counter(type(layer).__name__ for layer in leaves)
    trainable = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    known = {
        "name": network.name,
        "from": FLAGS.model,
        "input": " × ".join(map(str, network.input_shape[1:])),
        "classes": f"{len(measured.images.classes)}: {_shortened(measured.images.classes)}",
        "layers": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        "parameters": f"{network.count_params():,}, of which {trainable:,} are trained",
        "images": "normalised by channel" if measured.tested.statistics else "pixels in 0 to 1",
    }
    if measured.tested.learned.told:
        known["images"] = "pixels in 0 to 1, which its first layers scale"
    if record.penalties is None:
        told = ["none recorded"]
    else:
        told = [repr(penalty) for penalty in record.penalties] or ["none"]
    trained = {**record.settings, "penalties": "; ".join(told)}
    if record.accuracy is not None:
        trained["test accuracy at the end"] = f"{record.accuracy:.2%}"
    versions = work_directory.versions()
    numbers = {
        "name": network.name,
        "model": FLAGS.model,
        "layers": dict(kinds),
        "parameters": network.count_params(),
        "trainable_parameters": trainable,
        "input_shape": list(network.input_shape[1:]),
        "classes": list(measured.images.classes),
        "training": dict(record.settings),
        "penalties": None if record.penalties is None else told if record.penalties else [],
        "accuracy_at_the_end": record.accuracy,
        "versions": versions,
    }
    return Section(
        "network",
        "The network",
        "Read from the model and from the record of its training, where there is one.",
        [
            facts(known),
            "Training:",
            facts(trained),
            f"Versions at this report: {_listed(versions)}.",
        ],
        numbers,
    )


def _accuracy(measured: Measured) -> Section:
    images, right = measured.images, measured.right
    value, error = float(right.mean()), float(standard_error(right.astype(float)))
    mistakes = collections.Counter(
        (int(y), int(p)) for y, p in zip(images.labels, measured.predicted, strict=True) if y != p
    )
    counts = np.bincount(images.labels, minlength=len(images.classes))
    each = {
        name: float(right[images.labels == k].mean())
        for k, name in enumerate(images.classes)
        if counts[k]
    }
    blocks: list[Block] = [
        f"{value:.2%} ± {error:.2%} (standard error) of the images are classified rightly: "
        f"{int(right.sum()):,} of {len(right):,}."
    ]
    lowest_first = sorted(np.flatnonzero(counts), key=lambda k: each[images.classes[k]])
    rows = [
        [images.classes[k], str(counts[k]), f"{each[images.classes[k]]:.2%}"] for k in lowest_first
    ]
    notes = []
    if len(rows) > _CLASSES:
        notes = [f"The {_CLASSES} classes with the lowest accuracy of {len(rows)}."]
    blocks.append(HtmlTable(["class", "images", "accuracy"], rows[:_CLASSES], notes))
    if mistakes:
        common = [
            f"{images.classes[y]} as {images.classes[p]} ({count})"
            for (y, p), count in mistakes.most_common(5)
        ]
        blocks.append(f"Most frequent mistakes: {', '.join(common)}.")
    return Section(
        "accuracy",
        "Test accuracy",
        f"One prediction for each of {measured.all_images()}, in inference mode.",
        blocks,
        {"accuracy": value, "standard_error": error, "images": len(right), "classes": each},
    )


def _noise(measured: Measured) -> Section:
    found = robustness.under_noise(measured.tested, measured.images)
    units = "pixels in 0 to 1" if measured.tested.statistics is None else "normalised images"
    return Section(
        "noise",
        "Accuracy under noise",
        f"Gaussian noise of standard deviation σ, in the units of {units} and without clipping, is "
        f"added to each of {measured.all_images()}; mean ± standard deviation over {found.over}.",
        [_table({"accuracy (%)": found}), _curves({"accuracy": found}, "Accuracy under noise")],
        {"measurement": found.to_json()},
    )


def _adversarial(measured: Measured) -> Section:
    found = robustness.under_attack(measured.tested, measured.images)
    still = next(iter(found.values())).columns["without gradient"][0]
    blocks: list[Block] = [
        _table(found),
        _curves(found, "Accuracy under adversarial perturbations"),
        "An upper bound of the accuracy in the worst case: stronger attacks may find more.",
    ]
    if still:
        blocks.append(
            f"{still:.2%} of the images have no gradient in float32, so that these attacks, which "
            "follow it, change nothing there."
        )
    attacks = "; ".join(found)
    return Section(
        "adversarial",
        "Accuracy under attack",
        f"Perturbations of at most ε in every pixel, clipped to pixels in 0 to 1, that raise the "
        f"cross-entropy of each of {measured.all_images()} ({attacks}); an image counts as right "
        f"if it is right before and after; ± standard error over images, seed {FLAGS.seed}.",
        blocks,
        {"attacks": {name: one.to_json() for name, one in found.items()}},
    )


def _decomposition(measured: Measured) -> Section:
    title = "Completeness of the decomposition"
    how = (
        "The logit of the predicted class is decomposed into input- and bias-gradients for "
        f"{measured.some_images()}; the error is abs(logit − sum of the terms) / abs(logit)."
    )
    network = measured.tested.network
    try:
        errors = np.concatenate(
            [
                tfgrad.full_gradients(network, x).completeness_error().numpy()
                for x, _ in measured.tested.batches(measured.few)
            ]
        )
    except TfgradError as error:
        return _unmeasured("decomposition", title, how, error)
    largest, median = float(errors.max()), float(np.median(errors))
    return Section(
        "decomposition",
        title,
        how,
        [f"Largest error {largest:.1e}, median {median:.1e}: the rounding of float32 is 1.2e-07."],
        {"largest": largest, "median": median, "images": len(errors)},
    )


def _maps(measured: Measured) -> Section:
    how = (
        f"Maps of the predicted class by {', '.join(FLAGS.methods)}, each scaled by itself; right "
        "predictions are the first ones, wrong predictions those with the highest probability, "
        f"among {measured.all_images()}."
    )
    certain = measured.probabilities.max(-1)
    right = np.flatnonzero(measured.right)[: FLAGS.shown]
    wrong = np.flatnonzero(~measured.right)
    wrong = wrong[np.argsort(-certain[wrong], kind="stable")][: FLAGS.shown]
    blocks: list[Block] = []
    shown: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for what, chosen in (("Right predictions", right), ("Wrong predictions", wrong)):
        key = what.split()[0].lower()
        shown[key] = [_example(measured, int(i)) for i in chosen]
        if not len(chosen):
            blocks.append(f"{what}: none among these images.")
            continue
        maps = _maps_of(measured, chosen, missing)
        if maps:
            blocks.append(Picture(_grid(measured, chosen, maps, what), what))
    blocks += [f"No maps by {name}: {reason}" for name, reason in missing.items()]
    return Section("maps", "Saliency maps", how, blocks, {**shown, "failed": missing})


def _maps_of(
    measured: Measured, chosen: np.ndarray, missing: dict[str, str]
) -> dict[str, np.ndarray]:
    """{method: maps [n, H, W]} of the predicted classes; reasons are added to `missing`."""
    found = {}
    x, classes = measured.inputs(chosen), measured.predicted[chosen]
    for name in FLAGS.methods:
        try:
            maps = saliency.get(name)(measured.tested.network)(x, classes)
            found[name] = np.asarray(maps)
        except TfgradError as error:
            missing[name] = str(error)
    return found


def _grid(
    measured: Measured, chosen: np.ndarray, maps: Mapping[str, np.ndarray], title: str
) -> Any:
    images = measured.images
    return figures.saliency_grid(
        None,
        images.images[chosen],
        maps,
        labels=[images.classes[i] for i in images.labels[chosen]],
        predictions=[images.classes[i] for i in measured.predicted[chosen]],
        probabilities=measured.probabilities.max(-1)[chosen],
        title=title,
    )


def _example(measured: Measured, i: int) -> dict[str, Any]:
    classes = measured.images.classes
    return {
        "image": i,
        "label": classes[measured.images.labels[i]],
        "predicted": classes[measured.predicted[i]],
        "probability": float(measured.probabilities[i].max()),
    }


def _faithfulness(measured: Measured) -> Section:
    title = "Faithfulness of the maps"
    how = (
        f"Tests of maps of the predicted classes on {measured.some_images()}, with random maps as "
        f"the control, seed {FLAGS.seed}: the change of the top probability without the least and "
        "without the most salient pixels, and the rank correlation of maps after layers are "
        "re-initialised."
    )
    score = {"score": _SCORE}
    try:
        found = evaluation.compare(
            measured.tested.network,
            measured.tested.batches(measured.few),
            FLAGS.methods,
            TESTS,
            images=len(measured.few),
            options={"pixels": score, "pixels_most": score},
            seed=FLAGS.seed,
            on_progress=lambda done, total, what: print(
                f"  {done + 1} of {total}: {what}", flush=True
            ),
        )
    except TfgradError as error:
        return _unmeasured("faithfulness", title, how, error)
    blocks: list[Block] = [from_markdown(found.markdown())]
    if found.panels():
        label = "Scores of the methods, and of random maps"
        blocks.append(Picture(found.plot(), label))
    return Section("faithfulness", title, how, blocks, {"comparison": found.to_dict()})


def _density(measured: Measured) -> Section:
    title, record = "Density ratios", measured.record
    if not record.matches_scores:
        why = "nothing tells how it was trained"
        if record.penalties is not None:
            why = "it was trained without score matching"
        return Section(
            "density",
            title,
            "Not measured.",
            [
                "Input-gradients of a logit are the score of a density only if the network was "
                f"trained by score matching; {why}, so that a ratio would mean nothing. "
                "tfgrad.evaluation.density_ratios computes it for any network."
            ],
            {"measured": False},
        )
    found = evaluation.density_ratios(
        measured.tested.network, measured.tested.batches(measured.images), seed=FLAGS.seed
    )
    return Section(
        "density",
        title,
        f"E p(x + η | y) / p(x | y), η ~ N(0, σ²I), under the density that the label's logit "
        f"implies, for each of {measured.all_images()}: below 1, images are likelier than noise; "
        f"± over {found.over}.",
        [_table({"ratio": found}), _curves({"ratio": found}, "Density ratios", log=True)],
        {"measured": True, "measurement": found.to_json()},
    )


def _unmeasured(key: str, title: str, how: str, error: TfgradError) -> Section:
    return Section(key, title, how, [f"Not measured: {error}"], {"failed": str(error)})


def _table(rows: Mapping[str, Measurement]) -> HtmlTable:
    return from_markdown(Measurement.markdown(rows))


def _curves(rows: Mapping[str, Measurement], label: str, log: bool = False) -> Picture:
    one = next(iter(rows.values()))
    log = log and min(one.points) > 0
    curves = {name: row.curve() for name, row in rows.items()}
    figure = figures.curves(None, curves, x_label=one.along, y_label=one.score, log_x=log)
    return Picture(figure, label)


def _listed(versions: Mapping[str, Any]) -> str:
    """The versions, and the devices, in a line."""
    parts = [f"{name} {one}" for name, one in versions.items() if name != "devices"]
    return ", ".join([*parts, f"on {' and '.join(sorted(set(versions['devices'])))}"])


def _shortened(names: Sequence[str], most: int = 12) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
