"""Explain the predictions of a network: maps of images, their scores, and a picture.

    python -m apps.explain cat.jpg --model=EfficientNetV2B0
    python -m apps.explain photos extra.jpg --model=my_model.keras --top_maps=2
    python -m apps.explain --model=saved_models/mine --images=photos --out=runs/explained
    python -m apps.explain --model=runs/cifar --dataset=cifar10 --count=8 --layers=auto
    python -m apps.explain --model=digits

The model is a name in keras.applications or of a preset of KerasHub's image classifiers, with its
trained weights, which Keras or KerasHub downloads once; a .keras or .h5 file of a classifier, whose
last softmax or sigmoid is left out; a finished run of apps.train; a SavedModel written by
apps.export, whose methods are its signatures; or `digits`, a small network that is trained first,
in some seconds, and needs no download. The normalisation of a run and the preprocessing of a named
network are part of it, so that pixels are explained.

Images are JPEG and PNG files, the folders that hold them and those below, or with --dataset a slice
of a data set, such as a folder with a sub-folder for each class. They are resized to the model's
input. A file that cannot be read is reported and omitted. Where none are given, a named network
explains two photographs that scikit-learn brings, and `digits` its test images.

The directory --out appears once everything is done, and is never incomplete. It holds
  explanations.png   images beside their maps, a column for each method; at most --rows images,
                     and a row for each of the --top_maps likeliest classes
  maps.npz           the raw maps [n, H, W] of every method; images (0 to 1), names, classes
  explanations.json  scores, classes, errors of the full-gradient decomposition, omitted files,
                     and which maps are 0 everywhere
and with --layers
  layers.png         images, the input's term and the bias-gradients of layers (thesis Fig. 3.1)
  layers.npz         the same as raw maps [rows, H, W]
An earlier result there is replaced; a directory with any other file is not touched.

Exit codes: 0 done, 64 usage, 65 bad data or model, 74 a full disk.
"""

from ..common import command, shared_flags

# isort: split
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tfgrad import figures, saliency
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.measurement import table_row
from tfgrad.internal import files
from tfgrad.models import output_meaning
from tfgrad.saliency import zero_maps

from ..common import output_directory, terminal, work_directory
from . import chosen_model, explanation, input_images, layer_maps
from .explainers import Explainer
from .explanation import Explained

FLAGS = flags.FLAGS
FILES = {"explanations.png", "maps.npz", "explanations.json", "layers.png", "layers.npz"}
TABLE = 20
# The flag that arguments without a flag belong to.
POSITIONAL = "images"


def define_flags() -> None:
    """Define all flags of this command."""
    chosen_model.define_flags()
    layer_maps.define_flags()
    for part in (chosen_model, layer_maps):
        flags.adopt_module_key_flags(part)  # for --help
    flags.DEFINE_list("images", [], "JPEG and PNG files, and folders of them.")
    shared_flags.define_dataset(default=None)
    flags.DEFINE_string("split", "test", "Split or slice of --dataset.")
    flags.DEFINE_integer("first", 0, "Index of the first example of --split.", lower_bound=0)
    flags.DEFINE_integer("count", 8, "Number of examples of --split.", lower_bound=1)
    flags.DEFINE_integer(
        "batch_size", 8, "Images per batch; a smaller one needs less memory.", lower_bound=1
    )
    flags.DEFINE_integer("rows", 8, "Largest number of images in a picture.", lower_bound=1)
    flags.DEFINE_integer(
        "top_maps", 1, "Number of an image's likeliest classes that have maps.", lower_bound=1
    )
    flags.DEFINE_bool("magnitude", False, "Draw signed maps by their absolute values.")
    flags.DEFINE_enum(
        "scale",
        "contrast",
        figures.SCALES,
        "Range of the colours: 0 to the 99th percentile, minimum to 99th percentile, or minimum to "
        "maximum.",
    )
    flags.DEFINE_enum("colours", "inferno", figures.SEQUENTIAL, "Colours of maps without signs.")
    flags.DEFINE_float(
        "overlay", 0.0, "Opacity of maps over the image; 0: maps alone.", 0.0, upper_bound=1.0
    )
    flags.DEFINE_string("title", None, "Title of the pictures.")
    flags.DEFINE_string("out", "runs/explained", "Directory of the result.")


def main() -> dict[str, Any]:
    """Load, explain, draw and report."""
    _check_flags()
    explainer = chosen_model.explainer()
    images = _images(explainer)
    _check_top(explainer)
    if explainer.classes is None and len(images.classes) == explainer.outputs:
        explainer = dataclasses.replace(explainer, classes=images.classes)
    if explainer.classes is None and explainer.meaning == output_meaning.EXCLUSIVE:
        print("classes are shown by their numbers; --class_names=FILE names them", flush=True)
    height, width = images.size
    calls = layer_maps.calls(explainer, images.size) if FLAGS.layers else []
    with output_directory.written_aside(FLAGS.out, FILES) as directory:
        print(
            f"{explainer.name}: up to {images.count} images ({height}×{width}) by "
            f"{', '.join(explainer.methods) or 'no method'}",
            flush=True,
        )
        with output_directory.GrowingArrays(directory) as arrays:
            explained = explanation.explain(explainer, images, arrays)
        methods = {name.replace("_", " "): m for name, m in explained.maps.items()}
        _draw(os.path.join(directory, "explanations.png"), explained, methods)
        if FLAGS.layers:
            target = [row["class"] for row in explained.shown]
            layers: dict[str, Any] = layer_maps.maps(explainer, calls, explained.x, target)
            np.savez(os.path.join(directory, "layers.npz"), **layers)
            _draw(os.path.join(directory, "layers.png"), explained, layers)
        record = {
            "model": explainer.name,
            "flags": shared_flags.resolved(),
            "versions": work_directory.versions(),
            "methods": explainer.methods,
            "image_size": [height, width],
            "image_range": list(explainer.image_range),
            "images": explained.rows,
            "skipped": explained.skipped,
        }
        files.write_json(os.path.join(directory, "explanations.json"), record)
    terminal.show(_table(explained.rows))
    for line in _notes(explained.rows, explainer.methods):
        print(line)
    shown = os.path.join(FLAGS.out, "explanations.png")
    print(f"{explained.images} images explained, {len(explained.skipped)} left out: {shown}")
    return record


