"""A stand-in for TensorFlow Serving: a SavedModel behind Serving's REST and gRPC interfaces."""

import base64
import contextlib
import http.server
import json
import re
import threading
from concurrent import futures

import tensorflow as tf


def predicted(signatures, name, inputs):
    """The outputs of a signature, whose inputs have the types that it declares."""
    signature = signatures[name]
    specs = signature.structured_input_signature[1]
    given = {key: tf.constant(inputs[key], spec.dtype) for key, spec in specs.items()}
    return signature(**given)


def _decoded(value):
    """A JSON value with the objects {"b64": …} as bytes."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return [_decoded(one) for one in value] if isinstance(value, list) else value


@contextlib.contextmanager
def rest(signatures, model):
    """The address of a server of the REST interface."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                if not re.fullmatch(rf"/v1/models/{model}(/versions/\d+)?:predict", self.path):
                    raise KeyError(f"Servable not found for request: {self.path}")
                inputs = {key: _decoded(value) for key, value in body["inputs"].items()}
                found = predicted(signatures, body["signature_name"], inputs)
                outputs = {key: value.numpy().tolist() for key, value in found.items()}
                if len(outputs) == 1:
                    (outputs,) = outputs.values()
                status, answer = 200, {"outputs": outputs}
            except (KeyError, tf.errors.OpError) as error:
                status, answer = 400, {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@contextlib.contextmanager
def grpc_server(signatures, model):
    """The address of a server of the gRPC interface, made of the classes of Serving's package."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            answer = predict_pb2.PredictResponse()
            if request.model_spec.name != model:
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            name = request.model_spec.signature_name
            for key, value in predicted(signatures, name, inputs).items():
                answer.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
