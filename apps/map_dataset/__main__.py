"""Compute the maps of a whole data set on all cores of a machine, or over a cluster.

    python -m apps.map_dataset --model=saved_models/cifar --methods=fullgrad,input_gradient \\
        --dataset=cifar10 --split=test --out=runs/cifar_maps \\
        --direct_num_workers=2 --direct_running_mode=multi_processing
    python -m apps.map_dataset --model=saved_models/mine --images=photos --out=runs/photo_maps
    python -m apps.map_dataset --model=saved_models/mine --tfrecords='shards/train-*' \\
        --label_key=image/class/label --target=label --out=runs/train_maps \\
        --runner=FlinkRunner --flink_master=localhost:8081 --parallelism=16

The model is a SavedModel that apps.export or tfgrad.export.save wrote; --methods names signatures
of it. Images are a data set by its name, a folder of JPEG and PNG files with the folders below it,
or TFRecord files of tf.train.Examples with encoded images. The work goes through Apache Beam
(pip install 'tfgrad[beam]'): every flag that this command does not have is an option of Beam, and
--runner chooses where it runs. Each worker process loads the model once.

The directory --out appears once everything is done. It holds for every method
  METHOD/manifest.json                    what the maps are; tfgrad.evaluation.MapShards reads them
  METHOD/maps-00000-of-00010.parquet      key, index, saliency, score, class, label, …
  METHOD/maps-00000-of-00010.tfrecord     the same as tf.train.Examples (--formats)
and
  broken.jsonl    index, key and reason of each image that could not be read or explained
  summary.json    numbers of images, maps, broken images and maps that are not finite
An interrupted run leaves OUT.unfinished; the same command continues it with the shards that are
missing. The result does not depend on the number of workers.

Exit codes: 0 done, 64 usage, 65 bad data or model, 73 a directory in use, 74 a full disk.
"""

from ..common import command, shared_flags

# isort: split
import functools
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from absl import flags

from tfgrad.errors import ArgumentError
from tfgrad.internal import ownership

from ..common import pixel_range
from ..common.progress import Progress
from . import (
    explainer,
    folder_sources,
    image_sources,
    output,
    part_run,
    pipeline_flags,
    storage,
    tfrecord_files,
)
from .explainer import LABEL, PREDICTED, Explainer, Model
from .image_sources import Part, Source
from .part_run import Job

FLAGS = flags.FLAGS
FORMATS = ("parquet", "tfrecord")
Execute: TypeAlias = Callable[[Job, Sequence[Part], Callable[[], None]], Any]
# Flags of absl that it defines itself while it parses.
_ABSL = ("help", "helpfull", "helpshort", "helpxml", "only_check_args", "flagfile", "undefok")


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_string("model", None, "Directory of a SavedModel, or of its versions.")
    flags.DEFINE_list("methods", ["fullgrad"], "Names of the model's signatures, one per method.")
    shared_flags.define_dataset(default=None)
    flags.DEFINE_string("split", "test", "Split or slice of --dataset.")
    flags.DEFINE_string("images", None, "Folder of JPEG and PNG files, at any depth.")
    flags.DEFINE_list("tfrecords", [], "TFRecord files, or patterns of them.")
    flags.DEFINE_string(
        "image_key", "image/encoded", "Feature of the encoded image in --tfrecords."
    )
    flags.DEFINE_string(
        "label_key", None, "Feature of the label in --tfrecords; default: no labels."
    )
    flags.DEFINE_string(
        "target", PREDICTED, "The logit that is explained: 'predicted', 'label', or a class."
    )
    pixel_range.define()
    flags.adopt_module_key_flags(pixel_range)  # for --help
    flags.DEFINE_integer("batch_size", 64, "Images per call of the model.", lower_bound=1)
    flags.DEFINE_integer("shard_size", 1000, "Images per shard.", lower_bound=1)
    flags.DEFINE_list("formats", ["parquet"], f"Formats of the shards: {', '.join(FORMATS)}.")
    flags.DEFINE_integer(
        "threads",
        None,
        "Threads of TensorFlow in a worker process; default: 1 beside other processes of the "
        "direct runner, else TensorFlow's own choice (0).",
        lower_bound=0,
    )
    flags.DEFINE_string("out", None, "Output directory.")
    flags.DEFINE_bool("overwrite", False, "Replace a finished or unfinished output.")


