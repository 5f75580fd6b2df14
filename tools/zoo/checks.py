"""The checks of one model. Each returns {"value": …} or raises; see `verdicts` for the bounds."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfgrad
from apps.common import architectures
from tfgrad import second_order
from tfgrad.penalties import GradientNorm

from .entries import Entry

STEPS = (1e-5, 1e-6, 1e-4, 1e-7, 1e-8, 1e-3)


@dataclasses.dataclass
class Subject:
    """A built model, a batch of two inputs, two labels, and the maps that were made of them."""

    model: keras.Model
    x: Any
    y: np.ndarray
    maps: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def subject(entry: Entry) -> Subject:
    """Build a model, with random biases and statistics if it is not trained."""
    model = entry.build()
    if not entry.trained:
        architectures.randomised(model)
    x = entry.inputs() if entry.inputs else _random_inputs(model)
    shape = model(x, training=False).shape
    if len(shape) != 2:
        raise ValueError(f"outputs: got shape {shape}; expected logits [batch, classes].")
    return Subject(model, x, np.array([0, shape[-1] - 1]))


def _random_inputs(model: keras.Model) -> Any:
    """Standard normal numbers in the structure and dtypes of the model's inputs."""
    random = np.random.default_rng(1)

    def one(spec: Any) -> np.ndarray:
        return random.normal(size=(2, *spec.shape[1:])).astype(spec.dtype)

    if len(model.inputs) == 1:
        return one(model.inputs[0])
    return keras.tree.map_structure(one, model.input)


def completeness(entry: Entry, it: Subject) -> dict[str, Any]:
    """The relative error of the sum of the terms, and the number of terms."""
    with _quiet():
        full = tfgrad.full_gradients(it.model, it.x)
    terms = [*tf.nest.flatten(full.input_term), *full.bias_gradients.values()]
    size = sum(float(tf.reduce_sum(tf.abs(t))) for t in terms)
    return {
        "value": float(tf.reduce_max(full.completeness_error())),
        "condition": size / float(tf.reduce_sum(tf.abs(full.score))),
        "terms": len(full.bias_gradients),
        "kinds": sorted({i.kind for i in full.intercepts}),
    }


def maps(entry: Entry, it: Subject) -> dict[str, Any]:
    """Three maps of the first float input: finite, of its size, not constant."""
    wrong, shapes = [], {}
    size = tuple(next(t for t in tf.nest.flatten(it.x) if t.dtype.kind == "f").shape)
    for name in entry.maps:
        with _quiet():
            found = tfgrad.saliency.get(name)(it.model)(it.x)
        result = np.asarray(tf.nest.flatten(found)[0])
        shapes[name] = list(result.shape)
        if not np.isfinite(result).all():
            wrong.append(f"{name} is not finite")
        if result.shape not in (size, size[:-1], (size[0], *size[2:])):
            wrong.append(f"{name} has the shape {result.shape}")
        if np.ptp(result) == 0:
            wrong.append(f"{name} is constant")
        it.maps[name] = result
    if wrong:
        raise AssertionError("; ".join(wrong))
    return {"value": 0.0, "shapes": shapes}


def penalty(entry: Entry, it: Subject) -> dict[str, Any]:
    """One step of `fit` with a gradient norm after `make_safe`; the change of logits by it."""
    before = np.asarray(it.model(it.x, training=False))
    with _quiet():
        replaced = second_order.make_safe(it.model)
    after = np.asarray(it.model(it.x, training=False))
    change = float(np.max(np.abs(after - before)) / np.max(np.abs(before)))
    weights = [np.array(v) for v in it.model.trainable_weights]
    trained = tfgrad.PenalizedModel(it.model, [GradientNorm(0.1)])
    binary = before.shape[-1] == 1
    losses = keras.losses
    loss = losses.BinaryCrossentropy if binary else losses.SparseCategoricalCrossentropy
    trained.compile(keras.optimizers.SGD(1e-4), loss(from_logits=True))
    with _quiet():
        history = trained.fit(it.x, it.y, batch_size=2, verbose=0).history
    values = {name: float(value[-1]) for name, value in history.items()}
    if not np.isfinite(list(values.values())).all():
        raise AssertionError(f"the step's values are {values}")
    now = [np.array(v) for v in it.model.trainable_weights]
    if not all(np.isfinite(v).all() for v in now):
        raise AssertionError("weights are not finite after the step")
    if all(np.array_equal(a, b) for a, b in zip(weights, now, strict=True)):
        raise AssertionError("no weight changed")
    return {"value": change, "step": values, "changed": len(replaced.changed)}


