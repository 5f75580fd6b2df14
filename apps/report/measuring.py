"""The sections of a report: what is measured of a network, and how."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import flags

from tfgrad import evaluation, figures
from tfgrad.errors import NonFiniteError, TfgradError
from tfgrad.evaluation import Measurement
from tfgrad.evaluation.measurement import standard_error
from tfgrad.figures.result_pages import HtmlTable
from tfgrad.internal.keras_private import flatten_layers

from ..common import robustness, work_directory
from . import map_sections
from .measured import Measured
from .sections import Block, Picture, Section, facts, from_markdown, turned

FLAGS = flags.FLAGS

_CLASSES = 20  # up to which each has a line
_COLUMNS = 9  # of a table that fits a page


def sections(measured: Measured) -> Iterator[Section]:
    """All sections, each as soon as it is measured.

    A network that some of them cannot be measured of gets the reason in their place.
    """
    for i, (key, make) in enumerate(_MAKERS.items()):
        print(f"{i + 1} of {len(_MAKERS)}: {key}", flush=True)
        try:
            yield make(measured)
        except NonFiniteError:
            raise
        except TfgradError as error:
            if key in _ALWAYS:
                raise
            title = key.capitalize()
            yield Section(key, title, "Not measured.", [str(error)], {"failed": str(error)})


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


def _table(rows: Mapping[str, Measurement]) -> HtmlTable:
    table = from_markdown(Measurement.markdown(rows))
    return turned(table) if len(table.headings) > _COLUMNS else table


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


_MAKERS: Mapping[str, Callable[[Measured], Section]] = {
    "network": _network,
    "accuracy": _accuracy,
    "noise": _noise,
    "adversarial": _adversarial,
    "decomposition": map_sections.decomposition,
    "maps": map_sections.maps,
    "faithfulness": map_sections.faithfulness,
    "density": _density,
}
_ALWAYS = ("network", "accuracy", "noise")
