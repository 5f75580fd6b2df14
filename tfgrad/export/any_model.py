"""Signatures of models that are no classifiers of one image, and of targets that are no classes.

| signature         | inputs                               | outputs                             |
|-------------------|--------------------------------------|-------------------------------------|
| `serving_default` | those of the model                   | a classifier's logits and           |
|                   |                                      | probabilities; else its own outputs |
| METHOD            | those of the model; target [B] int32 | saliency, or saliency_INPUT for     |
|                   | (classifiers alone)                  | each one explained; score, class    |
| METHOD_TARGET     | those of the model; what the target  | the same without class              |
|                   | takes with each example, as a mask   |                                     |

An input has the key that the model gives it; the only one is `image`, or `token_ids` if it is of
integers. What a target takes has the name of the target's value, with `target_` before it if an
input has that name.
"""

from __future__ import annotations

import dataclasses
import keyword
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.export import checks, publication, warmup_requests
from tfgrad.export.custom_gradients import CustomGradients
from tfgrad.export.portable.further import Further
from tfgrad.gradients import class_scores, model_checks
from tfgrad.gradients.targets import Target
from tfgrad.internal import announced
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.internal.wrapper import Wrapper
from tfgrad.models import output_meaning
from tfgrad.models.output_meaning import REGRESSION
from tfgrad.saliency import METHODS, Method
from tfgrad.saliency.shared_passes import shared_passes

# What TensorFlow keeps as it is in the name of an argument.
_ARGUMENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class AnyModel:
    """What signatures are built from.

    Attributes:
        network: The model, without its last softmax if it is a classifier.
        structure: Its inputs, a nest of names.
        specs: {name: type and shape} of the inputs, floats as float32.
        dtypes: {name: the type in which the network takes an input}.
        meaning: What the logits mean, see `tfgrad.models.output_meaning`; None if it returns
            something else than logits [B, K].
    """

    network: keras.Model
    structure: Any
    specs: Mapping[str, tf.TensorSpec]
    dtypes: Mapping[str, tf.DType]
    meaning: str | None

    def nest(self, given: Mapping[str, tf.Tensor]) -> Any:
        """The network's inputs."""
        return tf.nest.map_structure(
            lambda name: tf.cast(given[name], self.dtypes[name]), self.structure
        )


def save(
    model: Any,
    directory: str | os.PathLike[str],
    methods: Sequence[str | Method] | None,
    classes: Sequence[str] | None,
    targets: Sequence[Target],
    outputs: Any,
    warmup: bool,
    further: Further | None = None,
    version: int = 1,
    training: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    penalties: Sequence[Any] | None = None,
) -> str:
    """Export a model with these signatures; arguments and errors: see `tfgrad.export.save`."""
    network = model_checks.network(model)
    checks.check_weights(network)
    described = described_as(network, outputs)
    chosen = methods_for(model, described, methods or ("input_gradient",), targets)
    signatures = publication.traced(
        network, f"the inputs {[*described.specs]}", lambda: build(described, chosen)
    )
    requests: warmup_requests.Requests = {}
    left_out = {"encoded": "the signatures take the model's own inputs"}
    lowest = 0 if described.meaning in (None, REGRESSION) else -1
    if warmup:
        try:
            requests = warmup_requests.successful_requests(signatures, lowest)
        except tf.errors.OpError as error:
            left_out["warmup"] = f"a request of zeros fails ({error.message.splitlines()[0]})"
    metadata: dict[str, Any] = {
        "classes": _class_names(described, classes),
        "inputs": {
            name: {"shape": list(spec.shape), "dtype": spec.dtype.name}
            for name, spec in described.specs.items()
        },
        "methods": {name: method.options() for name, method in chosen},
        "targets": {name: repr(m.target) for name, m in chosen if m.target is not None},
        "left_out": left_out,
    }
    if described.meaning is not None:
        metadata["meaning"] = described.meaning
    variables = [v.value for v in network.variables]
    if further is not None:
        further = dataclasses.replace(further, network=network, lowest_target=lowest)
    if training is not None:
        metadata["training"] = dict(training)
    return publication.published(
        network,
        variables,
        signatures,
        requests,
        metadata,
        directory,
        further,
        version,
        card,
        penalties,
    )


def _class_names(network: AnyModel, classes: Sequence[str] | None) -> list[str] | None:
    if classes is None:
        return None
    if network.meaning is None:
        raise ArgumentError(
            f"classes: got {list(classes)!r} for model {network.network.name!r}, whose outputs are "
            "no logits [batch, classes]; expected None."
        )
    count = keras.tree.flatten(network.network.outputs)[0].shape[-1]
    named = output_meaning.class_count(network.meaning, count) or count
    return checks.class_names(classes, named)


