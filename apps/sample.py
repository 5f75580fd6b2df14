"""Sample the implicit density of a classifier: images of each class.

    python -m apps.sample --model=runs/cifar --judge=runs/judge --out=runs/samples
    python -m apps.sample --model=my_model.keras --start=data --dataset=cifar10 --out=runs/denoised
    python -m apps.sample --model=my_model.keras --rule=langevin --steps=1000 --step_size=1e-5

A classifier's logit f_y(x) is log p(x | y) up to a constant. --rule=ascent follows its gradient
uphill, with a pull towards mid-grey, clipped to [0, 1]: activity maximisation, which finds modes.
--rule=langevin adds noise and does not clip: for small steps, it samples the density.

--start=noise starts from pixels N(0.5, 0.2²), --count images of each of --classes. --start=data
starts from the first --count images of each class in --split of --dataset, with noise of --sigma:
"denoising". The defaults of --steps, --step_size and --pull are those of the papers' code:
  --start=noise   500 steps of 0.1, pull 0.01
  --start=data    200 steps of 0.01, no pull
Langevin has no such defaults.

The model, and the judge, is a .keras or .h5 file of a classifier, whose last softmax or sigmoid is
left out, or a work directory of apps.train. If a record beside it tells how its images were
normalised, or its first layers or --image_range tell their range, that is put in front of it:
images are always pixels in [0, 1] here.

--judge=MODEL runs the GAN-test: an independent classifier of the same classes predicts the classes
of the samples. The share of samples that it assigns to their class is reported of each class and of
all.

The directory --out appears once everything is done, and is never incomplete. It holds
  samples.png    a row for each class; of denoising, its images, the noisy and the denoised ones
  traces.png     the logit over the steps, averaged over the images of a class
  samples.npz    images and start [n, H, W, C], classes, scores [n, steps + 1], gradient_norms
  samples.md     a table: class, logit at the start and at the end, the judge's share
  results.json   the same, with flags and versions
An earlier result there is replaced; a directory with any other file is not touched.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 an image or logit that is not finite,
74 a full disk.
"""

from .common import command, invocation, shared_flags

# isort: split
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import flags

from tfgrad import evaluation, figures, sampling
from tfgrad.errors import ArgumentError, DataError, ModelError
from tfgrad.gradients import model_checks
from tfgrad.internal import files

from .common import output_directory, pixel_range, terminal, trained_networks, work_directory
from .common.progress import Progress
from .common.trained_networks import Learned, normalised, note_unknown, on_pixels

FLAGS = flags.FLAGS
FILES = {"samples.png", "traces.png", "samples.npz", "samples.md", "results.json"}
DEFAULTS = {
    "noise": {"steps": 500, "step_size": 0.1, "pull": 1e-2},
    "data": {"steps": 200, "step_size": 0.01, "pull": 0.0},
}
LINES = 8


@dataclasses.dataclass(frozen=True)
class Start:
    """The images that sampling starts from.

    Attributes:
        images: Images [n, H, W, C] in [0, 1].
        classes: Classes that are sampled, [n].
        clean: The images without noise, with --start=data.
    """

    images: np.ndarray
    classes: np.ndarray
    clean: np.ndarray | None = None


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_string(
        "model", None, f"A .keras file, or a work directory of {invocation.named('train')}."
    )
    pixel_range.define()
    flags.adopt_module_key_flags(pixel_range)  # for --help
    trained_networks.define_outputs()
    flags.adopt_module_key_flags(trained_networks)
    flags.DEFINE_enum(
        "rule", "ascent", ("ascent", "langevin"), "Gradient ascent, or Langevin sampling."
    )
    flags.DEFINE_enum(
        "start", "noise", tuple(DEFAULTS), "Start from noise, or from noisy images of --dataset."
    )
    shared_flags.define_dataset(default=None)
    flags.DEFINE_string("split", "test", "Split or slice of --dataset.")
    flags.DEFINE_list("classes", [], "Numbers of the classes to sample; default: all.")
    flags.DEFINE_integer("count", 8, "Number of images of each class.", lower_bound=1)
    flags.DEFINE_integer("steps", None, "Number of steps.", lower_bound=1)
    flags.DEFINE_float("step_size", None, "Size of a step.")
    flags.DEFINE_float("pull", None, "Weight of the pull towards mid-grey with --rule=ascent.")
    flags.DEFINE_float("sigma", 0.1, "Standard deviation of the noise of --start=data.")
    flags.DEFINE_integer("seed", 0, "Seed of all noise.", lower_bound=0)
    flags.DEFINE_string("judge", None, "Classifier for the GAN-test, in the form of --model.")
    flags.DEFINE_integer(
        "batch_size", 64, "Images per batch; a smaller one needs less memory.", lower_bound=1
    )
    flags.DEFINE_integer(
        "columns", 8, "Largest number of images of a class in the picture.", lower_bound=1
    )
    flags.DEFINE_string("out", "runs/samples", "Directory of the result.")


