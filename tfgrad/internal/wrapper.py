"""The base class of models around a plain network."""

from __future__ import annotations

import keras


class Wrapper:
    """Base class of models that wrap a plain model and have the same outputs.

    Attributes:
        network: The plain model.
    """

    network: keras.Model