def is_needed(model: Any, methods: Sequence[Any], targets: Sequence[Target]) -> bool:
    """Whether a model or a question is none that `signatures.Served` describes."""
    network = model.network if isinstance(model, Wrapper) else model
    asked = [getattr(m, "target", None) for m in methods if isinstance(m, Method)]
    inputs = keras.tree.flatten(getattr(network, "inputs", None) or [])
    floats = all(tf.as_dtype(t.dtype).is_floating for t in inputs)
    outputs = keras.tree.flatten(getattr(network, "outputs", None) or [])
    logits = all(len(t.shape) == 2 for t in outputs) and len(outputs) <= 1
    of_target = any(isinstance(t, Target) for t in asked)
    return bool(targets) or of_target or len(inputs) > 1 or not floats or not logits


def described_as(network: keras.Model, outputs: Any) -> AnyModel:
    """The inputs and outputs of a model.

    Args:
        network: The model.
        outputs: What the outputs mean, as `tfgrad.models.output_meaning` takes it.

    Raises:
        ModelError: It does not define its inputs.
    """
    if not getattr(network, "inputs", None):
        raise ModelError(
            f"model {network.name!r}: got a model that does not define its inputs; expected a "
            "functional one, whose inputs a signature can name; try keras.Model(inputs, "
            "model(inputs)) with a keras.Input for each."
        )
    # `Sequential.input` needs a symbolic call, and `Functional.inputs` loses the structure.
    symbolic = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    structure = _names(network, symbolic)
    flat = dict(zip(tf.nest.flatten(structure), keras.tree.flatten(symbolic), strict=True))
    _check_names(network, [*flat])
    dtypes = {name: tf.as_dtype(t.dtype) for name, t in flat.items()}
    specs = {
        name: tf.TensorSpec(
            (None, *t.shape[1:]), tf.float32 if dtypes[name].is_floating else dtypes[name], name
        )
        for name, t in flat.items()
    }
    shapes = [tuple(o.shape) for o in keras.tree.flatten(network.outputs)]
    meaning = None
    if len(shapes) == 1 and len(shapes[0]) == 2:
        output_meaning.warn_if_assumed(network, outputs, shapes[0][-1])
        meaning = output_meaning.meaning(network, outputs, shapes[0][-1])
    return AnyModel(network, structure, specs, dtypes, meaning)


def _names(network: keras.Model, symbolic: Any) -> Any:
    """The inputs as a nest of names."""
    if isinstance(symbolic, Mapping):
        return {key: key for key in symbolic}
    if isinstance(symbolic, list | tuple):
        names = [tensor.name for tensor in symbolic]
        if len(set(names)) < len(names):
            names = [f"input_{i}" for i in range(len(names))]
        return type(symbolic)(names)
    return "image" if tf.as_dtype(symbolic.dtype).is_floating else "token_ids"


def _check_names(network: keras.Model, names: Sequence[str]) -> None:
    """Check that signatures can have the names of inputs, which TensorFlow would change.

    Raises:
        ModelError: One is no name of an argument.
    """
    wrong = [n for n in names if not _ARGUMENT.fullmatch(n) or keyword.iskeyword(n)]
    if wrong:
        raise ModelError(
            f"model {network.name!r}: got inputs named {wrong}; expected names that an argument "
            "can have, of letters, digits and underscores, a letter first; try "
            "keras.Model({'new_name': x}, model({'old name': x})) with x = keras.Input(…, "
            "name='new_name') for each input."
        )


def methods_for(
    model: Any, network: AnyModel, methods: Sequence[Any], targets: Sequence[Target]
) -> list[tuple[str, Method]]:
    """[(name of the signature, the method with the target that it serves)].

    Args:
        model: The exported model, as it was given.
        network: Its description.
        methods: Names, or methods built on the model.
        targets: Targets of further signatures of each method.

    Raises:
        ArgumentError: Two signatures have one name; or a method is to serve a further target that
            is built for one.
        ModelError: No signature is left: classes are asked of a model without logits.
    """
    meaning = network.meaning
    found: dict[str, Method] = {}
    for given in dict.fromkeys(methods):
        if isinstance(given, str):
            kind: Any = METHODS[given]
            if meaning is not None:
                found[given] = kind(model, outputs=meaning)
            for target in targets:
                found[f"{given}_{target.name}"] = kind(model, outputs=meaning, target=target)
            continue
        if targets:
            raise ArgumentError(
                f"targets: got {targets!r} with the method {given!r}, which has its own; expected "
                f"names of methods; try methods=[{given.name!r}], or methods built with target=."
            )
        own = given.target if isinstance(given.target, Target) else None
        name = given.name if own is None else f"{given.name}_{own.name}"
        if name in found:
            raise ArgumentError(
                f"methods: got {name!r} twice; expected one method for each name of a signature; "
                "try a target with another name."
            )
        found[name] = given
    if methods and not found:
        raise ModelError(
            f"model {network.network.name!r}: got outputs that are no logits [batch, classes]; "
            "expected a target to explain; try targets=[tfgrad.targets.Scalar(function)]."
        )
    return list(found.items())