def main() -> dict[str, Any]:
    """Load, sample, test, draw and report."""
    options = _options()
    network, names = _load("model", FLAGS.model)
    judge = _load("judge", FLAGS.judge)[0] if FLAGS.judge else None
    start, known = _start(network)
    if judge is not None:
        # What is wrong with the judge is raised on a start image, before the work.
        first = start.images[:1], start.classes[:1]
        evaluation.gan_test(judge, *first, network.output_shape[-1])
    names = names or known or [str(k) for k in range(network.output_shape[-1])]
    with output_directory.written_aside(FLAGS.out, FILES) as directory:
        print(f"{FLAGS.model}: {len(start.images)} images, {options['steps']} steps", flush=True)
        samples = _sample(network, start, options)
        rows = _rows(samples, names, judge)
        record = {
            "model": FLAGS.model,
            "flags": shared_flags.resolved(),
            "versions": work_directory.versions(),
            "settings": samples.settings,
            "classes": rows,
        }
        files.write_json(os.path.join(directory, "results.json"), record)
        files.write_text(os.path.join(directory, "samples.md"), _table(rows) + "\n")
        _save(os.path.join(directory, "samples.npz"), samples, start)
        _draw(os.path.join(directory, "samples.png"), samples, start, names)
        _trace(os.path.join(directory, "traces.png"), samples, names)
    terminal.show(_table(rows))
    print(f"{len(samples.images)} images: {FLAGS.out}")
    return record


def _options() -> dict[str, Any]:
    """Steps, step size and pull, once the flags are known to be consistent."""
    if not FLAGS.model:
        raise ArgumentError("--model: got none; expected a .keras file or a work directory.")
    if bool(FLAGS.dataset) != (FLAGS.start == "data"):
        raise ArgumentError("--dataset, --start=data: got one of them; expected both or none.")
    chosen: dict[str, Any] = {}
    for name, usual in DEFAULTS[FLAGS.start].items():
        given = getattr(FLAGS, name)
        if FLAGS.rule == "ascent":
            chosen[name] = usual if given is None else given
        elif (given is None) != (name == "pull"):
            if name == "pull":
                raise ArgumentError(
                    f"--pull: got {given} with --rule=langevin; expected none; try --rule=ascent."
                )
            raise ArgumentError(
                f"--{name}: got none; expected a number, because --rule=langevin has no default."
            )
        elif name != "pull":
            chosen[name] = given
    return chosen


def _load(flag: str, path: str) -> tuple[keras.Model, Sequence[str] | None]:
    """(network on pixels in [0, 1], names of its classes if known)."""
    if not os.path.exists(path):
        raise ModelError(
            f"--{flag}: got {path!r}, which does not exist; expected a .keras file or a work "
            "directory."
        )
    learned = Learned(path)
    try:
        network = _from_images(learned.network)
    except (ArgumentError, ModelError) as error:
        raise ModelError(f"--{flag}: {error}") from error
    if flag == "model" and (asked := pixel_range.given()) is not None:
        statistics = pixel_range.as_statistics(asked, network.input_shape[-1])
        return on_pixels(network, statistics), learned.record.get("classes")
    note_unknown(learned)
    inside = on_pixels(network, learned.record.get("normalize"))
    return inside, learned.record.get("classes")


def _from_images(model: keras.Model) -> keras.Model:
    """The model as a network from a tensor of images to a tensor of logits."""
    network = model_checks.network(model)
    shape = model_checks.input_shape(network)
    model_checks.input_dtype(network)
    model_checks.check_outputs(network)
    if shape is None or len(shape) != 4:
        raise ModelError(
            f"model {network.name!r}: got one that takes {shape}; expected images [batch, height, "
            "width, channels]; try tfgrad.sampling, which samples models of other inputs."
        )
    return keras.Model(network.inputs[0], network.outputs[0], name=network.name)


# The start


def _start(network: keras.Model) -> tuple[Start, Sequence[str] | None]:
    """The start images, and the names of the data set's classes."""
    wanted = shared_flags.numbers("classes", int) or list(range(network.output_shape[-1]))
    if max(wanted) >= network.output_shape[-1]:
        raise ArgumentError(
            f"--classes: got {max(wanted)}; expected classes from 0 to "
            f"{network.output_shape[-1] - 1}, those of the model."
        )
    if FLAGS.start == "data":
        return _from_data(network, wanted)
    classes = np.repeat(wanted, FLAGS.count)
    images = sampling.noise(len(classes), _image_shape(network), FLAGS.seed)
    return Start(images, classes), None


