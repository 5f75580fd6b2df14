"""The model card beside an exported model: a page in Markdown for those who receive it."""

from __future__ import annotations

import json
import os
import re
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.models.output_meaning import REGRESSION

NAME = "model_card.md"
_NAMED = 50  # classes
_FREE = 64  # the size of an axis of an example whose size is free
_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")  # within a line
_BUILT_IN = ("serving_default", "encoded")


def checked(card: Any) -> dict[str, Any]:
    """The argument `card` of `tfgrad.export.save`.

    Raises:
        ArgumentError: It is no mapping from names to texts, numbers, lists of these, or tables.
    """
    if card is None:
        return {}
    if not isinstance(card, Mapping):
        raise ArgumentError(
            f"card: got a {type(card).__name__}; expected {{name: text, number, list or table}}; "
            "try card={'data': 'CIFAR-10', 'test accuracy': 0.91}."
        )
    for name, value in card.items():
        cells = [*value, *value.values()] if isinstance(value, Mapping) else [value]
        if not isinstance(name, str) or not all(map(_is_fact, cells)):
            raise ArgumentError(
                f"card: got {name!r}: {value!r:.80}; expected a name with a text, a number, a list "
                "of these, or a table {name: text or number}; try str(value)."
            )
    return dict(card)


def text(
    metadata: Mapping[str, Any],
    signatures: Mapping[str, Any],
    card: Mapping[str, Any],
    penalties: Sequence[Any] | None,
    path: str | None,
) -> str:
    """The page, in which every text of others is escaped.

    Args:
        metadata: What tfgrad.json holds.
        signatures: {name: concrete function}.
        card: What `checked` returned.
        penalties: The penalties of a `PenalizedModel`; None of a model without.
        path: Directory of the SavedModel, which the requests are for; None if there is none.
    """
    name = metadata["name"]
    parts = [f"# {escaped(name)}"]
    versions = ", ".join(f"{what} {metadata[what]}" for what in ("tfgrad", "keras", "tensorflow"))
    parts.append(f"Written by `tfgrad.export.save` ({escaped(versions)}).")
    facts = {what: value for what, value in card.items() if not isinstance(value, Mapping)}
    if facts:
        parts += ["## Facts", "As stated by those who exported the model.", _rows(facts)]
    for what, value in card.items():
        if isinstance(value, Mapping):
            parts += [f"## {escaped(what)}", _rows(value)]
    model = _model(metadata)
    if "penalties" not in card:  # which tells those of a network without its `PenalizedModel`
        known = "none recorded" if penalties is None else "; ".join(map(repr, penalties)) or "none"
        model["penalties in training"] = known
    parts += ["## The model", _rows(model)]
    parts += ["## Inputs and outputs", _signatures(signatures)]
    parts += _explanations(metadata, signatures)
    if left_out := metadata.get("left_out"):
        parts += ["## What is left out", _rows(left_out)]
    if path is not None:
        predicts = metadata.get("meaning") not in (None, REGRESSION)
        parts += _requests(name, signatures, _from_here(path), -1 if predicts else 0)
    return "\n\n".join(parts) + "\n"


