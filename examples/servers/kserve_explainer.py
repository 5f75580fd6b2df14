"""A KServe model that answers `:predict` and `:explain` from ONNX files, without TensorFlow.

    pip install kserve onnxruntime
    python kserve_explainer.py --model_name=digits --model_dir=saved_models/digits

`--model_dir` is a directory that `tfgrad.export.save` wrote with `formats=("onnx",)`, or the
directory of a model, whose latest version is then served. Requests and answers have the form of
KServe's V1 protocol:

    POST /v1/models/digits:predict
        {"instances": [{"image": [[[0.1], …], …]}, …]}
        → {"predictions": [{"logits": […], "probabilities": […]}, …]}
    POST /v1/models/digits:explain
        {"instances": [{"image": …, "target": 3}, …], "method": "fullgrad"}
        → {"explanations": [{"saliency": [[…], …], "score": …, "class": 3, …}, …]}

`target` is −1, the predicted class, unless given; `method` the first one of the export. ONNX files
do not check what they are given, so that shapes, pixels and targets are checked here. A request
that fails a check gets status 400 and a sentence.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any

import kserve
import numpy as np
import onnxruntime
from kserve.errors import InvalidInput

PREDICT = "serving_default"


class Explainer(kserve.Model):
    """The signatures of one exported version.

    Args:
        name: The model's name in the URL.
        directory: The version's directory, or one that holds numbered versions.
        max_instances: The largest number of images in one request.
    """

    def __init__(self, name: str, directory: str, max_instances: int = 64) -> None:
        super().__init__(name)
        self._directory, self._max_instances = directory, max_instances
        self.load()

    def load(self) -> bool:
        """Read the files; `ready` is set once every one of them has been loaded."""
        versions = [int(entry) for entry in os.listdir(self._directory) if entry.isdigit()]
        path = os.path.join(self._directory, str(max(versions))) if versions else self._directory
        with open(os.path.join(path, "assets.extra", "tfgrad.json"), encoding="utf-8") as file:
            said = json.load(file)
        files = said["formats"]["onnx"]["files"]
        self._batch = said["formats"]["onnx"]["batch_size"]
        self._sessions = {
            signature: onnxruntime.InferenceSession(os.path.join(path, found))
            for signature, (found,) in files.items()
        }
        self._methods = [method for method in said["methods"] if method in files]
        (image,) = self._sessions[PREDICT].get_inputs()  # a single input, "image"
        self._shape = tuple(image.shape[1:])
        one_logit = said["meaning"] == "binary" and said["outputs"] == 1
        self._classes = 2 if one_logit else said["outputs"]
        self._lowest = 0 if said["meaning"] == "regression" and said["outputs"] > 1 else -1
        self.ready = True
        return self.ready

    async def predict(self, payload: Any, headers: Any = None, *_: Any) -> dict[str, Any]:
        """`:predict`: what the signature `serving_default` returns of each image."""
        images, _targets = self._instances(payload)
        # In a thread, so that the server goes on answering while it computes.
        return {"predictions": await asyncio.to_thread(self._run, PREDICT, {"image": images})}

    async def explain(self, payload: Any, headers: Any = None) -> dict[str, Any]:
        """`:explain`: what the signature of a method returns of each image."""
        images, targets = self._instances(payload)
        method = payload.get("method", self._methods[0])
        if method not in self._methods:
            raise InvalidInput(f"method: got {method!r}; expected one of {self._methods}.")
        inputs = {"image": images, "target": targets}
        return {"explanations": await asyncio.to_thread(self._run, method, inputs)}

    def _instances(self, payload: Any) -> tuple[np.ndarray, np.ndarray]:
        """The images [n, …] float32 and the targets [n] int32 of a request."""
        instances = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(instances, list) or not 1 <= len(instances) <= self._max_instances:
            raise InvalidInput(f"instances: expected a list of 1 to {self._max_instances} objects.")
        if not all(isinstance(one, dict) and "image" in one for one in instances):
            raise InvalidInput('instances: expected objects {"image": …, "target": …}.')
        try:
            images = np.asarray([one["image"] for one in instances], np.float32)
            targets = np.asarray([one.get("target", self._lowest) for one in instances])
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"instances: expected arrays of numbers; {error}.") from error
        if images.shape[1:] != self._shape:
            raise InvalidInput(f"image: got the shape {images.shape[1:]}; expected {self._shape}.")
        if not np.isfinite(images).all():
            raise InvalidInput("image: got NaN or infinite pixels; expected finite numbers.")
        highest = self._classes - 1
        if (
            targets.dtype.kind != "i"
            or not ((targets >= self._lowest) & (targets <= highest)).all()
        ):
            raise InvalidInput(f"target: expected integers from {self._lowest} to {highest}.")
        return images, targets.astype(np.int32)

    def _run(self, signature: str, inputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """The outputs of each example as JSON has them. A file takes batches of one size."""
        session, count = self._sessions[signature], len(inputs["image"])
        names = [output.name for output in session.get_outputs()]
        found: list[dict[str, Any]] = []
        for start in range(0, count, self._batch):
            # The last image fills the last batch.
            rows = np.minimum(np.arange(start, start + self._batch), count - 1)
            values = session.run(names, {name: value[rows] for name, value in inputs.items()})
            for i in range(min(self._batch, count - start)):
                found.append({name: v[i].tolist() for name, v in zip(names, values, strict=True)})
        return found


def main() -> None:
    """Serve one model; the other flags are those of KServe, such as --http_port."""
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", required=True, help="Directory that tfgrad.export wrote.")
    parser.add_argument("--max_instances", type=int, default=64, help="Images in one request.")
    flags = parser.parse_args()
    explainer = Explainer(flags.model_name, flags.model_dir, flags.max_instances)
    kserve.ModelServer().start([explainer])


if __name__ == "__main__":
    main()
