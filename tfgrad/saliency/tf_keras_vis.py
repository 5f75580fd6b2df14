"""Methods of tf-keras-vis (`pip install "tfgrad[vis]"`) in the shape of this package.

They run on functional and Sequential models of images, without models inside them, eagerly: they
cannot be exported, smoothed or differentiated. Maps come as tf-keras-vis computes them, not
normalised.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.gradients import call_hooks
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer
from tfgrad.saliency.base import Method


class _KerasVis(Method):
    """A class of tf-keras-vis, called for every batch.

    Args:
        model: functional or Sequential, with an input [B, H, W, C] and no model inside it.
        layer: the layer whose feature maps are weighed; None takes the last convolution.
        chunk_size: see `Method`.
    """

    _module: ClassVar[str] = ""
    _class: ClassVar[str] = ""
    _dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16", "float64")

    def __init__(
        self, model: Any, layer: str | None = None, *, chunk_size: int | None = None
    ) -> None:
        super().__init__(model, chunk_size=chunk_size)
        self.layer = layer
        _require_plain(self.network, self._dtypes)
        if layer is not None:
            call_hooks.check_names(self.network, [layer])
        self._vis = getattr(_imported(self._module), self._class)
        self._score = _imported("utils.scores").CategoricalScore

    def explain(self, x: tf.Tensor, target: Any = None) -> dict[str, tf.Tensor]:
        """Not there: tf-keras-vis computes outside TensorFlow's graphs.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"{self.name!r} comes from tf-keras-vis, which cannot be traced or exported. Call the "
            "method itself on a batch, outside any tf.function; 'gradcam' can be exported."
        )

    def attribute(self, probe: Probe, classes: tf.Tensor) -> Any:
        """Not there; see `explain`."""
        return self.explain(probe.x)

    def options(self) -> dict[str, Any]:
        """`layer`, as it was named."""
        return {"layer": self.layer}

    def _count(self, x: tf.Tensor) -> int | None:
        return self.network.outputs[0].shape[-1]

    def _run(self, x: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        with keras.StatelessScope(collect_losses=True):
            if tf.reduce_any(classes < 0):
                (logits,) = keras.tree.flatten(self.network(x, training=False))
                classes = tf.where(classes < 0, tf.argmax(logits, -1, tf.int32), classes)
            try:
                maps = self._maps(_Listed.of(self.network), x, classes.numpy().tolist())
            except (AttributeError, ValueError) as error:
                raise ModelError(
                    f"model {self.network.name!r}: tf-keras-vis cannot explain it ({error}). Name "
                    "a convolution of it as layer=, one that is called once."
                ) from error
        if not np.isfinite(maps).all():
            raise ModelError(
                f"model {self.network.name!r}: {self.name!r} gave NaN or infinite maps. "
                "tf-keras-vis exponentiates logits, which overflows from 88 on in float32; use "
                "'gradcam', or a model with smaller logits."
            )
        return tf.constant(maps, tf.float32)

    def _maps(self, model: keras.Model, x: tf.Tensor, classes: list[int]) -> Any:
        return self._vis(model)(
            self._score(classes),
            x,
            penultimate_layer=self.layer,
            seek_penultimate_conv_layer=self.layer is None,
            normalize_cam=False,
        )


class GradCAMPlusPlus(_KerasVis):
    """Grad-CAM++: positive gradients of exp(f_y), weighed by higher derivatives.

    Chattopadhay et al., "Grad-CAM++" (2018), section 3.2. Arguments: a model, a `layer` (None:
    the last convolution), `chunk_size`.
    """

    name = "gradcam_plus_plus"
    _module, _class = "gradcam_plus_plus", "GradcamPlusPlus"


class LayerCAM(_KerasVis):
    """LayerCAM: s = relu(Σ_c relu(∂f_y/∂A_c) ⊙ A_c), each position weighed by its own gradient.

    Jiang et al., "LayerCAM" (2021), Eq. 5. Arguments: as for `GradCAMPlusPlus`.
    """

    name = "layercam"
    _module, _class = "layercam", "Layercam"


class ScoreCAM(_KerasVis):
    """Score-CAM: feature maps weighed by the softmax score of the image seen through each.

    Wang et al., "Score-CAM" (2020), section 3. One forward pass per channel of the layer, and all
    masked copies of a chunk in memory at once: give it a small `chunk_size`. Arguments: as for
    `GradCAMPlusPlus`.
    """

    name = "scorecam"
    _module, _class = "scorecam", "Scorecam"
    _dtypes = ("float32", "float16")


def activation_maximization(
    model: Any,
    classes: Sequence[int],
    steps: int = 200,
    value_range: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    **options: Any,
) -> tf.Tensor:
    """Images that make the logits of classes large, by tf-keras-vis's gradient ascent.

    Args:
        model: as for `GradCAMPlusPlus`.
        classes: one class per image wanted.
        steps: of the ascent.
        value_range: (lowest, highest) pixel.
        seed: of the uniform images it starts from. tf-keras-vis's own jitter and rotation draw
            from NumPy's global generator.
        **options: further arguments of `tf_keras_vis.activation_maximization`, such as
            `regularizers`, `input_modifiers` and `optimizer`. The default optimizer is its RMSprop
            with the learning rate scaled from its range of 255 to this one.

    Returns:
        [len(classes), H, W, C] float32 within `value_range`.

    Raises:
        ArgumentError: a class the model does not have, or an empty range.
        ModelError: tf-keras-vis cannot use the model.
    """
    low, high = (float(v) for v in value_range)
    if not low < high:
        raise ArgumentError(f"value_range: got {value_range!r}; expected (lowest, highest) pixels.")
    integer("steps", steps)
    cam = LayerCAM(model)
    shape = cam.network.inputs[0].shape[1:]
    if None in shape:
        raise ModelError(
            f"model {cam.network.name!r}: it takes images of any size, {tuple(shape)}; an image "
            "made from nothing needs one. Give keras.Input a fixed size."
        )
    start = tf.random.stateless_uniform((len(classes), *shape), [seed, 0], low, high)
    resolved = cam._resolved(list(classes), start).numpy().tolist()
    if min(resolved) < 0:
        raise ArgumentError(f"classes: got {list(classes)}; expected classes from 0 up.")
    options.setdefault("optimizer", keras.optimizers.RMSprop((high - low) / 255, rho=0.999))
    maximization = _imported("activation_maximization").ActivationMaximization
    images = maximization(_Listed.of(cam.network))(
        cam._score(resolved),
        seed_input=start,
        input_range=(low, high),
        steps=steps,
        **options,
    )
    return tf.clip_by_value(tf.cast(images, tf.float32), low, high)


class _Listed(keras.Model):
    """The same network as a functional model whose input is a list, as tf-keras-vis feeds it."""

    @classmethod
    def of(cls, network: keras.Model) -> _Listed:
        return cls(list(network.inputs), list(network.outputs))

    def predict(self, x: Any, batch_size: int = 32, **_: Any) -> np.ndarray:
        """The outputs for [images], without the progress bar of Keras's own."""
        (images,) = x
        parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        outputs = [keras.tree.flatten(self([part], training=False)) for part in parts]
        return np.concatenate([np.asarray(logits) for (logits,) in outputs])


def _imported(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            # It names SciPy's functions, and modules of its own, by their deprecated places.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(f"tf_keras_vis.{module}")
    except ImportError as error:
        raise ArgumentError(
            f"method: this one needs the package tf-keras-vis, which cannot be imported ({error}). "
            'Install it: pip install "tfgrad[vis]".'
        ) from error


def _require_plain(network: keras.Model, dtypes: Sequence[str]) -> None:
    """Refuse what tf-keras-vis fails on, in words of what it can use."""
    who, instead = f"model {network.name!r}", "'gradcam' has no such limit."
    if getattr(network, "inputs", None) is None:
        raise ModelError(
            f"{who}: it is a subclassed model, and tf-keras-vis needs a functional or Sequential "
            f"one. {instead}"
        )
    inner = next((layer for layer in network.layers if isinstance(layer, keras.Model)), None)
    if inner is not None:
        raise ModelError(
            f"{who}: it holds the model {inner.name!r}, and tf-keras-vis cannot look into models "
            f"inside models. {instead}"
        )
    if len(network.inputs[0].shape) != 4:
        raise ModelError(
            f"{who}: its input is {tuple(network.inputs[0].shape)}; tf-keras-vis needs images "
            "[batch, height, width, channels]."
        )
    for layer in network.layers:
        if layer.compute_dtype not in dtypes:
            raise ModelError(
                f"{who}: its layer {layer.name!r} computes in {layer.compute_dtype}; tf-keras-vis "
                f"expects {' or '.join(dtypes)} here. {instead}"
            )