def escaped(value: Any) -> str:
    """A text as Markdown, on one line, without HTML."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def code(value: Any) -> str:
    """A text as code on one line, whose bars end no cell of a table."""
    line = " ".join(str(value).split()).replace("|", r"\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def _is_fact(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_fact(one) and not isinstance(one, list | tuple) for one in value)
    return isinstance(value, str | bool | int | float | np.number)


def _model(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """{what: its value} of the model itself."""
    found: dict[str, Any] = {}
    if limits := metadata.get("image_range"):
        low, high = limits
        found["pixels"] = f"{low:g} (black) to {high:g} (white)"
    elif "image_range" in metadata:
        found["pixels"] = "the range is not known"
    if preprocess := metadata.get("preprocess"):
        found["preprocessing inside"] = preprocess
    if meaning := metadata.get("meaning"):
        found["outputs are"] = {
            "exclusive": "logits of classes of which one is true: softmax",
            "binary": "one logit of two classes: sigmoid",
            "independent": "logits of independent labels: sigmoids",
            "regression": "numbers, of no classes",
        }.get(meaning, meaning)
    if classes := metadata.get("classes"):
        rest = len(classes) - _NAMED
        shown = ", ".join(classes[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        found[f"classes ({len(classes)})"] = shown
    for what, value in (metadata.get("training") or {}).items():
        found[f"training: {what}"] = value
    return found


def _signatures(signatures: Mapping[str, Any]) -> str:
    rows = ["| signature | inputs | outputs |", "|---|---|---|"]
    for name in sorted(signatures, key=lambda n: (n not in _BUILT_IN, n)):
        function = signatures[name]
        sides = (_specs(function), function.structured_outputs)
        cells = ["<br>".join(_spec(*one) for one in sorted(side.items())) for side in sides]
        rows.append(f"| {code(name)} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def _spec(name: str, spec: Any) -> str:
    shape = ", ".join("B" if i == 0 else str(n or "any") for i, n in enumerate(spec.shape))
    return f"{code(name)} {spec.dtype.name} {escaped(f'[{shape}]')}"


def _specs(function: Any) -> dict[str, tf.TensorSpec]:
    return {spec.name: spec for spec in tf.nest.flatten(function.structured_input_signature)}


def _explanations(metadata: Mapping[str, Any], signatures: Mapping[str, Any]) -> list[str]:
    methods = metadata.get("methods") or {}
    if not methods:
        return []
    rows = ["| method | options |", "|---|---|"]
    for name, options in methods.items():
        given = ", ".join(f"{what}={value!r}" for what, value in options.items())
        rows.append(f"| {code(name)} | {escaped(given) or 'none'} |")
    parts = ["## Explanations", "\n".join(rows)]
    checks = [n for n, f in signatures.items() if "completeness_error" in f.structured_outputs]
    if checks:
        parts.append(
            f"{', '.join(map(code, sorted(checks)))}: each answer has its `completeness_error`, by "
            "how much the terms miss the score, relative to it."
        )
    for target, what in (metadata.get("targets") or {}).items():
        parts.append(f"{code(target)} explains {escaped(what)}.")
    return parts


def _from_here(path: str) -> str:
    """A path below the working directory as it is from there, any other as it is."""
    return path.removeprefix(os.path.join(os.getcwd(), ""))


def _requests(name: str, signatures: Mapping[str, Any], path: str, target: int) -> list[str]:
    """A request in Python and one to TensorFlow Serving.

    Args:
        name: The model's name.
        signatures: {name: concrete function}.
        path: Directory of the SavedModel, from where the model was exported.
        target: The class that they ask for; −1 of a model that predicts one.
    """
    explained = next((n for n in sorted(signatures) if n not in _BUILT_IN), "serving_default")
    arguments, imports = [], ["import tensorflow as tf"]
    for key, spec in sorted(_specs(signatures[explained]).items()):
        value = f"tf.zeros({_example(spec)}, tf.{spec.dtype.name}),"
        if _is_class(key, spec):
            value = f"tf.constant([{target}]),"
            value += "  # -1: the likeliest class" if target < 0 else "  # the first output"
        arguments.append(f"    {key}={value}")
    quoted = json.dumps(path, ensure_ascii=False)
    loaded = f"served = tf.saved_model.load({quoted})  # the directory of this file"
    call = [f"answer = served.signatures[{json.dumps(explained)}]("]
    lines = [*imports, "", loaded, *call, *arguments, ")", "print({**answer})"]
    parts = ["## Requests", "In Python, with TensorFlow alone:", _fenced("python", lines)]
    parts.append("To TensorFlow Serving:")
    address = f"http://localhost:8501/v1/models/{urllib.parse.quote(name, safe='')}:predict"
    if "encoded" in signatures:
        body = (
            '{"signature_name": "encoded", "inputs": {"image_bytes": [{"b64": "%s"}], '
            f'"target": [{target}]}}}}'
        )
        made = f"printf {shlex.quote(body)} \"$(base64 < photograph.jpg | tr -d '\\n')\""
    else:
        inputs = ", ".join(
            f"{json.dumps(key)}: [{target}]"
            if _is_class(key, spec)
            else f"{json.dumps(key)}: numpy.zeros({_example(spec)}, {spec.dtype.name!r}).tolist()"
            for key, spec in sorted(_specs(signatures[explained]).items())
        )
        asked = f'{{"signature_name": {json.dumps(explained)}, "inputs": {{{inputs}}}}}'
        made = f"python -c {shlex.quote(f'import json, numpy; print(json.dumps({asked}))')}"
    parts.append(_fenced("bash", [f"{made} \\", f"    | curl -d @- {shlex.quote(address)}"]))
    return parts


def _is_class(key: str, spec: tf.TensorSpec) -> bool:
    """Whether an input is the signatures' own one, an integer for each example."""
    return key == "target" and spec.dtype == tf.int32 and spec.shape.rank == 1


def _example(spec: tf.TensorSpec) -> list[int]:
    return [1, *(n or _FREE for n in spec.shape[1:])]


def _fenced(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _rows(pairs: Mapping[Any, Any]) -> str:
    rows = ["| | |", "|---|---|"]
    for what, value in pairs.items():
        listed = value if isinstance(value, list | tuple) else [value]
        shown = f"{value:.6g}" if isinstance(value, float) else ", ".join(map(str, listed))
        rows.append(f"| {escaped(what)} | {escaped(shown)} |")
    return "\n".join(rows)
