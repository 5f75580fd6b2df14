"""The formats that an export writes beside the SavedModel, or in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfgrad.export.portable import verification, writing

# Signatures that take encoded images, which no other runtime decodes.
_DECODING = "encoded"


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

    def write(self, signatures: Mapping[str, Any], directory: str) -> dict[str, Any]:
        """Write the files into a version's directory; what is said of them."""
        chosen = {n: s for n, s in signatures.items() if n != _DECODING}
        formats = [name for name in self.formats if name != writing.SAVED_MODEL]
        specs = writing.specs_of(chosen, self.batch_size, self.network)
        inputs = verification.examples(specs, self.example, self.value_range, self.lowest_target)
        found = writing.write(chosen, formats, specs, inputs, directory)
        return {name: {"batch_size": self.batch_size, **said} for name, said in found.items()}
