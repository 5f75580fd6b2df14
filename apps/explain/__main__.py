"""Explain what a network sees: images and saliency methods in; a picture, raw maps, scores out.

    python -m apps.explain --work_dir=runs/cifar --dataset=cifar10 --count=8 --out=runs/explained
    python -m apps.explain --model=my_model.keras --images=photos,extra.jpg --out=runs/explained
    python -m apps.explain --served=saved_models/mine --images=photos --out=runs/explained
    python -m apps.explain --application=VGG16 --weights=vgg16.weights.h5 --images=photos \\
        --layers=auto --out=runs/explained

The model is exactly one of: a finished run of apps.train; a .keras file of a network that returns
logits; a SavedModel written by apps.export, whose methods are its signatures; or an architecture of
keras.applications with a file of weights. Normalisation of a run and the preprocessing of an
application stand in front of the network, so that what is explained is the pixels.

Images are JPEG and PNG files and the folders that hold them, or a slice of a data set. They are
resized to the model's input. A file that cannot be read is reported and left out.

The directory --out appears when everything is done, and never half. It holds
  explanations.png   images beside their maps, a column a method; at most --rows images
  maps.npz           the raw maps [n, H, W] of every method; images (0 to 1), names, classes
  explanations.json  scores, classes, errors of the full-gradient decomposition, files left out
and with --layers
  layers.png         images, the input's term and the bias-gradients of layers (thesis Fig. 3.1)
  layers.npz         the same as raw maps [rows, H, W]
An earlier result there is replaced; a directory with anything else in it is not touched.

Exit codes: 0 done, 64 usage, 65 bad data or model.
"""

from ..common import command, shared_flags

# isort: split
import dataclasses
import difflib
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad import PenalizedModel, figures, loading, saliency
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.internal import files
from tfgrad.saliency import FullGrad, LayerMap

from ..common import output_directory, trained_networks, work_directory
from ..common.progress import Progress
from . import explainers, input_images

FLAGS = flags.FLAGS
MODELS = ("work_dir", "model", "served", "application")
# The columns of the thesis's Fig. 3.3.
METHODS = ["input_gradient", "integrated_gradients", "smoothgrad", "gradcam", "fullgrad"]
FILES = {"explanations.png", "maps.npz", "explanations.json", "layers.png", "layers.npz"}
LAYERS = 6
TABLE = 20


def define_flags():
    """All flags of this app."""
    flags.DEFINE_string("work_dir", None, "Model: work directory of a finished apps.train run.")
    flags.DEFINE_string("model", None, "Or: a .keras file of a network that returns logits.")
    flags.DEFINE_string("served", None, "Or: a SavedModel of apps.export.")
    flags.DEFINE_string("application", None, "Or: an architecture of keras.applications.")
    flags.DEFINE_string("weights", None, "Of --application: .weights.h5, .h5 or .keras file.")
    flags.DEFINE_bool("random_weights", False, "Of --application: random ones, for trials.")
    flags.DEFINE_list("image_range", None, "LOW,HIGH: what black and white are to --model: 0,1.")
    flags.DEFINE_string("class_names", None, "Text file of the classes' names, one a line.")
    flags.DEFINE_list("images", [], "JPEG and PNG files, and folders of them.")
    shared_flags.define_dataset(default=None)
    flags.DEFINE_string("split", "test", "Split or slice of --dataset.")
    flags.DEFINE_integer("first", 0, "Index of the first example of --split.", lower_bound=0)
    flags.DEFINE_integer("count", 8, "How many examples of --split.", lower_bound=1)
    flags.DEFINE_list(
        "methods",
        None,
        f"Of {', '.join(saliency.METHODS)}; default: {','.join(METHODS)}, or all that is served.",
    )
    flags.DEFINE_integer("target", None, "Class to explain; default: the predicted one.")
    flags.DEFINE_list(
        "layers", [], f"Draw layers too: their calls' names, or 'auto' for {LAYERS} over the depth."
    )
    flags.DEFINE_integer("batch_size", 8, "Images at a time: bounds memory.", lower_bound=1)
    flags.DEFINE_integer("rows", 8, "At most so many images in a picture.", lower_bound=1)
    flags.DEFINE_bool("magnitude", False, "Draw signed maps by their absolute values.")
    flags.DEFINE_enum(
        "scale", "contrast", figures.SCALES, "Maps: 0 to 99 %, minimum to 99 %, or to maximum."
    )
    flags.DEFINE_enum("colours", "inferno", figures.SEQUENTIAL, "Of maps without signs.")
    flags.DEFINE_float(
        "overlay", 0.0, "Opacity of maps over the image; 0: maps alone.", 0.0, upper_bound=1.0
    )
    flags.DEFINE_string("title", None, "Above the pictures.")
    flags.DEFINE_string("out", "runs/explained", "Directory for the result.")


