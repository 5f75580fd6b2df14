"""The registry of saliency methods: each entry must pass the battery of test_conformance.py.

A new method is registered here once, with one variant for each way in which it computes.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tfgrad import saliency

SHAPE, CLASSES = (6, 5, 2), 3


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One way of using a method.

    Attributes:
        make: Builds the method for a model; takes `chunk_size`.
        activation: Activation of the network it is tested on.
        differentiable: Whether its map has a derivative with respect to pixels and weights.
        plain: Whether it runs eagerly only, on functional models only, and cannot be exported.
        policies: {dtype policy it is tested under: lowest correlation of its map with that of
            float32}. Bfloat16 has 8 bits of precision.
        exact: Whether the map in float64 equals that in float32 to the bit.
    """

    make: Callable[..., saliency.Method]
    activation: str = "softplus"
    differentiable: bool = True
    plain: bool = False
    policies: dict = dataclasses.field(
        default_factory=lambda: {"mixed_float16": 0.999, "mixed_bfloat16": 0.95}
    )
    exact: bool = False


def case(cls, activation="softplus", differentiable=True, plain=False, exact=False, **options):
    """A variant of a method with these options."""
    policies = {"policies": {"mixed_float16": 0.99}} if plain else {}
    return Case(
        lambda model, **more: cls(model, **options, **more),
        activation,
        differentiable,
        plain,
        exact=exact,
        **policies,
    )


def smoothed(cls, square=False, activation="softplus", **options):
    """A variant of `Smooth` around a method with these options."""
    return Case(
        lambda model, **more: saliency.Smooth(
            cls(model, **options), samples=3, square=square, seed=5, **more
        ),
        activation,
        differentiable=activation == "softplus",
    )


CASES: dict[str, dict[str, Case]] = {
    "fullgrad": {
        "default": case(saliency.FullGrad),
        "channel": case(saliency.FullGrad, rescale="channel", resize="bicubic"),
        "signed": case(
            saliency.FullGrad, part="signed", rescale=None, resize="bilinear_half_pixel"
        ),
        "positive": case(saliency.FullGrad, part="positive", times_input=False),
        "relu": case(saliency.FullGrad, "relu", rescale=None, differentiable=False),
    },
    "simple_fullgrad": {"default": case(saliency.SimpleFullGrad)},
    "smooth_fullgrad": {"default": case(saliency.SmoothFullGrad, samples=3, part="negative")},
    "full_jacobian_map": {
        "default": case(saliency.FullJacobianMap),
        "blocks": case(saliency.FullJacobianMap, blocks=True, include_input=False),
    },
    "bias_map": {"default": case(saliency.BiasMap)},
    "layer_map": {
        "last": case(saliency.LayerMap),
        "neuron": case(saliency.LayerMap, call="first", neuron=1),
    },
    "input_gradient": {
        "logit": case(saliency.InputGradient),
        "loss": case(saliency.InputGradient, of="loss", temperature=10.0),
        "log_probability": case(
            saliency.InputGradient, of="log_probability", temperature=0.5, reduce="max_abs"
        ),
        "relu": case(saliency.InputGradient, "relu", reduce="sum", differentiable=False),
    },
    "input_times_gradient": {"sum": case(saliency.InputTimesGradient)},
    "integrated_gradients": {
        "black": case(saliency.IntegratedGradients, steps=4),
        "image": case(
            saliency.IntegratedGradients, steps=3, baseline=np.linspace(0, 1, 10).reshape(5, 2)
        ),
    },
    "smoothgrad": {"default": case(saliency.SmoothGrad, samples=3)},
    "smoothgrad_squared": {"default": case(saliency.SmoothGradSquared, samples=3, seed=1)},
    "gradcam": {
        "last": case(saliency.GradCAM),
        "named": case(saliency.GradCAM, layer="activation"),
    },
    "guided_backprop": {
        "relu": case(saliency.GuidedBackprop, "relu", differentiable=False),
    },
    "random": {"default": case(saliency.Random, differentiable=False, exact=True)},
    "gradcam_plus_plus": {"last": case(saliency.GradCAMPlusPlus, differentiable=False, plain=True)},
    "layercam": {"named": case(saliency.LayerCAM, differentiable=False, plain=True, layer="first")},
    "scorecam": {"last": case(saliency.ScoreCAM, differentiable=False, plain=True)},
}

# `Smooth` takes a method and not a model, so it has no name of its own in METHODS.
SMOOTHED: dict[str, Case] = {
    "smooth-layer": smoothed(saliency.LayerMap, call="norm"),
    "smooth-gradcam": smoothed(saliency.GradCAM),
    "smooth-integrated": smoothed(saliency.IntegratedGradients, square=True, steps=2),
    "smooth-guided": smoothed(saliency.GuidedBackprop, activation="relu"),
}

VARIANTS: dict[str, Case] = {
    f"{name}-{variant}": value
    for name, variants in CASES.items()
    for variant, value in variants.items()
} | SMOOTHED


def network(activation="softplus", form="functional"):
    """A small network with random weights and statistics, the same ones at every call.

    Batch norm and dropout are included because inference mode must not change their state, an
    activity regulariser because a call adds its loss to the model.
    """
    body = [
        keras.layers.Conv2D(3, 3, name="first", activity_regularizer="l2"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Activation(activation, name="activation"),
        keras.layers.Dropout(0.5, name="dropout"),
        keras.layers.Conv2D(4, 2, activation=activation, name="second"),
        keras.layers.Flatten(name="flatten"),
    ]
    head = keras.layers.Dense(CLASSES, dtype=head_dtype(), name="head")
    model = FORMS[form](body, head)
    rng = np.random.default_rng(3)
    for v in model.weights:
        if "seed" not in v.path:
            spread = rng.normal(size=v.shape, scale=0.4)
            v.assign(1.0 + np.abs(spread) if "variance" in v.path else spread)
    return model


def head_dtype():
    """Float32 under a half-precision policy, as is usual for logits."""
    return "float32" if keras.config.dtype_policy().name.startswith("mixed") else None


def _functional(body, head):
    x = inputs = keras.Input(SHAPE)
    for layer in [*body, head]:
        x = layer(x)
    return keras.Model(inputs, x)


def _nested(body, head):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, head(keras.Sequential([keras.Input(SHAPE), *body])(inputs)))


def _subclassed(body, head):
    model = Subclassed(body, head)
    model(np.zeros((1, *SHAPE), keras.config.floatx()))
    return model


class Subclassed(keras.Model):
    """The same layers, called one after the other."""

    def __init__(self, body, head):
        super().__init__()
        self.body, self.head = body, head

    def call(self, x, training=False):
        for layer in self.body:
            x = layer(x, training=training) if layer.name in ("norm", "dropout") else layer(x)
        return self.head(x)


FORMS = {"functional": _functional, "nested": _nested, "subclassed": _subclassed}


def images(n=3, dtype="float32"):
    """Images [n, 6, 5, 2] in [0, 1]."""
    return np.random.default_rng(4).uniform(size=(n, *SHAPE)).astype("float32").astype(dtype)


@contextlib.contextmanager
def policy(name):
    """Layers built inside have this dtype policy."""
    before, floatx = keras.config.dtype_policy(), keras.config.floatx()
    if name == "float64":
        keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(before)
