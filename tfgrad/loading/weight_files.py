"""Files of weights for the architectures of `keras.applications`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import keras

from tfgrad.errors import ModelError
from tfgrad.gradients.model_checks import nonfinite_weight
from tfgrad.loading.keras_file import load

_CLASSES = 1000


def load_whole(network: keras.Model, path: str) -> None:
    """Load a file of weights into a network of 1000 classes.

    Raises:
        ModelError: There is no such file, it does not fit, or it holds NaN or infinite values.
    """
    _check(path)
    try:
        _load(network, path)
    except ModelError:
        raise
    except Exception as error:
        raise _misfit(path, error) from error
    _check_finite(network, path)


def load_features(features: keras.Model, whole: Callable[[], keras.Model], path: str) -> None:
    """Load a file of weights into a network without its last layers.

    Args:
        features: The network up to its pooled features.
        whole: Function that builds the network with 1000 classes, whose first weights are those of
            `features`.
        path: A file of weights of either.

    Raises:
        ModelError: There is no such file, it does not fit, or it holds NaN or infinite values.
    """
    _check(path)
    try:
        complete = whole()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            _load(complete, path)
        for one in told:  # of a file that did not fit, nothing is to be said
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        values = complete.get_weights()[: len(features.weights)]
        features.set_weights(values)
    except ModelError:
        raise
    except Exception as error:
        try:
            _load(features, path)
        except Exception:
            raise _misfit(path, error) from error
    _check_finite(features, path)


def _load(network: keras.Model, path: str) -> None:
    if path.endswith(".keras"):
        network.set_weights(load(path, compile=False).get_weights())
    else:
        network.load_weights(path)


def _check(path: str) -> None:
    if not os.path.isfile(path) or not path.endswith((".h5", ".keras")):
        exists = "" if os.path.isfile(path) else ", which does not exist"
        raise ModelError(
            f"weights: got {path!r}{exists}; expected a .weights.h5, .h5 or .keras file; try "
            "'imagenet' for Keras's own."
        )


def _check_finite(network: keras.Model, path: str) -> None:
    if nonfinite_weight(network.weights) is not None:
        raise ModelError(f"weights: {path!r} holds NaN or infinite values; {_ADVICE}.")


def _misfit(path: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:200]
    return ModelError(f"weights: {path!r} does not fit ({reason}); {_ADVICE}.")


_ADVICE = f"expected a file of weights of this architecture with {_CLASSES} classes"