def main():
    """Load, explain, draw, report."""
    _check_flags()
    explainer = _explainer()
    images = _images(explainer)
    if explainer.classes is None and len(images.classes) == explainer.outputs:
        explainer = dataclasses.replace(explainer, classes=images.classes)
    height, width = images.size
    calls = _calls(explainer, images.size) if FLAGS.layers else []
    with output_directory.written_aside(FLAGS.out, FILES) as directory:
        print(
            f"{explainer.name}: up to {images.count} images ({height}×{width}) by "
            f"{', '.join(explainer.methods) or 'no method'}",
            flush=True,
        )
        with output_directory.GrowingArrays(directory) as store:
            shown, record = _explain(explainer, images, store)
        methods = {name.replace("_", " "): m for name, m in shown["maps"].items()}
        _draw(os.path.join(directory, "explanations.png"), shown, methods)
        if FLAGS.layers:
            layers = _layers(explainer, calls, shown)
            np.savez(os.path.join(directory, "layers.npz"), **layers)
            _draw(os.path.join(directory, "layers.png"), shown, layers)
        record = {
            "model": explainer.name,
            "flags": shared_flags.resolved(),
            "versions": work_directory.versions(),
            "methods": explainer.methods,
            "image_size": [height, width],
            "image_range": list(explainer.image_range),
            **record,
        }
        files.write_json(os.path.join(directory, "explanations.json"), record)
    print(_table(record["images"]))
    print(f"{len(record['images'])} explained, {len(record['skipped'])} left out: {FLAGS.out}")
    return record


# The model


def _check_flags():
    given = [name for name in MODELS if getattr(FLAGS, name)]
    if len(given) != 1:
        raise ArgumentError(
            f"{', '.join(f'--{name}' for name in MODELS)}: got "
            f"{' and '.join(f'--{name}' for name in given) or 'none'}; give exactly one of them."
        )
    if bool(FLAGS.images) == bool(FLAGS.dataset):
        raise ArgumentError("--images, --dataset: give exactly one of the two.")
    if FLAGS.application and bool(FLAGS.weights) == FLAGS.random_weights:
        raise ArgumentError(
            "--weights: give the file of weights of --application, or --random_weights to try "
            "without."
        )
    if not FLAGS.application and (FLAGS.weights or FLAGS.random_weights):
        raise ArgumentError("--weights, --random_weights: these belong to --application.")
    if FLAGS.image_range and not FLAGS.model:
        raise ArgumentError(
            f"--image_range: --{given[0]} knows its own; this one belongs to --model."
        )
    if FLAGS.served and FLAGS.layers:
        raise ArgumentError(
            "--layers: a served model shows no layers; explain the .keras file or --work_dir."
        )
    if not FLAGS.served:
        for name in FLAGS.methods or METHODS:
            saliency.get(name)
        if FLAGS.methods == [] and not FLAGS.layers:
            raise ArgumentError("--methods: got none, and no --layers; there is nothing to do.")


def _explainer():
    methods = METHODS if FLAGS.methods is None else FLAGS.methods
    if FLAGS.served:
        explainer = explainers.served(FLAGS.served, FLAGS.methods)
    elif FLAGS.work_dir:
        network, classes = trained_networks.from_run(FLAGS.work_dir)
        explainer = explainers.live(FLAGS.work_dir, network, methods, classes)
    elif FLAGS.application:
        network = explainers.application(
            FLAGS.application, shared_flags.image_size(), FLAGS.weights
        )
        explainer = explainers.live(FLAGS.application, network, methods, None, (0.0, 255.0))
    else:
        model = loading.load(FLAGS.model, compile=False)
        network = model.network if isinstance(model, PenalizedModel) else model
        explainer = explainers.live(FLAGS.model, network, methods, None, _range())
    if FLAGS.class_names:
        names = _class_names(FLAGS.class_names, explainer.outputs)
        explainer = dataclasses.replace(explainer, classes=names)
    if FLAGS.target is not None:
        highest = (explainer.outputs or np.iinfo("int32").max) - 1
        if not 0 <= FLAGS.target <= highest:
            raise ArgumentError(
                f"--target: got {FLAGS.target}; the model has classes 0 to {highest}."
            )
    return explainer


def _range():
    if FLAGS.image_range is None:
        return 0.0, 1.0
    try:
        low, high = (float(v) for v in FLAGS.image_range)
        if not -np.inf < low < high < np.inf:
            raise ValueError
    except ValueError as error:
        raise ArgumentError(
            f"--image_range: got {','.join(FLAGS.image_range)}; expected the values of black and "
            "white, such as 0,1 or 0,255 or -1,1."
        ) from error
    return low, high


def _class_names(path, expected):
    try:
        with open(path, encoding="utf-8") as file:
            names = file.read().splitlines()
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--class_names: {path!r} cannot be read ({error}).") from error
    if expected is not None and len(names) != expected:
        raise ArgumentError(
            f"--class_names: {path!r} has {len(names)} lines for {expected} classes; expected one "
            "a line, in order."
        )
    return names


# The images


def _images(explainer):
    """The images that are asked for."""
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


# The work


