"""Explain the predictions of a network: maps of images, their scores, and a picture.

    python -m apps.explain --work_dir=runs/cifar --dataset=cifar10 --count=8 --out=runs/explained
    python -m apps.explain --model=my_model.keras --images=photos,extra.jpg --out=runs/explained
    python -m apps.explain --served=saved_models/mine --images=photos --out=runs/explained
    python -m apps.explain --application=VGG16 --weights=vgg16.weights.h5 --images=photos \\
        --layers=auto --out=runs/explained

The model is exactly one of: a finished run of apps.train; a .keras or .h5 file of a classifier,
whose last softmax or sigmoid is left out; a SavedModel written by apps.export, whose methods are
its signatures; or an architecture of keras.applications with a file of weights. The normalisation
of a run and the preprocessing of an application are part of the network, so that pixels are
explained.

Images are JPEG and PNG files and the folders that hold them, or a slice of a data set. They are
resized to the model's input. A file that cannot be read is reported and omitted.

The directory --out appears once everything is done, and is never incomplete. It holds
  explanations.png   images beside their maps, a column for each method; at most --rows images
  maps.npz           the raw maps [n, H, W] of every method; images (0 to 1), names, classes
  explanations.json  scores, classes, errors of the full-gradient decomposition, omitted files
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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tfgrad import figures
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.measurement import table_row
from tfgrad.internal import files

from ..common import output_directory, terminal, work_directory
from . import chosen_model, explanation, input_images, layer_maps
from .explainers import Explainer
from .explanation import Explained

FLAGS = flags.FLAGS
FILES = {"explanations.png", "maps.npz", "explanations.json", "layers.png", "layers.npz"}
TABLE = 20


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
    if explainer.classes is None and len(images.classes) == explainer.outputs:
        explainer = dataclasses.replace(explainer, classes=images.classes)
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
    print(f"{len(explained.rows)} explained, {len(explained.skipped)} left out: {FLAGS.out}")
    return record


def _check_flags() -> None:
    chosen_model.check_flags()
    layer_maps.check_flags()
    if bool(FLAGS.images) == bool(FLAGS.dataset):
        raise ArgumentError("--images, --dataset: got both or none; expected exactly one.")
    if not FLAGS.served and FLAGS.methods == [] and not FLAGS.layers:
        raise ArgumentError("--methods: got none, and no --layers; expected at least one.")


def _images(explainer: Explainer) -> input_images.Images:
    """The images that flags name, in the size that the model takes."""
    size = input_images.image_size(explainer.name, explainer.shape, shared_flags.image_size())
    channels = explainer.shape[-1]
    if FLAGS.images:
        return input_images.from_files(FLAGS.images, size, channels)
    return input_images.from_dataset(
        FLAGS.dataset,
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
    notes = []
    for row in rows:
        lines = [] if row["class"] == row["predicted"] else [f"explained: {row['class_name']}"]
        lines.append(f"logit = {row['score']:.2f}")
        if "file" in row:
            lines.append(os.path.basename(row["file"]))
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


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| image | label | predicted | explained | logit | p | completeness |",
        "|---" * 7 + "|",
    ]
    for row in rows[:TABLE]:
        name = os.path.basename(row["file"]) if "file" in row else row["index"]
        error = row["completeness_error"]
        cells = [str(name), row.get("label_name", ""), row["predicted_name"], row["class_name"]]
        cells += [f"{row['score']:.3f}", f"{row['probability']:.3f}"]
        lines.append(table_row([*cells, "" if error is None else f"{error:.1e}"]))
    if len(rows) > TABLE:
        lines.append(f"and {len(rows) - TABLE} more in explanations.json")
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    command.run(main)
