"""Workers of Beam on one machine: the process of the command is one of them.

Most of what a process costs to start is the import of TensorFlow, and the command has imported it
and loaded the model to check the flags. Beam's own processes would stand beside it, one more than
there are workers.
"""

import copy
import sys
import weakref
from typing import Any

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import (
    ExtendedProvisionInfo,
    FnApiRunner,
)
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    EmbeddedGrpcWorkerHandler,
    SubprocessSdkWorkerHandler,
    WorkerHandler,
)
from apache_beam.transforms.environments import Environment, SubprocessSDKEnvironment

_URN = "tfgrad:env:this_process_and_others:v1"
# Beam makes one server for each run of a pipeline.
_servers: weakref.WeakSet[Any] = weakref.WeakSet()


@Environment.register_urn(_URN, bytes)
class _Processes(SubprocessSDKEnvironment):
    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _URN, super().to_runner_api_parameter(context)[1]


@WorkerHandler.register_environment(_URN, bytes)
def _worker(command: bytes, state: Any, provision_info: Any, server: Any) -> WorkerHandler:
    """The next worker of a run: the first is a thread of this process, others are processes."""
    if server in _servers:
        return SubprocessSdkWorkerHandler(command, state, provision_info, server)
    _servers.add(server)
    return EmbeddedGrpcWorkerHandler(b"{}", state, provision_info, server)


class ProcessesRunner(FnApiRunner):
    """The DirectRunner with `direct_running_mode=multi_processing`, this process among the workers.

    Args:
        provision_info: What workers read.
    """

    def __init__(self, provision_info: ExtendedProvisionInfo) -> None:
        command = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
        environment = _Processes.from_command_string(command)
        super().__init__(default_environment=environment, provision_info=provision_info)

    def run_pipeline(self, pipeline: Any, options: PipelineOptions) -> Any:
        """Run a pipeline in this runner's environment, which only one running mode keeps."""
        options = copy.deepcopy(options)
        options.view_as(DirectOptions).direct_running_mode = "in_memory"
        return super().run_pipeline(pipeline, options)