def _from_data(network: keras.Model, wanted: Sequence[int]) -> tuple[Start, Sequence[str]]:
    loaded = shared_flags.load(FLAGS.split, lambda: _own_size(network))
    members = [np.flatnonzero(loaded.labels == k)[: FLAGS.count] for k in wanted]
    for k, found in zip(wanted, members, strict=True):
        if len(found) < FLAGS.count:
            raise DataError(
                f"--count: got {FLAGS.count}; expected at most {len(found)}, the images of class "
                f"{k} in {FLAGS.split!r} of {FLAGS.dataset!r}."
            )
    index = np.concatenate(members)
    chosen = dataclasses.replace(loaded, images=loaded.images[index], labels=loaded.labels[index])
    clean = normalised(chosen, None)
    noised = sampling.noised(clean, FLAGS.sigma, FLAGS.seed)
    return Start(noised, chosen.labels, clean), loaded.classes


def _own_size(network: keras.Model) -> tuple[int, int] | None:
    height, width = network.input_shape[1:3]
    return None if height is None or width is None else (height, width)


def _image_shape(network: keras.Model) -> tuple[int, ...]:
    height, width, channels = network.input_shape[1:]
    if None in (height, width):
        size = shared_flags.image_size()
        if size is None:
            raise ArgumentError(
                "--image_size: got none for a model of any size; expected HEIGHT,WIDTH."
            )
        height, width = size
    return height, width, channels


# The work


def _sample(network: keras.Model, start: Start, options: dict[str, Any]) -> sampling.Samples:
    clock = Progress(len(start.images))

    def progress(updates: int, total: int) -> None:
        if finished := updates * len(start.images) // total:
            clock.done(finished)

    common = {"batch_size": FLAGS.batch_size, "progress": progress, **options}
    if FLAGS.rule == "langevin":
        common["seed"] = FLAGS.seed
        return sampling.langevin(network, start.classes, start.images, **common)
    return sampling.gradient_ascent(network, start.classes, start.images, **common)


def _rows(
    samples: sampling.Samples, names: Sequence[str], judge: keras.Model | None
) -> list[dict[str, Any]]:
    """The rows of the table: each class, then all."""
    groups = {names[k]: samples.classes == k for k in dict.fromkeys(samples.classes.tolist())}
    groups["all"] = np.ones(len(samples.classes), bool)
    rows = []
    for name, chosen in groups.items():
        row: dict[str, Any] = {
            "class": name,
            "images": int(chosen.sum()),
            "start": float(samples.scores[chosen, 0].mean()),
            "end": float(samples.scores[chosen, -1].mean()),
        }
        if judge is not None:
            pixels, classes = samples.images[chosen], samples.classes[chosen]
            test = evaluation.gan_test(judge, pixels, classes, samples.outputs)
            row |= {"judged": test.value, "deviation": test.deviations[0]}
        rows.append(row)
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> str:
    titles = ["class", "images", "logit at the start", "logit at the end"]
    titles += ["judged to be of it, %"] if "judged" in rows[0] else []
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = [row["class"], str(row["images"]), f"{row['start']:.2f}", f"{row['end']:.2f}"]
        if "judged" in row:
            cells.append(f"{100 * row['judged']:.1f} ± {100 * row['deviation']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _save(path: str, samples: sampling.Samples, start: Start) -> None:
    arrays: dict[str, Any] = dataclasses.asdict(samples) | {"start": start.images}
    if start.clean is not None:
        arrays["clean"] = start.clean
    del arrays["outputs"], arrays["settings"]
    np.savez(path, **arrays)


def _draw(path: str, samples: sampling.Samples, start: Start, names: Sequence[str]) -> None:
    rows, captions = [], []
    kinds = {"": samples.images}
    if start.clean is not None:
        kinds = {"": start.clean, "noised": start.images, "denoised": samples.images}
    for k in dict.fromkeys(samples.classes.tolist()):
        chosen = np.flatnonzero(samples.classes == k)[: FLAGS.columns]
        rows += [list(pictures[chosen]) for pictures in kinds.values()]
        captions += [kind or names[k] for kind in kinds]
    figures.grid(path, rows, captions=captions)


def _trace(path: str, samples: sampling.Samples, names: Sequence[str]) -> None:
    shown = list(dict.fromkeys(samples.classes.tolist()))[:LINES]
    means = {names[k]: samples.scores[samples.classes == k].mean(0) for k in shown}
    steps = np.arange(samples.scores.shape[1])
    figures.functions(
        path,
        steps,
        {"all classes": samples.scores.mean(0), **means},
        x_label="step",
        y_label="logit",
    )


if __name__ == "__main__":
    define_flags()
    command.run(main)