def own_arguments() -> list[str]:
    """Leave this command's flags in `sys.argv`, and return the options of Beam."""
    known = {*FLAGS, *_ABSL, "?"}
    no_value = {name for name in FLAGS if FLAGS[name].boolean} | set(_ABSL[:5]) | {"?"}
    own, passed = pipeline_flags.split(sys.argv[1:], known, no_value)
    sys.argv[1:] = own
    return passed


def main(passed: Sequence[str] = ()) -> None:
    """Plan, run and finish.

    Args:
        passed: Options of Beam.
    """
    check_flags()
    if importlib.util.find_spec("apache_beam") is None:
        raise ArgumentError(
            "--runner: got a Python without Apache Beam, which computes the maps; expected the "
            "package apache-beam; try pip install 'tfgrad[beam]'."
        )
    beam_run = _beam_run()
    options = beam_run.options_of(passed)
    own = command.own_flags()
    pipeline_flags.check(passed, beam_run.option_names(), own, beam_run.runner_name(options))
    compute(functools.partial(beam_run.run, options=options), beam_run.is_shared_machine(options))


def _beam_run() -> Any:
    """The module that imports Beam, without what Beam warns about Google's packages."""
    logging.disable(logging.WARNING)
    try:
        from . import beam_run
    finally:
        logging.disable(logging.NOTSET)
    return beam_run


def compute(execute: Execute, is_shared_machine: bool) -> None:
    """Compute the maps that the flags describe, and write them.

    Args:
        execute: Function of (job, parts, watch) that computes parts; it may call `watch` while it
            runs.
        is_shared_machine: Whether several processes of this machine compute at the same time.
    """
    threads = FLAGS.threads
    if threads is None:
        threads = 1 if is_shared_machine else 0
    source, target = _source(), _target()
    size = shared_flags.image_size() or source.image_size()
    model = Model(FLAGS.model, tuple(FLAGS.methods), size, pixel_range.given(), threads)
    loaded = explainer.in_process(model)
    part_run.decoder(source, loaded.shape[:2], loaded.shape[2])  # fails before work is given out
    _check_target(target, source, loaded)
    plan = _plan(source, target, loaded)
    parts = source.parts(FLAGS.shard_size)
    directory = output.open_directory(FLAGS.out, plan, FLAGS.overwrite)
    try:
        job = Job(
            model=model,
            source=source,
            target=target,
            batch_size=FLAGS.batch_size,
            formats=tuple(FLAGS.formats),
            directory=directory,
            parts=len(parts),
            schemas={
                name: part_run.schema(columns, source.has_labels)
                for name, columns in loaded.schemas().items()
            },
        )
        _computed(execute, job, parts)
        shape = (parts[-1].last, *loaded.shape[:2])
        manifests = {
            method: output.manifest(job, method, loaded.metadata, plan, shape)
            for method in FLAGS.methods
        }
        summary = output.finish(job, FLAGS.out, manifests)
    finally:
        ownership.release_all()
    _report(summary)


def _computed(execute: Execute, job: Job, parts: Sequence[Part]) -> None:
    """Compute the parts that are missing, and show how far it is."""
    sizes = [part.last - part.first for part in parts]

    def images_done() -> int:
        return sum(sizes[index] for index in output.finished_parts(job))

    finished = output.finished_parts(job)
    todo = [part for part in parts if part.index not in finished]
    before = images_done()
    print(f"{sum(sizes)} images in {len(parts)} shards; {before} images are done", flush=True)
    if todo:
        progress = Progress(sum(sizes), before)
        execute(job, todo, lambda: progress.done(images_done()))


