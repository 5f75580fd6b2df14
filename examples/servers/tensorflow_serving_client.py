"""A client of TensorFlow Serving: the signatures of an exported model over REST and gRPC.

    tensorflow_model_server --rest_api_port=8501 --port=8500 \
        --model_name=digits --model_base_path=$PWD/saved_models/digits
    python tensorflow_serving_client.py --rest=localhost:8501 --model=digits photograph.jpg
    python tensorflow_serving_client.py --grpc=localhost:8500 --model=digits photograph.jpg

REST needs NumPy alone, gRPC the packages tensorflow-serving-api and tensorflow. A map of
224×224 pixels takes 200 kB over gRPC and several times as much as JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np


def over_rest(
    address: str, model: str, signature: str, inputs: Mapping[str, Any], timeout: float = 60
) -> dict[str, np.ndarray]:
    """The outputs of a signature, asked for as JSON.

    Args:
        address: `host:port` of Serving's REST interface.
        model: The served model's name.
        signature: `"serving_default"`, `"encoded"` or the name of a method.
        inputs: Arrays by name; `image_bytes` is a list of bytes.
        timeout: Seconds to wait.

    Raises:
        RuntimeError: Serving rejects the request; the text says why.
    """
    body = {
        "signature_name": signature,
        "inputs": {name: _as_json(value) for name, value in inputs.items()},
    }
    request = urllib.request.Request(
        f"http://{address}/v1/models/{model}:predict",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            outputs = json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(error.read().decode(errors="replace")) from error
    if not isinstance(outputs, dict):  # a signature with one output, such as that of a regression
        outputs = {"logits": outputs}
    return {name: np.asarray(value) for name, value in outputs.items()}


def over_grpc(
    address: str, model: str, signature: str, inputs: Mapping[str, Any], timeout: float = 60
) -> dict[str, np.ndarray]:
    """The outputs of a signature, asked for over gRPC; arguments as of `over_rest`.

    Raises:
        grpc.RpcError: Serving rejects the request; `details()` says why.
    """
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    # gRPC's own limit on answers is 4 MiB: a map and its gradient of five images of 224×224.
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, timeout=timeout).outputs
    return {name: tf.make_ndarray(value) for name, value in outputs.items()}


def _as_json(value: Any) -> Any:
    """Arrays as lists, files as base64."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [{"b64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for v in value]


def main() -> None:
    """Ask for the explanation of a JPEG or PNG file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="A JPEG or PNG file.")
    parser.add_argument("--rest", help="host:port of the REST interface.")
    parser.add_argument("--grpc", help="host:port of the gRPC interface.")
    parser.add_argument("--model", required=True, help="Name of the served model.")
    parser.add_argument(
        "--target", type=int, default=-1, help="The class; -1 is the predicted one."
    )
    flags = parser.parse_args()
    if (flags.rest is None) == (flags.grpc is None):
        parser.error("give one of --rest and --grpc")
    with open(flags.file, "rb") as file:
        inputs = {"image_bytes": [file.read()], "target": np.array([flags.target], np.int32)}
    ask = over_rest if flags.rest else over_grpc
    found = ask(flags.rest or flags.grpc, flags.model, "encoded", inputs)
    print(f"class {found['class'][0]}, score {found['score'][0]:.4g}")
    row, column = np.unravel_index(found["saliency"][0].argmax(), found["saliency"][0].shape)
    print(f"largest value of the map: {found['saliency'][0].max():.4g} at ({row}, {column})")


if __name__ == "__main__":
    main()
