"""OpenVINO: `METHOD.xml` and `METHOD.bin` for each method, which ask for float32."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgrad.export.portable.elementary import ELEMENTARY

EXTRA, PACKAGES = "openvino", ("openvino",)
RULES = ELEMENTARY
ONE_FILE = False

# Where a CPU can, OpenVINO computes in bfloat16 unless a model or its user asks for another type.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
_UNKNOWN = re.compile(r"No conversion rule found for operations: ([\w, ]+)")


def write(functions: Mapping[str, Any], directory: str) -> dict[str, list[str]]:
    """Write each signature into files of its own; the files of each.

    Raises:
        LookupError: Operations that OpenVINO does not have.
    """
    import openvino

    found = {}
    for name, function in functions.items():
        try:
            model = openvino.convert_model(function)
        except Exception as error:  # its own classes have no common base but Exception
            unknown = _UNKNOWN.search(str(error))
            raise LookupError(unknown[1] if unknown else str(error)[:300]) from error
        named = [*function.structured_outputs]
        for output in model.outputs:
            (key,) = [n for n in named if n in output.get_names()]
            output.get_tensor().set_names({key})
        for value in model.inputs:
            (key,) = [t.op.name for t in function.inputs if t.op.name in value.get_names()]
            value.get_tensor().set_names({key})
        for key, value in PRECISION.items():
            model.set_rt_info(value, ["runtime_options", key])
        openvino.save_model(model, os.path.join(directory, f"{name}.xml"), compress_to_fp16=False)
        found[name] = [f"{name}.xml", f"{name}.bin"]
    return found


def run(directory: str, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a signature in OpenVINO on the CPU."""
    import openvino

    model = openvino.Core().read_model(os.path.join(directory, f"{name}.xml"))
    # A compiled model adds names of its own to some outputs.
    keys = [output.get_any_name() for output in model.outputs]
    taken = {key for value in model.inputs for key in value.get_names()}
    compiled = openvino.compile_model(model, "CPU", PRECISION)
    found = compiled({key: value for key, value in inputs.items() if key in taken})
    return {key: np.asarray(found[i]) for i, key in enumerate(keys)}