def check_flags() -> None:
    """Check what needs no model and no data.

    Raises:
        ArgumentError: A flag is missing, or has no such value.
    """
    for name, example in (("model", "saved_models/mine"), ("out", "runs/maps")):
        if not getattr(FLAGS, name):
            raise ArgumentError(f"--{name}: got none; expected a directory; try {example}.")
    given = [name for name in ("dataset", "images", "tfrecords") if getattr(FLAGS, name)]
    if len(given) != 1:
        raise ArgumentError(
            f"--dataset, --images, --tfrecords: got {len(given)} of them; expected exactly one."
        )
    for name, known in (("formats", FORMATS), ("methods", None)):
        values = getattr(FLAGS, name)
        wrong = [value for value in values if known and value not in known]
        if not values or wrong or len(set(values)) < len(values):
            expected = f"some of {', '.join(known)}" if known else "names of signatures, each once"
            raise ArgumentError(f"--{name}: got {','.join(values) or 'none'}; expected {expected}.")


def _source() -> Source:
    if FLAGS.dataset and shared_flags.is_folder():
        return folder_sources.LabelledFolder(FLAGS.dataset, FLAGS.split)
    if FLAGS.dataset:
        data_dir, size = FLAGS.data_dir, shared_flags.image_size()
        return image_sources.Named(FLAGS.dataset, FLAGS.split, data_dir, FLAGS.download, size)
    if FLAGS.images:
        return folder_sources.Folder(FLAGS.images)
    return image_sources.Records(
        tfrecord_files.paths(FLAGS.tfrecords), FLAGS.image_key, FLAGS.label_key
    )


def _target() -> str | int:
    return int(FLAGS.target) if FLAGS.target.isdecimal() else FLAGS.target


def _check_target(target: str | int, source: Source, loaded: Explainer) -> None:
    """Check that there is what --target names.

    Raises:
        ArgumentError: There is not.
    """
    outputs = loaded.metadata.get("outputs")
    count = len(loaded.metadata.get("classes") or range(max(outputs or 0, 2)))
    if target == LABEL and not source.has_labels:
        raise ArgumentError(
            "--target: got label for images without labels; expected predicted or a class; try "
            "--label_key, which names the feature of the labels in --tfrecords."
        )
    if isinstance(target, str) and target not in (PREDICTED, LABEL):
        raise ArgumentError(
            f"--target: got {target}; expected predicted, label, or the number of a class."
        )
    if isinstance(target, int) and outputs and target >= count:
        raise ArgumentError(f"--target: got {target}; expected 0 to {count - 1}.")


def _plan(source: Source, target: str | int, loaded: Explainer) -> dict[str, Any]:
    """Everything that the maps depend on; batch size and number of workers are not among it."""
    if not source.count():
        raise ArgumentError("--tfrecords: got files without records; expected images.")
    return {
        "model": {"name": loaded.metadata.get("name"), "digest": loaded.digest()},
        "methods": list(FLAGS.methods),
        "source": source.describe(),
        "target": target,
        "shape": list(loaded.shape),
        "image_range": list(loaded.image_range),
        "formats": sorted(FLAGS.formats),
        "shard_size": FLAGS.shard_size,
    }


def _report(summary: dict[str, Any]) -> None:
    print(f"{summary['maps']} maps of {summary['images']} images in {FLAGS.out}")
    if summary["broken"]:
        path = storage.join(FLAGS.out, output.BROKEN)
        print(f"{summary['broken']} images have no map; {path} names them", file=sys.stderr)
    if summary["not_finite"]:
        print(f"{summary['not_finite']} maps are NaN or infinite", file=sys.stderr)


if __name__ == "__main__":
    define_flags()
    beam_arguments = own_arguments()
    command.run(lambda: main(beam_arguments))
