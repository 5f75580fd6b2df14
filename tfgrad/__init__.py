"""Keras 3 / TensorFlow models whose gradients matter.

model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientNorm(0.1)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y)
tfgrad.export.save(model, "saved_models/mine")
"""

import keras as _keras

from tfgrad.errors import TfgradError

if _keras.backend.backend() != "tensorflow":
    raise TfgradError(
        f"KERAS_BACKEND: got {_keras.backend.backend()!r}; tfgrad differentiates with TensorFlow "
        "tapes. Set KERAS_BACKEND=tensorflow before Keras is first imported."
    )

from tfgrad import (
    callbacks,
    data,
    decomposition,
    distribution,
    errors,
    evaluation,
    export,
    figures,
    fooling,
    images,
    layers,
    loading,
    losses,
    models,
    penalties,
    saliency,
    sampling,
    targets,
)
from tfgrad._version import __version__
from tfgrad.decomposition import FullGradients, full_gradients
from tfgrad.training.penalized_model import PenalizedModel

__all__ = [
    "FullGradients",
    "PenalizedModel",
    "TfgradError",
    "__version__",
    "callbacks",
    "data",
    "decomposition",
    "distribution",
    "errors",
    "evaluation",
    "export",
    "figures",
    "fooling",
    "full_gradients",
    "images",
    "layers",
    "loading",
    "losses",
    "models",
    "penalties",
    "saliency",
    "sampling",
    "targets",
]
