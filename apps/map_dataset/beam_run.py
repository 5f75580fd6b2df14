"""The parts of a data set through a pipeline of Apache Beam; imported only where Beam is there."""

from ..common import command  # noqa: F401  (starts TensorFlow quietly, in workers, too)

# isort: split
import argparse
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import (
    ExtendedProvisionInfo,
    FnApiRunner,
)
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from tfgrad import errors
from tfgrad.internal import files

from . import explainer, local_workers, part_run
from .image_sources import Part
from .part_run import Job

NAMESPACE = "tfgrad.map_dataset"
_DIRECT = (None, "DirectRunner", "SwitchingDirectRunner")
_SECONDS = 1.0
_KNOWN = re.compile(r"tfgrad\.errors\.(\w+): (.+?)(?: \[while running |\\n|\n|$)")


class MapParts(beam.DoFn):
    """Computes and writes parts, with one model per process.

    Args:
        job: What to compute.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._images = Metrics.counter(NAMESPACE, "images")
        self._broken = Metrics.counter(NAMESPACE, "broken")
        self._not_finite = Metrics.counter(NAMESPACE, "not_finite")
        self._explainer: explainer.Explainer | None = None

    def setup(self) -> None:
        """Load the model, or find the one that this process has loaded."""
        self._explainer = explainer.in_process(self._job.model)

    def process(self, part: Part) -> Iterator[int]:
        """Compute one part; yields its number."""
        assert self._explainer is not None
        try:
            done = part_run.run(self._job, part, self._explainer)
        except OSError as error:
            raise files.cannot_write(error, "--out", self._job.directory) from error
        self._images.inc(done.images)
        self._broken.inc(len(done.broken))
        self._not_finite.inc(done.not_finite)
        yield done.index


def options_of(arguments: Sequence[str]) -> PipelineOptions:
    """The options of Beam in arguments; workers report errors unless another level is asked."""
    return PipelineOptions(["--default_sdk_harness_log_level=ERROR", *arguments])


def option_names() -> set[str]:
    """The names of all options of Beam's Python package, and the other names of some of them."""
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    options = parser._option_string_actions  # argparse tells them nowhere else
    return {option.lstrip("-") for option in options} | set(PipelineOptions([]).get_all_options())


def runner_of(options: PipelineOptions) -> Any:
    """The runner that options name.

    The DirectRunner of Beam hands a pipeline to Prism, which it downloads, where it can; Prism runs
    Python in one process whatever --direct_num_workers says. So it is bypassed.
    """
    name = options.view_as(StandardOptions).runner
    if name not in _DIRECT:
        return name
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    read = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)  # by workers
    kind = local_workers.ProcessesRunner if _uses_processes(options) else FnApiRunner
    return kind(provision_info=ExtendedProvisionInfo(read))


def runner_name(options: PipelineOptions) -> str:
    """The name of the runner."""
    return str(options.view_as(StandardOptions).runner)


def is_shared_machine(options: PipelineOptions) -> bool:
    """Whether several processes of this machine compute at the same time."""
    several = _uses_processes(options) and options.view_as(DirectOptions).direct_num_workers != 1
    return several and options.view_as(StandardOptions).runner in _DIRECT


def _uses_processes(options: PipelineOptions) -> bool:
    return options.view_as(DirectOptions).direct_running_mode == "multi_processing"


def run(
    job: Job, parts: Sequence[Part], watch: Callable[[], None], options: PipelineOptions
) -> dict[str, int]:
    """Run the pipeline to its end.

    Args:
        job: What to compute.
        parts: The parts to compute.
        watch: Called every second while the pipeline runs.
        options: Options of Beam.

    Returns:
        {name: value} of the counters of the pipeline.

    Raises:
        TfgradError: A worker has raised it.
    """
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    pipeline = beam.Pipeline(runner=runner_of(options), options=options)
    _ = (
        pipeline
        | "Parts" >> beam.Create(list(parts), reshuffle=False)
        | "Distribute" >> beam.Reshuffle()
        | "Map" >> beam.ParDo(MapParts(job))
    )
    ended = threading.Event()
    watcher = threading.Thread(target=_watching, args=(watch, ended), daemon=True)
    watcher.start()
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        _raise_known(error)
    finally:
        ended.set()
        watcher.join()
    return _counters(result)


def _watching(watch: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(_SECONDS):
        watch()


def _raise_known(error: Exception) -> NoReturn:
    """The error of tfgrad that a worker has raised, of which runners pass on the text alone."""
    found = _KNOWN.findall(str(error))
    kind = getattr(errors, found[-1][0], None) if found else None
    if kind is None or not issubclass(kind, errors.TfgradError):
        raise error
    known = kind(found[-1][1])
    if isinstance(known, OSError) and (cause := files.disk_error(known)):
        known.errno = cause.errno  # a full disk has an exit code of its own
    raise known from error


def _counters(result: Any) -> dict[str, int]:
    try:
        found = result.metrics().query()["counters"]
    except NotImplementedError:  # what Beam says of a runner without metrics, such as Dask's
        return {}
    values = {one.key.metric.name: one for one in found if one.key.metric.namespace == NAMESPACE}
    return {name: one.committed or one.attempted for name, one in values.items()}