def difference(entry: Entry, it: Subject) -> dict[str, Any]:
    """The penalty's weight gradient against central differences along three directions."""
    with _quiet():
        second_order.make_safe(it.model)
    variables = it.model.trainable_weights
    if not variables:
        return {"value": 0.0, "message": "no trainable weights"}
    x = tf.nest.map_structure(tf.convert_to_tensor, it.x)
    rule = GradientNorm(1.0)
    run = tf.function(lambda: tf.reduce_sum(rule.per_example(it.model, x, it.y)), autograph=False)

    def slopes() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(rule.per_example(it.model, x, it.y))
        tensors = [v.value for v in variables]
        return tape.gradient(value, tensors, unconnected_gradients="zero")

    with _quiet():
        found = tf.function(slopes, autograph=False)()
        gradients = [np.asarray(tf.convert_to_tensor(g)) for g in found]
        base = [np.array(v) for v in variables]
        errors = []
        for direction in _directions(base, gradients):
            products = [float(np.sum(g * d)) for g, d in zip(gradients, direction, strict=True)]
            scale = max(abs(sum(products)), float(np.linalg.norm(products)))
            best = np.inf
            for step in STEPS:
                ends = []
                for sign in (1, -1):
                    for v, b, d in zip(variables, base, direction, strict=True):
                        v.assign(b + sign * step * d)
                    ends.append(float(run()))
                slope = (ends[0] - ends[1]) / (2 * step)
                best = min(best, abs(slope - sum(products)) / max(scale, 1e-300))
                if best < 1e-8:
                    break
            errors.append(best)
        for v, b in zip(variables, base, strict=True):
            v.assign(b)
    if not np.isfinite(errors).all():
        raise AssertionError(f"the differences are {errors}")
    return {"value": max(errors), "penalty": float(run())}


def _directions(base: list[np.ndarray], gradients: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Two random directions in the weights' scales, and the gradient's own."""
    random = np.random.default_rng(7)
    scales = [max(float(np.sqrt(np.mean(b**2))), 0.01) if b.size else 1.0 for b in base]
    found = [
        [random.normal(size=b.shape) * s for b, s in zip(base, scales, strict=True)]
        for _ in range(2)
    ]
    length = np.sqrt(sum(float(np.sum(g**2)) for g in gradients))
    weight = np.sqrt(sum(float(np.sum(b**2)) for b in base))
    if length > 0:
        found.append([g * (weight / length) for g in gradients])
    return found


def export(entry: Entry, it: Subject) -> dict[str, Any]:
    """Served logits and a served map against live ones, as a share of the largest value."""
    methods = [name for name in entry.maps if name in it.maps][:1]
    with tempfile.TemporaryDirectory() as directory, _quiet():
        path = tfgrad.export.save(it.model, f"{directory}/zoo", methods=methods, warmup=False)
        signatures = tf.saved_model.load(path).signatures
        inputs = it.x if isinstance(it.x, dict) else {"image": it.x}
        given = tf.nest.map_structure(tf.constant, inputs)
        live = {"logits": it.model(it.x, training=False)}
        served = {"logits": signatures["serving_default"](**given)["logits"]}
        for name in methods:
            live[name] = it.maps[name]
            target = tf.fill([2], tf.constant(-1, _target_dtype(signatures[name])))
            outputs = signatures[name](target=target, **given)
            served[name] = next(v for k, v in outputs.items() if k.startswith("saliency"))
    errors = {name: _apart(np.asarray(live[name]), np.asarray(served[name])) for name in live}
    return {"value": max(errors.values()), "errors": errors}


def _target_dtype(signature: Any) -> tf.DType:
    """The dtype of a signature's `target`."""
    return signature.structured_input_signature[1]["target"].dtype


def _apart(live: np.ndarray, served: np.ndarray) -> float:
    if live.shape != served.shape:
        raise AssertionError(f"served has the shape {served.shape}, live {live.shape}")
    if not np.isfinite(served).all():
        raise AssertionError("a served value is not finite")
    return float(np.max(np.abs(live - served)) / max(float(np.max(np.abs(live))), 1e-30))


def _quiet() -> Any:
    return warnings.catch_warnings(action="ignore")
