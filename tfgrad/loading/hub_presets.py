"""Classifiers of KerasHub by the name of their preset, on pixels and with logits."""

from __future__ import annotations

import os
from typing import Any

import keras

from tfgrad.errors import ModelError
from tfgrad.models import logits, preprocessors

# What every preset in a directory has.
_FILES = ("config.json", "metadata.json")
_URIS = ("kaggle://", "hf://", "modelscope://")


def hub() -> Any:
    """The module `keras_hub`, or None if it is not installed."""
    try:
        import keras_hub
    except ImportError:
        return None
    return keras_hub


def names() -> tuple[str, ...]:
    """The presets of KerasHub's image classifiers; empty where it is not installed."""
    module = hub()
    return () if module is None else tuple(sorted(module.models.ImageClassifier.presets))


def is_preset(name: str) -> bool:
    """Whether a name is a preset's: KerasHub's own, an address, or a directory of one."""
    if name.startswith(_URIS) or name in names():
        return True
    return all(os.path.isfile(os.path.join(name, file)) for file in _FILES)


def preset(name: str, load_weights: bool, image_size: tuple[int, int] | None) -> keras.Model:
    """A classifier that takes pixels 0 to 255 and returns logits.

    Args:
        name: Name, address or directory of the preset.
        load_weights: Whether to load the weights; otherwise they are random.
        image_size: (height, width) of its images; None: the preset's own.

    Raises:
        ModelError: KerasHub is not installed, or the preset cannot be had or is no classifier of
            images.
    """
    module = hub()
    if module is None:
        raise ModelError(
            f"name: got {name!r}, a preset of KerasHub, which is not installed; expected that "
            "package; try pip install keras-hub."
        )
    options: dict[str, Any] = {} if image_size is None else {"image_shape": (*image_size, 3)}
    try:
        task = module.models.ImageClassifier.from_preset(name, load_weights=load_weights, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"name: the preset {name!r} cannot be had ({reason}); expected a connection, or a "
            "preset in KerasHub's cache; try the directory that task.save_to_preset wrote on "
            "another machine."
        ) from error
    converter = getattr(preprocessors.own_preprocessor(task), "image_converter", None)
    height, width = image_size or getattr(converter, "image_size", None) or (None, None)
    pixels = keras.Input((height, width, 3), name="pixels")
    scaled = pixels if converter is None else converter(pixels)
    return logits(keras.Model(pixels, task(scaled), name=task.name))
