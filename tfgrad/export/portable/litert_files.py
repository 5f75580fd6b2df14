"""LiteRT: one file, `model.tflite`, with a signature for each method."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.export.portable.elementary import ELEMENTARY, FOR_LITERT

FILE = "model.tflite"
EXTRA, PACKAGES = "litert", ("ai_edge_litert",)
RULES = ELEMENTARY | FOR_LITERT
ONE_FILE = True

_UNKNOWN = re.compile(r"\b(?:TF Select ops|Custom ops): ([\w, ]+)")


def write(functions: Mapping[str, Any], directory: str) -> dict[str, list[str]]:
    """Write signatures of built-in operations; the files of each.

    Raises:
        LookupError: Operations that LiteRT does not have.
    """
    with tempfile.TemporaryDirectory() as saved:
        tf.saved_model.save(tf.Module(), saved, signatures=dict(functions))
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except Exception as error:  # ConverterError is not public
            found = _UNKNOWN.search(str(error))
            raise LookupError(found[1] if found else str(error).splitlines()[0]) from error
    with open(os.path.join(directory, FILE), "wb") as file:
        file.write(content)
    return {name: [FILE] for name in functions}


def run(directory: str, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a signature in the runtime."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=os.path.join(directory, FILE))
    return dict(interpreter.get_signature_runner(name)(**inputs))
