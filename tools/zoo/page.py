"""The table of the zoo, as a page in Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import verdicts
from .entries import CHECKS, ENTRIES, Entry

Records = Mapping[str, Mapping[str, Any]]

HEAD = """# Models of other packages

Every model is built by the package that wrote it, with small dimensions and random weights (those
marked as trained have the weights that the package ships), and taken through what tfgrad does with
a model, in a process of its own. Made by

    make test-zoo

which installs [requirements-zoo.txt](../../requirements-zoo.txt) into an environment of its own. It
fails if a model does worse than here: the bounds are below, and a refusal must give its message.

| column | what is measured | bound |
|---|---|---|
| float32, float64 | `full_gradients` of two inputs: abs(f − sum of terms) / abs(f), the larger \
one | 1e-5, 1e-9 |
| maps | three saliency maps: finite, of the input's size, not constant | |
| safe | `make_safe`, then one step of `fit` with `GradientNorm`: largest change of the logits by \
`make_safe`, relative to the largest logit | 1e-5 |
| ∂²  | the weight gradient of `GradientNorm` in float64 against central differences along two \
random directions and its own | 1e-6 |
| export | `export.save`, loaded again: served logits and a served map against live ones, relative \
to the largest | 1e-5 |
"""

# Packages that do not run on Keras 3.15, with what they say.
NOT_RUNNING = {
    "keras-cv-attention-models 1.4.3": "calls TensorFlow functions on Keras 3's symbolic tensors; "
    "it needs Keras 2 (`tf_keras`) or its PyTorch backend",
    "deel-lip 1.5.0": "reads `read_value` of a variable, which Keras 3's have not",
    "larq 0.14.0, larq-zoo 2.4.0": "need `LocallyConnected1D`, which Keras 3 has removed",
    "mono-dense-keras 0.1.1": "assigns `kernel` of a `Dense`, which Keras 3 makes a property",
    "attention 5.0.0": "a functional model that holds its layer cannot be called with `training`: "
    "the layer's `__call__` gets the argument twice",
}


def text(entries: Sequence[Entry], records: Records) -> str:
    """The page."""
    packages = {e.package for e in entries}
    seconds = sum(records[e.name].get("seconds", 0.0) for e in entries)
    good = sum(not verdicts.wrong(e, records[e.name]) for e in entries)
    versions: dict[str, str] = {}
    for entry in entries:
        versions |= records[entry.name].get("versions", {})
    lines = [
        HEAD,
        f"{len(entries)} models of {len(packages)} packages, {good} as expected; "
        f"{seconds / 60:.0f} minutes of processes; TensorFlow {versions.get('tensorflow')}, Keras "
        f"{versions.get('keras')}.",
        "",
        "| model | package | input | parameters | float32 | float64 | maps | safe | ∂² | export "
        "| remark |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(e, records[e.name]) for e in entries]
    lines += ["", "## Refused", "", "Each is one error, or one limit of the package.", ""]
    lines += [
        f"- **{e.name}**, {check}: {_quoted(part, records[e.name]['checks'][check])}"
        for e in entries
        for check, part in e.refused.items()
        if check in records[e.name].get("checks", {})
    ]
    skipped = [(e.name, check, why) for e in entries for check, why in e.skipped.items()]
    if skipped:
        lines += ["", "## Not checked", ""]
        lines += [f"- **{name}**, {check}: {why}." for name, check, why in skipped]
    missing = [name for name in ENTRIES if name not in records]
    if missing:
        lines += ["", "## Not run yet", "", f"{', '.join(missing)}."]
    lines += ["", "## Packages that do not run on Keras 3", ""]
    lines += [f"- {name}: {why}." for name, why in NOT_RUNNING.items()]
    return "\n".join(lines) + "\n"


def figures(entries: Sequence[Entry], records: Records) -> dict[str, Any]:
    """What the table is made of."""
    return {
        e.name: {
            "package": e.package,
            "version": records[e.name].get("versions", {}).get(e.package),
            "remark": e.remark,
            "maps": list(e.maps),
            **{k: records[e.name].get(k) for k in ("inputs", "parameters", "seconds")},
            "checks": {
                check: {k: v for k, v in outcome.items() if k != "traceback"}
                for check, outcome in records[e.name].get("checks", {}).items()
                if check not in e.skipped
            },
            "wrong": verdicts.wrong(e, records[e.name]),
        }
        for e in entries
    }


def _row(entry: Entry, record: Mapping[str, Any]) -> str:
    shapes = ", ".join("×".join(map(str, s)) for s in record.get("inputs", []))
    version = record.get("versions", {}).get(entry.package, "")
    cells = [_cell(entry, check, record.get("checks", {}).get(check)) for check in CHECKS]
    parameters = record.get("parameters")
    return (
        f"| {entry.name} | {entry.package} {version} | {shapes} "
        f"| {'' if parameters is None else f'{parameters:,}'} | {' | '.join(cells)} "
        f"| {entry.remark} |"
    )


def _cell(entry: Entry, check: str, outcome: Mapping[str, Any] | None) -> str:
    if check in entry.skipped:
        return "—"
    if outcome is None:
        return "died"
    if "value" not in outcome:
        return "refused" if verdicts.is_refusal(outcome) else "failed"
    if check == "maps":
        return ", ".join(_SHORT.get(name, name) for name in entry.maps)
    return f"{outcome['value']:.0e}" if outcome["value"] else "0"


_SHORT = {
    "fullgrad": "F",
    "gradcam": "C",
    "integrated_gradients": "I",
    "input_gradient": "G",
    "input_times_gradient": "X",
}


def _quoted(part: str, outcome: Mapping[str, Any]) -> str:
    """tfgrad's message whole; of another's, which may hold arrays, the part that is declared."""
    if "refusal" in outcome:
        return f"“{verdicts.message(outcome, 2000)}”"
    return f"{verdicts.message(outcome).split(':')[0]}: “{part}”"
