"""What the zoo knows of a model: how it is built, and what is expected of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import keras

Build = Callable[[], keras.Model]

CHECKS = ("float32", "float64", "maps", "penalty", "difference", "export")
IMAGE_MAPS = ("fullgrad", "gradcam", "integrated_gradients")
STEPS = "the gradient passes through rounding as if it were not there; differences see its steps"
# For a model that its package cannot build in float64: part of the message, for both checks.
NOT_BUILT = dict.fromkeys(("float64", "difference"), "not built in float64")
# For networks whose Grad-CAM is 0 everywhere: random weights may speak for no class.
WITHOUT_CAM = ("fullgrad", "input_gradient", "integrated_gradients")
INPUT_MAPS = ("input_gradient", "input_times_gradient", "integrated_gradients")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        name: Name of the model in the table; one of its kind.
        package: The distribution that it comes from.
        build: Builds it with small dimensions: a model with logits [batch, classes].
        maps: Names of the three saliency methods.
        refused: For each check that tfgrad refuses, a part of the message that it must give.
        skipped: For each check that says nothing of this model, why.
        bounds: For a check, a bound of its own in place of the general one.
        inputs: Makes a batch of two inputs; None for normal numbers of the inputs' shapes.
        trained: Whether the package ships the weights; they are then left as they are.
        environment: Environment variables that the process needs.
        remark: What the table says of it.
    """

    name: str
    package: str
    build: Build
    maps: tuple[str, ...] = IMAGE_MAPS
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    inputs: Callable[[], Any] | None = None
    trained: bool = False
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    remark: str = ""

    @property
    def version(self) -> str:
        """The installed version of its package; empty if it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return ""


ENTRIES: dict[str, Entry] = {}


def model(name: str, package: str, **options: Any) -> Callable[[Build], Build]:
    """Register a function without arguments as the builder of a model."""

    def register(build: Build) -> Build:
        if name in ENTRIES:
            raise ValueError(f"name: got {name!r} twice; expected one entry for each model.")
        checks = [options.get(field, ()) for field in ("refused", "skipped", "bounds")]
        unknown = set().union(*checks) - set(CHECKS)
        if unknown:
            raise ValueError(f"{name}: got the checks {unknown}; expected some of {CHECKS}.")
        ENTRIES[name] = Entry(name, package, build, **options)
        return build

    return register
