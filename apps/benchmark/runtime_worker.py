"""Runs one exported signature in one runtime and answers on standard output.

    python runtime_worker.py RUNTIME PATH SIGNATURE INPUTS.npz OUTPUTS.npz

Imports the runtime and NumPy alone, and says so. Each line read is answered with the milliseconds
of one request.
"""

import json
import sys
import time
from typing import Any

import numpy as np


def main(runtime: str, path: str, signature: str, given: str, outputs: str) -> None:
    """Load, run once, write the outputs, and run again for each line of standard input."""
    with np.load(given) as stored:
        inputs = dict(stored)
    run = _RUNTIMES[runtime](path, signature, inputs)
    # What stands before a suffix is a name: some NumPy versions append .npz.
    np.savez(outputs, **run())
    run()
    alone = "tensorflow" not in sys.modules
    print(json.dumps({"without_tensorflow": alone}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(1e3 * (time.perf_counter() - start), flush=True)


def _litert(path: str, signature: str, inputs: dict[str, Any]) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=f"{path}/model.tflite", num_threads=2)
    runner = interpreter.get_signature_runner(signature)
    return lambda: runner(**inputs)


def _onnx(path: str, signature: str, inputs: dict[str, Any]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        f"{path}/{signature}.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, inputs), strict=True))


def _openvino(path: str, signature: str, inputs: dict[str, Any]) -> Any:
    import openvino

    model = openvino.Core().read_model(f"{path}/{signature}.xml")
    names = [output.get_any_name() for output in model.outputs]
    compiled = openvino.compile_model(model, "CPU")

    def run() -> dict[str, Any]:
        found = compiled(inputs)
        return {name: np.asarray(found[i]) for i, name in enumerate(names)}

    return run


def _tensorflow(path: str, signature: str, inputs: dict[str, Any]) -> Any:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    given = {name: tf.constant(value) for name, value in inputs.items()}

    def run() -> dict[str, Any]:
        return {n: t.numpy() for n, t in loaded.signatures[signature](**given).items()}

    return run


_RUNTIMES = {
    "tensorflow": _tensorflow,
    "litert": _litert,
    "onnx": _onnx,
    "openvino": _openvino,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