def _explain(explainer, images, store):
    """(what the pictures show, the record's images and skipped files)."""
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    parts: list[dict[str, np.ndarray]] = []
    clock = Progress(images.count)
    for known, pixels in images.batches(FLAGS.batch_size, skipped):
        low, high = explainer.image_range
        x = tf.constant(low + (high - low) * pixels)
        target = tf.fill([len(known)], -1 if FLAGS.target is None else FLAGS.target)
        try:
            logits = np.asarray(explainer.logits(x))
            maps, error = explainer.answer(x, target)
        except tf.errors.OpError as failure:
            raise ModelError(
                f"{explainer.name}: it fails on images {pixels.shape} ({failure.message}). If "
                "memory ran out, try a smaller --batch_size."
            ) from failure
        maps = {name: np.asarray(m) for name, m in maps.items()}
        for i, about in enumerate(known):
            rows.append(about | _scores(explainer, logits[i], None if error is None else error[i]))
        store.add({"images": pixels, **maps})
        if len(rows) - len(known) < FLAGS.rows:
            parts.append({"images": pixels, "x": x.numpy(), **maps})
        clock.done(len(rows) + len(skipped))
    if not rows:
        reasons = "; ".join(s["reason"] for s in skipped[:3])
        raise DataError(f"--images: none of {images.count} files can be used: {reasons}")
    names = [str(row.get("file", row.get("index"))) for row in rows]
    store.save(names=np.array(names), classes=np.array([row["class"] for row in rows]))
    shown = {k: np.concatenate([p[k] for p in parts])[: FLAGS.rows] for k in parts[0]}
    fixed = {"images": shown.pop("images"), "x": shown.pop("x"), "rows": rows[: FLAGS.rows]}
    return {**fixed, "maps": shown}, {"images": rows, "skipped": skipped}


def _scores(explainer, logits, error):
    if not np.isfinite(logits).all():
        raise ModelError(f"{explainer.name}: its logits are NaN or infinite; check its weights.")
    predicted = int(logits.argmax())
    explained = predicted if FLAGS.target is None else FLAGS.target
    probabilities = np.exp(logits - logits.max(), dtype=np.float64)
    probabilities /= probabilities.sum()
    return {
        "class": explained,
        "class_name": explainer.class_name(explained),
        "score": float(logits[explained]),
        "probability": float(probabilities[explained]),
        "predicted": predicted,
        "predicted_name": explainer.class_name(predicted),
        "completeness_error": None if error is None else float(error),
    }


def _calls(explainer, size):
    """The calls that --layers means, in the network's order for 'auto'."""
    method = FullGrad(explainer.network)
    probe = method.probe(tf.zeros((1, *size, explainer.shape[-1])))
    laid_out = method.attribute(probe, probe.classes("predicted"))
    if FLAGS.layers != ["auto"]:
        for name in FLAGS.layers:
            if name not in laid_out:
                close = difflib.get_close_matches(name, laid_out, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ArgumentError(
                    f"--layers: got {name!r}; {hint}These have a bias-gradient with positions: "
                    f"{', '.join(laid_out)}."
                )
        return FLAGS.layers
    # A convolution before a batch norm leaves that one the bias of their block.
    merged = {t.source for t in probe.intercepts if t.kind == "batch_norm"}
    terms = {i: t for i, t in enumerate(probe.intercepts) if t.name in laid_out}
    own = [
        t.name
        for i, t in terms.items()
        if t.kind in ("affine", "batch_norm")
        and i not in merged
        and not isinstance(t.operation, keras.layers.Normalization)
    ]
    names = own if len(own) > 1 else [t.name for t in terms.values()]
    if not names:
        raise ModelError(
            f"--layers: no layer of {explainer.name} has a bias-gradient with positions."
        )
    chosen = np.linspace(0, len(names) - 1, min(LAYERS, len(names))).round().astype(int)
    return [names[i] for i in chosen]


def _layers(explainer, calls, shown):
    """{call: its bias-gradient summed over channels [rows, H, W]}, the input's term first."""
    target = [row["class"] for row in shown["rows"]]
    maps = {}
    for call in dict.fromkeys(["input", *calls]):
        method = LayerMap(explainer.network, call, chunk_size=FLAGS.batch_size)
        maps[call] = np.asarray(method(shown["x"], target))
    return maps


def _draw(path, shown, maps):
    rows = shown["rows"]
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
        shown["images"],
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


# What is printed and written


def _table(rows):
    lines = [
        "| image | label | predicted | explained | logit | p | completeness |",
        "|---" * 7 + "|",
    ]
    for row in rows[:TABLE]:
        name = os.path.basename(row["file"]) if "file" in row else row["index"]
        error = row["completeness_error"]
        lines.append(
            f"| {name} | {row.get('label_name', '')} | {row['predicted_name']} "
            f"| {row['class_name']} | {row['score']:.3f} | {row['probability']:.3f} "
            f"| {'' if error is None else f'{error:.1e}'} |"
        )
    if len(rows) > TABLE:
        lines.append(f"and {len(rows) - TABLE} more in explanations.json")
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    command.run(main)
