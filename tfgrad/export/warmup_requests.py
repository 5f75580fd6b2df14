"""The requests that TensorFlow Serving runs before it reports a new version as available.

The first request of a signature pays for its initialisation. Serving spares clients that wait if
the version contains requests of its own: a TFRecord file of `tensorflow.serving.PredictionLog`
messages. A request that fails keeps the version from being served, so they are run before they are
written.

The messages' Python classes come in a package that needs gRPC. The parts in use are described here
instead, with the field numbers of `tensorflow_serving/apis/*.proto`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfgrad.internal import announced
from tfgrad.internal.served_files import WARMUP_REQUESTS

_PACKAGE = "tensorflow.serving"
# A model that takes images of any size may still need a minimum size.
_SIDES = (32, 64, 128, 224)

Requests = dict[str, dict[str, tf.Tensor]]


def successful_requests(
    signatures: Mapping[str, Any], target: int = -1, covered: Collection[str] = ()
) -> Requests:
    """One request of batch size 1 for each signature; those not `covered` were run successfully.

    Images are all zeros, and an encoded image is a PNG of one pixel.

    Args:
        signatures: Mapping from name to concrete function.
        target: The target of every request; −1 is the predicted class.
        covered: Names of signatures whose operations others run, so that they are not run.

    Raises:
        tf.errors.OpError: No size of image that was tried gets through every signature.
    """
    announced.part("running warm-up requests")
    specs = {}
    for name, function in signatures.items():
        positional, named = function.structured_input_signature
        specs[name] = {spec.name: spec for spec in (*positional, *named.values())}
    free = any(None in spec.shape[1:] for inputs in specs.values() for spec in inputs.values())
    for side in (sides := _SIDES if free else _SIDES[:1]):
        chosen = {
            name: {key: _example(spec, side, target) for key, spec in inputs.items()}
            for name, inputs in specs.items()
        }
        try:
            for name, inputs in chosen.items():
                if name not in covered:
                    signatures[name](**inputs)
            return chosen
        except tf.errors.OpError:
            if side == sides[-1]:
                raise
    raise AssertionError("unreachable")


def write(path: str, model: str, chosen: Requests) -> None:
    """Write requests as the file that TensorFlow Serving looks for.

    Args:
        path: The version's directory.
        model: The served model's name.
        chosen: The requests that `successful_requests` returned.
    """
    with tf.io.TFRecordWriter(os.path.join(path, WARMUP_REQUESTS)) as writer:
        for signature, inputs in chosen.items():
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model
            request.model_spec.signature_name = signature
            for key, value in inputs.items():
                request.inputs[key] = tf.make_tensor_proto(value).SerializeToString()
            writer.write(log.SerializeToString())


def _example(spec: tf.TensorSpec, side: int, target: int) -> tf.Tensor:
    if spec.dtype == tf.string:
        return tf.io.encode_png(tf.zeros([1, 1, 3], tf.uint8))[tf.newaxis]
    shape = [1, *(side if n is None else n for n in spec.shape[1:])]
    return tf.fill(shape, tf.cast(target if spec.dtype.is_integer else 0, spec.dtype))


def _message_class(file: descriptor_pb2.FileDescriptorProto, name: str) -> Any:
    pool = descriptor_pool.DescriptorPool()  # its own: the official classes may be loaded as well
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def _file() -> descriptor_pb2.FileDescriptorProto:
    Field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tfgrad/prediction_log.proto", package=_PACKAGE, syntax="proto3"
    )

    def message(name: str, fields: dict[str, tuple[int, Any]], parent: Any = None) -> Any:
        added = parent.nested_type.add(name=name) if parent else file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            entry = added.field.add(name=field, number=number, label=Field.LABEL_OPTIONAL)
            if isinstance(kind, str):
                entry.type, entry.type_name = Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                entry.type = kind
        return added

    message("ModelSpec", {"name": (1, Field.TYPE_STRING), "signature_name": (3, Field.TYPE_STRING)})
    request = message("PredictRequest", {"model_spec": (1, "ModelSpec")})
    # A map is a repeated pair. On the wire, a TensorProto in it is what bytes would be.
    pair = {"key": (1, Field.TYPE_STRING), "value": (2, Field.TYPE_BYTES)}
    message("InputsEntry", pair, request).options.map_entry = True
    request.field.add(
        name="inputs",
        number=2,
        label=Field.LABEL_REPEATED,
        type=Field.TYPE_MESSAGE,
        type_name=f".{_PACKAGE}.PredictRequest.InputsEntry",
    )
    message("PredictLog", {"request": (1, "PredictRequest")})
    message("PredictionLog", {"predict_log": (6, "PredictLog")})
    return file


PredictionLog = _message_class(_file(), "PredictionLog")
