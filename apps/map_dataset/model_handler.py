"""A `ModelHandler` of Beam's RunInference for served models, for pipelines of one's own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from . import explainer
from .explainer import PREDICTED, Explainer, Model


class MapHandler(ModelHandler[np.ndarray, PredictionResult, Explainer]):
    """Maps, scores and classes of images by the signatures of a SavedModel.

        images | RunInference(MapHandler("saved_models/cifar", ["fullgrad"]))

    Images are float32 [H, W, C], in the range that the model takes. A result's `inference` is
    {method: {column: array}} of its image: `saliency`, `score`, `class`, and what else the
    signature has for every image.

    Args:
        path: Directory of a SavedModel that `tfgrad.export.save` wrote, or of its versions.
        methods: Names of its signatures.
        target: `"predicted"`, or a class.
        size: (height, width) of the images, for a model of any size.
        image_range: Values of black and white, for a model that does not tell them.
        min_batch_size: The smallest batch that RunInference makes.
        max_batch_size: The largest one.
    """

    def __init__(
        self,
        path: str,
        methods: Sequence[str],
        target: str | int = PREDICTED,
        *,
        size: tuple[int, int] | None = None,
        image_range: tuple[float, float] | None = None,
        min_batch_size: int = 1,
        max_batch_size: int = 64,
    ) -> None:
        super().__init__(min_batch_size=min_batch_size, max_batch_size=max_batch_size)
        self._model = Model(path, tuple(methods), size, image_range)
        self._target = target

    def load_model(self) -> Explainer:
        """The model, which is loaded once per process."""
        return explainer.in_process(self._model)

    def run_inference(
        self,
        batch: Sequence[np.ndarray],
        model: Explainer,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[PredictionResult]:
        """The results of a batch, in its order."""
        targets = explainer.targets_of(self._target, [-1] * len(batch))
        found = model.explain(np.stack(batch).astype("float32", copy=False), targets)
        for row, image in enumerate(batch):
            one = {
                method: {key: values[row] for key, values in columns.items()}
                for method, columns in found.items()
            }
            yield PredictionResult(image, one, self._model.path)

    def get_num_bytes(self, batch: Sequence[np.ndarray]) -> int:
        """The size of a batch."""
        return sum(image.nbytes for image in batch)

    def get_metrics_namespace(self) -> str:
        """The namespace of RunInference's metrics."""
        return "tfgrad.MapHandler"