def build(network: AnyModel, methods: Sequence[tuple[str, Method]]) -> dict[str, Any]:
    """Every signature by its name: a concrete function from named inputs to named outputs."""
    functions = {"serving_default": _serving_default(network)}
    custom = CustomGradients()
    with shared_passes(custom.leave_out):
        functions.update(
            (name, _explanation(network, method, custom))
            for name, method in announced.each("tracing", dict(methods))
        )
    return functions


def _serving_default(network: AnyModel) -> Any:
    def predict(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        x = network.nest(_checked(given))
        with unchanged_state():
            answer = network.network(x, training=False)
        if network.meaning is None:
            return _named("output", answer)
        logits = tf.cast(tf.nest.flatten(answer)[0], tf.float32)
        found = {"logits": logits}
        if network.meaning != REGRESSION:
            found["probabilities"] = class_scores.probabilities(logits, network.meaning)
        return found

    return tf.function(predict, autograph=False).get_concrete_function(**network.specs)


def _explanation(network: AnyModel, method: Method, custom: CustomGradients) -> Any:
    target = method.target if isinstance(method.target, Target) else None
    specs, renamed = dict(network.specs), {}
    if target is None:
        specs["target"] = tf.TensorSpec([None], tf.int32, "target")
    else:
        for value, spec in _values(network, method, target).items():
            name = f"target_{value}" if value in specs else value
            renamed[name] = value
            specs[name] = tf.TensorSpec(spec.shape, spec.dtype, name)

    def explain(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        values = {renamed[name]: given.pop(name) for name in renamed}
        asked = given.pop("target", None) if target is None else target.with_values(values)
        found = method.explain(network.nest(_checked(given)), asked)
        named: dict[str, tf.Tensor] = {}
        for name, value in found.items():
            named.update(_named(name, value))
        return custom.finished(named)

    return tf.function(explain, autograph=False).get_concrete_function(**specs)


def _values(network: AnyModel, method: Method, target: Target) -> Mapping[str, tf.TensorSpec]:
    """What a target takes with each example."""
    x = tf.nest.map_structure(
        lambda name: tf.TensorSpec(network.specs[name].shape, network.dtypes[name]),
        network.structure,
    )

    def outputs(inputs: Any) -> Any:
        with unchanged_state():
            return method.network(inputs, training=False)

    traced = tf.function(outputs, autograph=False).get_concrete_function(x)
    return target.specs(traced.structured_outputs)


def _checked(given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The inputs; none at all, other numbers of them, NaN and infinite values fail the request."""
    first = next(iter(given))
    count = tf.shape(given[first])[0]
    words = f"{first}: got an empty batch; expected at least one example."
    found = [tf.debugging.Assert(count > 0, [words])]
    for name, tensor in given.items():
        same = tf.equal(tf.shape(tensor)[0], count)
        words = f"{name}: got another number of examples than {first!r}; expected as many."
        found.append(tf.debugging.Assert(same, [words]))
        if tensor.dtype.is_floating:
            finite = tf.reduce_all(tf.math.is_finite(tensor))
            words = f"{name}: got NaN or infinite values; expected finite ones."
            found.append(tf.debugging.Assert(finite, [words]))
    with tf.control_dependencies(found):
        return {name: tf.identity(tensor) for name, tensor in given.items()}


def _named(name: str, values: Any) -> dict[str, tf.Tensor]:
    """A nest as named tensors: NAME for a single one, NAME_KEY for each of several."""
    if not tf.nest.is_nested(values):
        return {name: tf.cast(values, tf.float32) if values.dtype.is_floating else values}
    keys = [*values] if isinstance(values, Mapping) else range(len(values))
    found: dict[str, tf.Tensor] = {}
    for key in keys:
        found.update(_named(f"{name}_{key}", values[key]))
    return found
