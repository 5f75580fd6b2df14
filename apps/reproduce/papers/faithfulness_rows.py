"""What the tests of saliency methods share: rows for methods, and columns for changes."""

from collections.abc import Mapping
from typing import Any

from ..schema import ExaminedNetwork, Explained, Metric

SIGNED = {"part": "signed", "rescale": None}
WITHOUT_RESCALE = {"rescale": None}

# {label in the papers: (name in `tfgrad.saliency`, other arguments)}.
Methods = Mapping[str, tuple[str, Mapping[str, Any]]]


def explained_rows(
    network: ExaminedNetwork,
    methods: Methods,
    paper: Mapping[str, Any] | None = None,
) -> tuple[Explained, ...]:
    """One row for each method on a network; `paper` has the published numbers by label."""
    return tuple(
        Explained(label, network, method=name, options=options, paper=(paper or {}).get(label, {}))
        for label, (name, options) in methods.items()
    )


_TITLES = {
    "logit": "logit, {:.0%} removed",
    "change": "probability, {:.0%} removed",
    "accuracy": "accuracy, {:.0%} removed (%)",
    "error": "standard error, {:.0%} removed",
}


def changes(what: str, fractions: tuple[float, ...]) -> tuple[Metric, ...]:
    """One column for each fraction of removed pixels; `what` is a key of `_TITLES`."""
    percent = what == "accuracy"
    return tuple(
        Metric(
            f"{what}_{fraction:g}",
            _TITLES[what].format(fraction),
            100.0 if percent else 1.0,
            2 if percent else 3,
            " %" if percent else "",
        )
        for fraction in fractions
    )