def _check_flags() -> None:
    chosen_model.check_flags()
    kind = chosen_model.kind()
    layer_maps.check_flags(kind == chosen_model.SERVED)
    if FLAGS.images and FLAGS.dataset:
        raise ArgumentError("--images, --dataset: got both; expected one of them.")
    own = kind in (chosen_model.NAME, chosen_model.DIGITS)  # these have images of their own
    if not (FLAGS.images or FLAGS.dataset or own):
        raise ArgumentError("--images, --dataset: got none; expected one of them.")
    if kind != chosen_model.SERVED and FLAGS.methods == [] and not FLAGS.layers:
        raise ArgumentError("--methods: got none, and no --layers; expected at least one.")


def _check_top(explainer: Explainer) -> None:
    """Check that --top_maps fits the model."""
    if FLAGS.top_maps == 1:
        return
    if FLAGS.target is not None:
        raise ArgumentError("--top_maps: got with --target; expected only one of them.")
    most = explainer.outputs or FLAGS.top_maps
    if explainer.meaning == output_meaning.REGRESSION or most < FLAGS.top_maps:
        raise ArgumentError(
            f"--top_maps: got {FLAGS.top_maps} for {explainer.name}; expected at most the number "
            "of its classes; try without the flag."
        )


def _images(explainer: Explainer) -> input_images.Images:
    """The images that flags name, in the size that the model takes."""
    size = input_images.image_size(explainer.name, explainer.shape, shared_flags.image_size())
    channels = explainer.shape[-1]
    if FLAGS.images:
        return input_images.from_files(FLAGS.images, size, channels)
    if not FLAGS.dataset and chosen_model.kind() == chosen_model.NAME:
        return input_images.from_files(input_images.photographs(), size, channels)
    if FLAGS.dataset and shared_flags.is_folder():
        return input_images.from_folder(
            FLAGS.dataset, FLAGS.split, FLAGS.first, FLAGS.count, size, channels
        )
    return input_images.from_dataset(
        FLAGS.dataset or "digits",
        FLAGS.split,
        FLAGS.first,
        FLAGS.count,
        channels,
        data_dir=FLAGS.data_dir,
        download=FLAGS.download,
        image_size=size,
    )


def _draw(path: str, explained: Explained, maps: Mapping[str, np.ndarray]) -> None:
    rows = explained.shown
    labelled = "label" in rows[0]
    notes, names = [], _names(rows)
    for row in rows:
        lines = [] if row["class"] == row["predicted"] else [f"explained: {row['class_name']}"]
        lines.append(f"logit = {row['score']:.2f}")
        if "file" in row:
            lines.append(names[row["file"]])
        notes.append("\n".join(lines))
    figures.saliency_grid(
        path,
        explained.pixels,
        maps,
        labels=[row["label_name"] for row in rows] if labelled else None,
        predictions=[row["predicted_name"] for row in rows],
        notes=notes,
        magnitude=FLAGS.magnitude,
        scale=FLAGS.scale,
        sequential=FLAGS.colours,
        overlay=FLAGS.overlay,
        title=FLAGS.title,
    )


def _names(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """{file: its name in a table or picture}."""
    return input_images.short_names([row["file"] for row in rows if "file" in row])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is known of each image; a column that would be empty is left out."""
    names = _names(rows)
    columns: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
        "image": lambda row: names[row["file"]] if "file" in row else str(row["index"]),
        "label": lambda row: row.get("label_name"),
        "predicted": lambda row: row["predicted_name"],
        "explained": lambda row: row["class_name"],
        "logit": lambda row: f"{row['score']:.3f}",
        "p": lambda row: _number(row["probability"], ".3f"),  # None of a regression
        "completeness": lambda row: _number(row["completeness_error"], ".1e"),
    }
    shown = {
        head: [cell(row) for row in rows[:TABLE]]
        for head, cell in columns.items()
        if cell(rows[0]) is not None
    }
    lines = [table_row([*shown]), "|---" * len(shown) + "|"]
    lines += [table_row([str(c) for c in cells]) for cells in zip(*shown.values(), strict=True)]
    if len(rows) > TABLE:
        lines.append(f"and {len(rows) - TABLE} more in explanations.json")
    return "\n".join(lines)


def _notes(rows: Sequence[Mapping[str, Any]], methods: Iterable[str]) -> list[str]:
    """What the table does not show, and why."""
    names, found = _names(rows), []
    if methods and rows[0]["completeness_error"] is None:
        found.append(
            "no completeness: none of these methods is the whole decomposition of the logit, as "
            "fullgrad is"
        )
    for method in methods:
        zero = [
            names[row["file"]] if "file" in row else f"example {row['index']}"
            for row in rows
            if method in row["zero_maps"]
        ]
        reason = saliency.METHODS.get(method, saliency.Method).zero_map
        found.append(zero_maps.sentence(method, list(dict.fromkeys(zero)), reason))
    return [line for line in found if line]


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


if __name__ == "__main__":
    define_flags()
    command.run(main, POSITIONAL)
