"""ONNX: `METHOD.onnx` for each method."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgrad.export.portable.elementary import ELEMENTARY

EXTRA, PACKAGES = "onnx", ("tf2onnx", "onnxruntime")
RULES = ELEMENTARY
ONE_FILE = False
OPSET = 18


def write(functions: Mapping[str, Any], directory: str) -> dict[str, list[str]]:
    """Write each signature into a file of its own; the files of each.

    Raises:
        LookupError: Operations that ONNX does not have.
    """
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    for name, function in functions.items():
        outputs = {t.name: key for key, t in function.structured_outputs.items()}
        inputs = {t.name: t.op.name for t in function.inputs}
        try:
            model, _ = tf2onnx.convert.from_graph_def(
                function.graph.as_graph_def(),
                name=name,
                input_names=list(inputs),
                output_names=list(outputs),
                opset=OPSET,
                tensors_to_rename={**inputs, **outputs},
            )
        except Exception as error:  # errors of its rules are of every kind
            raise LookupError(f"a conversion ({error})") from error
        unknown = sorted({n.op_type for n in model.graph.node if n.domain not in ("", "ai.onnx")})
        if unknown:
            raise LookupError(", ".join(unknown))
        with open(os.path.join(directory, f"{name}.onnx"), "wb") as file:
            file.write(model.SerializeToString())
    return {name: [f"{name}.onnx"] for name in functions}


def run(directory: str, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a signature in ONNX Runtime."""
    import onnxruntime

    path = os.path.join(directory, f"{name}.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes have no common base but Exception
        raise LookupError(str(error).splitlines()[0]) from error
    keys = [output.name for output in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}
    given = {key: value for key, value in inputs.items() if key in taken}
    return dict(zip(keys, session.run(keys, given), strict=True))
