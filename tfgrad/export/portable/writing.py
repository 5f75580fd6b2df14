"""Writes signatures in further formats, each of which is run once and compared."""

from __future__ import annotations

import importlib.util
import os
import types
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError, PortabilityWarning
from tfgrad.export.portable import litert_files, onnx_files, openvino_files, verification
from tfgrad.export.portable.rewriting import inputs_of, rewritten
from tfgrad.internal import announced
from tfgrad.internal.arguments import integer, one_of

SAVED_MODEL = "saved_model"
# A folder with a page that runs the ONNX files.
WEB = "web"
FORMATS: dict[str, types.ModuleType] = {
    "litert": litert_files,
    "onnx": onnx_files,
    "openvino": openvino_files,
}


def check(formats: Any, batch_size: Any) -> tuple[str, ...]:
    """The formats, once each.

    Raises:
        ArgumentError: There is no such format, a package is missing, or the batch size is no
            number.
    """
    if isinstance(formats, str):
        formats = (formats,)
    known = [SAVED_MODEL, *FORMATS, WEB]
    if not isinstance(formats, Sequence) or not formats:
        raise ArgumentError(f"formats: got {formats!r}; expected some of {known}.")
    formats = tuple(dict.fromkeys(one_of("formats", name, known) for name in formats))
    for name in formats:
        if name == SAVED_MODEL:
            continue
        module = FORMATS["onnx" if name == WEB else name]
        for package in module.PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise ArgumentError(
                    f"formats: got {name!r}, for which the package {package!r} is missing; "
                    f"expected it; try pip install 'tfgrad[{module.EXTRA}]'."
                )
    if formats != (SAVED_MODEL,):
        if batch_size is None:
            raise ArgumentError(
                "batch_size: got None; expected a number, as these files have shapes that are "
                "fixed; try 1, or formats=('saved_model',), whose batch is free."
            )
        integer("batch_size", batch_size)
    return formats


def specs_of(
    signatures: Mapping[str, Any], batch_size: int, network: Any
) -> dict[str, tf.TensorSpec]:
    """Every input of the signatures, of a static shape.

    Raises:
        ModelError: An input has a free size, or is a string.
    """
    found = {}
    for signature in signatures.values():
        for name, tensor in inputs_of(signature).items():
            shape = [batch_size, *tensor.shape[1:]]
            if None in shape:
                raise ModelError(
                    f"model {network.name!r}: got the input {name!r} of shape "
                    f"{[None, *shape[1:]]}; expected fixed sizes, as the formats beside the "
                    "SavedModel have no others; try keras.Model(inputs, model(inputs)) with a "
                    "keras.Input of one size for each."
                )
            if tensor.dtype == tf.string:
                raise ModelError(
                    f"model {network.name!r}: got the input {name!r} of strings; expected numbers, "
                    "as the formats beside the SavedModel take no strings; try exporting the part "
                    "of the model behind its lookup of strings."
                )
            found[name] = tf.TensorSpec(shape, tensor.dtype, name)
    return found


