"""The formats that an export writes beside the SavedModel, or in its place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from tfgrad.export import web
from tfgrad.export.portable import verification, writing
from tfgrad.export.portable.writing import WEB

# Signatures that take encoded images, which no other runtime decodes.
_DECODING = "encoded"
_ONNX = "onnx"
# The page offers as many of the examples.
_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Further:
    """What is asked for beside the SavedModel.

    Attributes:
        network: The exported model, for messages.
        formats: The formats, `"saved_model"` among them if it is one.
        batch_size: The number of examples of every request.
        example: See `tfgrad.export.save`.
        value_range: The range in which inputs are drawn if there is no example.
        lowest_target: −1 where there is a predicted class.
    """

    network: Any
    formats: tuple[str, ...]
    batch_size: int
    example: Any = None
    value_range: tuple[float, float] = (0.0, 1.0)
    lowest_target: int = -1

    @property
    def with_saved_model(self) -> bool:
        """Whether a SavedModel is written, too."""
        return writing.SAVED_MODEL in self.formats

    def write(
        self, signatures: Mapping[str, Any], directory: str, metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the files into a version's directory; what is said of them.

        Args:
            signatures: All signatures of the export.
            directory: The version's directory.
            metadata: What else is said of the model.
        """
        chosen = {n: s for n, s in signatures.items() if n != _DECODING}
        asked = [name for name in self.formats if name != writing.SAVED_MODEL]
        formats = list(dict.fromkeys(_ONNX if name == WEB else name for name in asked))
        specs = writing.specs_of(chosen, self.batch_size, self.network)
        inputs = verification.examples(specs, self.example, self.value_range, self.lowest_target)
        written = writing.write(chosen, formats, specs, inputs, directory)
        found = {name: {"batch_size": self.batch_size, **written[name]} for name in formats}
        if WEB in asked:
            stated = {**metadata, "formats": found}
            samples = [] if self.example is None else [*inputs[next(iter(specs))][:_SAMPLES]]
            web.write(directory, os.path.join(directory, WEB), stated, samples=samples)
            if _ONNX not in asked:
                for path in (p for paths in found.pop(_ONNX)["files"].values() for p in paths):
                    os.remove(os.path.join(directory, path))
            found[WEB] = {"files": [WEB]}
        return found
