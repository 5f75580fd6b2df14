"""The examples with the packages that they are written for; run by `make test-servers`."""

import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from tests.examples import serving_stand_in
from tests.examples.conftest import SERVERS
from tfgrad.internal.served_files import WARMUP_REQUESTS

PYTHON = pathlib.Path(__file__).parents[2] / ".venv-servers/bin/python"

pytestmark = [pytest.mark.servers, pytest.mark.slow]


def test_warm_up_requests_are_messages_of_tensorflow_serving(exported, signatures):
    from tensorflow_serving.apis import prediction_log_pb2

    asked = []
    for record in tf.data.TFRecordDataset(f"{exported}/{WARMUP_REQUESTS}"):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "small"
        asked.append(request.model_spec.signature_name)
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        assert serving_stand_in.predicted(signatures, asked[-1], inputs)
    assert sorted(asked) == sorted(signatures)


def test_grpc_gets_the_outputs_of_the_signature(example, signatures, images):
    import grpc

    over_grpc = example("tensorflow_serving_client").over_grpc
    inputs = {"image": images, "target": np.int32([2, -1, 0])}
    live = serving_stand_in.predicted(signatures, "fullgrad", inputs)
    with serving_stand_in.grpc_server(signatures, "small") as address:
        got = over_grpc(address, "small", "fullgrad", inputs)
        many = over_grpc(address, "small", "input_gradient", _many(images, 9_000))
        with pytest.raises(grpc.RpcError, match="not found"):
            over_grpc(address, "other", "fullgrad", inputs)
    assert set(got) == set(live)
    for key, value in live.items():
        np.testing.assert_array_equal(got[key], value)
    # More than gRPC allows unless asked.
    assert sum(value.nbytes for value in many.values()) > 4 << 20


def _many(images, count):
    return {"image": np.resize(images, (count, 6, 5, 3)), "target": np.zeros(count, np.int32)}


def _post(address, verb, payload):
    request = urllib.request.Request(
        f"http://{address}/v1/models/small:{verb}",
        json.dumps(payload).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture
def kserve_address(exported, tmp_path):
    """The address of the explainer, a process of KServe's server."""
    if not PYTHON.exists():
        pytest.fail("KServe is missing; run make test-servers, which installs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, SERVERS / "kserve_explainer.py", "--model_name=small"]
    command += [f"--model_dir={exported}", f"--http_port={port}", "--enable_grpc=false"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/v1/models/small", server)
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def _wait(url, server):
    for _ in range(300):
        assert server.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert json.load(answer) == {"name": "small", "ready": True}
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the server did not start within a minute")


def test_kserve_answers_explain_and_predict_over_http(kserve_address, signatures, images):
    instances = [{"image": image.tolist(), "target": 1} for image in images]
    payload = {"instances": instances, "method": "fullgrad"}
    found = _post(kserve_address, "explain", payload)["explanations"]
    inputs = {"image": images, "target": np.int32([1, 1, 1])}
    for key, value in serving_stand_in.predicted(signatures, "fullgrad", inputs).items():
        np.testing.assert_allclose([one[key] for one in found], value, atol=2e-6, err_msg=key)
    found = _post(kserve_address, "predict", {"instances": instances})["predictions"]
    live = serving_stand_in.predicted(signatures, "serving_default", {"image": images})
    for key, value in live.items():
        np.testing.assert_allclose([one[key] for one in found], value, atol=1e-6, err_msg=key)
    with pytest.raises(urllib.error.HTTPError) as rejected:
        _post(kserve_address, "explain", {"instances": [{"image": [[1]]}]})
    with rejected.value as answer:
        assert answer.code == 400 and b"expected (6, 5, 3)" in answer.read()
