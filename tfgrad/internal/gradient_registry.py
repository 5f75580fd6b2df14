"""Names that another library has left in TensorFlow's registry of gradients."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from tfgrad.errors import ModelError

_OF_SHAP = re.compile(r"gradient registry has no entry for: (shap_\w+)")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say what to do where a gradient of shap is missing; other errors pass unchanged.

    While `shap.DeepExplainer` runs, operations are recorded under names of its own. If it raises,
    TensorFlow keeps recording these names, whose gradients are gone.

    Raises:
        ModelError: A gradient is looked up under a name of shap.
    """
    try:
        yield
    except LookupError as error:
        check(error)
        raise


def check(error: Exception) -> None:
    """Raise the `ModelError` of `explained` if an error is such a missing gradient."""
    found = _OF_SHAP.search(str(error))
    if isinstance(error, LookupError) and found:
        raise ModelError(
            f"gradient: got an operation recorded as {found[1]!r}, a name that shap leaves in "
            "TensorFlow where its DeepExplainer fails; expected TensorFlow's own. Every later "
            "gradient in this process fails alike: restart it, and try shap.GradientExplainer."
        ) from error
