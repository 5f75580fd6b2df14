"""The same maps through Apache Beam: several processes, another runner, RunInference.

`make test-beam` runs these tests, in an environment with the extra `beam`.
"""

import gc
import glob
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from apps.map_dataset import __main__ as map_dataset
from tests.helpers import map_dataset_cases as cases
from tests.helpers.app_run import in_process
from tfgrad.evaluation import MapShards

pytestmark = [pytest.mark.beam, pytest.mark.slow]

ROOT = pathlib.Path(__file__).parents[2]
TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return cases.exported(str(tmp_path_factory.mktemp("served") / "small"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 23 images, the sixth of which is none, and their pixels."""
    directory = tmp_path_factory.mktemp("photos")
    files, pixels = cases.pictures(23)
    files[5] = b"no image"
    for index, content in enumerate(files):
        (directory / f"{index:02d}.png").write_bytes(content)
    return directory, pixels


def command(served, photos, out, *arguments):
    flags = cases.options(
        model=served[1],
        images=photos[0],
        methods=",".join(cases.METHODS),
        shard_size=4,
        batch_size=3,
        formats="parquet,tfrecord",
        out=out,
    )
    return subprocess.run(
        [sys.executable, "-m", "apps.map_dataset", *flags, *arguments],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def content(directory):
    paths = [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_any_number_of_processes_writes_the_same_files(served, photos, tmp_path):
    outputs = []
    for name, options in {"one": (), "two": TWO_PROCESSES}.items():
        done = command(served, photos, tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
        assert "22 maps of 23 images" in done.stdout and "1 images have no map" in done.stderr
        outputs.append(content(tmp_path / name))
    assert outputs[0].keys() == outputs[1].keys() and len(outputs[0]) == 2 * (2 * 6 + 1) + 2
    expected = cases.live(served[0], photos[1])
    good = np.delete(np.arange(23), 5)
    for method in cases.METHODS:
        one, two = (MapShards(tmp_path / name / method) for name in ("one", "two"))
        np.testing.assert_allclose(one[:], two[:], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(two[:][good], expected[method][good], rtol=1e-4, atol=1e-6)
    names = [name for name in outputs[0] if name.endswith((".json", ".jsonl"))]
    assert [outputs[0][name] for name in names] == [outputs[1][name] for name in names]
    refused = command(served, photos, tmp_path / "two", *TWO_PROCESSES)
    assert refused.returncode == 64 and "holds finished maps" in refused.stderr


def test_the_command_is_one_of_its_worker_processes(tmp_path):
    """Each process imports TensorFlow: two workers are two processes, not three."""
    import apache_beam as beam

    from apps.map_dataset import beam_run

    directory = str(tmp_path)
    options = beam_run.options_of(TWO_PROCESSES)
    with beam.Pipeline(runner=beam_run.runner_of(options), options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(range(40)), reshuffle=False)
            | beam.Reshuffle()
            | beam.Map(lambda _: open(os.path.join(directory, str(os.getpid())), "w").close())
        )
    found = os.listdir(directory)
    assert len(found) == 2 and str(os.getpid()) in found
    assert beam_run.is_shared_machine(options), "options stay as they were given"


def test_an_error_of_a_worker_is_one_line(served, photos, tmp_path):
    """A shard that cannot get its name: a directory stands there."""
    out = tmp_path / "maps"
    (tmp_path / "maps.unfinished" / "fullgrad" / "maps-00001-of-00006.parquet").mkdir(parents=True)
    done = command(served, photos, out, *TWO_PROCESSES)
    assert done.returncode == 64, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("map_dataset: ")]
    assert len(errors) == 1 and "maps.unfinished', which cannot be written (Is a dir" in errors[0]
    assert not out.exists()


def test_options_of_beam_are_checked(served, photos, tmp_path):
    done = command(served, photos, tmp_path / "maps", "--direct_num_worker=2")
    assert done.returncode == 64
    assert "did you mean --direct_num_workers?" in done.stderr


def test_a_job_server_and_workers_of_its_own(served, photos, tmp_path):
    """Beam's portability layer, which Flink and Spark speak, too."""
    module = "apache_beam.runners.portability.local_job_service_main"
    port = tmp_path / "port"
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", module, f"--port_file={port}"], stdout=log, stderr=log
        )
    try:
        while not port.exists():
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        python = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
        done = command(
            served,
            photos,
            tmp_path / "maps",
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{port.read_text()}",
            "--environment_type=beam:env:harness_subprocess_python:v1",
            f"--environment_config={python}",
        )
    finally:
        server.kill()
        server.wait()
    assert done.returncode == 0, done.stderr
    maps = MapShards(tmp_path / "maps" / "fullgrad")
    expected = cases.live(served[0], photos[1])["fullgrad"]
    np.testing.assert_allclose(np.delete(maps, 5, 0), np.delete(expected, 5, 0), rtol=1e-4)


@pytest.fixture
def bucket(tmp_path):
    """A directory that is reached by URLs shared://… alone, as an object store is."""
    from apache_beam.io.filesystem import FileMetadata, MatchResult
    from apache_beam.io.localfilesystem import LocalFileSystem

    class Shared(LocalFileSystem):
        root = tmp_path / "bucket"

        @classmethod
        def scheme(cls):
            return "shared"

        def real(self, url):
            return str(self.root / url.removeprefix("shared://"))

        def open(self, path, *options):
            return super().open(self.real(path), *options)

        def create(self, path, *options):
            os.makedirs(os.path.dirname(self.real(path)), exist_ok=True)
            return super().create(self.real(path), *options)

        def match(self, patterns, limits=None):
            return [MatchResult(one, list(self.found(one))) for one in patterns]

        def found(self, pattern):
            for path in glob.glob(self.real(pattern), recursive=True):
                if os.path.isfile(path):
                    url = f"shared://{os.path.relpath(path, self.root)}"
                    yield FileMetadata(url, os.path.getsize(path))

        def delete(self, paths):
            for path in paths:
                os.remove(self.real(path))

    yield Shared.root
    del Shared
    gc.collect()  # Beam finds file systems among the subclasses


def test_everything_behind_a_url(served, photos, tmp_path, bucket, capfd):
    shutil.copytree(served[1], bucket / "model")
    shutil.copytree(photos[0], bucket / "photos")
    flags = ["--methods=fullgrad", "--shard_size=4", "--batch_size=3", "--formats=tfrecord"]
    url = "--model=shared://model"
    with in_process(map_dataset) as run:
        assert (
            run(f"--model={served[1]}", f"--images={photos[0]}", f"--out={tmp_path}/maps", *flags)
            == 0
        )
        assert run(url, "--images=shared://photos", "--out=shared://maps", *flags) == 0
        assert run(url, "--images=shared://photos", "--out=shared://maps", *flags) == 64
        assert "holds finished maps" in capfd.readouterr().err
        again = ["--out=shared://maps", "--overwrite", *flags]
        assert content(tmp_path / "maps") == content(bucket / "maps")
        assert run(url, "--images=shared://photos", *again) == 0
        assert content(tmp_path / "maps") == content(bucket / "maps")


def test_run_inference(served, photos):
    import apache_beam as beam
    from apache_beam.ml.inference.base import RunInference
    from apache_beam.testing.util import assert_that

    from apps.map_dataset.model_handler import MapHandler

    expected = cases.live(served[0], photos[1])["fullgrad"]
    images = {image.tobytes(): row for row, image in enumerate(photos[1])}

    def check(results):
        assert len(results) == 23
        for result in results:
            found = result.inference["fullgrad"]
            row = images[result.example.tobytes()]
            np.testing.assert_allclose(found["saliency"], expected[row], rtol=1e-4, atol=1e-6)
            assert found["score"].shape == () and found["class"].dtype == np.int32

    handler = MapHandler(served[1], ["fullgrad"], max_batch_size=4)
    with beam.Pipeline() as pipeline:
        found = pipeline | beam.Create(list(photos[1])) | RunInference(handler)
        assert_that(found, check)