def write(
    signatures: Mapping[str, Any],
    formats: Sequence[str],
    specs: Mapping[str, tf.TensorSpec],
    inputs: verification.Arrays,
    directory: str,
) -> dict[str, dict[str, Any]]:
    """Write the files of some formats; what is said of each in the model's description.

    Args:
        signatures: The signatures by name.
        formats: Names among `FORMATS`.
        specs: What `specs_of` returned.
        inputs: What the files are run on.
        directory: Where they are written.

    Returns:
        {format: {"files": {signature: [names]}, "errors": {signature: largest error}, "left_out":
        {signature: why}}}.

    Raises:
        ModelError: No signature can be had in a format.

    Warns:
        PortabilityWarning: A signature cannot be had in a format.
    """
    try:
        live = {name: verification.outputs(s, inputs) for name, s in signatures.items()}
    except tf.errors.OpError as error:
        lines = [line for line in error.message.splitlines() if line.strip() and "[[" not in line]
        raise ModelError(
            f"formats: got a model that does not run here ({lines[-1] if lines else error}), so "
            "that its files cannot be compared; expected one that does; try channels last on a "
            "CPU, or an `example` of real inputs."
        ) from error
    found = {}
    for name, _ in announced.each("writing and comparing", dict.fromkeys(formats)):
        one = _Format(name, signatures, specs, inputs, live)
        found[name] = one.written(directory)
        left_out = found[name]["left_out"]
        if len(left_out) == len(signatures):
            raise ModelError(f"formats: got {name!r}, in which nothing can be had: {left_out}.")
        for signature, why in left_out.items():
            warnings.warn(
                f"formats: got {name!r}, in which {signature!r} cannot be had: {why}; the other "
                "signatures were written.",
                PortabilityWarning,
                stacklevel=2,
            )
    return found


class _Format:
    """The files of one format."""

    def __init__(
        self,
        name: str,
        signatures: Mapping[str, Any],
        specs: Mapping[str, tf.TensorSpec],
        inputs: verification.Arrays,
        live: Mapping[str, verification.Arrays],
    ) -> None:
        self._module = FORMATS[name]
        self._signatures, self._specs, self._inputs, self._live = signatures, specs, inputs, live
        self._errors: dict[str, float] = {}
        self._left_out: dict[str, str] = {}

    def written(self, directory: str) -> dict[str, Any]:
        """What `write` says of the format."""
        functions = {}
        for name, signature in self._signatures.items():
            try:
                functions[name] = rewritten(signature, self._specs, rules=self._module.RULES)
            except LookupError as error:
                self._left_out[name] = _lacks(error)
        files: dict[str, list[str]] = {}
        groups = [functions] if self._module.ONE_FILE else [{n: f} for n, f in functions.items()]
        for group in groups:
            files |= self._group(group, directory)
        return {"files": files, "errors": self._errors, "left_out": self._left_out}

    def _group(self, functions: dict[str, Any], directory: str) -> dict[str, list[str]]:
        """The files of functions that are written at once; those that fail are left out."""
        while functions:
            try:
                files = self._module.write(functions, directory)
            except LookupError as error:
                if len(functions) == 1:
                    self._left_out |= {name: _lacks(error) for name in functions}
                    return {}
                single = (self._group({n: f}, directory) for n, f in functions.items())
                functions = {n: functions[n] for found in single for n in found}
                continue
            wrong = {name for name in functions if not self._is_right(name, directory)}
            if not wrong:
                return files
            kept = {path for name, paths in files.items() if name not in wrong for path in paths}
            for path in {path for name in wrong for path in files[name]} - kept:
                os.remove(os.path.join(directory, path))
            functions = {n: f for n, f in functions.items() if n not in wrong}
        return {}

    def _is_right(self, name: str, directory: str) -> bool:
        signature, live = self._signatures[name], self._live[name]
        taken = {key: self._inputs[key] for key in inputs_of(signature)}
        try:
            got = self._module.run(directory, name, taken)
        except LookupError as error:
            self._left_out[name] = _lacks(error)
            return False
        except Exception as error:  # runtimes have no common class of errors
            said = " ".join(str(error).split())[:300]
            self._left_out[name] = f"its runtime fails ({type(error).__name__}: {said})"
            return False
        difference, output = verification.largest_error(live, got)
        fine = difference <= verification.TOLERANCE
        fine = fine or difference <= verification.tolerance(signature, taken, live, got)
        if fine:
            self._errors[name] = float(np.float32(difference))
        else:
            self._left_out[name] = (
                f"{output!r} differs from TensorFlow's by {difference:.1e} of its largest value; "
                f"{verification.TOLERANCE:.0e} is allowed"
            )
        return fine


def _lacks(error: LookupError) -> str:
    return f"its runtime lacks {error}"
